//! Which memory was written through a domain, as a bitmap.
//!
//! Recording is a matter of each domain that was [made for it](crate::hwpt::HwptConfig::dirty_tracking): what is written
//! through one is not known to its neighbours in the same address space.
//!
//! # What a read finds
//!
//! * All that was written since tracking was started, or since the last read with [`DirtyRead::Clear`] of the same
//!   addresses; never less. Pages of the bitmap that hold a byte of it are dirty as a whole.
//! * Hardware records by leaf. A large leaf is dirty as a whole, as far as the range goes. One that reaches out of the range
//!   is read but not cleared, as what lies outside would be forgotten: it stays dirty until a range holds all of it.
//! * What the bitmap has no bit for is passed over: it is found, and cleared, by a read whose bitmap has one.
//! * What is not mapped is clean, also where it was written and unmapped since the last read.
//!
//! # When hardware does not confirm
//!
//! Clearing needs a flush: until then hardware need not record writes through leaves that were cleared. Where the flush
//! fails, the error is returned, the bits of what was cleared are set in the bitmap, and from then on every read finds its
//! whole range dirty, gaps too, until tracking is started anew with success. So nothing is forgotten by a caller who takes
//! the bits that are set for dirty, whatever the call returned.

mod bitmap;
#[cfg(test)]
mod tests;

pub use bitmap::DirtyBitmap;

use crate::addr::{Iova, IovaRange};
use crate::error::Error;
use crate::hw::{Domain, Gather};
use crate::hwpt::Hwpt;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Whether reading clears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyRead {
    /// What is handed over is clean from then on, until it is written again.
    Clear,
    /// The next read finds it again.
    Peek,
}

const STOPPED: u8 = 0;
const STARTED: u8 = 1;
/// Somebody is starting or stopping it.
const CHANGING: u8 = 2;

/// How a domain stands with tracking.
pub(crate) struct Tracking {
    state: AtomicU8,
    /// Hardware may have missed writes: everything counts as dirty.
    unsure: AtomicBool,
}

impl Tracking {
    /// Not started.
    pub(crate) const fn new() -> Self {
        Self { state: AtomicU8::new(STOPPED), unsure: AtomicBool::new(false) }
    }

    /// Starts, or stops, recording writes through `domain`.
    fn set(&self, domain: &dyn Domain, on: bool) -> Result<(), Error> {
        let change = |state| if state == CHANGING { None } else { Some(CHANGING) };
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).map_err(|_| Error::Busy)?;
        let done = match (before, on) {
            (STOPPED, false) => Ok(()),
            (_, false) => domain.set_dirty_tracking(false).map_err(Error::from),
            (_, true) => self.start(domain),
        };
        let after = match done {
            Ok(()) if on => STARTED,
            Ok(()) => STOPPED,
            Err(_) => before,
        };
        if done.is_err() && before == STARTED {
            // What was recorded may be cleared, and recording may have stopped.
            self.unsure.store(true, Ordering::Release);
        }
        self.state.store(after, Ordering::Release);
        done
    }

    fn start(&self, domain: &dyn Domain) -> Result<(), Error> {
        // First, as a read that fails from now on may have cleared something after this has.
        self.unsure.store(false, Ordering::Release);
        let mut gather = Gather::new();
        // Also what an earlier call cleared and could not flush.
        gather.add_everything();
        let aperture = domain.geometry().aperture;
        let cleared = domain.read_and_clear_dirty(aperture, &mut gather, &mut |_| ());
        let flushed = domain.flush(&mut gather);
        cleared.and(flushed)?;
        Ok(domain.set_dirty_tracking(true)?)
    }

    /// Sets the bits of what was written in `range`, whose ends are multiples of `align`, a power of two.
    fn read(
        &self,
        domain: &dyn Domain,
        align: u64,
        range: IovaRange,
        how: DirtyRead,
        bitmap: &mut DirtyBitmap<'_>,
    ) -> Result<(), Error> {
        let (page, align) = (align, align.max(bitmap.page_size()));
        let (start, last) = (range.start().get(), range.last().get());
        // The end of the last range of all is 2^64, which is a multiple of everything.
        for value in [start, last.wrapping_add(1)] {
            if value & (align - 1) != 0 {
                return Err(Error::Misaligned { value, align });
            }
        }
        match self.state.load(Ordering::Acquire) {
            STARTED => {}
            CHANGING => return Err(Error::Busy),
            _ => return Err(Error::Invalid("dirty tracking was not started")),
        }
        // What has no bit is not forgotten.
        let span = bitmap.span();
        let mut mark = |dirty: IovaRange| bitmap.mark(dirty);
        if self.unsure.load(Ordering::Acquire) {
            mark(range);
            return Ok(());
        }
        // Nothing can be mapped, or dirty, elsewhere.
        let aperture = domain.geometry().aperture;
        let (start, last) = (range.start().max(aperture.start()), range.last().min(aperture.last()));
        let Some(range) = IovaRange::new(start, last) else { return Ok(()) };
        if how == DirtyRead::Peek {
            return Ok(domain.read_dirty(range, &mut mark)?);
        }
        let inner = whole(range, span, page).and_then(|part| clearable_of(domain, part));
        for part in around(range, inner).into_iter().flatten() {
            domain.read_dirty(part, &mut mark)?;
        }
        let Some(inner) = inner else { return Ok(()) };
        let mut gather = Gather::new();
        let cleared = domain.read_and_clear_dirty(inner, &mut gather, &mut mark);
        if gather.is_empty() {
            return Ok(cleared?);
        }
        if let Err(error) = domain.flush(&mut gather) {
            self.unsure.store(true, Ordering::Release);
            return Err(error.into());
        }
        Ok(cleared?)
    }
}

