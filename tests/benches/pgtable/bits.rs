//! The bits of the entries once more, for what is written by hand.

use iommu_pgtable::{Armv8Stage1, Armv8Stage2, Format, Vtd, VtdFirstStage, VtdSecondStage};

/// Address bits of every format, as far as they are used here.
pub const ADDRESS: u64 = (1 << 48) - (1 << 12);

/// The bits of a format's entries.
pub trait Bits: Format {
    /// In leaves of the smallest pages.
    const PAGE: u64;
    /// In larger leaves.
    const HUGE: u64;
    /// In leaves that may be written through.
    const WRITE: u64;
    /// In entries that lead to tables.
    const TABLE: u64;
    /// Any of these: the entry is present.
    const ANY: u64;
    /// Above the smallest pages, an entry leads to a table where these bits are [`Bits::NEXT`].
    const NEXT_MASK: u64;
    /// See [`Bits::NEXT_MASK`].
    const NEXT: u64;

    /// The bit of a leaf that hardware changes when it is written through.
    const DIRTY: u64;
    /// What stands there in a leaf that was written through.
    const DIRTIED: u64;

    /// A writable leaf of `level` that maps `phys`.
    #[inline]
    fn entry(phys: u64, level: u8) -> u64 {
        phys | Self::WRITE | if level == 0 { Self::PAGE } else { Self::HUGE }
    }

    /// Whether an entry above the smallest pages leads to a table.
    #[inline]
    fn leads_on(entry: u64) -> bool {
        entry & Self::NEXT_MASK == Self::NEXT
    }

    /// The leaf `entry` once it was written through.
    #[inline]
    fn written(entry: u64) -> u64 {
        entry & !<Self as Bits>::DIRTY | Self::DIRTIED
    }

    /// Whether the leaf `entry` was written through.
    #[inline]
    fn was_written(entry: u64) -> bool {
        entry & <Self as Bits>::DIRTY == Self::DIRTIED
    }

    /// Whether anything stands there.
    #[inline]
    fn is_there(entry: u64) -> bool {
        entry & Self::ANY != 0
    }
}

/// Readable; bit 7 marks leaves above the smallest pages.
impl Bits for VtdSecondStage {
    const PAGE: u64 = 1;
    const HUGE: u64 = 1 | 1 << 7;
    const WRITE: u64 = 1 << 1;
    const TABLE: u64 = 3;
    const ANY: u64 = 3;
    const NEXT_MASK: u64 = 1 | 1 << 7;
    const NEXT: u64 = 1;
    const DIRTY: u64 = 1 << 9;
    const DIRTIED: u64 = 1 << 9;
}

/// Of a second stage, which it is unless told otherwise.
impl Bits for Vtd {
    const PAGE: u64 = VtdSecondStage::PAGE;
    const HUGE: u64 = VtdSecondStage::HUGE;
    const WRITE: u64 = VtdSecondStage::WRITE;
    const TABLE: u64 = VtdSecondStage::TABLE;
    const ANY: u64 = VtdSecondStage::ANY;
    const NEXT_MASK: u64 = VtdSecondStage::NEXT_MASK;
    const NEXT: u64 = VtdSecondStage::NEXT;
    const DIRTY: u64 = <VtdSecondStage as Bits>::DIRTY;
    const DIRTIED: u64 = VtdSecondStage::DIRTIED;
}

/// Present, user, accessed; bit 7 marks leaves above the smallest pages. Written: dirty too.
impl Bits for VtdFirstStage {
    const PAGE: u64 = 1 | 1 << 2 | 1 << 5;
    const HUGE: u64 = Self::PAGE | 1 << 7;
    const WRITE: u64 = 1 << 1 | 1 << 6;
    const TABLE: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 5;
    const ANY: u64 = 1;
    const NEXT_MASK: u64 = 1 | 1 << 7;
    const NEXT: u64 = 1;
    const DIRTY: u64 = 1 << 6;
    const DIRTIED: u64 = 1 << 6;
}

/// Valid, unprivileged, inner shareable, accessed, not global, no execution; bit 1 marks tables and the smallest pages.
/// A bit would take writes away, none gives them.
impl Bits for Armv8Stage1 {
    const PAGE: u64 = Self::HUGE | 1 << 1;
    const HUGE: u64 = 1 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11 | 3 << 53;
    const WRITE: u64 = 0;
    const TABLE: u64 = 3;
    const ANY: u64 = 1;
    const NEXT_MASK: u64 = 3;
    const NEXT: u64 = 3;
    const DIRTY: u64 = 1 << 7;
    const DIRTIED: u64 = 0;
}

/// Valid, normal write-back memory, readable, inner shareable, accessed, no execution; bit 1 as in stage 1.
impl Bits for Armv8Stage2 {
    const PAGE: u64 = Self::HUGE | 1 << 1;
    const HUGE: u64 = 1 | 0xf << 2 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 54;
    const WRITE: u64 = 1 << 7;
    const TABLE: u64 = 3;
    const ANY: u64 = 1;
    const NEXT_MASK: u64 = 3;
    const NEXT: u64 = 3;
    const DIRTY: u64 = 1 << 7;
    const DIRTIED: u64 = 1 << 7;
}
