//! What a run comes to.

use super::mismatch::Mismatch;
use crate::record::{Check, Claim};

/// Checks passed and failed, and a line on everything that is wrong.
#[derive(Default)]
pub struct Verdict {
    /// Checks that the guest passed and the trace shows.
    pub passed: u64,
    /// Other checks, and whatever else is wrong.
    pub failed: u64,
    /// What is wrong, one line each.
    pub lines: Vec<String>,
    transfers: usize,
    unmaps: usize,
    changes: usize,
    states: usize,
    events: usize,
}

impl Verdict {
    /// Something is wrong that belongs to no check.
    pub fn finding(&mut self, what: &str) {
        self.failed += 1;
        self.lines.push(format!("witness: {what}"));
    }

    /// Several such things.
    pub fn findings(&mut self, what: &[String]) {
        what.iter().for_each(|what| self.finding(what));
    }

    /// A check, and how many events of the trace it was matched with.
    pub fn check(&mut self, check: &Check, matched: Result<usize, Mismatch>) {
        let Check { name, expected, seen, .. } = check;
        if !check.passed {
            self.lines.push(format!("{name}: expected {expected}, the guest saw {seen}"));
        }
        match &matched {
            Ok(events) => {
                self.events += events;
                *match check.claim {
                    Claim::State => &mut self.states,
                    Claim::Dma(_) => &mut self.transfers,
                    Claim::Unmap(_) | Claim::Forget(_) => &mut self.unmaps,
                    Claim::Attach(_) | Claim::Detach(_) => &mut self.changes,
                } += 1;
            }
            Err(mismatch) => self.lines.push(format!("{name}: {mismatch}")),
        }
        if check.passed && matched.is_ok() {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    /// What was matched, in one line.
    pub fn summary(&self) -> String {
        let Self { transfers, unmaps, changes, states, events, .. } = self;
        format!(
            "witness: {transfers} transfers, {unmaps} unmaps, {changes} changes matched with {events} trace events; \
             {states} states as the guest says"
        )
    }
}
