//! Tables of either stage of Armv8 and of any granule, both of which are known when the table is made: for a driver that
//! has them all, so that its code is there once.
//!
//! Entries are those of [`Armv8Stage1`] and [`Armv8Stage2`], bit by bit. Addresses stand in them where the smallest granule
//! has them: what the others leave out of that is 0. Bit 11 tells the stage of a leaf: nG, which stage 1 always has set and
//! stage 2 never. Bit 7 refuses writes in stage 1, and allows them in stage 2.

use crate::armv8::{self, DBM, Granule, Granule4K, Granule16K, Granule64K, WAS_DIRTY};
use crate::format::{Attributes, Format, Grain, sealed::Sealed};
use crate::{Armv8Stage1, Armv8Stage2, Stage1Options, Stage2Options};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

/// S2AP\[0\] of stage 2.
const READ: u64 = 1 << 6;
/// S2AP\[1\] of stage 2; AP\[2\] of stage 1 says the opposite.
const WRITE: u64 = 1 << 7;
/// nG: in every leaf of stage 1, and in none of stage 2.
const STAGE_1: u64 = 1 << 11;
/// How far nG stands above the bit that says of writes.
const ABOVE_WRITE: u32 = 4;

/// A [`Granule`] as a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum GranuleSize {
    /// [`Granule4K`].
    #[default]
    Kib4 = 12,
    /// [`Granule16K`].
    Kib16 = 14,
    /// [`Granule64K`].
    Kib64 = 16,
}

impl Sealed for GranuleSize {}

/// Does the same with the type of a granule.
macro_rules! with_granule {
    ($granule:expr, $type:ident => $does:expr) => {
        match $granule {
            GranuleSize::Kib4 => {
                type $type = Granule4K;
                $does
            }
            GranuleSize::Kib16 => {
                type $type = Granule16K;
                $does
            }
            GranuleSize::Kib64 => {
                type $type = Granule64K;
                $does
            }
        }
    };
}

impl Grain for GranuleSize {
    const FIXED: bool = false;

    #[inline]
    fn page_bits(self) -> u32 {
        self as u32
    }

    #[inline]
    fn index_bits(self) -> u32 {
        self as u32 - 3
    }

    #[inline]
    fn top_leaf_level(self) -> u8 {
        with_granule!(self, G => G::TOP_LEAF_LEVEL)
    }

    #[inline]
    fn group_bits(self, level: u8) -> u32 {
        with_granule!(self, G => G::group_bits(level))
    }
}

/// Either stage of Armv8 with any granule, by its [options](Armv8Options).
#[derive(Clone, Copy, Debug)]
pub enum Armv8 {}

/// Which stage a table is of, and what it may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Armv8Stage {
    /// A stage 1.
    First(Stage1Options),
    /// A stage 2.
    Second(Stage2Options),
}

/// What one table of [`Armv8`] may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Armv8Options {
    /// The smallest pages, and the size of the tables.
    pub granule: GranuleSize,
    /// The stage.
    pub stage: Armv8Stage,
}

impl Default for Armv8Options {
    fn default() -> Self {
        Self { granule: GranuleSize::default(), stage: Armv8Stage::Second(Stage2Options::default()) }
    }
}

/// The leaf `entry` with bit 7 as stage 2 has it.
#[inline]
const fn as_stage_2(entry: u64) -> u64 {
    entry ^ (entry & STAGE_1) >> ABOVE_WRITE
}

/// What the format of one granule says of a number of levels; 0 where it has no table of so many.
fn input_bits<F: Format>(levels: u8, options: F::Options) -> u8 {
    if F::LEVELS.contains(&levels) { F::input_bits(levels, options) } else { 0 }
}

impl Sealed for Armv8 {}

impl Format for Armv8 {
    type Options = Armv8Options;
    type Grain = GranuleSize;

    const LEVELS: RangeInclusive<u8> = 2..=4;
    const ROOT_BY_WIDTH: bool = true;
    const OUTPUT_BITS: u8 = armv8::ADDRESS_BITS;
    const PRESENT: u64 = armv8::VALID;
    const LINK_MASK: u64 = armv8::LINK;
    const LINK: u64 = armv8::LINK;
    const VISIBLE: u64 = armv8::VISIBLE;
    const DIRTY: u64 = WRITE | WAS_DIRTY;

    #[inline]
    fn grain(options: Armv8Options) -> GranuleSize {
        options.granule
    }

    fn input_bits(levels: u8, Armv8Options { granule, stage }: Armv8Options) -> u8 {
        with_granule!(granule, G => match stage {
            Armv8Stage::First(options) => input_bits::<Armv8Stage1<G>>(levels, options),
            Armv8Stage::Second(options) => input_bits::<Armv8Stage2<G>>(levels, options),
        })
    }

    #[inline]
    fn resizes_live(options: Armv8Options) -> bool {
        match options.stage {
            Armv8Stage::First(options) => options.resizes_live,
            Armv8Stage::Second(options) => options.resizes_live,
        }
    }

    #[inline]
    fn can_express(prot: Prot, options: Armv8Options) -> bool {
        match options.stage {
            Armv8Stage::First(options) => <Armv8Stage1>::can_express(prot, options),
            Armv8Stage::Second(options) => <Armv8Stage2>::can_express(prot, options),
        }
    }

    #[inline]
    fn is_grouped(entry: u64) -> bool {
        armv8::is_grouped(entry)
    }

    #[inline]
    fn leaf(phys: PhysAddr, level: u8, attributes: Attributes, options: Armv8Options) -> u64 {
        match options.stage {
            Armv8Stage::First(options) => <Armv8Stage1>::leaf(phys, level, attributes, options),
            Armv8Stage::Second(options) => <Armv8Stage2>::leaf(phys, level, attributes, options),
        }
    }

    #[inline]
    fn table(phys: PhysAddr, _: bool, _: Armv8Options) -> u64 {
        armv8::table::<Granule4K>(phys)
    }

    #[inline]
    fn table_address(entry: u64) -> PhysAddr {
        armv8::address::<Granule4K>(entry)
    }

    #[inline]
    fn leaf_address(entry: u64, _: u8) -> PhysAddr {
        armv8::address::<Granule4K>(entry)
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        Prot { read: entry & (STAGE_1 | READ) != 0, write: as_stage_2(entry) & (DBM | WRITE) != 0 }
    }

    #[inline]
    fn is_dirty(entry: u64) -> bool {
        as_stage_2(entry) & Self::DIRTY != 0
    }

    #[inline]
    fn dirtied(entry: u64) -> u64 {
        if entry & DBM != 0 { entry & !WRITE | (!entry & STAGE_1) >> ABOVE_WRITE } else { entry | WAS_DIRTY }
    }
}
