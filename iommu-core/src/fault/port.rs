//! One stream on its way to one queue: what outlives a single report.

use super::pool::NONE;
use crate::hw::{PageResponse, ResponseCode, Stream, Unit};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Groups of one stream that are open at a time, their last request still to come.
pub(super) const MOST_OPEN: usize = 16;

/// Numbers that a device has for its groups: 9 bits (PCIe, page request message).
const NUMBERS: u16 = 512;

/// A set of the device's group numbers. Larger ones, which a group of several requests never has, are never in it.
pub(super) struct Numbers([AtomicU64; NUMBERS as usize / 64]);

impl Numbers {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; NUMBERS as usize / 64])
    }

    fn word(&self, number: u16) -> Option<(&AtomicU64, u64)> {
        Some((self.0.get(usize::from(number / 64))?, 1 << (number % 64)))
    }

    pub(super) fn insert(&self, number: u16) {
        if let Some((word, bit)) = self.word(number) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Release);
        }
    }

    pub(super) fn contains(&self, number: u16) -> bool {
        self.word(number).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Takes `number` out; whether it was there.
    pub(super) fn remove(&self, number: u16) -> bool {
        self.word(number).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }
}

/// The stream, and where its groups stand. `open` and `groups` change under the queue's lock only; atomics, as the queue
/// has no part of its own for each stream. The sets are also for reporters that could not get that lock.
pub(super) struct Port {
    pub(super) stream: Stream,
    pub(super) unit: Arc<dyn Unit>,
    /// Places of the open groups; [`NONE`] where there is none.
    pub(super) open: [AtomicU32; MOST_OPEN],
    /// Groups that have a place, open ones too.
    pub(super) groups: AtomicU32,
    /// Groups that will be refused once their last request comes, as they can not be delivered whole.
    pub(super) void: Numbers,
    /// Groups that were refused while the queue could not be reached: what it holds of them is of the past.
    pub(super) stale: Numbers,
    /// Answers of the owner on their way to the unit.
    pub(super) answering: AtomicU32,
    /// Takes no page requests: what another queue holds of them is not known here yet.
    pub(super) waiting: AtomicBool,
    /// Reporters may find it, or a queue may have groups of it.
    in_use: AtomicBool,
}

impl Port {
    /// Not in use.
    pub(super) fn new(unit: Arc<dyn Unit>, stream: Stream) -> Self {
        Self {
            stream,
            unit,
            open: [const { AtomicU32::new(NONE) }; MOST_OPEN],
            groups: AtomicU32::new(0),
            void: Numbers::new(),
            stale: Numbers::new(),
            answering: AtomicU32::new(0),
            waiting: AtomicBool::new(true),
            in_use: AtomicBool::new(false),
        }
    }

    /// Makes it ready to be found by reporters; it takes no page requests until [`Port::begin`]. False where it is in use.
    pub(super) fn start(&self) -> bool {
        if self.in_use.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.waiting.store(true, Ordering::Release);
        self.void.clear();
        self.stale.clear();
        true
    }

    /// It was closed: nobody finds it, and no group of it is left.
    pub(super) fn end(&self) {
        self.in_use.store(false, Ordering::Release);
    }

    /// A request of group `number` could not be taken in: notes that the group is not to be delivered, as it is no longer
    /// whole. Whether it is over and must be refused now.
    pub(super) fn refuse(&self, number: u16, last: bool) -> bool {
        if last {
            self.void.remove(number);
            self.stale.insert(number);
        } else {
            self.void.insert(number);
        }
        last
    }

    /// Takes page requests from now on. What `old`, which no reporter finds any more, had begun and the device has not
    /// ended will be refused. `is_open` says which groups it holds requests of.
    pub(super) fn begin(&self, old: Option<&Self>, is_open: impl Fn(u16) -> bool) {
        if let Some(old) = old {
            for number in 0..NUMBERS {
                let begun = old.void.contains(number) || (is_open(number) && !old.stale.contains(number));
                // Where it is stale here, its last request has come meanwhile.
                if begun && !self.stale.remove(number) {
                    self.void.insert(number);
                }
            }
        }
        self.waiting.store(false, Ordering::Release);
    }

    /// Tells the unit how the group `number` ended. No lock is held.
    pub(super) fn answer(&self, number: u16, code: ResponseCode) -> Result<(), crate::hw::HwError> {
        self.unit.respond(&PageResponse { stream: self.stream, group: number, code })
    }
}
