//! One requester: what its context entry says, and its streams.

use super::directory::Directory;
use crate::domain::State;
use crate::invalidate::User;
use crate::spec::context::ContextEntry;
use crate::spec::invalidation::TlbTarget;
use crate::spec::pasid::PasidEntry;
use alloc::vec::Vec;
use iommu_alloc::Shared;
use iommu_core::hw::{Pasid, RequesterId};
use iommu_hal::Hal;

use super::Shape;

/// A stream, as the structures are asked for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    /// The requester.
    pub(crate) source: RequesterId,
    /// Its PASID; `None` for requests without one.
    pub(crate) pasid: Option<Pasid>,
}

impl From<User> for Key {
    fn from(user: User) -> Self {
        Self { source: user.source, pasid: user.pasid }
    }
}

/// What stands between a stream and its domain.
pub(crate) struct Attachment {
    /// The PASID; `None` for requests without one.
    pub(crate) pasid: Option<Pasid>,
    /// Where it leads.
    pub(crate) state: Shared<State>,
    /// What its entry says.
    pub(crate) entry: PasidEntry,
    /// Not confirmed: the entry is being set, or was cleared and hardware has not said that it forgot it.
    pub(crate) draining: bool,
}

/// The context entry of a requester, of scalable mode. In legacy mode it is the stream's own entry, and always absent here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Context {
    /// Not present, and hardware knows.
    Absent,
    /// Present.
    Present,
    /// Not present, which hardware has not confirmed.
    Leaving,
}

/// A requester that has a stream, or a device TLB.
pub(super) struct Requester<H: Hal> {
    pub(super) source: RequesterId,
    /// Its device TLB, whether anything is attached or not.
    pub(super) tlb: Option<TlbTarget>,
    /// Whether its requests are to be let through.
    pub(super) tlb_enabled: bool,
    /// Sorted by PASID.
    pub(super) streams: Vec<Attachment>,
    /// While there is a stream, in scalable mode.
    pub(super) directory: Option<Directory<H>>,
    pub(super) context: Context,
    /// Its context entry changed while present, which hardware has not confirmed.
    pub(super) changed: bool,
}

impl<H: Hal + Clone> Requester<H> {
    pub(super) fn new(source: RequesterId) -> Self {
        let (streams, context) = (Vec::new(), Context::Absent);
        Self { source, tlb: None, tlb_enabled: false, streams, directory: None, context, changed: false }
    }

    /// Whether nothing has to be kept of it.
    pub(super) fn is_empty(&self) -> bool {
        self.tlb.is_none() && self.streams.is_empty() && self.context == Context::Absent && !self.changed
    }

    /// Whether a stream leads anywhere.
    pub(super) fn leads_anywhere(&self) -> bool {
        self.streams.iter().any(|stream| !stream.draining)
    }

    pub(super) fn position(&self, pasid: Option<Pasid>) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&pasid, |stream| stream.pasid)
    }

    pub(super) fn stream(&self, pasid: Option<Pasid>) -> Option<&Attachment> {
        self.streams.get(self.position(pasid).ok()?)
    }

    pub(super) fn stream_mut(&mut self, pasid: Option<Pasid>) -> Option<&mut Attachment> {
        let at = self.position(pasid).ok()?;
        self.streams.get_mut(at)
    }

    /// What its context entry says while it is present.
    pub(super) fn context_entry(&self, shape: &Shape) -> Option<ContextEntry> {
        let directory = self.directory.as_ref()?;
        Some(ContextEntry {
            directory: directory.phys(),
            directory_bits: directory.bits(),
            pasids: shape.pasids,
            device_tlb: self.tlb_enabled,
            rid_pasid: shape.rid_pasid,
        })
    }

    /// Hardware has confirmed all that changed in the context entry.
    pub(super) fn confirmed(&mut self) {
        self.changed = false;
        if self.context == Context::Leaving {
            self.context = Context::Absent;
        }
        if let Some(directory) = &mut self.directory {
            directory.forget_old();
        }
    }
}
