//! Root, context and PASID structures of one unit (sections 9.2 to 9.6), and who is attached to what.
//!
//! A requester that is attached has a context entry, a PASID directory with one entry, and a PASID table with entry 0.
//! A requester that is not has a context entry that is not present: the hardware refuses all it does. Nothing here
//! invalidates; the caller does, with the plan for the change, before [`Tables::release`] gives frames back.

use crate::spec::context::{CONTEXT_ENTRY_WORDS, context_entry};
use crate::spec::pasid::{DirectoryEntry, PASID_ENTRY_WORDS, PasidEntry, PasidWord0};
use crate::spec::root::{ROOT_ENTRY_WORDS, RootHalf};
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, RequesterId};
use iommu_hal::mem::{Frame, Frames};
use iommu_hal::{FrameRequest, Hal};

use crate::domain::State;
use crate::invalidate::{RID_PASID, User};
use iommu_alloc::Shared;

/// Word of PASID entry 0 in its table, and of directory entry 0 in its directory.
const RID_ENTRY: usize = RID_PASID as usize;

/// A kind of memory that a unit reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// The root table.
    RootTable,
    /// A context table.
    ContextTable,
    /// A PASID directory.
    PasidDirectory,
    /// A PASID table.
    PasidTable,
    /// The root of a domain's page tables.
    PageTable,
    /// The invalidation queue.
    Queue,
    /// The cell that invalidation waits write to.
    QueueStatus,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RootTable => "root table",
            Self::ContextTable => "context table",
            Self::PasidDirectory => "PASID directory",
            Self::PasidTable => "PASID table",
            Self::PageTable => "page table",
            Self::Queue => "invalidation queue",
            Self::QueueStatus => "invalidation status",
        })
    }
}

/// What stands between a requester and its domain.
pub(crate) struct Attachment<H: Hal> {
    /// The requester.
    pub(crate) source: RequesterId,
    /// Where it leads.
    pub(crate) state: Shared<State>,
    /// Not confirmed: an entry is being set, or was cleared and hardware has not said that it forgot it.
    pub(crate) draining: bool,
    /// Root of the page tables that the PASID entry leads to.
    page_table: Option<PhysAddr>,
    directory: Frames<H>,
    table: Frames<H>,
}

/// The structures of one unit.
pub(crate) struct Tables<H: Hal> {
    hal: H,
    request: FrameRequest,
    root: Frames<H>,
    /// Context tables, by bus * 2 + half of the bus. Never taken away again: 8 KiB a bus at most.
    contexts: Vec<(u16, Frames<H>)>,
    /// Sorted by requester.
    attachments: Vec<Attachment<H>>,
}

impl<H: Hal + Clone> Tables<H> {
    /// An empty root table: every requester is blocked.
    pub(crate) fn new(hal: &H, request: FrameRequest) -> Result<Self, HwError> {
        let root = Frames::alloc(hal.clone(), request).ok_or(HwError::OutOfMemory)?;
        Ok(Self { hal: hal.clone(), request, root, contexts: Vec::new(), attachments: Vec::new() })
    }

    /// Physical address of the root table.
    pub(crate) fn root(&self) -> PhysAddr {
        self.root.phys()
    }

    /// What `source` is attached to.
    pub(crate) fn attachment(&self, source: RequesterId) -> Option<&Attachment<H>> {
        let at = self.position(source).ok()?;
        self.attachments.get(at)
    }

    /// `source`, its requests without PASID, as invalidations name it.
    pub(crate) fn user(&self, source: RequesterId) -> User {
        User { source, pasid: None, index: RID_PASID, tlb: None }
    }

