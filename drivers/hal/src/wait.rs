//! Deadlines: no wait for hardware is without one.

use crate::Hal;
use core::time::Duration;

/// A moment after which a wait gives up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline(u64);

impl Deadline {
    /// The moment `after` from now.
    pub fn after<H: Hal + ?Sized>(hal: &H, after: Duration) -> Self {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Self(hal.now().saturating_add(nanos))
    }

    /// Whether the moment has passed.
    pub fn has_passed<H: Hal + ?Sized>(self, hal: &H) -> bool {
        hal.now() >= self.0
    }
}

/// Polls `ready` until it gives a value or `limit` has passed, then once more: a CPU that was held up between the two
/// looks must not report a time-out that did not happen.
pub fn poll<H: Hal + ?Sized, T>(hal: &H, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Deadline::after(hal, limit);
    loop {
        if let Some(value) = ready() {
            return Some(value);
        }
        if deadline.has_passed(hal) {
            return ready();
        }
        hal.relax();
    }
}
