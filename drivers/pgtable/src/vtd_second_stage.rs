//! Second-stage tables of VT-d: bits as in "Second-Stage Paging Entries" of the VT-d specification, chapter 9.
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | R: reads allowed | as asked for; 1 in entries that lead to tables |
//! | 1 | W: writes allowed | as asked for; 1 in entries that lead to tables |
//! | 7 | PS: leaf at level 1 (2 MiB) or 2 (1 GiB) | as the level demands |
//! | 8 | A: accessed | 1 in tables that track, so that hardware does not have to write it; 0 in others |
//! | 9 | D: dirty; leaves only | 0 until hardware sets it, in tables that track |
//! | 11 | SNP: accesses snoop the caches; leaves only | [`SecondStageOptions::snoop`] |
//! | 51:12 | address | of the table or the memory |
//! | 52 | ignored by hardware | [`Format::VISIBLE`] in entries that lead to tables |
//!
//! Everything else is 0: memory type and IPAT belong to extended memory types, X to execution requests. An entry is
//! present where R or W is set. Hardware updates A and D where the PASID entry says so (SSADE), with walks that snoop.

use crate::format::{Attributes, Format, Grain, Pages4K, sealed::Sealed};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const R: u64 = 1 << 0;
const W: u64 = 1 << 1;
const PS: u64 = 1 << 7;
const A: u64 = 1 << 8;
const D: u64 = 1 << 9;
const SNP: u64 = 1 << 11;
const ADDRESS: u64 = (1 << 52) - (1 << 12);

/// The second-stage format of VT-d, with 3 levels (39 bits), 4 (48 bits) or 5 (57 bits); levels 0, 1 and 2 hold leaves of 4 KiB,
/// 2 MiB and 1 GiB. VT-d specification, "Second-Stage Paging Entries".
#[derive(Clone, Copy, Debug)]
pub enum VtdSecondStage {}

/// What one second-stage table may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SecondStageOptions {
    /// Set SNP in leaves, so that accesses through them snoop the caches whatever the device asks for. Only for a unit
    /// with snoop control (`ECAP.SC`): the bit is reserved without it.
    pub snoop: bool,
}

impl Sealed for VtdSecondStage {}

impl Format for VtdSecondStage {
    type Options = SecondStageOptions;
    type Grain = Pages4K<2>;

    const LEVELS: RangeInclusive<u8> = 3..=5;
    const OUTPUT_BITS: u8 = 52;
    const PRESENT: u64 = R | W;
    const LINK_MASK: u64 = R | W | PS;
    const LINK: u64 = R | W;
    const VISIBLE: u64 = 1 << 52;
    const DIRTY: u64 = D;

    #[inline]
    fn grain(_: Self::Options) -> Self::Grain {
        Pages4K
    }

    #[inline]
    fn input_bits(levels: u8, _: Self::Options) -> u8 {
        12 + 9 * levels
    }

    #[inline]
    fn can_express(prot: Prot, _: Self::Options) -> bool {
        !prot.is_none()
    }

    #[inline]
    fn leaf(phys: PhysAddr, level: u8, attributes: Attributes, options: SecondStageOptions) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let access = bit(attributes.prot.read, R) | bit(attributes.prot.write, W) | bit(attributes.tracked, A);
        phys.get() & ADDRESS | access | bit(level != 0, PS) | bit(options.snoop, SNP)
    }

    #[inline]
    fn table(phys: PhysAddr, tracked: bool, _: SecondStageOptions) -> u64 {
        phys.get() & ADDRESS | R | W | if tracked { A } else { 0 }
    }

    #[inline]
    fn table_address(entry: u64) -> PhysAddr {
        PhysAddr::new(entry & ADDRESS)
    }

    #[inline]
    fn leaf_address(entry: u64, level: u8) -> PhysAddr {
        PhysAddr::new(entry & ADDRESS & !(Pages4K::<2>.size(level) - 1))
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        Prot { read: entry & R != 0, write: entry & W != 0 }
    }

    #[inline]
    fn is_dirty(entry: u64) -> bool {
        entry & D != 0
    }

    #[inline]
    fn dirtied(entry: u64) -> u64 {
        entry | D
    }
}
