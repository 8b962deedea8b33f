//! What changed -> what to invalidate, and in which order (sections 6.5.2.11, 6.5.3.3 and 6.8).
//!
//! Every transition of every structure has its arm in [`plan`]; nothing else in this driver chooses an invalidation.
//! Each arm adds in the order in which its invalidations must run: structure caches, then IOTLB, then device TLBs. A
//! [`Batch`] keeps that order where it joins several changes. The queue adds the wait.

mod batch;
mod pages;
mod users;

pub use batch::Batch;
pub use users::{Seat, Users};

use crate::capabilities::{Capabilities, Mode};
use crate::spec::descriptor::Drain;
use crate::spec::invalidation::{ContextScope, Invalidation, IotlbScope, PasidScope, TlbPages, TlbTarget};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, Pasid, RequesterId};

/// PASID of requests without one: entry 0 whether the unit honours RID_PASID (it is programmed to 0) or not.
pub const RID_PASID: u32 = 0;

/// How cached translations of a domain are tagged, which decides the descriptor that removes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// By domain id: second stage (PGTT 2) and nested (3), and everything in legacy mode.
    Domain(u16),
    /// By domain id and PASID: first stage (PGTT 1) and pass-through (4).
    DomainAndPasid(u16),
}

impl Tag {
    /// The domain id.
    pub fn domain_id(self) -> u16 {
        match self {
            Self::Domain(id) | Self::DomainAndPasid(id) => id,
        }
    }
}

/// A stream that leads somewhere, as invalidations name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct User {
    /// The requester.
    pub source: RequesterId,
    /// Its PASID; `None` for requests without one.
    pub pasid: Option<Pasid>,
    /// The PASID whose entry leads it, and under which its translations are cached: RID_PASID for requests without one.
    pub index: u32,
    /// The device TLB of its function, where it has one that may hold translations.
    pub tlb: Option<TlbTarget>,
}

/// A change that hardware may have cached the old state of.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The root table pointer was set.
    RootPointer,
    /// A context entry of scalable mode became present.
    ContextSet {
        /// Whose.
        source: RequesterId,
    },
    /// A context entry of scalable mode became not-present; the entries behind it were not-present before.
    ContextCleared {
        /// Whose.
        source: RequesterId,
    },
    /// A context entry of scalable mode, and nothing behind it, changed while it was present: another PASID directory with the
    /// same entries, or other enables.
    ContextChanged {
        /// Whose.
        source: RequesterId,
        /// The device TLB, where what it holds was filled through enables that are gone.
        tlb: Option<TlbTarget>,
    },
    /// A context entry of legacy mode became present.
    LegacyContextSet {
        /// Whose.
        source: RequesterId,
        /// Tag of the new domain.
        tag: Tag,
    },
    /// A context entry of legacy mode became not-present, or leads to the same domain with other enables.
    LegacyContextCleared {
        /// Whose.
        user: User,
        /// Tag of the old domain.
        tag: Tag,
    },
    /// A PASID entry became present.
    PasidEntrySet {
        /// Which.
        user: User,
        /// Tag of the new domain.
        tag: Tag,
    },
    /// A PASID entry became not-present.
    PasidEntryCleared {
        /// Which.
        user: User,
        /// Tag of the old domain.
        tag: Tag,
    },
    /// Leaves became present.
    Mapped {
        /// The domain.
        tag: Tag,
        /// Where.
        range: IovaRange,
    },
    /// Leaves, and perhaps tables, were taken out, or allow less than before.
    Unmapped {
        /// The domain.
        tag: Tag,
        /// The streams that lead there.
        users: &'a Users,
        /// What was taken out.
        gather: &'a Gather,
    },
    /// A domain id is about to be used for another domain.
    DomainRetired {
        /// The id's tag.
        tag: Tag,
    },
}

/// Takes the invalidations of a plan, in order.
pub trait Sink {
    /// One more.
    fn add(&mut self, invalidation: Invalidation);
}

