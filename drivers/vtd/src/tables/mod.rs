//! Root, context and PASID structures of one unit (sections 9.1 to 9.6), and who is attached to what.
//!
//! * here: root and context tables; attach and detach of a stream, whatever the mode.
//! * [`requester`]: what is known of one requester.
//! * [`directory`]: its PASID directory and tables.
//! * [`legacy`]: entries of legacy mode.
//!
//! In scalable mode a requester that is attached has a context entry, a PASID directory and the tables of its PASIDs. A
//! requester that is not has a context entry that is not present: the hardware refuses all it does. In legacy mode the
//! context entry itself leads to the domain. Nothing here invalidates; the caller does, with the plan for the change, before
//! [`Tables::confirmed`] and [`Tables::remove`] give frames back.

mod directory;
mod legacy;
mod look;
mod requester;

pub(crate) use directory::Space;
pub(crate) use requester::{Attachment, Key};

use crate::capabilities::Capabilities;
use crate::domain::State;
use crate::invalidate::{Change, User};
use crate::spec::context::{CONTEXT_ENTRY_WORDS, ContextWord0};
use crate::spec::invalidation::TlbTarget;
use crate::spec::pasid::{PASID_ENTRY_WORDS, PasidEntry};
use crate::spec::root::{ROOT_ENTRY_WORDS, RootHalf};
use alloc::vec::Vec;
use core::fmt;
use directory::Directory;
use iommu_alloc::Shared;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, RequesterId};
use iommu_hal::mem::{Frame, Frames};
use iommu_hal::{FrameRequest, Hal};
use requester::{Context, Requester};

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

/// What the structures of a unit look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Scalable mode; else legacy mode.
    pub(crate) scalable: bool,
    /// Requests with PASID are let through (PASIDE).
    pub(crate) pasids: bool,
    /// The PASID of requests without one.
    pub(crate) rid_pasid: u32,
}

impl Shape {
    /// That of a unit, with `rid_pasid` where it honours one.
    pub(crate) fn new(caps: &Capabilities, rid_pasid: u32) -> Self {
        let rid_pasid = if caps.honours_rid_pasid() { rid_pasid } else { 0 };
        Self { scalable: caps.scalable(), pasids: caps.pasid_bits() != 0, rid_pasid }
    }
}

/// How the entry of a stream was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rewritten {
    /// It says so already.
    Same,
    /// By one store.
    Stored,
    /// Not at all: more than one word would have to change.
    TooWide,
}

/// What became present with the entry of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Linked {
    /// The context entry of its requester.
    context: bool,
    /// The directory entry of its PASID table.
    directory: bool,
}

/// Memory that a new stream needs, which hardware does not know yet.
pub(crate) struct Room<H: Hal> {
    /// A larger directory.
    pub(crate) directory: Option<Space<H>>,
    /// The PASID's table.
    pub(crate) table: Option<Frames<H>>,
}

/// The structures of one unit.
pub(crate) struct Tables<H: Hal> {
    hal: H,
    request: FrameRequest,
    shape: Shape,
    root: Frames<H>,
    /// Context tables, by bus * 2 + half of the bus. Never taken away again: 8 KiB a bus at most.
    contexts: Vec<(u16, Frames<H>)>,
    /// Sorted by requester.
    requesters: Vec<Requester<H>>,
}

impl<H: Hal + Clone> Tables<H> {
    /// An empty root table: every requester is blocked. `request` is for one frame.
    pub(crate) fn new(hal: &H, request: FrameRequest, shape: Shape) -> Result<Self, HwError> {
        let root = Frames::alloc(hal.clone(), request).ok_or(HwError::OutOfMemory)?;
        Ok(Self { hal: hal.clone(), request, shape, root, contexts: Vec::new(), requesters: Vec::new() })
    }

    /// Physical address of the root table.
    pub(crate) fn root(&self) -> PhysAddr {
        self.root.phys()
    }

    /// The PASID that requests without one are looked up by.
    pub(crate) fn rid_pasid(&self) -> u32 {
        self.shape.rid_pasid
    }

