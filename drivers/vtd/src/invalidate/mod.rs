//! What changed -> what to invalidate, and in which order.
//!
//! Every transition of every structure has its arm in [`plan`]; nothing else in this driver chooses an invalidation.
//! Each arm adds in the order in which its invalidations must run: structure caches, then IOTLB, then device TLBs
//! (section 6.5.2.12). A [`Batch`] keeps that order where it joins several changes. The queue adds the wait.
//!
//! # The table
//!
//! Sections are those of revision 5.10. `did` is the domain id, `index` the PASID whose entry it is, CC the context cache,
//! PC the PASID cache, DT all of the device TLB, where there is one: type 3 for requests without PASID, type 8 with.
//!
//! | What changed | Invalidations, in order | Where it says so |
//! |---|---|---|
//! | root pointer | CC global, PC global (scalable), IOTLB global; none with ESRTPS | 6.6 |
//! | context entry set | none; CM: CC source, PC domain 0, IOTLB domain 0 | 6.2.2, 6.2.3 |
//! | context entry cleared, all behind it cleared before | CC source | table 28, 6.5.2.1 |
//! | context entry changed | CC source, PC global, IOTLB global, DT | table 28, 6.5.2.2 |
//! | legacy context entry set | none; CM: CC source of domain 0, IOTLB domain 0, IOTLB `did` | 6.2.2 |
//! | legacy context entry cleared or changed | CC source of `did`, IOTLB `did`, DT | table 28 |
//! | directory entry set | none; CM: PC domain 0, IOTLB domain 0 | 6.2.3 |
//! | directory entry cleared, all behind it cleared before | PC global, IOTLB global, DT | table 28 |
//! | PASID entry set | none; CM: PC and PASID-IOTLB of `index` in domain 0 and in `did` | 6.2.3, table 28 |
//! | PASID entry cleared | PC `index` in `did`; second stage, nested: IOTLB `did`; first stage, pass-through: PASID-IOTLB `index` in `did`; DT | table 28 |
//! | PASID entry, another field than P and SSADE | PC `index` in `did`, PASID-IOTLB `index` in `did`, DT | table 28 |
//! | SSADE of all that lead to a second stage | PC, IOTLB `did` of each domain id, DT of each user | table 28, 6.2.3.1 |
//! | second stage: leaves set | none; CM: IOTLB pages, IH = 0, of each domain id | 6.2.4.1, 6.5.3.5 |
//! | first stage: leaves set | none | 6.2.4.1, 6.5.3.5 |
//! | second stage: leaves gone, less allowed, clean again | IOTLB pages, IH = 1, or `did`; device TLB range | table 28 |
//! | second stage: tables gone too | IOTLB pages, IH = 0, or `did`; device TLB range | 6.5.3.3 |
//! | the same under a nested first stage | IOTLB its own `did`, DT of its users | table 23, 6.5.4 |
//! | first stage: leaves or tables | PASID-IOTLB pages, IH as above, of each PASID, or IOTLB `did`; device TLB range | table 28 |
//! | a guest's first stage | PASID-IOTLB pages or all of each PASID, or IOTLB `did`; device TLB range | 6.5.2.4 |
//! | domain id to be used again | PC `did` (legacy: CC `did`), IOTLB `did` | table 28 |
//!
//! Pages are one aligned block for each range that changed. The domain, or the PASID, is invalidated instead where the
//! unit has no page-selective invalidation (CAP.PSI), where a block is beyond CAP.MAMV, and where many PASIDs would need
//! many of them. Types 6 take every mask (section 11.4.2, MAMV), of which blocks beyond 4 TiB are not used. Nothing is invalidated of what nobody leads to: no
//! translation has its tag. Where nothing is invalidated, CAP.RWBF asks for a write-buffer flush (section 6.8).
//! IOTLB invalidations drain what the unit can drain (CAP.DWD, CAP.DRD); those by PASID always do (section 6.5.2.4).

mod pages;

use crate::capabilities::{Capabilities, Mode};
use crate::spec::descriptor::Drain;
use crate::spec::invalidation::{ContextScope, Invalidation, IotlbScope, PasidScope, TlbPages, TlbTarget};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, Pasid, RequesterId};
use iommu_driver::{batch, users};

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

impl users::User for User {
    type Source = RequesterId;
    type Tlb = TlbTarget;
    type Tag = Tag;

    fn source(&self) -> RequesterId {
        self.source
    }

    fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    fn tlb(&self) -> Option<TlbTarget> {
        self.tlb
    }

    fn set_tlb(&mut self, tlb: Option<TlbTarget>) {
        self.tlb = tlb;
    }

