//! How a walk sees memory, and what may stand between: caches, and software that writes meanwhile.

use super::Read64;
use iommu_core::addr::PhysAddr;

/// A stage of translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// First stage (section 3.6).
    First,
    /// Second stage (section 3.7).
    Second,
}

/// What an entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// The root table.
    Root,
    /// A context table.
    Context,
    /// A PASID directory.
    Directory,
    /// A PASID table.
    PasidTable,
    /// A paging structure.
    Paging(Stage),
}

/// A part of an entry that was fetched in one access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// What the entry belongs to.
    pub structure: Structure,
    /// Address of the entry.
    pub entry: PhysAddr,
    /// Which part, in address order.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

/// Which part of a wide entry is fetched first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// The one that holds P.
    #[default]
    Forward,
    /// The last; the one that holds P comes at the end.
    Backward,
}

/// How entries of several words are fetched.
///
/// Hardware reads up to 128 bits at once, and may read wider entries in aligned parts of 128 bits (chapter 9): a
/// context entry of scalable mode in two, a PASID table entry in four, a context entry of legacy mode at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pieces {
    /// Words of 8 bytes in a part: 2 as the specification has it. 1 is worse than any hardware.
    pub words: usize,
    /// Which part comes first.
    pub order: Order,
}

impl Default for Pieces {
    fn default() -> Self {
        Self { words: 2, order: Order::Forward }
    }
}

/// What the entries on the way allow so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
    /// Execution.
    pub execute: bool,
    /// Requests without privilege (first stage only).
    pub user: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, execute: true, user: true };

    /// What both allow.
    pub const fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            execute: self.execute && other.execute,
            user: self.user && other.user,
        }
    }
}

/// Where a walk stands, and where another may begin: what a paging-structure cache keeps (section 6.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Level of the entry to read next; the lowest is 1.
    pub level: u32,
    /// The table it lies in: guest-physical in the first stage of nested translation.
    pub table: u64,
    /// Where the second stage put that table when it was first read, and whether it may be written there. Nested
    /// translation only, and only once it was read.
    pub host: Option<(u64, bool)>,
    /// What the entries above allow.
    pub rights: Rights,
}

/// A paging-structure entry that a walk used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Which stage.
    pub stage: Stage,
    /// Which level; the lowest is 1.
    pub level: u32,
    /// The address that the stage was asked for: guest-physical in the second stage of nested translation.
    pub input: u64,
    /// Where the entry lies in memory.
    pub phys: PhysAddr,
    /// Its number in the table.
    pub index: u16,
    /// The entry, accessed and dirty bits included that the walk set.
    pub entry: u64,
    /// Where the walk goes on; `None` in a leaf.
    pub next: Option<Cursor>,
}

/// Memory and caches behind a walk. Whatever is not overridden is memory at rest without any cache.
pub trait View {
    /// 8 bytes of memory; `None` where none answers.
    fn read64(&mut self, phys: PhysAddr) -> Option<u64>;

    /// Replaces the 8 bytes at `phys` by `new` if they still are `old`, in one atomic step; what is there where they
    /// are not. `None` where no memory answers.
    fn update64(&mut self, _phys: PhysAddr, _old: u64, _new: u64) -> Option<Result<(), u64>> {
        Some(Ok(()))
    }

    /// How wide entries are fetched.
    fn pieces(&self) -> Pieces {
        Pieces::default()
    }

    /// Called after each part that was fetched, before the next one is.
    fn fetched(&mut self, _piece: &Piece) {}

    /// Where a walk of `stage` for `input` begins; `None` for the top.
    fn resume(&mut self, _stage: Stage, _input: u64) -> Option<Cursor> {
        None
    }

    /// Called for each entry that was used and may be kept: present, without reserved bits, accessed.
    fn used(&mut self, _step: &Step) {}
}

/// Memory alone. Accessed and dirty bits are not written.
pub struct Plain<'a>(pub Read64<'a>);

impl View for Plain<'_> {
    fn read64(&mut self, phys: PhysAddr) -> Option<u64> {
        (self.0)(phys)
    }
}

/// Reads an entry of `N` words.
pub(super) fn fetch<const N: usize>(view: &mut dyn View, structure: Structure, entry: PhysAddr) -> Option<[u64; N]> {
    let Pieces { words, order } = view.pieces();
    let words = words.clamp(1, N);
    let count = N.div_ceil(words);
    let mut read = [0; N];
    for turn in 0..count {
        let index = match order {
            Order::Forward => turn,
            Order::Backward => count - 1 - turn,
        };
        for (word, value) in read.iter_mut().enumerate().skip(index * words).take(words) {
            *value = view.read64(PhysAddr::new(entry.get() + word as u64 * 8))?;
        }
        view.fetched(&Piece { structure, entry, index, count });
    }
    Some(read)
}
