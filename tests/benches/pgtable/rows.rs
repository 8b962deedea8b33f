//! The operations, and where they are done.

use crate::bits::Bits;
use crate::limit::{Fresh, HandWalk, Runs};
use crate::ours::Ours;
use crate::peers::{ArmRange, Mapper64, Multiarch, Regime};
use crate::work::{Contender, MapUnmap, Scan, Slot, Table, Translate, Work};
use iommu_pgtable::{Armv8Stage1, Armv8Stage2, VtdFirstStage, VtdSecondStage};

/// Sizes of leaves.
const PAGE: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// What a row of the table is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// One page, here and there in tables that are there.
    Page,
    /// 256 leaves side by side in a table that is there.
    Pages256,
    /// The same one level up.
    Large256,
    /// Makes and frees 513 tables.
    GibOfPages,
    /// Makes and frees one table.
    GibOfLarge,
    /// One entry.
    GibOfOne,
    /// One page.
    Translate,
    /// Whole tables of 512 pages.
    Scan,
}

impl Row {
    /// In the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Page,
        Self::Pages256,
        Self::Large256,
        Self::GibOfPages,
        Self::GibOfLarge,
        Self::GibOfOne,
        Self::Translate,
        Self::Scan,
    ];

    /// The operations that are timed. The second one may be missing.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Page => &["map 1 x 4 KiB", "unmap 1 x 4 KiB"],
            Self::Pages256 => &["map 256 x 4 KiB", "unmap 256 x 4 KiB"],
            Self::Large256 => &["map 256 x 2 MiB", "unmap 256 x 2 MiB"],
            Self::GibOfPages => &["map 1 GiB in 4 KiB", "unmap 1 GiB in 4 KiB"],
            Self::GibOfLarge => &["map 1 GiB in 2 MiB", "unmap 1 GiB in 2 MiB"],
            Self::GibOfOne => &["map 1 GiB in 1 GiB", "unmap 1 GiB in 1 GiB"],
            Self::Translate => &["translate"],
            Self::Scan => &["scan 512 dirty", "scan 512 clean"],
        }
    }

    /// It is done in tables that stay.
    pub fn is_warm(self) -> bool {
        !matches!(self, Self::GibOfPages | Self::GibOfLarge)
    }

    /// One call stores 256 entries or more.
    pub fn is_run(self) -> bool {
        matches!(self, Self::Pages256 | Self::Large256 | Self::GibOfPages | Self::GibOfLarge)
    }

    /// The work, at the place with this number.
    pub fn work(self, place: usize) -> Work {
        let base = (1 + place as u64) * 8 * TIB;
        // The first entry of a run in its table; the last of 256 is inside too.
        let start = [0, 256, 37, 129][place % 4];
        let (count, len, leaf) = match self {
            Self::Page | Self::Translate => (256, PAGE, PAGE),
            Self::Pages256 => (8, 256 * PAGE, PAGE),
            Self::Large256 => (8, 256 * MIB2, MIB2),
            Self::GibOfPages => (1, GIB, PAGE),
            Self::GibOfLarge => (8, GIB, MIB2),
            Self::GibOfOne => (256, GIB, GIB),
            Self::Scan => (4, 512 * PAGE, PAGE),
        };
        // Bytes that a table of the leaves translates.
        let table = 512 * leaf;
        let slot = |index: u64| {
            let iova = match self {
                // Over eight tables, each entry in a cache line of its own.
                Self::Page | Self::Translate | Self::GibOfOne => {
                    base + index % 8 * table + (index / 8 * 16 + start % 16) * leaf
                }
                Self::Pages256 | Self::Large256 => base + index * table + start * leaf,
                Self::GibOfPages | Self::GibOfLarge | Self::Scan => base + index * table,
            };
            // Aligned such that leaves can be as large as they are to be, and not larger.
            let phys = TIB + index * 3 * GIB + iova % (512 * leaf) + if leaf == GIB { 0 } else { 5 * leaf };
            Slot { index: index as usize, iova, phys: phys & !(leaf - 1) }
        };
        Work { slots: (0..count).map(slot).collect(), len, leaf }
    }

    /// The limit, this project and its peers, in this order.
    pub fn contenders<F: Subject, const OFFSET: u64>(self, work: &Work) -> Vec<Box<dyn Contender>> {
        let limit: Box<dyn Contender> = match self {
            Self::Page | Self::GibOfOne => Box::new(MapUnmap::checked(HandWalk::<OFFSET, F>::new(work), work)),
            Self::Pages256 | Self::Large256 => Box::new(MapUnmap(Runs::<OFFSET, F>::new(work))),
            Self::GibOfPages | Self::GibOfLarge => Box::new(MapUnmap(Fresh::<OFFSET, F>::new(work))),
            Self::Translate => Box::new(Translate::new(HandWalk::<OFFSET, F>::new(work), work)),
            Self::Scan => Box::new(Scan(Runs::<OFFSET, F>::tracked(work))),
        };
        let ours = if self.is_warm() {
            self.boxed(Ours::<OFFSET, F>::new(self == Self::Scan), work)
        } else {
            self.boxed(Ours::<OFFSET, F, true>::new(false), work)
        };
        let mut all = vec![limit, ours];
        all.extend(F::peers::<OFFSET>(self, work));
        all
    }

    fn boxed<T: Table + 'static>(self, table: T, work: &Work) -> Box<dyn Contender> {
        match self {
            Self::Translate => Box::new(Translate::new(table, work)),
            Self::Scan => Box::new(Scan::new(table, work)),
            _ => Box::new(MapUnmap::checked(table, work)),
        }
    }
}

