//! What a change of a stream's tables must show in the trace, from VT-d's tables of required invalidations (section
//! 6.5.3.3), and written apart from the driver.
//!
//! The trace shows no stores, so this is about which invalidations there are and in which order:
//!
//! - A PASID entry that goes away or changes: PASID cache, then IOTLB, of the old domain.
//! - A context entry that goes away, and the PASID entry behind it: context cache, then these two. (To take away the
//!   PASID entry in a step of its own first would be right as well. No driver here does; the rule is the strict one.)
//! - In caching mode an entry that becomes present was perhaps cached as not-present, tagged with domain id 0: context
//!   cache, then IOTLB of domain 0, for the context entry; PASID cache, then PASID-based IOTLB, for the PASID entry.
//!   Otherwise nothing.

use crate::dialect::{Change, Conditions, Step};
use crate::event::Stage;

/// The sequences that `change` must show, each of them.
pub fn required(change: Change, stage: Stage, conditions: Conditions) -> Vec<Vec<Step>> {
    // The new domain's id is not known yet.
    let cached_pasid_entry = [Step::PasidCache(None), Step::PasidTlb, Step::Wait];
    match change {
        Change::Detach(domain) => {
            vec![vec![Step::StreamCache, Step::PasidCache(domain), Step::Tlb(domain, stage), Step::Wait]]
        }
        Change::Move(domain) if conditions.caching_mode => {
            let mut sequence = vec![Step::PasidCache(domain), Step::Tlb(domain, stage)];
            sequence.extend(cached_pasid_entry);
            vec![sequence]
        }
        Change::Move(domain) => vec![vec![Step::PasidCache(domain), Step::Tlb(domain, stage), Step::Wait]],
        Change::Attach if conditions.caching_mode => {
            let cached_context_entry = vec![Step::StreamCache, Step::Tlb(Some(0), Stage::Second), Step::Wait];
            vec![cached_context_entry, cached_pasid_entry.to_vec()]
        }
        Change::Attach => Vec::new(),
    }
}

/// What a step is called.
pub fn name(step: Step) -> String {
    let of = |domain: Option<u16>| domain.map_or(String::new(), |domain| format!(" of domain {domain:#x}"));
    match step {
        Step::StreamCache => "context-cache invalidation".into(),
        Step::PasidCache(domain) => format!("PASID-cache invalidation{}", of(domain)),
        Step::Tlb(domain, Stage::First) => format!("PASID-based IOTLB invalidation{}", of(domain)),
        Step::Tlb(domain, Stage::Second) => format!("IOTLB invalidation{}", of(domain)),
        Step::PasidTlb => "PASID-based IOTLB invalidation".into(),
        Step::Wait => "wait".into(),
    }
}
