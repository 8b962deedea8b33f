//! Which addresses, lengths and memory a world has: few, so that everything collides.

use super::flat::PAGE;
use crate::mock::{MOCK_PAGE, MemoryConfig, World};
use iommu_core::addr::{PhysAddr, PhysExtent};

/// The smallest page of any domain, in bytes.
pub const GRANULE: u64 = MOCK_PAGE;

/// Where a small world begins: a few pages below the lowest address that domains translate.
pub const BASE: u64 = (16 << 20) - 4 * PAGE;

/// Granules that operations name in a small world.
pub const GRANULES: u64 = 128;

/// Interesting points of the 64-bit space: where operations begin in a wide world, give or take a little.
const POINTS: [u64; 8] = [0, PAGE, 1 << 32, (1 << 63) - PAGE, 1 << 63, u64::MAX - (1 << 40), u64::MAX - PAGE, u64::MAX];

/// Lengths in a wide world, give or take a little.
const LENGTHS: [u64; 8] = [1, 2, PAGE, 1 << 21, 1 << 40, (1 << 63) - PAGE, 1 << 63, u64::MAX];

/// A kind of world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// 64 pages around the lowest address of the domains' apertures.
    Small,
    /// The full 64-bit space, without domains and accesses, byte by byte.
    Wide,
}

impl Layout {
    /// The address that stands under `number`.
    pub fn address(self, number: u16) -> u64 {
        let number = u64::from(number);
        match self {
            Self::Small => {
                let odd = if number >= 0xf800 { number % 5 * 512 + number % 3 } else { 0 };
                BASE + number % GRANULES * GRANULE + odd
            }
            Self::Wide => near(POINTS[(number % 8) as usize], number / 8),
        }
    }

    /// The length that stands under `number`.
    pub fn len(self, number: u16) -> u64 {
        let number = u64::from(number);
        match self {
            Self::Small if number >= 0xf800 => number % 0x3000,
            Self::Small => (number + 1) % 12 * GRANULE,
            Self::Wide => near(LENGTHS[(number % 8) as usize], number / 8),
        }
    }

    /// The offset into something that stands under `number`.
    pub fn offset(self, number: u16) -> u64 {
        match self {
            Self::Small => self.len(number.wrapping_sub(1)),
            Self::Wide if number < 6 => u64::from(number),
            Self::Wide => self.len(number),
        }
    }

    /// Memory with a source.
    pub fn sources(self) -> Vec<MemoryConfig> {
        match self {
            Self::Small => vec![
                MemoryConfig::contiguous(8 * PAGE, PAGE),
                MemoryConfig::scattered(6 * PAGE),
                MemoryConfig::scattered(5 * PAGE).revocable(),
                MemoryConfig::contiguous(4 * PAGE, PAGE).read_only(),
                MemoryConfig::contiguous(4 * PAGE, PAGE).mmio().revocable(),
            ],
            Self::Wide => Vec::new(),
        }
    }

    /// Memory that its owner keeps where it is.
    pub fn plain(self, machine: &World) -> Vec<Vec<PhysExtent>> {
        let phys = |pages: u64| machine.phys(pages * PAGE, PAGE);
        let run = |start, len| PhysExtent::new(PhysAddr::new(start), len);
        match self {
            Self::Small => vec![vec![phys(2)], vec![phys(1), run(0, 0), phys(2)], vec![phys(5)]],
            Self::Wide => vec![
                vec![run(0, u64::MAX)],
                vec![run(0x1000, 1 << 63), run(0x3000, (1 << 63) - 1)],
                vec![run(u64::MAX - 0xfff, 0x1000)],
                vec![run(0x1000, 0x1001)],
            ],
        }
    }
}

/// `point`, or a few bytes or pages beside it.
fn near(point: u64, number: u64) -> u64 {
    let by = [0, 0, 1, 2, PAGE, PAGE - 1][(number / 2 % 6) as usize];
    if number.is_multiple_of(2) { point.saturating_sub(by) } else { point.saturating_add(by) }
}
