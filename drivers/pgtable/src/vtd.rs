//! Tables of either stage of VT-d, which of them is known when the table is made: for a driver that has both, so that its
//! code is there once.
//!
//! Entries are those of [`VtdFirstStage`] and [`VtdSecondStage`], bit by bit. What they mean stands at the same bits in
//! both: which are present, lead to tables, and allow writes. A table's own bits differ, and of those only that of the
//! stage is ever set: accessed in bit 5 or bit 8, and dirty in the one next to it.

use crate::format::{Attributes, Format, Pages4K, sealed::Sealed};
use crate::{FirstStageOptions, SecondStageOptions, VtdFirstStage, VtdSecondStage};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

/// Accessed, of the first stage and of the second.
const ACCESSED: u64 = 1 << 5 | 1 << 8;

/// Either stage of VT-d, by its [options](VtdOptions).
#[derive(Clone, Copy, Debug)]
pub enum Vtd {}

/// Which stage a table is of, and what it may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VtdOptions {
    /// A first stage.
    First(FirstStageOptions),
    /// A second stage.
    Second(SecondStageOptions),
}

impl Default for VtdOptions {
    fn default() -> Self {
        Self::Second(SecondStageOptions::default())
    }
}

impl Sealed for Vtd {}

impl Format for Vtd {
    type Options = VtdOptions;
    type Grain = Pages4K<2>;

    const LEVELS: RangeInclusive<u8> = 3..=5;
    const OUTPUT_BITS: u8 = 52;
    const PRESENT: u64 = VtdSecondStage::PRESENT;
    const LINK_MASK: u64 = VtdSecondStage::LINK_MASK;
    const LINK: u64 = VtdSecondStage::LINK;
    const VISIBLE: u64 = VtdSecondStage::VISIBLE;
    const DIRTY: u64 = VtdFirstStage::DIRTY | VtdSecondStage::DIRTY;

    #[inline]
    fn grain(_: Self::Options) -> Self::Grain {
        Pages4K
    }

    #[inline]
    fn input_bits(levels: u8, options: VtdOptions) -> u8 {
        match options {
            // A first stage of 3 levels there is not.
            VtdOptions::First(_) if levels < 4 => 0,
            VtdOptions::First(options) => VtdFirstStage::input_bits(levels, options),
            VtdOptions::Second(options) => VtdSecondStage::input_bits(levels, options),
        }
    }

    #[inline]
    fn can_express(prot: Prot, options: VtdOptions) -> bool {
        match options {
            VtdOptions::First(options) => VtdFirstStage::can_express(prot, options),
            VtdOptions::Second(options) => VtdSecondStage::can_express(prot, options),
        }
    }

    #[inline]
    fn leaf(phys: PhysAddr, level: u8, attributes: Attributes, options: VtdOptions) -> u64 {
        match options {
            VtdOptions::First(options) => VtdFirstStage::leaf(phys, level, attributes, options),
            VtdOptions::Second(options) => VtdSecondStage::leaf(phys, level, attributes, options),
        }
    }

    #[inline]
    fn table(phys: PhysAddr, tracked: bool, options: VtdOptions) -> u64 {
        match options {
            VtdOptions::First(options) => VtdFirstStage::table(phys, tracked, options),
            VtdOptions::Second(options) => VtdSecondStage::table(phys, tracked, options),
        }
    }

    #[inline]
    fn table_address(entry: u64) -> PhysAddr {
        VtdSecondStage::table_address(entry)
    }

    #[inline]
    fn leaf_address(entry: u64, level: u8) -> PhysAddr {
        VtdSecondStage::leaf_address(entry, level)
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        VtdSecondStage::prot(entry)
    }

    #[inline]
    fn is_dirty(entry: u64) -> bool {
        entry & Self::DIRTY != 0
    }

    #[inline]
    fn dirtied(entry: u64) -> u64 {
        // Dirty stands next to accessed, which every leaf of a table that tracks has set.
        entry | (entry & ACCESSED) << 1
    }
}