/// Adds the invalidations that `change` needs on a unit with these capabilities. Returns whether, where nothing was added,
/// the write buffer must be flushed instead: every invalidation does it implicitly.
pub fn plan(caps: &Capabilities, change: &Change<'_>, sink: &mut dyn Sink) -> bool {
    let drain = Drain { writes: caps.drains_writes(), reads: caps.drains_reads() };
    match *change {
        // With ESRTPS hardware did all this when it took the pointer.
        Change::RootPointer if caps.root_pointer_invalidates() => {}
        Change::RootPointer => {
            sink.add(Invalidation::ContextCache(ContextScope::Global));
            if caps.mode() == Mode::Scalable {
                sink.add(Invalidation::PasidCache(PasidScope::Global));
            }
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Global, drain });
        }
        // Not-present entries are cached only in caching mode, tagged with domain id 0; first-stage ones never.
        Change::ContextSet { source } if caps.caching_mode() => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(0), drain });
        }
        Change::ContextCleared { source } => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
        }
        Change::ContextChanged { source, tlb } => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
            // What is cached of PASID entries was found through the old entry.
            sink.add(Invalidation::PasidCache(PasidScope::Global));
            if let Some(target) = tlb {
                sink.add(Invalidation::DeviceTlb { target, pages: TlbPages::All });
                if caps.pasid_bits() != 0 {
                    sink.add(Invalidation::PasidDeviceTlb { target, pasid: None, pages: TlbPages::All });
                }
            }
        }
        Change::LegacyContextSet { source, tag } if caps.caching_mode() => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(tag.domain_id()), drain });
        }
        Change::LegacyContextCleared { user, tag } => {
            let domain = tag.domain_id();
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain, source: user.source }));
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(domain), drain });
            add_device_tlb(user, TlbPages::All, sink);
        }
        Change::PasidEntrySet { user, tag } if caps.caching_mode() => {
            let domain = tag.domain_id();
            sink.add(Invalidation::PasidCache(PasidScope::Pasid { domain, pasid: user.index }));
            sink.add(Invalidation::PasidIotlb { domain, pasid: user.index, pages: None });
        }
        Change::PasidEntryCleared { user, tag } => {
            let scope = PasidScope::Pasid { domain: tag.domain_id(), pasid: user.index };
            sink.add(Invalidation::PasidCache(scope));
            sink.add(all_of(tag, user.index, drain));
            add_device_tlb(user, TlbPages::All, sink);
        }
        Change::Mapped { tag: tag @ Tag::Domain(domain), range } if caps.caching_mode() => {
            // Entries of every level may have been cached as not-present.
            let scope = match pages::covering(caps, range, false) {
                Some(pages) => IotlbScope::Pages { domain, pages },
                None => IotlbScope::Domain(tag.domain_id()),
            };
            sink.add(Invalidation::Iotlb { scope, drain });
        }
        Change::ContextSet { .. }
        | Change::LegacyContextSet { .. }
        | Change::PasidEntrySet { .. }
        | Change::Mapped { .. } => {
            return caps.needs_write_buffer_flush();
        }
        Change::Unmapped { tag, users, gather } => pages::unmapped(caps, tag, users, gather, drain, sink),
        Change::DomainRetired { tag } => {
            let domain = tag.domain_id();
            if caps.mode() == Mode::Scalable {
                sink.add(Invalidation::PasidCache(PasidScope::Domain(domain)));
            }
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(domain), drain });
        }
    }
    false
}

/// Everything cached under a tag and, where that has one, a PASID.
fn all_of(tag: Tag, pasid: u32, drain: Drain) -> Invalidation {
    match tag {
        Tag::Domain(domain) => Invalidation::Iotlb { scope: IotlbScope::Domain(domain), drain },
        Tag::DomainAndPasid(domain) => Invalidation::PasidIotlb { domain, pasid, pages: None },
    }
}

/// What a stream's device TLB may hold of `pages`.
fn add_device_tlb(user: User, pages: TlbPages, sink: &mut dyn Sink) {
    let Some(target) = user.tlb else { return };
    sink.add(match user.pasid {
        None => Invalidation::DeviceTlb { target, pages },
        Some(pasid) => Invalidation::PasidDeviceTlb { target, pasid: Some(pasid.get()), pages },
    });
}

#[cfg(test)]
mod tests;
