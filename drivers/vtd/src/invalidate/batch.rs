//! Invalidations that are submitted together.

use super::Sink;
use crate::spec::invalidation::{Invalidation, PasidScope};
use iommu_core::hw::HwError;

/// Invalidations in one batch; more are submitted in several.
const ROOM: usize = 32;

/// Stands where none is.
const UNUSED: Invalidation = Invalidation::PasidCache(PasidScope::Global);

/// Collects the invalidations of one or more changes and submits them: without repetition, kinds in the order in which they
/// must run. Changes of which one depends on the other's order beyond that go into batches of their own.
pub struct Batch<'s> {
    submit: &'s mut dyn FnMut(&[Invalidation]) -> Result<(), HwError>,
    items: [Invalidation; ROOM],
    len: usize,
    submitted: bool,
    outcome: Result<(), HwError>,
}

impl<'s> Batch<'s> {
    /// An empty batch. `submit` returns once hardware has confirmed all that it is given, and may be called more than once.
    pub fn new(submit: &'s mut dyn FnMut(&[Invalidation]) -> Result<(), HwError>) -> Self {
        Self { submit, items: [UNUSED; ROOM], len: 0, submitted: false, outcome: Ok(()) }
    }

    /// Submits what is left. Returns whether anything was submitted.
    ///
    /// # Errors
    ///
    /// The first that hardware reported; everything was submitted all the same.
    pub fn finish(mut self) -> Result<bool, HwError> {
        self.flush();
        self.outcome.map(|()| self.submitted)
    }

    fn flush(&mut self) {
        let Some(items) = self.items.get_mut(..self.len).filter(|items| !items.is_empty()) else { return };
        // Stable, so that what one change added keeps its order within a kind; short, so that it need not be clever.
        for end in 1..items.len() {
            let mut at = end;
            while at > 0 && items[at - 1].rank() > items[at].rank() {
                items.swap(at - 1, at);
                at -= 1;
            }
        }
        let outcome = (self.submit)(items);
        self.outcome = self.outcome.and(outcome);
        (self.len, self.submitted) = (0, true);
    }
}

impl Sink for Batch<'_> {
    fn add(&mut self, invalidation: Invalidation) {
        if self.items[..self.len].contains(&invalidation) {
            return;
        }
        if self.len == ROOM {
            self.flush();
        }
        self.items[self.len] = invalidation;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const fn of_domain(id: u16) -> Invalidation {
        Invalidation::PasidCache(PasidScope::Domain(id))
    }

    #[test]
    fn what_does_not_fit_goes_in_batches_of_which_every_error_counts() {
        const FAILED: HwError = HwError::Hardware("one of them");
        for failing in 0..3 {
            let (mut seen, mut batches) = (Vec::new(), 0);
            let mut submit = |items: &[Invalidation]| {
                seen.extend_from_slice(items);
                batches += 1;
                if batches == failing + 1 { Err(FAILED) } else { Ok(()) }
            };
            let mut batch = Batch::new(&mut submit);
            (0..2 * ROOM as u16 + 1).for_each(|id| batch.add(of_domain(id)));
            assert_eq!(batch.finish(), Err(FAILED), "{failing}");
            assert_eq!(seen, (0..2 * ROOM as u16 + 1).map(of_domain).collect::<Vec<_>>());
            assert_eq!(batches, 3);
        }
    }
}
