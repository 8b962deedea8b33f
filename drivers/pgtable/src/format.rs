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

/// How tables divide addresses: the numbers that shape a tree. They are constants of a type without a value, so that they
/// cost nothing, or those of a value where they are known when the table is made.
///
/// Implemented by the types of this crate only.
pub trait Grain: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// All values are alike: every number is a constant.
    const FIXED: bool;

    /// Address bits inside of the smallest page.
    fn page_bits(self) -> u32;

    /// Address bits that a table of one level translates. A table takes 2^(index bits + 3) bytes.
    fn index_bits(self) -> u32;

    /// The highest level whose entries may be leaves.
    fn top_leaf_level(self) -> u8;

    /// log2 of the entries of `level` side by side that can form one contiguous group, which caches may hold as one
    /// leaf; 0 where there are none.
    fn group_bits(self, level: u8) -> u32;

    /// Lowest address bit that `level` translates.
    #[inline]
    fn shift(self, level: u8) -> u32 {
        self.page_bits() + self.index_bits() * u32::from(level)
    }

    /// Bytes that one entry of `level` translates.
    #[inline]
    fn size(self, level: u8) -> u64 {
        1 << self.shift(level)
    }

    /// Bytes of the smallest page.
    #[inline]
    fn page(self) -> u64 {
        1 << self.page_bits()
    }
}

/// Pages of 4 KiB, tables of 512 entries, leaves up to level `TOP_LEAF_LEVEL`, no contiguous groups.
#[derive(Clone, Copy, Debug)]
pub struct Pages4K<const TOP_LEAF_LEVEL: u8>;

impl<const TOP_LEAF_LEVEL: u8> sealed::Sealed for Pages4K<TOP_LEAF_LEVEL> {}

impl<const TOP_LEAF_LEVEL: u8> Grain for Pages4K<TOP_LEAF_LEVEL> {
    const FIXED: bool = true;

    #[inline]
    fn page_bits(self) -> u32 {
        12
    }

    #[inline]
    fn index_bits(self) -> u32 {
        9
    }

    #[inline]
    fn top_leaf_level(self) -> u8 {
        TOP_LEAF_LEVEL
    }

    #[inline]
    fn group_bits(self, _: u8) -> u32 {
        0
    }
}

/// What a leaf is to be, beside its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// What it allows.
    pub prot: Prot,
    /// It is one of a [contiguous group](Grain::group_bits).
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

    /// How its tables divide addresses.
    type Grain: Grain;

    /// The numbers of levels that a table may have.
    const LEVELS: RangeInclusive<u8>;

    /// Hardware tells the level of the root by the width of addresses, so a table must have no more levels than that
    /// width needs.
    const ROOT_BY_WIDTH: bool = false;

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

    /// How a table with these options divides addresses.
    fn grain(options: Self::Options) -> Self::Grain;

    /// Bits of the addresses, from 0 up, that a table of `levels` levels translates at most. More than the
    /// [`Grain`] has for that many levels where tables are concatenated at the root; 0 where the options allow no table
    /// of so many levels.
    fn input_bits(levels: u8, options: Self::Options) -> u8;

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
pub(crate) fn step<F: Format>(grain: F::Grain, level: u8) -> u64 {
    let attributes = Attributes { prot: Prot::READ_WRITE, grouped: false, tracked: false };
    let leaf = |phys| F::leaf(PhysAddr::new(phys), level, attributes, F::Options::default());
    leaf(grain.size(level)).wrapping_sub(leaf(0))
}

/// log2 of the size of the leaf `entry` of `level`, its whole group counted.
#[inline]
pub(crate) fn leaf_bits<F: Format>(grain: F::Grain, entry: u64, level: u8) -> u32 {
    grain.shift(level) + if F::is_grouped(entry) { grain.group_bits(level) } else { 0 }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
