//! Putting runs together, in memory that is charged before it is taken.

use super::extents::{Runs, words};
use crate::addr::{Iova, PhysExtent};
use crate::error::Error;
use crate::quota::{Amounts, Ledger};
use alloc::vec::Vec;

/// Puts runs together from extents that come one at a time. Skips empty ones and joins neighbours. What it allocates is
/// charged before, and given back if it is dropped unfinished.
pub(super) struct Builder<'a> {
    meter: Meter<'a>,
    /// How many runs are to come, as far as known.
    hint: usize,
    starts: Vec<u64>,
    /// Empty while all runs in `starts` are `each` bytes long.
    ends: Vec<u64>,
    each: u64,
    /// Bytes of the runs in `starts`.
    closed: u64,
    /// The last run, which may still grow.
    open: Option<PhysExtent>,
    total: u64,
}

impl<'a> Builder<'a> {
    /// `ledger` pays, if any; `hint` says how many runs are to come, as far as known.
    pub(super) fn new(ledger: Option<&'a Ledger>, hint: usize) -> Self {
        let meter = Meter { ledger, held: 0 };
        Self { meter, hint, starts: Vec::new(), ends: Vec::new(), each: 0, closed: 0, open: None, total: 0 }
    }

    /// Makes room for as many runs as were announced, where that is more than one.
    pub(super) fn prepare(&mut self) -> Result<(), Error> {
        if self.hint > 1 { self.meter.grow(&mut self.starts, self.hint) } else { Ok(()) }
    }

    /// Bytes so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Adds `extent` at the end.
    ///
    /// # Errors
    ///
    /// [`Error::BadMemory`] where it wraps, [`Error::Overflow`] where the length in all does not fit, and those of the
    /// quota and of memory: the builder is as before.
    pub(super) fn push(&mut self, extent: PhysExtent) -> Result<(), Error> {
        if extent.len == 0 {
            return Ok(());
        }
        extent.last().ok_or(Error::BadMemory)?;
        let total = self.total.checked_add(extent.len).ok_or(Error::Overflow { iova: Iova::new(0) })?;
        match &mut self.open {
            Some(open) if open.start.checked_add(open.len) == Some(extent.start) => {
                // Below the total, which fits.
                open.len = open.len.wrapping_add(extent.len);
            }
            Some(open) => {
                let done = *open;
                self.close(done, done.len == self.each)?;
                self.open = Some(extent);
            }
            None => self.open = Some(extent),
        }
        self.total = total;
        Ok(())
    }

    /// Stores a run that does not grow any more. `fits`: runs that are stored as equal stay so with this one.
    fn close(&mut self, run: PhysExtent, fits: bool) -> Result<(), Error> {
        let wanted = self.hint.max(self.starts.len().saturating_add(1));
        self.meter.room(&mut self.starts, wanted)?;
        let end = self.closed.saturating_add(run.len);
        if self.starts.is_empty() {
            self.each = run.len;
        } else if !self.ends.is_empty() {
            self.meter.room(&mut self.ends, wanted)?;
            self.ends.push(end);
        } else if !fits {
            self.meter.grow(&mut self.ends, wanted)?;
            let each = self.each;
            self.ends.extend((1..=self.starts.len() as u64).map(|count| each.saturating_mul(count)));
            self.ends.push(end);
        }
        self.starts.push(run.start.get());
        self.closed = end;
        Ok(())
    }

    /// The runs, in memory just as large as they need, and what is charged for it in bytes. `None` where there are none.
    pub(super) fn finish(mut self) -> Result<Option<(Runs, u64)>, Error> {
        let Some(open) = self.open else { return Ok(None) };
        if self.starts.is_empty() {
            return Ok(Some((Runs::One(open), 0)));
        }
        self.close(open, open.len <= self.each)?;
        let (mut starts, mut ends) = (core::mem::take(&mut self.starts), core::mem::take(&mut self.ends));
        trim(&mut starts);
        trim(&mut ends);
        let runs = if ends.is_empty() {
            Runs::Equal { each: self.each, total: self.total, starts }
        } else {
            Runs::Mixed { starts, ends }
        };
        let charged = self.meter.keep(runs.bytes());
        Ok(Some((runs, charged)))
    }
}

/// Gives slack back, if there is memory to move to. The vector's own way to shrink aborts without.
fn trim(words: &mut Vec<u64>) {
    let mut exact = Vec::new();
    if words.capacity() > words.len() && exact.try_reserve_exact(words.len()).is_ok() {
        exact.extend_from_slice(words);
        *words = exact;
    }
}

/// Charges for vectors before they grow. Dropped, it gives back what it holds.
struct Meter<'a> {
    ledger: Option<&'a Ledger>,
    held: u64,
}

impl Meter<'_> {
    /// Makes room for one number more: for `wanted` in all, or half as much again as there is.
    fn room(&mut self, vec: &mut Vec<u64>, wanted: usize) -> Result<(), Error> {
        if vec.len() < vec.capacity() {
            return Ok(());
        }
        let more = vec.capacity().saturating_add(vec.capacity() / 2).max(4);
        self.grow(vec, wanted.max(more))
    }

    fn grow(&mut self, vec: &mut Vec<u64>, wanted: usize) -> Result<(), Error> {
        let bytes = words(wanted.saturating_sub(vec.capacity()));
        if let Some(ledger) = self.ledger {
            ledger.charge(Amounts { metadata: bytes, ..Amounts::NONE })?;
        }
        self.held = self.held.saturating_add(bytes);
        vec.try_reserve_exact(wanted.saturating_sub(vec.len())).map_err(|_| Error::OutOfMemory)
    }

    /// Leaves what `bytes` cost charged, to be given back by the caller, and returns it. Room that the allocator gave
    /// beyond what was asked for was never charged.
    fn keep(&mut self, bytes: u64) -> u64 {
        let kept = bytes.min(self.held);
        self.held -= kept;
        kept
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger
            && self.held != 0
        {
            ledger.release(Amounts { metadata: self.held, ..Amounts::NONE });
        }
    }
}