/// What `range` has of `span`, in whole pages of `align` bytes, which divides the ends of the range.
fn whole(range: IovaRange, span: Option<IovaRange>, align: u64) -> Option<IovaRange> {
    let span = span?;
    let start = span.start().get().checked_next_multiple_of(align)?;
    let last = match span.last().checked_add(1) {
        Some(end) => (end.get() & !align.checked_sub(1)?).checked_sub(1)?,
        None => u64::MAX,
    };
    IovaRange::new(range.start().max(Iova::new(start)), range.last().min(Iova::new(last)))
}

/// `range` without those leaves at its ends that reach out of it; `None` where nothing is left.
fn clearable_of(domain: &dyn Domain, range: IovaRange) -> Option<IovaRange> {
    let leaf = |at: Iova| {
        let size = domain.translate(at)?.page_size;
        let start = at.get() & !size.checked_sub(1)?;
        IovaRange::from_len(Iova::new(start), size)
    };
    let reaches_out = |leaf: &IovaRange| !range.covers(*leaf);
    // Addresses right behind and right before those leaves; none where they end the address space.
    let start = match leaf(range.start()).filter(reaches_out) {
        Some(leaf) => leaf.last().checked_add(1)?,
        None => range.start(),
    };
    let last = match leaf(range.last()).filter(reaches_out) {
        Some(leaf) => leaf.start().get().checked_sub(1).map(Iova::new)?,
        None => range.last(),
    };
    IovaRange::new(start, last)
}

/// What lies in `range` below and above `inner`, a part of it; all of it without one.
fn around(range: IovaRange, inner: Option<IovaRange>) -> [Option<IovaRange>; 2] {
    let Some(inner) = inner else { return [Some(range), None] };
    let below = inner.start().get().checked_sub(1).and_then(|last| IovaRange::new(range.start(), Iova::new(last)));
    let above = inner.last().checked_add(1).and_then(|start| IovaRange::new(start, range.last()));
    [below, above]
}

impl Hwpt {
    /// Starts recording what is written, or stops. Starting is a clean point, also where it was started before: reads find
    /// what is written from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the domain was not made for it; [`Error::Busy`] while another starts or stops it;
    /// [`Error::Hardware`]: it is as it was, but if it was started, reads find everything dirty from then on.
    pub fn set_dirty_tracking(&self, on: bool) -> Result<(), Error> {
        if !self.config().dirty_tracking {
            return Err(Error::Unsupported("dirty tracking of a domain that was not made for it"));
        }
        self.0.tracking.set(self.domain(), on)
    }

    /// Sets the bits of what was written in `range`, as [the module](crate::dirty) says, and leaves all others as they
    /// are. The ends of the range are multiples of the address space's alignment and of the bitmap's pages.
    ///
    /// # Errors
    ///
    /// [`Error::Misaligned`]; [`Error::Invalid`] where tracking was not started; [`Error::Busy`] while another starts or
    /// stops it: nothing has changed. [`Error::Hardware`]: bits that are set are valid, others say nothing.
    pub fn read_dirty(&self, range: IovaRange, how: DirtyRead, bitmap: &mut DirtyBitmap<'_>) -> Result<(), Error> {
        self.0.tracking.read(self.domain(), self.0.ioas.alignment(), range, how, bitmap)
    }
}
