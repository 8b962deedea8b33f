//! What the two stages of Armv8 tables share, for each granule: bits as in "VMSAv8-64 translation table format
//! descriptors" of the Arm Architecture Reference Manual, chapter D8, which the SMMU architecture takes over (IHI 0070,
//! section 3.4).
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | valid | 1 |
//! | 1 | table, or page at level 0; 0 in blocks | as the entry demands |
//! | 9:8 | SH: shareability; leaves only | as the options of the stage say |
//! | 10 | AF: access flag; leaves only | 1, so that hardware does not have to write it |
//! | 47:12 (16 KiB: 47:14, 64 KiB: 47:16) | address | of the table or the memory |
//! | 51 | DBM: hardware may make the leaf writable; leaves only | 1 in writable leaves of tables that track |
//! | 52 | contiguous; leaves only | as [`Attributes`](crate::Attributes) ask |
//! | 55 | for software | [`Format::VISIBLE`](crate::Format::VISIBLE) in entries that lead to tables |
//! | 56 | for software | in leaves of tables that track: it was written through before it became read-only |
//!
//! The stages say what stands in the other bits of leaves; in entries that lead to tables those are 0. Addresses have
//! 48 bits: tables for 52 (LPA, LPA2) put some of them where other fields stand here.
//!
//! Levels are counted from the leaves here, and from the root in the Arm manual: level 0 here is its level 3.

use crate::format::{Grain, sealed::Sealed};
use core::fmt::Debug;
use core::marker::PhantomData;
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;

pub(crate) const VALID: u64 = 1 << 0;
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Both bits, in an entry that leads to a table.
pub(crate) const LINK: u64 = VALID | TABLE_OR_PAGE;
const AF: u64 = 1 << 10;
pub(crate) const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
pub(crate) const VISIBLE: u64 = 1 << 55;
/// In a leaf that is read-only, where there is no state that says it: it was written through.
pub(crate) const WAS_DIRTY: u64 = 1 << 56;

/// Bits of the widest address that an entry holds, and of the widest that a table translates.
pub(crate) const ADDRESS_BITS: u8 = 48;

/// The size of the smallest pages of Armv8 tables, and what follows from it.
///
/// Implemented by the types of this crate only.
pub trait Granule: Sealed + Copy + Debug + Send + Sync + 'static {
    /// Address bits inside of the smallest page. Tables are as large as it is.
    const PAGE_BITS: u32;

    /// Address bits that a table of one level translates.
    const INDEX_BITS: u32 = Self::PAGE_BITS - 3;

    /// The numbers of levels that a table of stage 1 may have.
    const STAGE1_LEVELS: RangeInclusive<u8>;

    /// The numbers of levels that a table of stage 2 may have.
    const STAGE2_LEVELS: RangeInclusive<u8>;

    /// The highest level whose entries may be blocks.
    const TOP_LEAF_LEVEL: u8;

    /// log2 of the entries of `level` that form a contiguous group; 0 where none do.
    fn group_bits(level: u8) -> u32;
}

/// Pages of 4 KiB, blocks of 2 MiB and 1 GiB; 16 entries of any of them form a group: 64 KiB, 32 MiB, 16 GiB.
#[derive(Clone, Copy, Debug)]
pub enum Granule4K {}

/// Pages of 16 KiB, blocks of 32 MiB; 128 pages form a group of 2 MiB, and 32 blocks one of 1 GiB.
#[derive(Clone, Copy, Debug)]
pub enum Granule16K {}

/// Pages of 64 KiB, blocks of 512 MiB; 32 entries of either form a group: 2 MiB, 16 GiB.
#[derive(Clone, Copy, Debug)]
pub enum Granule64K {}

impl Sealed for Granule4K {}
impl Sealed for Granule16K {}
impl Sealed for Granule64K {}

impl Granule for Granule4K {
    const PAGE_BITS: u32 = 12;
    const STAGE1_LEVELS: RangeInclusive<u8> = 3..=4;
    const STAGE2_LEVELS: RangeInclusive<u8> = 2..=4;
    const TOP_LEAF_LEVEL: u8 = 2;

