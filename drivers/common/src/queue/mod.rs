//! A queue of invalidations that every CPU uses at once: a batch in, confirmation or an error out.
//!
//! [`Queue::run`] is called without a lock around it. The callers share one ring in memory:
//!
//! * [`Ring`]: that memory, as the driver lays it out: items, fences among them, and waits that hardware confirms.
//! * [`Port`]: the registers that go with it: a doorbell, how far hardware is, and what it complains of.
//! * `round`: what is written, what hardware works on, and which places are free.
//! * `seats`: where a caller learns what became of its part.
//! * `group`: who rings the doorbell, polls, and tells the others.
//! * `recovery`: refused items, device TLBs that do not answer, and hardware that is gone.
//!
//! # Who waits for whom
//!
//! * Writing items takes a lock for as long as the writing takes; nobody holds it while hardware is waited for.
//! * One caller leads: it alone rings, polls and repairs. Leading passes on when it has what it came for, and when its
//!   time is up.
//! * Every caller has a deadline of its own for each attempt, and leaves at it: a CPU that is held up while it leads, or
//!   while it holds the lock, or hardware that hangs, costs others an error, and never more time than that.
//! * A round that everybody has left is waited for only until hardware has read it. Each wait has a number of its own, so
//!   that one that completes late is taken for no other.
//!
//! # A device TLB that does not answer
//!
//! The whole round is given up. Callers with invalidations of that device get the error; the others go again, and until
//! they are through, no new caller with device TLBs joins them: each failure costs the round at least one device. Where
//! nobody can say which device it was, callers with device TLBs go one at a time.
//!
//! Hardware gives up on each invalidation at its own time, and so may complain of a device whose round is long over:
//! callers whose device it is not go again. What it had not read of the device-TLB invalidations of a failed round is
//! taken back.
//!
//! This needs [`Port::timeout`] to be longer than hardware's own limit for a device TLB.

mod group;
#[cfg(any(test, feature = "probe"))]
mod probe;
mod recovery;
mod round;
mod seats;

pub use group::Queue;
#[cfg(any(test, feature = "probe"))]
pub use probe::{Probe, Told};
pub use recovery::Found;

use core::time::Duration;
use iommu_core::hw::{HwError, Wait};

/// Names one wait among all that a queue has had, modulo 2^32.
pub type Marker = u32;

/// The error of a caller whose time is up.
pub const HUNG: HwError = HwError::TimedOut(Wait::Completion);

/// The memory of a queue. Everything in it takes one slot: an item, a fence, a wait.
///
/// A *place* is counted on for ever, as a [`u64`]; the slot is that modulo their number. The queue decides which
/// places are free, the ring what stands in them. Methods that write are called by one CPU at a time, and give `None`,
/// with nothing of use written, where the memory is not there.
pub trait Ring {
    /// One invalidation, as hardware takes it.
    type Item: Copy;
    /// What is known of the items before, as far as it decides where a fence belongs.
    type Order: Default;

    /// [`HwError::Queue`] code of a device TLB that did not answer; the entry is the device.
    const TIMED_OUT: u8;

    /// [Positions](Port::position) are places modulo this: the number of slots, or twice that where hardware counts how often
    /// it went round.
    fn period(&self) -> u64;

    /// Most slots that items of one round take. The wait comes on top, and where a full ring would look like an empty one a
    /// slot stays free.
    fn most(&self) -> u64;

    /// Whether a fence belongs before `item`.
    fn fence_before(order: &mut Self::Order, item: &Self::Item) -> bool;

    /// The device whose TLB `item` is about.
    fn device(item: &Self::Item) -> Option<u32>;

    /// The same, of what stands at `place`.
    fn device_at(&self, place: u64) -> Option<u32>;

    /// Whether what stands at `place` is done once hardware has read it, and must not be given a second time.
    fn is_once_at(&self, place: u64) -> bool {
        let _ = place;
        false
    }

    /// Whether at `place` stands a fence or a wait, before whose end everything in front of it is done.
    fn is_fence_at(&self, place: u64) -> bool;

    /// What to report of `place` where hardware refuses it.
    fn first_word(&self, place: u64) -> u64;

    /// Writes an item.
    fn write(&self, place: u64, item: &Self::Item) -> Option<()>;

    /// Writes what lets nothing behind it start before everything in front of it is done, and is harmless anywhere.
    fn write_fence(&self, place: u64) -> Option<()>;

    /// Writes a wait: hardware confirms by it that everything in front of it is done. `again`: one that stood here was
    /// refused, or stands behind a fence that took an item's place.
    fn write_wait(&self, place: u64, marker: Marker, again: bool) -> Option<()>;

    /// The `count` slots from `first` on are as hardware is to read them.
    fn written(&self, first: u64, count: u64) {
        let _ = (first, count);
    }

    /// The marker of the wait at `place`, where that of the wait before it is `last`.
    fn marker(&self, last: Marker, place: u64) -> Marker;
}

/// The registers of a queue. Only the caller that leads uses them.
pub trait Port<M: Ring> {
    /// Hardware has [read](Port::position) a wait when it is complete, and not before.
    const READ_IS_DONE: bool;

    /// How long one attempt of a caller waits for hardware.
    fn timeout(&self) -> Duration;

    /// Tells hardware of everything in front of the place `end`.
    fn ring_doorbell(&self, ring: &M, end: u64);

    /// Whether the wait at `place` was confirmed with `marker`. What hardware did before is visible then. Called at each poll.
    fn is_complete(&self, ring: &M, place: u64, marker: Marker) -> bool;

    /// What hardware complains of. It stands still, or drops what it works on, until told to [go on](Port::resume).
    fn look(&self, ring: &M) -> Option<Found>;

    /// The place that hardware reads next, modulo [`Ring::period`]; `None` where it says what cannot be.
    fn position(&self, ring: &M) -> Option<u64>;

    /// Clears what it complained of, and has hardware go on up to the place `end`.
    fn resume(&self, ring: &M, found: Found, end: u64);
}

/// Slots that items take, fences included.
fn slots<M: Ring>(part: &[M::Item]) -> u64 {
    let mut order = M::Order::default();
    part.iter().map(|item| 1 + u64::from(M::fence_before(&mut order, item))).sum()
}

/// The longest beginning of a batch that takes at most `most` slots, and the rest.
fn split<M: Ring>(batch: &[M::Item], most: u64) -> (&[M::Item], &[M::Item]) {
    let mut order = M::Order::default();
    let mut taken = 0;
    let fits = batch.iter().take_while(|item| {
        taken += 1 + u64::from(M::fence_before(&mut order, item));
        taken <= most
    });
    batch.split_at(fits.count())
}

/// Writes items from `place` on, with the fences that they need among them.
fn write_all<M: Ring>(ring: &M, first: u64, part: &[M::Item]) -> Option<()> {
    let mut order = M::Order::default();
    let mut place = first;
    for item in part {
        if M::fence_before(&mut order, item) {
            ring.write_fence(place)?;
            place += 1;
        }
        ring.write(place, item)?;
        place += 1;
    }
    ring.written(first, place - first);
    Some(())
}

#[cfg(test)]
mod tests;
