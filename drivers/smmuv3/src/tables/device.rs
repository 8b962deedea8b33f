//! One device: what its stream table entry says, and its streams.

use super::contexts::Contexts;
use crate::domain::State;
use crate::invalidate::{Atc, Seat, User};
use crate::spec::ste::{ContextTable, DefaultSubstream, Stage1Entry, StreamEntry, WalkAttributes};
use alloc::vec::Vec;
use iommu_alloc::Shared;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, Pasid, StreamId};
use iommu_hal::Hal;

/// A stream, as the structures are asked for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    /// Whose.
    pub(crate) stream: StreamId,
    /// Its PASID; `None` for requests without one.
    pub(crate) pasid: Option<Pasid>,
}

impl From<User> for Key {
    fn from(user: User) -> Self {
        Self { stream: user.stream, pasid: user.pasid }
    }
}

/// Where a stream is to lead.
#[derive(Clone)]
pub(crate) struct Destination {
    /// What it leads to.
    pub(crate) state: Shared<State>,
    /// The entry that leads there.
    pub(crate) entry: StreamEntry,
    /// Root of the page tables behind it.
    pub(crate) page_table: Option<PhysAddr>,
}

/// What stands between a stream and its domain.
pub(crate) struct Attachment {
    /// The PASID; `None` for requests without one.
    pub(crate) pasid: Option<Pasid>,
    /// Where it leads.
    pub(crate) to: Destination,
    /// Where it led before, as long as hardware has not confirmed that it does no more: it is a user there, too.
    pub(crate) left: Option<Shared<State>>,
    /// A place among the users of where it is to lead next, so that it moves without memory.
    pub(crate) spare: Option<Seat>,
    /// Not confirmed: the entry is being set, or was cleared and hardware has not said that it forgot it.
    pub(crate) draining: bool,
}

impl Attachment {
    /// What it leads to.
    pub(crate) fn state(&self) -> &Shared<State> {
        &self.to.state
    }

    /// The domains that it is a user of.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Shared<State>> {
        core::iter::once(&self.to.state).chain(&self.left)
    }

    /// The stage 1 that a context descriptor can say.
    pub(super) fn stage1(&self) -> Option<&Stage1Entry> {
        match &self.to.entry {
            StreamEntry::Stage1(stage) => Some(stage),
            _ => None,
        }
    }
}

/// What the stream table entry of a device says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// It aborts.
    Abort,
    /// It leads where requests without PASID lead, and has no substreams.
    Function,
    /// It leads to the table of context descriptors.
    Table,
}

/// A device that has a stream, or a device TLB.
pub(super) struct Device<H: Hal> {
    pub(super) stream: StreamId,
    /// Its device TLB, whether anything is attached or not.
    pub(super) tlb: Option<Atc>,
    /// Whether its translation requests and translated accesses are to be let through.
    pub(super) tlb_enabled: bool,
    /// Sorted by PASID.
    pub(super) streams: Vec<Attachment>,
    /// While there is a stream with PASID, and as long as the entry leads there.
    pub(super) contexts: Option<Contexts<H>>,
    pub(super) form: Form,
    /// Its entry changed, which hardware has not confirmed.
    pub(super) changed: bool,
    /// Accesses of it may be stalled, of streams that it may not have any more.
    pub(super) stalls: bool,
}

impl<H: Hal + Clone> Device<H> {
    pub(super) fn new(stream: StreamId) -> Self {
        Self {
            stream,
            tlb: None,
            tlb_enabled: false,
            streams: Vec::new(),
            contexts: None,
            form: Form::Abort,
            changed: false,
            stalls: false,
        }
    }

    /// Whether nothing has to be kept of it.
    pub(super) fn is_empty(&self) -> bool {
        self.tlb.is_none() && self.streams.is_empty() && !self.changed
    }

    /// Whether a stream leads anywhere.
    pub(super) fn leads_anywhere(&self) -> bool {
        self.streams.iter().any(|held| !held.draining)
    }

    /// Whether it has streams with PASID.
    pub(super) fn has_pasids(&self) -> bool {
        self.streams.iter().any(|held| held.pasid.is_some())
    }

    pub(super) fn position(&self, pasid: Option<Pasid>) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&pasid, |held| held.pasid)
    }

    pub(super) fn attachment(&self, pasid: Option<Pasid>) -> Option<&Attachment> {
        self.streams.get(self.position(pasid).ok()?)
    }

    pub(super) fn attachment_mut(&mut self, pasid: Option<Pasid>) -> Option<&mut Attachment> {
        let at = self.position(pasid).ok()?;
        self.streams.get_mut(at)
    }

    pub(super) fn contexts(&self) -> Result<&Contexts<H>, HwError> {
        self.contexts.as_ref().ok_or(HwError::Hardware("a stream with PASID without context descriptors"))
    }

    /// The entry that leads to its table of context descriptors, with `default` for requests without PASID.
    pub(super) fn table_entry(
        &self,
        default: DefaultSubstream,
        fetch: WalkAttributes,
        disable_stalls: bool,
    ) -> Result<StreamEntry, HwError> {
        let (table, two_level, count_log2) = self.contexts()?.place();
        let stalls = self.streams.iter().any(|held| held.to.entry.stalls());
        let stall_disable = disable_stalls && !stalls;
        Ok(StreamEntry::Contexts(ContextTable { table, two_level, count_log2, default, fetch, stall_disable }))
    }

    /// Hardware has confirmed all that changed in the entry.
    pub(super) fn confirmed(&mut self) {
        self.changed = false;
        if self.form == Form::Abort {
            self.stalls = false;
        }
        let keep = self.form == Form::Table || self.has_pasids();
        match &mut self.contexts {
            Some(contexts) if keep => contexts.forget_old(),
            _ => self.contexts = None,
        }
    }
}
