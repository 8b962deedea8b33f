//! What tells one format of table from another: pure functions on 8-byte entries.
//!
//! Levels count from 0, the tables whose entries map 4 KiB, upwards to the root. Every format here has tables of one
//! 4 KiB frame with 512 entries, so a level translates 9 bits of the address.

use core::fmt::Debug;
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

/// Address bits that a table of one level translates.
pub(crate) const INDEX_BITS: u32 = 9;

/// Address bits inside of the smallest page.
pub(crate) const PAGE_BITS: u32 = 12;

/// Lowest address bit that `level` translates.
pub(crate) const fn shift(level: u8) -> u32 {
    PAGE_BITS + INDEX_BITS * level as u32
}

/// Bytes that one entry of `level` translates.
pub(crate) const fn size(level: u8) -> u64 {
    1 << shift(level)
}

/// Index of the entry that translates `iova` in a table of `level`.
pub(crate) const fn index(iova: u64, level: u8) -> usize {
    (iova >> shift(level)) as usize & (iommu_hal::mem::ENTRIES - 1)
}

/// Keeps the formats in this crate: the walker follows the addresses that a format reads out of entries, so a wrong one
/// would let safe code reach any memory.
pub(crate) mod sealed {
    /// See [the module](self).
    pub trait Sealed {}
}

/// A format of page tables. All functions are pure; the value 0 is an entry that is not present, and so is any value
/// whose low 12 bits are 0.
///
/// Implemented by the types of this crate only.
pub trait Format: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// What one table may have otherwise than another of the same format.
    type Options: Copy + Debug + Default + PartialEq + Send + Sync;

    /// The numbers of levels that a table may have.
    const LEVELS: RangeInclusive<u8>;

    /// The highest level whose entries may be leaves.
    const TOP_LEAF_LEVEL: u8;

    /// Bits of the widest physical address that an entry holds.
    const OUTPUT_BITS: u8;

    /// Bits of the addresses, from 0 up, that a table of `levels` levels translates.
    fn input_bits(levels: u8) -> u8;

    /// Whether a leaf can allow exactly `prot`.
    fn can_express(prot: Prot) -> bool;

    /// Whether hardware follows `entry` at all.
    fn is_present(entry: u64) -> bool;

    /// Whether the present `entry` of a table of `level` maps memory, and does not lead to a table.
    fn is_leaf(entry: u64, level: u8) -> bool;

    /// A leaf of `level` that maps `phys`, aligned to its size, with a protection that the format
    /// [can express](Format::can_express).
    fn leaf(phys: PhysAddr, level: u8, prot: Prot, options: Self::Options) -> u64;

    /// An entry that leads to the table in the frame `phys` and takes no right away.
    fn table(phys: PhysAddr) -> u64;

    /// Where a present `entry` leads: the table, or the memory that a leaf of `level` maps.
    fn address(entry: u64, level: u8) -> PhysAddr;

    /// What the leaf `entry` allows.
    fn prot(entry: u64) -> Prot;
}
