//! Invalidations that are submitted together.

use iommu_core::hw::HwError;

/// Invalidations in one batch; more are submitted in several.
const ROOM: usize = 32;

/// One invalidation, as some hardware takes it.
pub trait Item: Copy + PartialEq {
    /// Stands where none is.
    const UNUSED: Self;

    /// The order in which kinds must be submitted: what is cached of structures, then what is filled through them, then what
    /// is filled from that.
    fn rank(&self) -> u8;
}

/// Takes the invalidations of a plan, in order.
pub trait Sink<I> {
    /// One more.
    fn add(&mut self, item: I);
}

/// Collects the invalidations of one or more changes and submits them: without repetition, kinds in the order in which they
/// must run. Changes of which one depends on the other's order beyond that go into batches of their own.
pub struct Batch<'s, I> {
    submit: &'s mut dyn FnMut(&[I]) -> Result<(), HwError>,
    items: [I; ROOM],
    len: usize,
    submitted: bool,
    outcome: Result<(), HwError>,
}

impl<'s, I: Item> Batch<'s, I> {
    /// An empty batch. `submit` returns once hardware has confirmed all that it is given, and may be called more than once.
    pub fn new(submit: &'s mut dyn FnMut(&[I]) -> Result<(), HwError>) -> Self {
        Self { submit, items: [I::UNUSED; ROOM], len: 0, submitted: false, outcome: Ok(()) }
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

impl<I: Item> Sink<I> for Batch<'_, I> {
    fn add(&mut self, item: I) {
        if self.items[..self.len].contains(&item) {
            return;
        }
        if self.len == ROOM {
            self.flush();
        }
        self.items[self.len] = item;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Of two kinds: even ones go first.
    impl Item for u16 {
        const UNUSED: Self = 0;

        fn rank(&self) -> u8 {
            (self & 1) as u8
        }
    }

    #[test]
    fn what_does_not_fit_goes_in_batches_of_which_every_error_counts() {
        const FAILED: HwError = HwError::Hardware("one of them");
        for failing in 0..3 {
            let (mut seen, mut batches) = (Vec::new(), 0);
            let mut submit = |items: &[u16]| {
                seen.extend_from_slice(items);
                batches += 1;
                if batches == failing + 1 { Err(FAILED) } else { Ok(()) }
            };
            let mut batch = Batch::new(&mut submit);
            (0..2 * ROOM as u16 + 1).for_each(|id| batch.add(2 * id));
            assert_eq!(batch.finish(), Err(FAILED), "{failing}");
            assert_eq!(seen, (0..2 * ROOM as u16 + 1).map(|id| 2 * id).collect::<Vec<_>>());
            assert_eq!(batches, 3);
        }
    }

    #[test]
    fn kinds_go_in_order_and_nothing_goes_twice() {
        let mut seen = Vec::new();
        let mut submit = |items: &[u16]| {
            seen.extend_from_slice(items);
            Ok(())
        };
        let mut batch = Batch::new(&mut submit);
        [3, 8, 1, 8, 3, 4].into_iter().for_each(|item| batch.add(item));
        assert_eq!(batch.finish(), Ok(true));
        assert_eq!(seen, [8, 4, 3, 1]);
        let mut nothing = |_: &[u16]| Err(HwError::Hardware("nobody asked"));
        assert_eq!(Batch::<u16>::new(&mut nothing).finish(), Ok(false));
    }
}
