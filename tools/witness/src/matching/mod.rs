//! The comparison of records and trace.
//!
//! The markers of the records cut the trace into slices, one a check, and gaps between them. A check must find in its
//! slice what it claims; no gap may hold any DMA. On the way the witness learns from the trace which domain each
//! stream's requests fall into, and keeps which memory was taken away.

mod changes;
mod history;
mod mismatch;
mod pieces;
mod slices;
mod transfer;
mod unmap;
mod verdict;

pub use verdict::Verdict;

use crate::dialect::{Change, Conditions, Dialect};
use crate::event::{Event, Setup, Stream, Trace, What};
use crate::record::{Check, Claim};
use history::History;
use mismatch::Mismatch;
use slices::{Slice, Slices};

/// Compares `checks` with `trace`; what comes of it goes to `verdict`.
pub fn compare(checks: &[Check], trace: &Trace, dialect: Dialect, conditions: Conditions, verdict: &mut Verdict) {
    verdict.findings(&trace.problems);
    let mut slices = Slices::new(&trace.events);
    for (data, line) in slices.repeated() {
        verdict.finding(&format!("trace line {line}: wait status {data:#x} was written a second time"));
    }
    let mut witness = Witness { dialect, conditions, history: History::default() };
    let mut last_line = 0;
    for check in checks {
        let matched = match (&check.claim, check.markers) {
            (Claim::State, None) => Ok(0),
            (_, None) => Err(Mismatch::plain("no markers: nothing to find it by")),
            (_, Some(markers)) => slices.next(markers).and_then(|(gap, slice)| {
                witness.gap(gap, verdict);
                last_line = slice.end().line;
                witness.check(check, &slice)
            }),
        };
        verdict.check(check, matched);
    }
    witness.gap(slices.rest(), verdict);
    setup(dialect, conditions, &trace.events, last_line, verdict);
}

struct Witness {
    dialect: Dialect,
    conditions: Conditions,
    history: History,
}

impl Witness {
    /// Between checks there must be no DMA. A function may be blocked there, as at the end of its partition.
    fn gap(&mut self, events: &[Event], verdict: &mut Verdict) {
        let mut strays = events.iter().filter_map(|event| match event.what {
            What::Access(access) => Some((event.line, access)),
            _ => None,
        });
        if let Some((line, access)) = strays.next() {
            let more = strays.count();
            verdict.finding(&format!("trace line {line}: DMA outside of any check: {access}, and {more} more"));
        }
        self.history.learn(events, None);
        for (stream, state) in self.history.attached() {
            let change = Change::Detach(state);
            if changes::show(self.dialect, self.conditions, change, stream, events).is_ok() {
                self.history.detach(stream);
            }
        }
    }

    /// Compares one check with its slice; how many events it took.
    fn check(&mut self, check: &Check, slice: &Slice<'_>) -> Result<usize, Mismatch> {
        let stream = match &check.claim {
            Claim::Dma(transfer) => Some(transfer.area.stream),
            _ => None,
        };
        let result = match &check.claim {
            Claim::State => no_access(slice),
            Claim::Dma(transfer) => transfer::check(check, transfer, slice, self.dialect, &mut self.history),
            Claim::Unmap(area) => no_access(slice)
                .and_then(|()| unmap::check(area, slice, self.dialect, &self.history))
                // Whether hardware was told or not, the memory is not the partition's any more.
                .and(self.history.unmap(&check.name, area)),
            Claim::Forget(area) => no_access(slice)
                .and_then(|()| unmap::check_of_guest(area, slice, self.dialect, &self.history))
                .and(self.history.unmap(&check.name, area)),
            Claim::Attach(stream) => {
                let change = self.history.domain_before(*stream).map_or(Change::Attach, Change::Move);
                let result = no_access(slice).and_then(|()| self.changed(change, *stream, slice));
                self.history.attach(*stream);
                result
            }
            Claim::Detach(stream) => {
                let domain = self.history.domain_before(*stream).flatten();
                let result = no_access(slice).and_then(|()| self.changed(Change::Detach(domain), *stream, slice));
                self.history.detach(*stream);
                result
            }
        };
        self.history.learn(slice.inside(), stream);
        let counts = |event: &&Event| !matches!(event.what, What::Setup(_));
        // The two markers are matched as well.
        result.map(|()| slice.inside().iter().filter(counts).count() + 2)
    }

    fn changed(&self, change: Change, stream: Stream, slice: &Slice<'_>) -> Result<(), Mismatch> {
        changes::show(self.dialect, self.conditions, change, stream, slice.with_end())
    }
}

/// While tables change, nothing moves.
fn no_access(slice: &Slice<'_>) -> Result<(), Mismatch> {
    match slice.accesses().next() {
        Some((line, access)) => Err(Mismatch::at(line, "no DMA", access)),
        None => Ok(()),
    }
}

/// The unit was set up before the first DMA, and translated from then on, all along the checks.
fn setup(dialect: Dialect, conditions: Conditions, events: &[Event], last_line: usize, verdict: &mut Verdict) {
    let (mut done, mut on, mut seen) = (Vec::new(), false, false);
    for Event { line, what } in events {
        match what {
            What::Setup(Setup::Translation(false)) if on && *line < last_line => {
                verdict.finding(&format!("trace line {line}: translation was turned off"));
            }
            What::Setup(Setup::Routed(source, false)) if on && *line < last_line => {
                verdict.finding(&format!("trace line {line}: DMA of {source:#x} was led around the IOMMU"));
            }
            What::Setup(Setup::Trouble(trouble)) => verdict.finding(&format!("trace line {line}: {trouble}")),
            What::Setup(setup) => {
                on |= *setup == Setup::Translation(true);
                done.push(*setup);
            }
            What::Access(_) if !seen => {
                seen = true;
                for (_, what) in dialect.needed().iter().filter(|(needed, _)| !done.contains(needed)) {
                    verdict.finding(&format!("trace line {line}: DMA before the unit had {what}"));
                }
            }
            _ => {}
        }
    }
    match (seen, conditions.in_software) {
        (false, false) => verdict.finding("the trace shows no DMA at all"),
        (true, true) => verdict.finding("the trace shows DMA, where all of it is in software"),
        _ => {}
    }
}
