//! A unit that walks tables only when a test asks it to, and has nothing to forget.

use iommu_core::hw::{Gather, HwError, Touched, Wait};
use iommu_pgtable::Flush;

/// What a flush was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flushed {
    pub touched: Vec<Touched>,
    pub everything: bool,
}

/// What is called at each flush.
pub type AtFlush<'c> = Box<dyn FnMut(&Gather) + 'c>;

/// Counts flushes, keeps what each was asked for, and fails where it is told to.
#[derive(Default)]
pub struct Unit<'c> {
    /// Flushes asked for, those that failed included.
    pub flushes: usize,
    /// What each was asked for.
    pub asked: Vec<Flushed>,
    /// The number of the flush that fails, the first being 0.
    pub fails: Option<usize>,
    /// Called at each flush, before it fails or not: to look at what is in the tables then.
    pub at_flush: Option<AtFlush<'c>>,
}

impl Unit<'_> {
    /// What a flush that fails returns.
    pub const ERROR: HwError = HwError::TimedOut(Wait::Completion);

    /// One whose flush number `n`, counted from 0, fails.
    pub fn failing(n: usize) -> Self {
        Self { fails: Some(n), ..Self::default() }
    }
}

// SAFETY: there is no hardware: the walks of the tests hold nothing from one step to the next.
unsafe impl Flush for Unit<'_> {
    fn flush(&mut self, gather: &Gather) -> Result<(), HwError> {
        let n = self.flushes;
        self.flushes += 1;
        self.asked.push(Flushed { touched: gather.touched().collect(), everything: gather.everything() });
        if let Some(look) = &mut self.at_flush {
            look(gather);
        }
        if self.fails == Some(n) { Err(Self::ERROR) } else { Ok(()) }
    }
}
