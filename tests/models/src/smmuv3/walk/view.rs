//! How a walk sees memory, and what may stand between: caches, and software that writes meanwhile.

use super::request::{Entry, Regime};
use super::{Cursor, Granule, Host, Read64};
use crate::smmuv3::Violation;
use iommu_core::addr::PhysAddr;

/// A stage of translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Stage 1.
    First,
    /// Stage 2.
    Second,
}

/// What a word belongs to that was fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// A level-1 stream table descriptor (section 5.1).
    StreamTable,
    /// An STE (section 5.2).
    Ste,
    /// A level-1 context descriptor (section 5.3).
    CdTable,
    /// A CD (section 5.4).
    Cd,
    /// A translation table.
    Table(Stage),
}

/// A word that was fetched in one access: hardware promises no more than 64 bits at once (section 3.21.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// What it belongs to.
    pub structure: Structure,
    /// Where the structure lies in memory.
    pub entry: PhysAddr,
    /// Which word, in address order.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

/// Which word of an STE or CD is fetched first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Word 0, which holds V.
    #[default]
    Ascending,
    /// Word 7; the one that holds V comes at the end.
    Descending,
    /// Any, another each time, the same for the same seed.
    Shuffled(u64),
}

/// Where words come from, and what is kept of them. Whatever is not overridden is memory at rest without any cache.
pub(in crate::smmuv3) trait View {
    /// 8 bytes of memory; `None` where none answers.
    fn word(&mut self, phys: u64) -> Option<u64>;

    /// Replaces the 8 bytes at `phys` by `new` if they still are `old`, in one atomic step; what is there where they are
    /// not. `None` where no memory answers.
    fn update(&mut self, _phys: u64, _old: u64, _new: u64) -> Option<Result<(), u64>> {
        Some(Ok(()))
    }

    /// Called after each word that was fetched, before the next one is.
    fn fetched(&mut self, _piece: &Piece) {}

    /// The order in which the words of an STE or CD are fetched.
    fn order(&mut self) -> [usize; 8] {
        [0, 1, 2, 3, 4, 5, 6, 7]
    }

    /// Whether contiguous groups are kept as one translation.
    fn groups(&self) -> bool {
        false
    }

    /// Whether software may change the contiguous bit of leaves that are in use.
    fn groups_may_differ(&self) -> bool {
        false
    }

    /// Something that software must not do.
    fn note(&mut self, _violation: Violation) {}

    /// The level-1 stream table descriptor number `index`, that was kept.
    fn level1(&mut self, _index: u32) -> Option<u64> {
        None
    }

    fn keep_level1(&mut self, _index: u32, _descriptor: u64) {}

    /// An STE that was kept.
    fn ste(&mut self, _sid: u32) -> Option<[u64; 8]> {
        None
    }

    fn keep_ste(&mut self, _sid: u32, _words: &[u64; 8]) {}

    /// The level-1 context descriptor for `ssid` that was kept, where one leads to 2^`leaf` CDs.
    fn cd_level1(&mut self, _sid: u32, _leaf: u32, _ssid: u32) -> Option<u64> {
        None
    }

    fn keep_cd_level1(&mut self, _sid: u32, _leaf: u32, _ssid: u32, _descriptor: u64) {}

    /// A CD that was kept.
    fn cd(&mut self, _sid: u32, _ssid: u32) -> Option<[u64; 8]> {
        None
    }

    fn keep_cd(&mut self, _sid: u32, _ssid: u32, _words: &[u64; 8]) {}

    /// Where a walk for `input` begins: below the lowest table descriptor that was kept; `None` for the top.
    fn cursor(&mut self, _regime: Regime, _granule: Granule, _input: u64) -> Option<Cursor> {
        None
    }

    /// Called for each descriptor of `level` that leads to a table.
    fn keep_cursor(&mut self, _regime: Regime, _granule: Granule, _level: u8, _input: u64, _cursor: Cursor) {}

    /// Where stage 2 put the part of a table of stage 1, of `level`, that is looked at for `input`.
    fn host(&mut self, _regime: Regime, _granule: Granule, _level: u8, _input: u64) -> Option<Host> {
        None
    }

    fn keep_host(&mut self, _regime: Regime, _granule: Granule, _level: u8, _input: u64, _host: Host) {}

    /// A translation of `input`, global ones included.
    fn entry(&mut self, _regime: Regime, _input: u64) -> Option<Entry> {
        None
    }

    fn keep_entry(&mut self, _regime: Regime, _input: u64, _entry: Entry) {}
}

/// Memory, and nothing kept. Accessed and dirty flags are not written.
pub(super) struct Plain<'a>(pub(super) Read64<'a>);

impl View for Plain<'_> {
    fn word(&mut self, phys: u64) -> Option<u64> {
        (self.0)(PhysAddr::new(phys))
    }
}

/// Fetches a structure of one word.
pub(super) fn fetch_one(view: &mut dyn View, structure: Structure, phys: u64) -> Option<u64> {
    let word = view.word(phys)?;
    view.fetched(&Piece { structure, entry: PhysAddr::new(phys), index: 0, count: 1 });
    Some(word)
}

/// Fetches a structure of eight words one by one; the address that did not answer otherwise.
pub(super) fn fetch(view: &mut dyn View, structure: Structure, phys: u64) -> Result<[u64; 8], u64> {
    let mut words = [0; 8];
    for index in view.order() {
        let at = phys + index as u64 * 8;
        words[index] = view.word(at).ok_or(at)?;
        view.fetched(&Piece { structure, entry: PhysAddr::new(phys), index, count: 8 });
    }
    Ok(words)
}
