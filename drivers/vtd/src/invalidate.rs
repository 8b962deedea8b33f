//! What changed -> what to invalidate, and in which order (sections 6.5.2.11, 6.5.3.3 and 6.8).
//!
//! Every transition of every structure has its arm in [`plan`]; nothing else in this driver chooses an invalidation.
//! The order within a plan is: structure caches, then IOTLB. The queue adds the wait.

use crate::capabilities::Capabilities;
use crate::spec::descriptor::{Descriptor, Drain, Pages};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, Touched};

/// PASID of requests without one: entry 0 whether the unit honours RID_PASID (it is programmed to 0) or not.
pub const RID_PASID: u32 = 0;

/// How cached translations of a domain are tagged, which decides the descriptor that removes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// By domain id: second stage (PGTT 2) and nested (3).
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

/// A change that hardware may have cached the old state of.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The root table pointer was set.
    RootPointer,
    /// A context entry and the PASID entry behind it became present.
    StreamAttached {
        /// Requester id.
        source: u16,
        /// Tag of the new domain.
        tag: Tag,
    },
    /// A context entry and the PASID entry behind it became not-present, both already written.
    StreamDetached {
        /// Requester id.
        source: u16,
        /// Tag of the old domain.
        tag: Tag,
    },
    /// A PASID entry became present in a directory that was reachable before.
    PasidEntrySet {
        /// Tag of the new domain.
        tag: Tag,
    },
    /// A PASID entry became not-present while its context entry stays.
    PasidEntryCleared {
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
    /// Leaves, and perhaps tables, were taken out.
    Unmapped {
        /// The domain.
        tag: Tag,
        /// What was taken out.
        gather: &'a Gather,
    },
    /// A domain id is about to be used for another domain.
    DomainRetired {
        /// The id's tag.
        tag: Tag,
    },
}

/// A block of 2^51 pages is half of all there are; wider ones are everything.
const WIDEST_MASK: u8 = 51;

/// Most descriptors in a plan: one for each range of a gather, or the three of a detach.
const MOST: usize = 12;

/// Descriptors in the order in which they must run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    descriptors: [Descriptor; MOST],
    len: usize,
    write_buffer_flush: bool,
}

impl Plan {
    const EMPTY: Self = Self { descriptors: [Descriptor([0; 4]); MOST], len: 0, write_buffer_flush: false };

    /// What to submit.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors[..self.len]
    }

    /// Whether the write buffer must be flushed instead: no invalidation does it implicitly.
    pub fn write_buffer_flush(&self) -> bool {
        self.write_buffer_flush
    }

    /// Adds a descriptor; `false` where the plan is full.
    fn push(&mut self, descriptor: Descriptor) -> bool {
        match self.descriptors.get_mut(self.len) {
            Some(slot) => {
                *slot = descriptor;
                self.len += 1;
                true
            }
            None => false,
        }
    }
}

/// The invalidations that `change` needs on a unit with these capabilities.
pub fn plan(caps: &Capabilities, change: &Change<'_>) -> Plan {
    let mut plan = Plan::EMPTY;
    let drain = Drain { writes: caps.drains_writes(), reads: caps.drains_reads() };
    match *change {
        // With ESRTPS hardware did all this when it took the pointer.
        Change::RootPointer if caps.root_pointer_invalidates() => {}
        Change::RootPointer => {
            plan.push(Descriptor::context_cache_global());
            plan.push(Descriptor::pasid_cache_global());
            plan.push(Descriptor::iotlb_global(drain));
        }
        // Not-present entries are cached only in caching mode, tagged with domain id 0; first-stage ones never.
        Change::StreamAttached { source, tag } if caps.caching_mode() => {
            plan.push(Descriptor::context_cache_device(source));
            plan.push(Descriptor::pasid_cache_pasid(tag.domain_id(), RID_PASID));
            plan.push(Descriptor::iotlb_domain(0, drain));
            plan.push(Descriptor::pasid_iotlb_all(tag.domain_id(), RID_PASID));
        }
        Change::StreamDetached { source, tag } => {
            plan.push(Descriptor::context_cache_device(source));
            plan.push(Descriptor::pasid_cache_pasid(tag.domain_id(), RID_PASID));
            plan.push(all_of(tag, drain));
        }
        Change::PasidEntrySet { tag } if caps.caching_mode() => {
            plan.push(Descriptor::pasid_cache_pasid(tag.domain_id(), RID_PASID));
            plan.push(Descriptor::pasid_iotlb_all(tag.domain_id(), RID_PASID));
        }
        Change::PasidEntryCleared { tag } => {
            plan.push(Descriptor::pasid_cache_pasid(tag.domain_id(), RID_PASID));
            plan.push(all_of(tag, drain));
        }
        Change::Mapped { tag: tag @ Tag::Domain(_), range } if caps.caching_mode() => {
            // Entries of every level may have been cached as not-present.
            plan.push(of_range(caps, tag, range, false, drain).unwrap_or_else(|| all_of(tag, drain)));
        }
        Change::StreamAttached { .. } | Change::PasidEntrySet { .. } | Change::Mapped { .. } => {
            plan.write_buffer_flush = caps.needs_write_buffer_flush();
        }
        Change::Unmapped { tag, gather } => {
            let mut add = |touched: Touched| {
                let leaves_only = touched.tables.is_empty();
                of_range(caps, tag, touched.range, leaves_only, drain).is_some_and(|pages| plan.push(pages))
            };
            let exact = !gather.everything() && gather.touched().all(&mut add);
            if !exact {
                plan = Plan::EMPTY;
                plan.push(all_of(tag, drain));
            }
        }
        Change::DomainRetired { tag } => {
            plan.push(Descriptor::pasid_cache_domain(tag.domain_id()));
            plan.push(all_of(tag, drain));
        }
    }
    plan
}

/// Everything cached under a tag.
fn all_of(tag: Tag, drain: Drain) -> Descriptor {
    match tag {
        Tag::Domain(id) => Descriptor::iotlb_domain(id, drain),
        Tag::DomainAndPasid(id) => Descriptor::pasid_iotlb_all(id, RID_PASID),
    }
}

/// One range under a tag: the smallest aligned block that covers it; `None` where the unit cannot do that.
fn of_range(caps: &Capabilities, tag: Tag, range: IovaRange, leaves_only: bool, drain: Drain) -> Option<Descriptor> {
    let mask = covering_mask(range);
    if !caps.page_selective() || mask > caps.max_address_mask().min(WIDEST_MASK) {
        return None;
    }
    let address = range.start().get() >> (12 + mask) << (12 + mask);
    let pages = Pages { address, mask, leaves_only };
    Some(match tag {
        Tag::Domain(id) => Descriptor::iotlb_pages(id, pages, drain),
        Tag::DomainAndPasid(id) => Descriptor::pasid_iotlb_pages(id, RID_PASID, pages),
    })
}

/// The smallest n such that one aligned block of 2^n pages holds the whole range.
fn covering_mask(range: IovaRange) -> u8 {
    let differing = (range.start().get() ^ range.last().get()) >> 12;
    (64 - differing.leading_zeros()) as u8
}

#[cfg(test)]
#[path = "invalidate_tests.rs"]
mod tests;
