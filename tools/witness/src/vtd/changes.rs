//! What a change of a stream's tables must show in the trace, from VT-d's tables of required invalidations (section
//! 6.5.3.3), and written apart from the driver.
//!
//! The trace shows no stores, so this is about which invalidations there are and in which order. In scalable mode:
//!
//! - A PASID entry that goes away or changes: PASID cache, then IOTLB, of the old domain, for this PASID. That is all for
//!   a stream with a PASID: the context entry stays.
//! - A context entry that goes away, and the PASID entry behind it: context cache, then these two. (To take away the
//!   PASID entry in a step of its own first would be right as well. No driver here does; the rule is the strict one.)
//! - In caching mode an entry that becomes present was perhaps cached as not-present, tagged with domain id 0: context
//!   cache, then IOTLB of domain 0, for the context entry; PASID cache, then PASID-based IOTLB, for the PASID entry.
//!   Otherwise nothing.
//!
//! In legacy mode:
//!
//! - A context entry that goes away or changes: context cache, of the old domain, then the old domain's IOTLB.
//! - In caching mode one that becomes present: context cache, of domain 0, then the IOTLB of a domain: the new one, not
//!   known yet.

use crate::dialect::{Change, Conditions, Mode, Step};
use crate::event::{Stage, Stream};

/// The sequences that `change` of `stream` must show, each of them.
pub fn required(change: Change, mode: Mode, stream: Stream, conditions: Conditions) -> Vec<Vec<Step>> {
    match mode {
        Mode::Legacy => legacy(change, conditions),
        Mode::Scalable(stage) => scalable(change, stage, stream, conditions),
    }
}

fn scalable(change: Change, stage: Stage, stream: Stream, conditions: Conditions) -> Vec<Vec<Step>> {
    let whole = stream.pasid.is_none();
    let cleared = |domain| vec![Step::PasidCache(domain), Step::Tlb(domain, stage)];
    // The new domain's id is not known yet.
    let cached_pasid_entry = [Step::PasidCache(None), Step::PasidTlb, Step::Wait];
    match change {
        Change::Detach(domain) if whole => {
            vec![[vec![Step::StreamCache(None)], cleared(domain), vec![Step::Wait]].concat()]
        }
        Change::Move(domain) if conditions.caching_mode => {
            vec![[cleared(domain), cached_pasid_entry.to_vec()].concat()]
        }
        Change::Detach(domain) | Change::Move(domain) => vec![[cleared(domain), vec![Step::Wait]].concat()],
        Change::Attach if conditions.caching_mode => {
            let cached_context_entry = vec![Step::StreamCache(None), Step::Tlb(Some(0), Stage::Second), Step::Wait];
            let of_context = whole.then_some(cached_context_entry);
            of_context.into_iter().chain([cached_pasid_entry.to_vec()]).collect()
        }
        Change::Attach => Vec::new(),
    }
}

fn legacy(change: Change, conditions: Conditions) -> Vec<Vec<Step>> {
    let cleared = |domain| vec![Step::StreamCache(domain), Step::Tlb(domain, Stage::Second), Step::Wait];
    let cached = || {
        cleared(Some(0)).into_iter().map(|step| match step {
            Step::Tlb(..) => Step::Tlb(None, Stage::Second),
            step => step,
        })
    };
    match change {
        Change::Detach(domain) => vec![cleared(domain)],
        Change::Move(domain) if conditions.caching_mode => vec![cleared(domain).into_iter().chain(cached()).collect()],
        Change::Move(domain) => vec![cleared(domain)],
        Change::Attach if conditions.caching_mode => vec![cached().collect()],
        Change::Attach => Vec::new(),
    }
}

/// What a step is called.
pub fn name(step: Step) -> String {
    let of = |domain: Option<u16>| domain.map_or(String::new(), |domain| format!(" of domain {domain:#x}"));
    match step {
        Step::StreamCache(domain) => format!("context-cache invalidation{}", of(domain)),
        Step::PasidCache(domain) => format!("PASID-cache invalidation{}", of(domain)),
        Step::Tlb(domain, Stage::First) => format!("PASID-based IOTLB invalidation{}", of(domain)),
        Step::Tlb(domain, Stage::Second) => format!("IOTLB invalidation{}", of(domain)),
        Step::PasidTlb => "PASID-based IOTLB invalidation".into(),
        Step::Wait => "wait".into(),
    }
}
