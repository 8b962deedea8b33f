//! Flushes in the middle of operations, and what is owed where one of them failed.

use crate::claim::Flush;
use crate::format::Format;
use crate::table::PageTable;
use core::sync::atomic::{AtomicUsize, Ordering};
use iommu_core::hw::{Gather, HwError};
use iommu_hal::Hal;

/// How many flushes inside of operations failed, and how many of these, the first ones, were made up for by a flush of
/// everything. Neither ever falls: a number that was set back could be set back for one that failed in between.
#[derive(Default)]
pub(crate) struct Owed {
    failed: AtomicUsize,
    made_up: AtomicUsize,
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Has `unit` flush in the middle of an operation. Where that fails, hardware may go on with anything that the table
    /// ever was since it was last confirmed, and what later operations see in it is not enough to tell what to invalidate.
    pub(crate) fn confirm(&self, unit: &mut dyn Flush, gather: &Gather) -> Result<(), HwError> {
        unit.flush(gather).inspect_err(|_| {
            self.owed.failed.fetch_add(1, Ordering::Release);
        })
    }

    /// Whether hardware has confirmed every flush inside of an operation.
    #[inline]
    pub(crate) fn is_confirmed(&self) -> bool {
        self.owed.failed.load(Ordering::Relaxed) == self.owed.made_up.load(Ordering::Relaxed)
    }

    /// Has what a caller will flush make up for flushes that failed before.
    pub(crate) fn note_unconfirmed(&self, gather: &mut Gather) {
        if !self.is_confirmed() {
            gather.add_everything();
        }
    }

    /// Makes up for flushes that failed before, by one of everything.
    pub(crate) fn make_up(&self, unit: &mut dyn Flush) -> Result<(), HwError> {
        let failed = self.owed.failed.load(Ordering::Acquire);
        if failed == self.owed.made_up.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut everything = Gather::new();
        everything.add_everything();
        self.confirm(unit, &everything)?;
        // Not for those that have failed since.
        self.owed.made_up.fetch_max(failed, Ordering::AcqRel);
        Ok(())
    }
}
