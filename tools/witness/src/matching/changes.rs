//! Attaching, moving and detaching a stream: the invalidations that the change calls for, in their order.

use super::mismatch::Mismatch;
use crate::dialect::{Change, Conditions, Dialect, Step};
use crate::event::{Domains, Event, Invalidation, Stage, Stream, What};

/// Whether `events` show all that `change` of `stream` calls for.
pub fn show(
    dialect: Dialect,
    conditions: Conditions,
    change: Change,
    stream: Stream,
    events: &[Event],
) -> Result<(), Mismatch> {
    for sequence in dialect.required(change, stream, conditions) {
        if let Some((step, line)) = first_missing(&sequence, stream, events) {
            let names: Vec<_> = sequence.iter().map(|step| dialect.name(*step)).collect();
            let expected = format!("for {stream}, in this order: {}", names.join(", "));
            return Err(Mismatch::at(line, expected, format!("no {} from there on", dialect.name(step))));
        }
    }
    Ok(())
}

/// The first step of `sequence` that does not follow the ones before it, and the line from which on it is missing.
fn first_missing(sequence: &[Step], stream: Stream, events: &[Event]) -> Option<(Step, usize)> {
    let mut line = events.first().map_or(0, |event| event.line);
    let mut events = events.iter();
    for step in sequence {
        match events.find(|event| is(event.what, *step, stream)) {
            Some(event) => line = event.line,
            None => return Some((*step, line)),
        }
    }
    None
}

/// Whether an event is, or does as much as, this step for this stream.
fn is(what: What, step: Step, stream: Stream) -> bool {
    // Requests without one have that of entry 0.
    let pasid = stream.pasid.unwrap_or(0);
    match (step, what) {
        (Step::Wait, What::Wait(_)) => true,
        (Step::StreamCache(domain), What::Invalidation(Invalidation::StreamCache { id, ignored, domains })) => {
            (id ^ stream.id) & !ignored == 0 && domains.reach(domain)
        }
        (Step::PasidCache(domain), What::Invalidation(Invalidation::PasidCache { domains, pasid: of })) => {
            domains.reach(domain) && of.is_none_or(|of| of == pasid)
        }
        (Step::PasidCache(_), What::Invalidation(Invalidation::PasidCacheOf { id, ignored })) => {
            (id ^ stream.id) & !ignored == 0
        }
        (Step::Tlb(domain, of), What::Invalidation(Invalidation::Tlb { domains, stage, range: None, pasid: only })) => {
            domains.reach(domain) && stage.is_none_or(|stage| stage == of) && only.is_none_or(|only| only == pasid)
        }
        (Step::PasidTlb, What::Invalidation(Invalidation::Tlb { domains, stage, range: None, pasid: only })) => {
            domains == Domains::All || stage == Some(Stage::First) && only.is_none_or(|only| only == pasid)
        }
        _ => false,
    }
}