    /// One domain id is of one tag only.
    fn number(tag: Tag) -> u64 {
        tag.domain_id().into()
    }
}

/// A user's place among the users of a domain.
pub type Seat = users::Seat<User>;

/// The users of a domain, and of first stages on top of it.
pub type Users = users::Users<User>;

/// Invalidations that are submitted together.
pub type Batch<'s> = batch::Batch<'s, Invalidation>;

/// Takes the invalidations of a plan, in order.
pub trait Sink: batch::Sink<Invalidation> {}

impl<S: batch::Sink<Invalidation> + ?Sized> Sink for S {}

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
    /// A context entry of scalable mode became not-present; the entries behind it were not-present before, with rows of
    /// their own.
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
    /// A PASID directory entry became present; the table behind it has no present entry, or only such as have rows of their
    /// own.
    DirectoryEntrySet,
    /// A PASID directory entry became not-present; the entries behind it were not-present before, with rows of their own.
    #[cfg_attr(not(test), expect(dead_code, reason = "directories grow, and go with their function"))]
    DirectoryEntryCleared {
        /// The device TLB of the function whose directory it is, where it has one.
        tlb: Option<TlbTarget>,
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
    /// One word of a PASID entry changed while it was present, but neither where it leads nor SSADE: PGSNP for one.
    #[cfg_attr(not(test), expect(dead_code, reason = "such fields are decided once for each domain"))]
    PasidEntryChanged {
        /// Which.
        user: User,
        /// Tag of its domain.
        tag: Tag,
    },
    /// SSADE changed in every PASID entry that leads to a second stage, or through it.
    AccessDirtyChanged {
        /// The streams that lead there.
        users: &'a Users,
    },
    /// Leaves became present.
    Mapped {
        /// The domain.
        tag: Tag,
        /// The streams that lead there.
        users: &'a Users,
        /// Where.
        range: IovaRange,
    },
    /// Leaves, and perhaps tables, were taken out, or allow less than before, or count as not written through any more.
    Unmapped {
        /// The domain.
        tag: Tag,
        /// The streams that lead there.
        users: &'a Users,
        /// What was taken out.
        gather: &'a Gather,
    },
    /// A guest says that it changed its first stage.
    GuestChanged {
        /// Tag of that.
        tag: Tag,
        /// The streams that lead there, and others beside them.
        users: &'a Users,
        /// Where; `None` is everywhere.
        range: Option<IovaRange>,
        /// Only leaves changed.
        leaves_only: bool,
    },
    /// A domain id is about to be used for another domain: no entry has it any more.
    DomainRetired {
        /// The id's tag.
        tag: Tag,
    },
}

