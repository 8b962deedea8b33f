//! What tells one format of table from another: pure functions on 8-byte entries, and the numbers that shape a tree.
//!
//! Levels count from 0, the tables whose entries map the smallest page, upwards to the root.

use core::fmt::Debug;
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

/// Most levels that a table of any format here has.
pub(crate) const MOST_LEVELS: usize = 5;

/// Keeps the formats in this crate: the walker follows the addresses that a format reads out of entries, so a wrong one
/// would let safe code reach any memory.
pub(crate) mod sealed {
    /// See [the module](self).
    pub trait Sealed {}
}

/// What a leaf is to be, beside its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// What it allows.
    pub prot: Prot,
    /// It is one of a [contiguous group](Format::group_bits).
    pub grouped: bool,
    /// Hardware notes in it whether it was written through. It starts clean.
    pub tracked: bool,
}

/// A format of page tables. All functions are pure; the value 0 is an entry that is not present, and so is any value
/// whose low 12 bits are 0.
///
/// Leaves of one level and the same [`Attributes`] differ by their address only, and by the same amount from each to the
/// next: [`Format::leaf`] is linear in the address.
///
/// Implemented by the types of this crate only.
pub trait Format: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// What one table may have otherwise than another of the same format.
    type Options: Copy + Debug + Default + PartialEq + Send + Sync;

    /// Address bits inside of the smallest page.
    const PAGE_BITS: u32;

    /// Address bits that a table of one level translates. A table takes 2^(`INDEX_BITS` + 3) bytes.
    const INDEX_BITS: u32;

    /// The numbers of levels that a table may have.
    const LEVELS: RangeInclusive<u8>;

    /// Hardware tells the level of the root by the width of addresses, so a table must have no more levels than that
    /// width needs.
    const ROOT_BY_WIDTH: bool = false;

    /// The highest level whose entries may be leaves.
    const TOP_LEAF_LEVEL: u8;

    /// Bits of the widest physical address that an entry holds.
    const OUTPUT_BITS: u8;

    /// Hardware follows an entry where any of these bits is set.
    const PRESENT: u64;

    /// Which bits tell what leads to a table: above level 0, an entry does where these are [`Format::LINK`].
    const LINK_MASK: u64;

    /// See [`Format::LINK_MASK`]. One of the bits in [`Format::PRESENT`] is set in it.
    const LINK: u64;

    /// A bit that hardware ignores in entries that lead to tables. Set: what the entry leads to, and the entry itself,
    /// are visible to a walker that does not snoop.
    const VISIBLE: u64;

    /// The bits of a leaf that tell whether it was written through; see [`Format::is_dirty`].
    const DIRTY: u64;

    /// Bits of the addresses, from 0 up, that a table of `levels` levels translates at most. More than
    /// `PAGE_BITS + levels * INDEX_BITS` where tables are concatenated at the root.
    fn input_bits(levels: u8, options: Self::Options) -> u8;

    /// log2 of the entries of `level` side by side that can form one contiguous group, which caches may hold as one
    /// leaf; 0 where the format has none.
    fn group_bits(level: u8) -> u32 {
        let _ = level;
        0
    }

    /// Whether a live leaf may become a table that maps the same, or the other way round, without having been taken
    /// out and invalidated in between.
    fn resizes_live(options: Self::Options) -> bool {
        let _ = options;
        true
    }

    /// Whether a leaf can allow exactly `prot`.
    fn can_express(prot: Prot, options: Self::Options) -> bool;

    /// Whether the leaf `entry` is one of a contiguous group.
    fn is_grouped(entry: u64) -> bool {
        let _ = entry;
        false
    }

    /// A leaf of `level` that maps `phys`, aligned to its size, with a protection that the format
    /// [can express](Format::can_express).
    fn leaf(phys: PhysAddr, level: u8, attributes: Attributes, options: Self::Options) -> u64;

    /// An entry that leads to the table in the frame `phys` and takes no right away. `tracked` as in [`Attributes`].
    fn table(phys: PhysAddr, tracked: bool, options: Self::Options) -> u64;

    /// Where the present `entry` leads that is no leaf.
    fn table_address(entry: u64) -> PhysAddr;

    /// The memory that the leaf `entry` of `level` maps.
    fn leaf_address(entry: u64, level: u8) -> PhysAddr;

    /// What the leaf `entry` allows.
    fn prot(entry: u64) -> Prot;

    /// Whether the leaf `entry`, in a table that tracks, was written through.
    fn is_dirty(entry: u64) -> bool;

    /// The leaf `entry`, made with [`Attributes::tracked`], as if it was written through.
    fn dirtied(entry: u64) -> u64;
}

/// Lowest address bit that `level` translates.
#[inline]
pub(crate) const fn shift<F: Format>(level: u8) -> u32 {
    F::PAGE_BITS + F::INDEX_BITS * level as u32
}

/// Bytes that one entry of `level` translates.
#[inline]
pub(crate) const fn size<F: Format>(level: u8) -> u64 {
    1 << shift::<F>(level)
}

/// Bytes of the smallest page.
#[inline]
pub(crate) const fn page<F: Format>() -> u64 {
    1 << F::PAGE_BITS
}

/// Whether hardware follows `entry` at all.
#[inline]
pub(crate) const fn is_present<F: Format>(entry: u64) -> bool {
    entry & F::PRESENT != 0
}

/// Whether `entry` of a table of `level` is present and leads to a table.
#[inline]
pub(crate) fn is_link<F: Format>(entry: u64, level: u8) -> bool {
    level != 0 && entry & F::LINK_MASK == F::LINK
}

/// Whether `entry` of a table of `level` is present and maps memory.
#[inline]
pub(crate) fn is_leaf<F: Format>(entry: u64, level: u8) -> bool {
    is_present::<F>(entry) && !is_link::<F>(entry, level)
}

/// By how much a leaf of `level` differs from the one before it in a physically contiguous run.
#[inline]
pub(crate) fn step<F: Format>(level: u8) -> u64 {
    let attributes = Attributes { prot: Prot::READ_WRITE, grouped: false, tracked: false };
    let leaf = |phys| F::leaf(PhysAddr::new(phys), level, attributes, F::Options::default());
    leaf(size::<F>(level)).wrapping_sub(leaf(0))
}

/// log2 of the size of the leaf `entry` of `level`, its whole group counted.
#[inline]
pub(crate) fn leaf_bits<F: Format>(entry: u64, level: u8) -> u32 {
    shift::<F>(level) + if F::is_grouped(entry) { F::group_bits(level) } else { 0 }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
