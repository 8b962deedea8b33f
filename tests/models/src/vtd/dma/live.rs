//! Memory and caches as the unit's walks see them.

use crate::memory::TestMemory;
use crate::vtd::cache::{Owner, Structures};
use crate::vtd::walk::{Cursor, Piece, Pieces, Stage, Step, View};
use alloc::boxed::Box;
use iommu_core::addr::PhysAddr;

/// What is called after each part of an entry that a walk fetched, with the memory and the part: what it stores there,
/// the walk sees in the parts that it fetches later.
///
/// It may do everything with the memory, and must not call the unit, which is in the middle of a request.
pub type FetchHook = Box<dyn FnMut(&TestMemory, &Piece) + Send>;

/// How the unit fetches entries.
#[derive(Default)]
pub(in crate::vtd) struct Fetching {
    pub(in crate::vtd) pieces: Pieces,
    pub(in crate::vtd) hook: Option<FetchHook>,
}

/// Memory as walkers see it, the hook between two parts of an entry, and for page walks the paging-structure caches.
pub(super) struct Live<'a> {
    pub(super) memory: &'a TestMemory,
    pub(super) fetching: &'a mut Fetching,
    pub(super) structures: Option<Held<'a>>,
}

/// The paging-structure caches, and what this walk's entries are tagged with in each stage.
pub(super) struct Held<'a> {
    pub(super) caches: &'a mut Structures,
    pub(super) first: Owner,
    pub(super) second: Owner,
    /// Level of the next entry of the second stage; `None` before any.
    pub(super) level: Option<u32>,
}

impl Held<'_> {
    const fn owner(&self, stage: Stage) -> Owner {
        match stage {
            Stage::First => self.first,
            Stage::Second => self.second,
        }
    }
}

impl View for Live<'_> {
    fn read64(&mut self, phys: PhysAddr) -> Option<u64> {
        self.memory.walker_read64(phys)
    }

    fn update64(&mut self, phys: PhysAddr, old: u64, new: u64) -> Option<Result<(), u64>> {
        self.memory.walker_update64(phys, old, new)
    }

    fn resume(&mut self, stage: Stage, input: u64) -> Option<Cursor> {
        let held = self.structures.as_mut()?;
        let cursor = held.caches.resume(held.owner(stage), input);
        if stage == Stage::Second {
            held.level = cursor.map(|cursor| cursor.level);
        }
        cursor
    }

    fn used(&mut self, step: &Step) {
        if let Some(held) = &mut self.structures {
            held.caches.keep(held.owner(step.stage), step);
            if let (Stage::Second, Some(next)) = (step.stage, step.next) {
                held.level = Some(next.level);
            }
        }
    }

    fn pieces(&self) -> Pieces {
        self.fetching.pieces
    }

    fn fetched(&mut self, piece: &Piece) {
        if let Some(hook) = &mut self.fetching.hook {
            hook(self.memory, piece);
        }
    }
}