/// Adds the invalidations that `change` needs on a unit with these capabilities. Returns whether, where nothing was added,
/// the write buffer must be flushed instead: every invalidation does it implicitly (section 6.8).
pub fn plan(caps: &Capabilities, change: &Change<'_>, sink: &mut dyn Sink) -> bool {
    let drain = Drain { writes: caps.drains_writes(), reads: caps.drains_reads() };
    let caching = caps.caching_mode();
    match *change {
        // Section 6.6: with ESRTPS hardware did all this when it took the pointer.
        Change::RootPointer if caps.root_pointer_invalidates() => {}
        Change::RootPointer => {
            sink.add(Invalidation::ContextCache(ContextScope::Global));
            if caps.mode() == Mode::Scalable {
                sink.add(Invalidation::PasidCache(PasidScope::Global));
            }
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Global, drain });
        }
        // Sections 6.2.2 and 6.2.3: in caching mode the lack of an entry may be cached, the context cache's by requester,
        // the PASID cache's with domain id 0.
        Change::ContextSet { source } if caching => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
            sink.add(Invalidation::PasidCache(PasidScope::Domain(0)));
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(0), drain });
        }
        // Table 28. The rows of the entries behind add the PASID cache and the IOTLB.
        Change::ContextCleared { source } => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
        }
        // Table 28, for domains that nobody lists here; section 6.5.2.2: a global one needs a global one behind it.
        Change::ContextChanged { source, tlb } => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
            everything_behind(caps, tlb, drain, sink);
        }
        // Section 6.2.2: not-present entries are tagged with domain id 0. What was cached through none has the id that
        // the entry has now, at least where the unit is itself a shadow of tables like these.
        Change::LegacyContextSet { source, tag } if caching => {
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain: 0, source }));
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(0), drain });
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(tag.domain_id()), drain });
        }
        // Table 28.
        Change::LegacyContextCleared { user, tag } => {
            let domain = tag.domain_id();
            sink.add(Invalidation::ContextCache(ContextScope::Device { domain, source: user.source }));
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(domain), drain });
            add_device_tlb(user, TlbPages::All, sink);
        }
        // Section 6.2.3: whoever was refused for lack of it is tagged with domain id 0.
        Change::DirectoryEntrySet if caching => {
            sink.add(Invalidation::PasidCache(PasidScope::Domain(0)));
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(0), drain });
        }
        // Table 28, for PASIDs and domains that are none any more.
        Change::DirectoryEntryCleared { tlb } => everything_behind(caps, tlb, drain, sink),
        // Section 6.2.3 for domain id 0; table 28 and its note on caching mode for the new one.
        Change::PasidEntrySet { user, tag } if caching => {
            for domain in [0, tag.domain_id()] {
                sink.add(Invalidation::PasidCache(PasidScope::Pasid { domain, pasid: user.index }));
            }
            for domain in [0, tag.domain_id()] {
                sink.add(Invalidation::PasidIotlb { domain, pasid: user.index, pages: None });
            }
        }
        // Table 28.
        Change::PasidEntryCleared { user, tag } => {
            let scope = PasidScope::Pasid { domain: tag.domain_id(), pasid: user.index };
            sink.add(Invalidation::PasidCache(scope));
            sink.add(all_of(tag, user.index, drain));
            add_device_tlb(user, TlbPages::All, sink);
        }
        // Table 28: fields other than P and SSADE.
        Change::PasidEntryChanged { user, tag } => {
            let (domain, pasid) = (tag.domain_id(), user.index);
            sink.add(Invalidation::PasidCache(PasidScope::Pasid { domain, pasid }));
            sink.add(Invalidation::PasidIotlb { domain, pasid, pages: None });
            add_device_tlb(user, TlbPages::All, sink);
        }
        // Table 28, where SSADE was set. Where it was cleared it would not be needed; then hardware stops writing tables.
        Change::AccessDirtyChanged { users } => {
            // One that names the domain takes the place of many that name PASIDs. Of many users nobody counts who is alone.
            let few = users.iter().nth(pages::MOST).is_none();
            for (user, tag) in users.tagged() {
                let domain = tag.domain_id();
                let alone = few && users.of(tag).nth(1).is_none();
                let scope = PasidScope::Pasid { domain, pasid: user.index };
                sink.add(Invalidation::PasidCache(if alone { scope } else { PasidScope::Domain(domain) }));
                sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(domain), drain });
                add_device_tlb(user, TlbPages::All, sink);
            }
        }
        // Sections 6.2.4.1 and 6.5.3.5: the lack of second-stage leaves may be cached, that of first-stage leaves never.
        Change::Mapped { tag: Tag::Domain(_), users, range } if caching && users.iter().next().is_some() => {
            pages::mapped(caps, users, range, drain, sink);
        }
        // Section 6.8.
        Change::ContextSet { .. }
        | Change::LegacyContextSet { .. }
        | Change::DirectoryEntrySet
        | Change::PasidEntrySet { .. }
        | Change::Mapped { .. } => return caps.needs_write_buffer_flush(),
        // Table 28, and the guidance behind it on IH.
        Change::Unmapped { tag, users, gather } => {
            pages::unmapped(caps, tag, users, gather, drain, sink);
            // For whoever is attached later, where nobody is now.
            return caps.needs_write_buffer_flush();
        }
        // Sections 6.5.2.4 and 6.5.2.6.
        Change::GuestChanged { tag, users, range, leaves_only } => {
            pages::guest(tag, users, range, leaves_only, drain, sink);
        }
        // Table 28: a domain id is used again. Device TLBs have forgotten it with the last entry that had it.
        Change::DomainRetired { tag } => {
            let domain = tag.domain_id();
            if caps.mode() == Mode::Scalable {
                sink.add(Invalidation::PasidCache(PasidScope::Domain(domain)));
            } else {
                sink.add(Invalidation::ContextCache(ContextScope::Domain(domain)));
            }
            sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(domain), drain });
        }
    }
    false
}

/// All that was found through entries that nobody lists: of every PASID, and of one device TLB.
fn everything_behind(caps: &Capabilities, tlb: Option<TlbTarget>, drain: Drain, sink: &mut dyn Sink) {
    sink.add(Invalidation::PasidCache(PasidScope::Global));
    sink.add(Invalidation::Iotlb { scope: IotlbScope::Global, drain });
    let Some(target) = tlb else { return };
    sink.add(Invalidation::DeviceTlb { target, pages: TlbPages::All });
    if caps.pasid_bits() != 0 {
        sink.add(Invalidation::PasidDeviceTlb { target, pasid: None, pages: TlbPages::All });
    }
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