    #[inline]
    fn group_bits(level: u8) -> u32 {
        if level <= 2 { 4 } else { 0 }
    }
}

impl Granule for Granule16K {
    const PAGE_BITS: u32 = 14;
    const STAGE1_LEVELS: RangeInclusive<u8> = 2..=4;
    const STAGE2_LEVELS: RangeInclusive<u8> = 2..=3;
    const TOP_LEAF_LEVEL: u8 = 1;

    #[inline]
    fn group_bits(level: u8) -> u32 {
        match level {
            0 => 7,
            1 => 5,
            _ => 0,
        }
    }
}

impl Granule for Granule64K {
    const PAGE_BITS: u32 = 16;
    const STAGE1_LEVELS: RangeInclusive<u8> = 2..=3;
    const STAGE2_LEVELS: RangeInclusive<u8> = 2..=3;
    const TOP_LEAF_LEVEL: u8 = 1;

    #[inline]
    fn group_bits(level: u8) -> u32 {
        if level <= 1 { 5 } else { 0 }
    }
}

/// What a granule makes of addresses, where it is a type.
#[derive(Clone, Copy, Debug)]
pub struct Of<G: Granule>(pub(crate) PhantomData<G>);

impl<G: Granule> Sealed for Of<G> {}

impl<G: Granule> Grain for Of<G> {
    const FIXED: bool = true;

    #[inline]
    fn page_bits(self) -> u32 {
        G::PAGE_BITS
    }

    #[inline]
    fn index_bits(self) -> u32 {
        G::INDEX_BITS
    }

    #[inline]
    fn top_leaf_level(self) -> u8 {
        G::TOP_LEAF_LEVEL
    }

    #[inline]
    fn group_bits(self, level: u8) -> u32 {
        G::group_bits(level)
    }
}

/// Who is kept coherent with accesses through a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shareability {
    /// Nobody else.
    Non = 0,
    /// The outer shareable domain.
    Outer = 2,
    /// The inner shareable domain: all CPUs that run one system.
    #[default]
    Inner = 3,
}

/// `bits`, if they are to be set.
#[inline]
pub(crate) const fn bits_if(set: bool, bits: u64) -> u64 {
    if set { bits } else { 0 }
}

/// The bits of an entry that hold its address.
#[inline]
const fn address_mask<G: Granule>() -> u64 {
    (1 << ADDRESS_BITS) - (1 << G::PAGE_BITS)
}

/// Bits that `levels` levels translate at most, `concatenated` of them by which of the tables at the root it is.
#[inline]
pub(crate) const fn input_bits<G: Granule>(levels: u8, concatenated: u8) -> u8 {
    let bits = G::PAGE_BITS as u8 + G::INDEX_BITS as u8 * levels + concatenated;
    if bits < ADDRESS_BITS { bits } else { ADDRESS_BITS }
}

/// Whether a leaf is one of a contiguous group.
#[inline]
pub(crate) const fn is_grouped(entry: u64) -> bool {
    entry & CONTIGUOUS != 0
}

/// The bits of a leaf that mean the same in both stages.
#[inline]
pub(crate) const fn leaf<G: Granule>(phys: PhysAddr, level: u8, grouped: bool, shareability: Shareability) -> u64 {
    let kind = bits_if(level == 0, TABLE_OR_PAGE) | bits_if(grouped, CONTIGUOUS);
    phys.get() & address_mask::<G>() | VALID | kind | (shareability as u64) << 8 | AF
}

/// An entry that leads to a table, and takes no right away.
#[inline]
pub(crate) const fn table<G: Granule>(phys: PhysAddr) -> u64 {
    phys.get() & address_mask::<G>() | VALID | TABLE_OR_PAGE
}

/// The address in an entry of either kind, of any level: nothing else stands between its highest bit and its lowest.
#[inline]
pub(crate) const fn address<G: Granule>(entry: u64) -> PhysAddr {
    PhysAddr::new(entry & address_mask::<G>())
}