/// A format that is measured.
pub trait Subject: Bits {
    /// What it is called.
    const NAME: &'static str;
    /// What [`Subject::peers`] are called.
    const PEERS: &'static [&'static str];

    /// The public crates that have tables of the same shape. The last may be missing, where they cannot do the work.
    fn peers<const OFFSET: u64>(row: Row, work: &Work) -> Vec<Box<dyn Contender>>;
}

/// The page-at-a-time walker, for any format.
fn multiarch<B: Bits, const OFFSET: u64>(row: Row, work: &Work) -> Option<Box<dyn Contender>> {
    Some(match row {
        Row::Scan => return None,
        _ if row.is_warm() => row.boxed(Multiarch::<OFFSET, B, false>::new(), work),
        _ => row.boxed(Multiarch::<OFFSET, B, true>::new(), work),
    })
}

fn x86<B: Bits, const OFFSET: u64>(row: Row, work: &Work) -> Vec<Box<dyn Contender>> {
    let mapper = if row.is_warm() {
        row.boxed(Mapper64::<OFFSET, false>::new(), work)
    } else {
        row.boxed(Mapper64::<OFFSET, true>::new(), work)
    };
    [mapper].into_iter().chain(multiarch::<B, OFFSET>(row, work)).collect()
}

fn arm<F: Regime, const OFFSET: u64>(row: Row, work: &Work) -> Vec<Box<dyn Contender>> {
    let range = row.boxed(ArmRange::<OFFSET, F>::new(), work);
    [range].into_iter().chain(multiarch::<F, OFFSET>(row, work)).collect()
}

const X86: &[&str] = &["x86_64", "page_table_multiarch"];
const ARM: &[&str] = &["aarch64-paging", "page_table_multiarch"];

impl Subject for VtdSecondStage {
    const NAME: &'static str = "VT-d second stage";
    const PEERS: &'static [&'static str] = X86;

    fn peers<const OFFSET: u64>(row: Row, work: &Work) -> Vec<Box<dyn Contender>> {
        x86::<Self, OFFSET>(row, work)
    }
}

impl Subject for VtdFirstStage {
    const NAME: &'static str = "x86-64, VT-d first stage";
    const PEERS: &'static [&'static str] = X86;

    fn peers<const OFFSET: u64>(row: Row, work: &Work) -> Vec<Box<dyn Contender>> {
        x86::<Self, OFFSET>(row, work)
    }
}

impl Subject for Armv8Stage1 {
    const NAME: &'static str = "Armv8 stage 1, 4 KiB granule";
    const PEERS: &'static [&'static str] = ARM;

    fn peers<const OFFSET: u64>(row: Row, work: &Work) -> Vec<Box<dyn Contender>> {
        arm::<Self, OFFSET>(row, work)
    }
}

impl Subject for Armv8Stage2 {
    const NAME: &'static str = "Armv8 stage 2, 4 KiB granule";
    const PEERS: &'static [&'static str] = ARM;

    fn peers<const OFFSET: u64>(row: Row, work: &Work) -> Vec<Box<dyn Contender>> {
        arm::<Self, OFFSET>(row, work)
    }
}