    /// Every frame that hardware reads structures from.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (Structure, PhysAddr)> + '_ {
        let contexts = self.contexts.iter().map(|(_, frames)| (Structure::ContextTable, frames.phys()));
        let behind = self.attachments.iter().flat_map(|held| {
            let directory = (Structure::PasidDirectory, held.directory.phys());
            let page_table = held.page_table.map(|root| (Structure::PageTable, root));
            [Some(directory), Some((Structure::PasidTable, held.table.phys())), page_table].into_iter().flatten()
        });
        core::iter::once((Structure::RootTable, self.root())).chain(contexts).chain(behind)
    }

    /// Leads a requester that is blocked to `entry`. On success the caller invalidates; on error nothing is reachable
    /// that was not before.
    pub(crate) fn set(
        &mut self,
        source: RequesterId,
        state: &Shared<State>,
        entry: &PasidEntry,
    ) -> Result<(), HwError> {
        let Err(at) = self.position(source) else {
            return Err(HwError::InUse);
        };
        // Everything that can fail comes first.
        self.attachments.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let directory = Frames::alloc(self.hal.clone(), self.request).ok_or(HwError::OutOfMemory)?;
        let table = Frames::alloc(self.hal.clone(), self.request).ok_or(HwError::OutOfMemory)?;
        let context_at = self.context_table(source)?;

        // Known before it is reachable: whatever happens from here on, its frames are not given back.
        let page_table = entry.page_table();
        self.attachments
            .insert(at, Attachment { source, state: state.clone(), draining: true, page_table, directory, table });
        let held = &mut self.attachments[at];

        // From the leaf upwards: whatever becomes reachable is complete by then.
        write_entry(&frame(&held.table)?, RID_ENTRY * PASID_ENTRY_WORDS, &entry.words());
        frame(&held.directory)?.publish(RID_ENTRY, DirectoryEntry::to(held.table.phys()).into());
        let (_, contexts) = &self.contexts[context_at];
        write_entry(&frame(contexts)?, context_word(source), &context_entry(held.directory.phys()));
        held.draining = false;
        Ok(())
    }

    /// Replaces the entry of an attached requester, which must have been [cleared](Tables::clear_pasid) and
    /// invalidated before.
    pub(crate) fn reset_pasid(
        &mut self,
        source: RequesterId,
        state: &Shared<State>,
        entry: &PasidEntry,
    ) -> Result<(), HwError> {
        let attachment = self.held(source)?;
        attachment.state = state.clone();
        attachment.page_table = entry.page_table();
        attachment.draining = false;
        write_entry(&frame(&attachment.table)?, RID_ENTRY * PASID_ENTRY_WORDS, &entry.words());
        Ok(())
    }

    /// Sets or clears SSADE in a user's entry, where that is present, in one store.
    pub(crate) fn retune(&mut self, user: User, access_dirty: bool) -> Result<(), HwError> {
        let table = frame(&self.held(user.source)?.table)?;
        let at = RID_ENTRY * PASID_ENTRY_WORDS;
        let word = PasidWord0::from(table.load(at));
        if word.present() {
            table.publish(at, word.with_second_stage_access_dirty(access_dirty).into());
        }
        Ok(())
    }

    /// Makes the PASID entry not present, and leaves its other fields for hardware that has begun to use them.
    pub(crate) fn clear_pasid(&mut self, source: RequesterId) -> Result<Shared<State>, HwError> {
        let attachment = self.held(source)?;
        attachment.draining = true;
        let table = frame(&attachment.table)?;
        let at = RID_ENTRY * PASID_ENTRY_WORDS;
        table.publish(at, PasidWord0::from(table.load(at)).with_present(false).into());
        Ok(attachment.state.clone())
    }

    /// Makes the PASID entry and then the context entry not present.
    pub(crate) fn clear(&mut self, source: RequesterId) -> Result<Shared<State>, HwError> {
        let state = self.clear_pasid(source)?;
        let key = context_key(source);
        let Some((_, contexts)) = self.contexts.iter().find(|(held, _)| *held == key) else {
            return Err(HwError::NoSuchStream { stream: source.get().into() });
        };
        let (contexts, at) = (frame(contexts)?, context_word(source));
        contexts.publish(at, 0);
        // Not reachable any more; zero for whoever reads a dump.
        (1..CONTEXT_ENTRY_WORDS).for_each(|word| contexts.store(at + word, 0));
        contexts.clean(at, CONTEXT_ENTRY_WORDS);
        Ok(state)
    }

    /// Gives back the frames of a requester that was [cleared](Tables::clear) and whose invalidation was confirmed.
    pub(crate) fn release(&mut self, source: RequesterId) {
        if let Ok(at) = self.position(source) {
            self.attachments.remove(at);
        }
    }

    /// Index of the context table that `source` stands in; an empty one is linked where there is none.
    fn context_table(&mut self, source: RequesterId) -> Result<usize, HwError> {
        let key = context_key(source);
        if let Some(at) = self.contexts.iter().position(|(held, _)| *held == key) {
            return Ok(at);
        }
        self.contexts.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let table = Frames::alloc(self.hal.clone(), self.request).ok_or(HwError::OutOfMemory)?;
        let half = ROOT_ENTRY_WORDS * usize::from(source.bus()) + usize::from(source.devfn() >> 7);
        frame(&self.root)?.publish(half, RootHalf::to(table.phys()).into());
        self.contexts.push((key, table));
        Ok(self.contexts.len() - 1)
    }

    fn position(&self, source: RequesterId) -> Result<usize, usize> {
        self.attachments.binary_search_by_key(&source, |attachment| attachment.source)
    }

    fn held(&mut self, source: RequesterId) -> Result<&mut Attachment<H>, HwError> {
        let stream = source.get().into();
        let at = self.position(source).map_err(|_| HwError::NoSuchStream { stream })?;
        self.attachments.get_mut(at).ok_or(HwError::NoSuchStream { stream })
    }
}

/// The half of the bus that a requester's context table serves, as a number.
fn context_key(source: RequesterId) -> u16 {
    u16::from(source.bus()) * 2 + u16::from(source.devfn() >> 7)
}

/// First word of a requester's entry in its context table.
fn context_word(source: RequesterId) -> usize {
    usize::from(source.devfn() & 0x7f) * CONTEXT_ENTRY_WORDS
}

fn frame<H: Hal>(frames: &Frames<H>) -> Result<Frame<'_, H>, HwError> {
    frames.frame(0).ok_or(HwError::Hardware("a frame without memory"))
}

/// Writes a wide entry that is not present yet: everything but the word with the present bit, then, once that is
/// visible, the word with the present bit.
fn write_entry<H: Hal>(frame: &Frame<'_, H>, at: usize, words: &[u64]) {
    for (index, word) in words.iter().enumerate().skip(1) {
        frame.store(at + index, *word);
    }
    frame.clean(at, words.len());
    if let Some(first) = words.first() {
        frame.publish(at, *first);
    }
}
