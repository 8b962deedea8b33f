//! Root, context and PASID structures of one unit (sections 9.1 to 9.6), and who is attached to what.
//!
//! * here: what there is, and who is known.
//! * [`contexts`]: context tables and entries, with what they enable.
//! * [`streams`]: entries of streams, whatever the mode.
//! * [`requester`]: what is known of one requester.
//! * [`directory`]: its PASID directory and tables.
//! * [`legacy`]: entries of legacy mode.
//!
//! In scalable mode a requester that is attached has a context entry, a PASID directory and the tables of its PASIDs. A
//! requester that is not has a context entry that is not present: the hardware refuses all it does. In legacy mode the
//! context entry itself leads to the domain. Nothing here invalidates; the caller does, with the plan for the change, before
//! [`Tables::confirmed`] and [`Tables::remove`] give frames back.

mod contexts;
mod directory;
mod legacy;
mod look;
mod requester;
mod streams;

pub(crate) use requester::{Attachment, Key};
pub(crate) use streams::{Linked, Room};

use crate::capabilities::Capabilities;
use crate::invalidate::User;
use alloc::vec::Vec;
use core::fmt;
use directory::Directory;
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