    /// What stands between a stream and its domain; `None` where it is blocked, and hardware has confirmed that.
    pub(crate) fn stream(&self, key: Key) -> Option<&Attachment> {
        self.requester(key.source)?.stream(key.pasid)
    }

    /// A stream as invalidations name it.
    pub(crate) fn user(&self, key: Key) -> User {
        let index = key.pasid.map_or(self.shape.rid_pasid, |pasid| pasid.get());
        User { source: key.source, pasid: key.pasid, index, tlb: self.tlb(key.source) }
    }

    /// Every frame that hardware reads structures from.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (Structure, PhysAddr)> + '_ {
        let contexts = self.contexts.iter().map(|(_, frames)| (Structure::ContextTable, frames.phys()));
        let behind = self.requesters.iter().flat_map(|held| {
            let roots = held.streams.iter().filter_map(|stream| stream.entry.page_table());
            let structures = held.directory.iter().flat_map(Directory::frames);
            structures.chain(roots.map(|root| (Structure::PageTable, root)))
        });
        core::iter::once((Structure::RootTable, self.root())).chain(contexts).chain(behind)
    }

    /// Gets all the memory for a stream that is not there yet: on an error nothing has changed.
    pub(crate) fn prepare(&mut self, key: Key) -> Result<Room<H>, HwError> {
        let room = self.try_prepare(key);
        if room.is_err() {
            self.prune(key.source);
        }
        room
    }

    fn try_prepare(&mut self, key: Key) -> Result<Room<H>, HwError> {
        let (hal, request, shape, index) = (self.hal.clone(), self.request, self.shape, self.user(key).index);
        let held = self.requester_or_new(key.source)?;
        held.streams.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let mut room = Room { directory: None, table: None };
        if shape.scalable {
            let reaches = held.directory.as_ref().map(|directory| directory.reaches(index));
            // Requests without PASID are looked up in it too, whoever comes first.
            let space = || Space::for_pasid(&hal, request, index.max(shape.rid_pasid));
            match reaches {
                Some(true) => {}
                Some(false) => room.directory = Some(space()?),
                None => held.directory = Some(Directory::new(space()?)),
            }
            if let Some(directory) = &mut held.directory
                && !directory.has_table(index)
            {
                directory.reserve_table()?;
                room.table = Some(Frames::alloc(hal, request).ok_or(HwError::OutOfMemory)?);
            }
        }
        self.context_table(key.source)?;
        Ok(room)
    }

    /// Leads a requester's context entry to a larger directory with the same tables. The caller invalidates, and then
    /// [confirms](Tables::confirmed).
    pub(crate) fn grow(&mut self, source: RequesterId, space: Space<H>) -> Result<(), HwError> {
        let held = self.held(source)?;
        held.changed = true;
        let directory = held.directory.as_mut().ok_or(HwError::Hardware("a requester without a directory"))?;
        directory.move_to(space)?;
        self.change_context(source).map(drop)
    }

    /// Leads a stream to `entry` for which there is [room](Tables::prepare). The caller has added it to the users of
    /// `state`, and invalidates.
    pub(crate) fn insert(
        &mut self,
        key: Key,
        state: &Shared<State>,
        entry: &PasidEntry,
        table: Option<Frames<H>>,
    ) -> Result<Linked, HwError> {
        let (state, entry) = (state.clone(), *entry);
        let held = self.held(key.source)?;
        let Err(at) = held.position(key.pasid) else { return Err(HwError::InUse) };
        held.streams.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        // Known before it is reachable: whatever happens from here on, its frames are not given back.
        held.streams.insert(at, Attachment { pasid: key.pasid, state, entry, draining: true });
        self.publish(key, &entry, table)
    }

    /// Leads a stream to another `entry`. It was [cleared](Tables::clear) and invalidated before, and the caller has moved
    /// it to the users of `state`.
    pub(crate) fn reset(&mut self, key: Key, state: &Shared<State>, entry: &PasidEntry) -> Result<Linked, HwError> {
        let stream = self.attachment(key)?;
        (stream.state, stream.entry) = (state.clone(), *entry);
        self.publish(key, entry, None)
    }

    /// From the leaf upwards: whatever becomes reachable is complete by then.
    fn publish(&mut self, key: Key, entry: &PasidEntry, table: Option<Frames<H>>) -> Result<Linked, HwError> {
        let linked = if self.shape.scalable {
            let index = self.user(key).index;
            let directory = self.held(key.source)?.directory.as_mut();
            let directory = directory.ok_or(HwError::Hardware("a requester without a directory"))?;
            Linked { directory: directory.set(index, entry, table)?, context: self.set_context(key.source)? }
        } else {
            self.set_legacy(key, entry)?;
            Linked::default()
        };
        self.attachment(key)?.draining = false;
        Ok(linked)
    }

    /// Makes the entry of a stream say `entry`, which leads to the same domain, where one store does it. The caller
    /// invalidates what it said before.
    pub(crate) fn rewrite(&mut self, key: Key, entry: &PasidEntry) -> Result<Rewritten, HwError> {
        let index = self.user(key).index;
        let (old, new) = (self.attachment(key)?.entry.words(), entry.words());
        let mut differing = (0..PASID_ENTRY_WORDS).filter(|word| old[*word] != new[*word]);
        let word = match (differing.next(), differing.next()) {
            (None, _) => return Ok(Rewritten::Same),
            (Some(word), None) => word,
            _ => return Ok(Rewritten::TooWide),
        };
        // In legacy mode the entry has other words.
        let Some(directory) = &self.held(key.source)?.directory else { return Ok(Rewritten::TooWide) };
        directory.store_word(index, word, new[word])?;
        self.attachment(key)?.entry = *entry;
        Ok(Rewritten::Stored)
    }

    /// Sets or clears SSADE in a user's entry, where that is present, in one store.
    pub(crate) fn retune(&mut self, user: User, access_dirty: bool) -> Result<(), HwError> {
        let stream = self.attachment(user.into())?;
        if stream.draining || stream.entry.access_dirty == access_dirty {
            return Ok(());
        }
        let entry = PasidEntry { access_dirty, ..stream.entry };
        match self.rewrite(user.into(), &entry)? {
            Rewritten::TooWide => Err(HwError::Hardware("a bit in more than one word")),
            Rewritten::Same | Rewritten::Stored => Ok(()),
        }
    }

    /// Makes the entry of a stream not present, but nothing above it.
    pub(crate) fn clear_entry(&mut self, key: Key) -> Result<Shared<State>, HwError> {
        let index = self.user(key).index;
        let stream = self.attachment(key)?;
        stream.draining = true;
        let state = stream.state.clone();
        if self.shape.scalable {
            let directory = self.held(key.source)?.directory.as_ref();
            directory.ok_or(HwError::Hardware("a requester without a directory"))?.clear(index)?;
        } else {
            self.clear_legacy(key)?;
        }
        Ok(state)
    }

    /// Makes the entry of a stream not present, and then the context entry of its requester where none of its streams leads
    /// anywhere any more.
    pub(crate) fn clear(&mut self, key: Key) -> Result<Shared<State>, HwError> {
        let state = self.clear_entry(key)?;
        let held = self.held(key.source)?;
        if held.context == Context::Present && !held.leads_anywhere() {
            held.context = Context::Leaving;
            let (table, at) = (frame(self.context(key.source)?)?, context_word(key.source));
            table.publish(at, ContextWord0::from(table.load(at)).with_present(false).into());
        }
        Ok(state)
    }

    /// What hardware has not confirmed yet of a requester's context entry.
    pub(crate) fn unconfirmed(&self, source: RequesterId) -> impl Iterator<Item = Change<'static>> {
        let held = self.requester(source);
        let changed = held.is_some_and(|held| held.changed).then(|| match self.legacy_stream(source) {
            // Its device TLB was off when it was refused.
            Some(stream) => {
                let user = User { tlb: None, ..self.user(Key { source, pasid: None }) };
                Change::LegacyContextCleared { user, tag: stream.state.tag() }
            }
            None => Change::ContextChanged { source, tlb: None },
        });
        let leaving = held.is_some_and(|held| held.context == Context::Leaving);
        changed.into_iter().chain(leaving.then_some(Change::ContextCleared { source }))
    }

    /// What setting the entry of a stream was, with what became present with it.
    pub(crate) fn was_set(&self, key: Key, linked: Linked) -> impl Iterator<Item = Change<'static>> {
        let (source, user, tag) = (key.source, self.user(key), self.stream(key).map(|stream| stream.state.tag()));
        let scalable = self.shape.scalable;
        let context = linked.context.then_some(Change::ContextSet { source });
        let directory = linked.directory.then_some(Change::DirectoryEntrySet);
        context.into_iter().chain(directory).chain(tag.map(|tag| match scalable {
            true => Change::PasidEntrySet { user, tag },
            false => Change::LegacyContextSet { source, tag },
        }))
    }

    /// What clearing the entry of a stream was.
    pub(crate) fn was_cleared(&self, key: Key) -> Option<Change<'static>> {
        let (user, tag) = (self.user(key), self.stream(key)?.state.tag());
        Some(match self.shape.scalable {
            true => Change::PasidEntryCleared { user, tag },
            false => Change::LegacyContextCleared { user, tag },
        })
    }

    /// Hardware has confirmed all that was [unconfirmed](Tables::unconfirmed): what is old is given back.
    pub(crate) fn confirmed(&mut self, source: RequesterId) {
        if let Ok(held) = self.held(source) {
            held.confirmed();
        }
    }

    /// Gives back the structures of a stream that was [cleared](Tables::clear), of which hardware has confirmed that it
    /// forgot it and all that was [unconfirmed](Tables::unconfirmed).
    pub(crate) fn remove(&mut self, key: Key) {
        if let Ok(held) = self.held(key.source)
            && let Ok(at) = held.position(key.pasid)
        {
            held.streams.remove(at);
        }
        self.prune(key.source);
    }

    /// The device TLB of a requester.
    pub(crate) fn tlb(&self, source: RequesterId) -> Option<TlbTarget> {
        self.requester(source)?.tlb
    }

    /// Notes the device TLB of a requester, for which its context entry is to be [enabled](Tables::change_enables).
    pub(crate) fn set_tlb(&mut self, source: RequesterId, tlb: TlbTarget) -> Result<(), HwError> {
        let held = self.requester_or_new(source)?;
        (held.tlb, held.tlb_enabled) = (Some(tlb), true);
        Ok(())
    }

    /// From now on the context entry of a requester is to refuse requests of its device TLB, of which the invalidations go on.
    pub(crate) fn refuse_tlb(&mut self, source: RequesterId) {
        if let Ok(held) = self.held(source) {
            held.tlb_enabled = false;
        }
    }

    /// Forgets the device TLB of a requester.
    pub(crate) fn forget_tlb(&mut self, source: RequesterId) {
        if let Ok(held) = self.held(source) {
            (held.tlb, held.tlb_enabled) = (None, false);
        }
        self.prune(source);
    }

    /// The domains that a requester leads to, or did when hardware last confirmed.
    pub(crate) fn states(&self, source: RequesterId) -> impl Iterator<Item = &Shared<State>> {
        self.requester(source).into_iter().flat_map(|held| held.streams.iter().map(|stream| &stream.state))
    }

    /// Makes the enables of a requester's context entry, where it is present, follow what was [noted](Tables::set_tlb) of its
    /// device TLB. The caller invalidates what is [unconfirmed](Tables::unconfirmed) then.
    pub(crate) fn change_enables(&mut self, source: RequesterId) -> Result<(), HwError> {
        let changed = if self.shape.scalable { self.change_context(source) } else { self.change_legacy(source) }?;
        if let Ok(held) = self.held(source) {
            held.changed |= changed;
        }
        Ok(())
    }

    /// Publishes the context entry of a requester where it is not present, and returns whether it was not.
    fn set_context(&mut self, source: RequesterId) -> Result<bool, HwError> {
        let shape = self.shape;
        let held = self.held(source)?;
        if held.context == Context::Present {
            return Ok(false);
        }
        let entry = held.context_entry(&shape).ok_or(HwError::Hardware("a requester without a directory"))?;
        held.context = Context::Present;
        write_entry(&frame(self.context(source)?)?, context_word(source), &entry.words());
        Ok(true)
    }

    /// Makes word 0 of the context entry, which has all that may change while it is present, what it should be, by one store.
    fn change_context(&mut self, source: RequesterId) -> Result<bool, HwError> {
        let Some(held) = self.requester(source).filter(|held| held.context == Context::Present) else {
            return Ok(false);
        };
        let entry = held.context_entry(&self.shape).ok_or(HwError::Hardware("a requester without a directory"))?;
        let [word0, ..] = entry.words();
        let (table, at) = (frame(self.context(source)?)?, context_word(source));
        let changes = table.load(at) != word0;
        if changes {
            table.publish(at, word0);
        }
        Ok(changes)
    }

    /// Forgets a requester of which nothing has to be kept, and the directory of one without streams.
    fn prune(&mut self, source: RequesterId) {
        let Ok(at) = self.position(source) else { return };
        let Some(held) = self.requesters.get_mut(at) else { return };
        if held.streams.is_empty() && held.context == Context::Absent && !held.changed {
            held.directory = None;
        }
        if held.is_empty() {
            self.requesters.remove(at);
        }
    }

    /// The only stream that a requester has in legacy mode.
    fn legacy_stream(&self, source: RequesterId) -> Option<&Attachment> {
        if self.shape.scalable { None } else { self.stream(Key { source, pasid: None }) }
    }

    /// Makes sure that `source` has a context table; an empty one is linked where there is none.
    fn context_table(&mut self, source: RequesterId) -> Result<(), HwError> {
        let key = self.context_key(source);
        if self.contexts.iter().any(|(held, _)| *held == key) {
            return Ok(());
        }
        self.contexts.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let table = Frames::alloc(self.hal.clone(), self.request).ok_or(HwError::OutOfMemory)?;
        const { assert!(ROOT_ENTRY_WORDS == 2, "one word a half") };
        frame(&self.root)?.publish(key.into(), RootHalf::to(table.phys()).into());
        self.contexts.push((key, table));
        Ok(())
    }

    /// The context table that `source` stands in.
    fn context(&self, source: RequesterId) -> Result<&Frames<H>, HwError> {
        let key = self.context_key(source);
        let found = self.contexts.iter().find(|(held, _)| *held == key);
        found.map(|(_, frames)| frames).ok_or(HwError::NoSuchStream { stream: source.get().into() })
    }

    /// The word of the root table that leads to the context table of `source`: of the half of its bus in scalable mode.
    fn context_key(&self, source: RequesterId) -> u16 {
        let half = if self.shape.scalable { source.devfn() >> 7 } else { 0 };
        u16::from(source.bus()) * ROOT_ENTRY_WORDS as u16 + u16::from(half)
    }

    fn position(&self, source: RequesterId) -> Result<usize, usize> {
        self.requesters.binary_search_by_key(&source, |held| held.source)
    }

    fn requester(&self, source: RequesterId) -> Option<&Requester<H>> {
        self.requesters.get(self.position(source).ok()?)
    }

    fn requester_or_new(&mut self, source: RequesterId) -> Result<&mut Requester<H>, HwError> {
        if let Err(at) = self.position(source) {
            self.requesters.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
            self.requesters.insert(at, Requester::new(source));
        }
        self.held(source)
    }

    fn held(&mut self, source: RequesterId) -> Result<&mut Requester<H>, HwError> {
        let stream = source.get().into();
        let at = self.position(source).map_err(|_| HwError::NoSuchStream { stream })?;
        self.requesters.get_mut(at).ok_or(HwError::NoSuchStream { stream })
    }

    fn attachment(&mut self, key: Key) -> Result<&mut Attachment, HwError> {
        let stream = key.source.get().into();
        self.held(key.source)?.stream_mut(key.pasid).ok_or(HwError::NoSuchStream { stream })
    }
}

/// First word of a requester's entry in its context table, in scalable mode.
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
