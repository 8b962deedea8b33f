//! Which ranges of a table are being worked on, and who comes first where two overlap.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use iommu_core::addr::{Iova, IovaRange};

/// Ranges at work at the same time. Whoever comes when there are as many waits until one is done.
const SLOTS: usize = 32;
const _: () = assert!(SLOTS <= u32::BITS as usize, "masks hold a bit for each");

/// Stands in a slot that nobody uses.
const FREE: u64 = 0;

/// A range that is worked on, or waited for.
struct Slot {
    /// Rises from claim to claim; [`FREE`] where there is none.
    ticket: AtomicU64,
    start: AtomicU64,
    last: AtomicU64,
}

impl Slot {
    const fn unused() -> Self {
        Self { ticket: AtomicU64::new(FREE), start: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    /// Whether its range and `range` have an address in common.
    fn overlaps(&self, range: IovaRange) -> bool {
        let (start, last) = (self.start.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        start <= range.last().get() && range.start().get() <= last
    }
}

/// The ranges of one table that are worked on, and those that are waited for. Of two that overlap, the one that was
/// entered first has its turn first: nobody waits for somebody who came later, so nobody waits for ever.
pub(crate) struct Claims {
    /// Somebody is entering a range. Nothing is called and nothing is waited for meanwhile.
    entering: AtomicBool,
    /// The slots from here on are free.
    used: AtomicUsize,
    /// Ticket of the newest claim.
    newest: AtomicU64,
    slots: [Slot; SLOTS],
}

/// A turn at a range; over when it is dropped.
#[must_use]
pub(crate) struct Turn<'c> {
    slot: &'c Slot,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // What was done comes before what the next one does.
        self.slot.ticket.store(FREE, Ordering::Release);
    }
}

impl Claims {
    pub(crate) const fn new() -> Self {
        Self {
            entering: AtomicBool::new(false),
            used: AtomicUsize::new(0),
            newest: AtomicU64::new(FREE),
            slots: [const { Slot::unused() }; SLOTS],
        }
    }

    /// Enters `range`, and returns once no range that overlaps it has a turn. `relax` is called again and again while
    /// that takes time.
    #[inline]
    pub(crate) fn enter(&self, range: IovaRange, relax: impl Fn()) -> Turn<'_> {
        while self.entering.swap(true, Ordering::Acquire) {
            relax();
        }
        // Nobody else is at work, most of the time.
        let [first, ..] = &self.slots;
        if self.used.load(Ordering::Relaxed) <= 1 && first.ticket.load(Ordering::Acquire) == FREE {
            self.put(first, range);
            self.used.store(1, Ordering::Relaxed);
            self.entering.store(false, Ordering::Release);
            return Turn { slot: first };
        }
        self.enter_beside(range, relax)
    }

    /// As [`enter`](Self::enter), where others may be at work. For whoever has set `entering`.
    #[inline(never)]
    fn enter_beside(&self, range: IovaRange, relax: impl Fn()) -> Turn<'_> {
        loop {
            let entered = self.insert(range);
            self.entering.store(false, Ordering::Release);
            if let Some((slot, ticket, before)) = entered {
                let turn = Turn { slot };
                self.wait_for(before, ticket, relax);
                return turn;
            }
            relax();
            while self.entering.swap(true, Ordering::Acquire) {
                relax();
            }
        }
    }

    /// Puts `range` in a slot. Returns that, the ticket, and a mask of the slots of ranges that overlap it; `None` where
    /// no slot is free. For whoever has set `entering`.
    fn insert(&self, range: IovaRange) -> Option<(&Slot, u64, u32)> {
        let used = self.used.load(Ordering::Relaxed);
        let (mut free, mut end, mut before) = (used, 0, 0);
        for (at, slot) in self.slots.iter().enumerate().take(used) {
            if slot.ticket.load(Ordering::Acquire) == FREE {
                free = free.min(at);
                continue;
            }
            end = at + 1;
            if slot.overlaps(range) {
                before |= 1 << at;
            }
        }
        let slot = self.slots.get(free)?;
        self.used.store(end.max(free + 1), Ordering::Relaxed);
        Some((slot, self.put(slot, range), before))
    }

    /// Puts `range` in a slot that is free, and returns the ticket. For whoever has set `entering`.
    #[inline]
    fn put(&self, slot: &Slot, range: IovaRange) -> u64 {
        // 2^64 claims are not reached in the lifetime of a machine.
        let ticket = self.newest.load(Ordering::Relaxed).wrapping_add(1);
        self.newest.store(ticket, Ordering::Relaxed);
        slot.start.store(range.start().get(), Ordering::Relaxed);
        slot.last.store(range.last().get(), Ordering::Relaxed);
        // Who waits for the one that had the slot before may see this in its place: what that one did comes first.
        slot.ticket.store(ticket, Ordering::Release);
        ticket
    }

    /// Waits until none of the claims is left that stood in the slots of the mask `before` when `ticket` was given out.
    /// One that has come into such a slot since has a higher ticket.
    fn wait_for(&self, before: u32, ticket: u64, relax: impl Fn()) {
        let slots = self.slots.iter().enumerate().filter(|(at, _)| before & 1 << at != 0);
        for (_, slot) in slots {
            while (FREE + 1..ticket).contains(&slot.ticket.load(Ordering::Acquire)) {
                relax();
            }
        }
    }
}

/// What of `range` lies in `aperture`; where nothing does, the first address of that.
#[inline]
pub(crate) fn part_of(aperture: IovaRange, range: Option<IovaRange>) -> IovaRange {
    match range {
        Some(range) if aperture.covers(range) => range,
        other => cut_off(aperture, other),
    }
}

#[cold]
fn cut_off(aperture: IovaRange, range: Option<IovaRange>) -> IovaRange {
    let first: Iova = aperture.start();
    let inside = range.and_then(|range| IovaRange::new(range.start().max(first), range.last().min(aperture.last())));
    inside.or_else(|| IovaRange::new(first, first)).unwrap_or(aperture)
}

#[cfg(test)]
mod tests;
