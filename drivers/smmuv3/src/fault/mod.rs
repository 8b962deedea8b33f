//! The event queue (sections 3.5 and 7.2): read, decoded and given back to hardware, polled or in answer to the unit's
//! interrupt.
//!
//! * here: the queue.
//! * [`record`]: one event.
//! * [`stalls`]: accesses that wait for an answer, and what becomes of them when their stream leaves.
//! * [`interrupt`]: how the unit tells of all this.
//!
//! Takes no lock but its own and, without waiting for it, that of the error register, so that it can run in interrupt
//! context while a map, an unmap or an attach is under way.

mod interrupt;
mod record;
mod stalls;
#[cfg(test)]
mod tests;

pub use interrupt::{Interrupts, MsiMessage};
pub use record::EventRecord;
pub(crate) use stalls::Answers;

use crate::errors::{Condition, ErrorLog};
use crate::queue::queue_base;
use crate::regs::Regs;
use crate::spec::event::EVENT_WORDS;
use crate::spec::registers::*;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{FaultReport, HwError};
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use spin::Mutex;

/// log2 of the most events in the queue, where the unit has room for as many: 1024 of 32 bytes. One large access may be
/// reported in many pieces.
pub(crate) const MOST_LOG2: u8 = 10;
/// log2 of the bytes in an event, and in a frame.
const EVENT_LOG2: u8 = 5;
const FRAME_LOG2: u8 = 12;
/// Slots whose bits stand in one word.
const WORD_BITS: usize = u64::BITS as usize;

/// The event queue of one unit.
pub(crate) struct Faults<H: Hal> {
    /// Keeps two readers from taking events in turn. Nobody waits for it.
    reading: Mutex<()>,
    /// Somebody came while another was reading, and went without a look.
    missed: AtomicBool,
    reader: Mutex<Reader<H>>,
    /// Answers to stalled accesses that were not sent yet.
    pub(crate) answers: Answers,
    base: PhysAddr,
    log2_slots: u8,
    allocate: bool,
}

/// Where reading is. Held for looks and marks, never while a sink is called.
struct Reader<H: Hal> {
    // Hardware writes to it as long as the queue is on, and nothing confirms the end of that.
    ring: ManuallyDrop<Frames<H>>,
    /// Index and wrap bit of the next event.
    next: u32,
    /// The overflow flag that was acknowledged last.
    overflow: u32,
    /// Slots with an event whose stall is over, though it says that it stalls.
    ended: [u64; (1 << MOST_LOG2) / WORD_BITS],
}

impl<H: Hal + Clone> Faults<H> {
    /// Allocates the queue, of at most 2^`most_log2` events.
    pub(crate) fn new(hal: &H, request: FrameRequest, most_log2: u8) -> Result<Self, HwError> {
        let log2_slots = MOST_LOG2.min(most_log2);
        let order = (log2_slots + EVENT_LOG2).saturating_sub(FRAME_LOG2);
        let ring = Frames::alloc(hal.clone(), FrameRequest { order, ..request }).ok_or(HwError::OutOfMemory)?;
        let (base, allocate) = (ring.phys(), request.memory == WalkerMemory::Coherent);
        let ring = ManuallyDrop::new(ring);
        let reader = Reader { ring, next: 0, overflow: 0, ended: [0; _] };
        Ok(Self {
            reading: Mutex::new(()),
            missed: AtomicBool::new(false),
            reader: Mutex::new(reader),
            answers: Answers::new(),
            base,
            log2_slots,
            allocate,
        })
    }

    /// Points the unit at the empty queue, which must be off.
    pub(crate) fn install<R: Registers>(&self, regs: &Regs<R>) {
        regs.io().write64(EVENTQ_BASE_REG, queue_base(self.base, self.log2_slots, self.allocate));
        regs.write_event_index(EVENTQ_PROD_REG, 0);
        regs.write_event_index(EVENTQ_CONS_REG, 0);
    }

    /// The first frame that hardware writes events to.
    pub(crate) fn frame(&self) -> PhysAddr {
        self.base
    }

    /// Gives the memory back, which hardware no longer writes to.
    pub(crate) fn give_back(self) {
        drop(ManuallyDrop::into_inner(self.reader.into_inner().ring));
    }

    /// Hands pending events to `sink`, oldest first, at most as many as the queue holds. Where somebody else is at it, hands
    /// over none: both are told that there is more.
    pub(crate) fn report<R: Registers>(
        &self,
        regs: &Regs<R>,
        errors: &ErrorLog,
        sink: &mut dyn FnMut(&EventRecord),
    ) -> FaultReport {
        if errors.condition() == Condition::ShutDown {
            // The registers may be another's by now.
            return FaultReport::default();
        }
        // Before the try: whoever holds the lock now looks at this once it has given it back.
        self.missed.store(true, Ordering::SeqCst);
        let Some(reading) = self.reading.try_lock() else {
            return FaultReport { more: true, ..FaultReport::default() };
        };
        self.missed.store(false, Ordering::SeqCst);
        let mut report = self.drain(regs, errors, sink);
        drop(reading);
        // The event that brought the other one here may have come after the last look, and its interrupt is spent.
        report.more |= self.missed.swap(false, Ordering::SeqCst);
        report
    }

    fn drain<R: Registers>(
        &self,
        regs: &Regs<R>,
        errors: &ErrorLog,
        sink: &mut dyn FnMut(&EventRecord),
    ) -> FaultReport {
        let mut report = FaultReport { lost: errors.collect(regs).lost_events(), ..FaultReport::default() };
        let Some(left) = self.look(regs, &mut report) else { return report };
        for _ in 0..left {
            let Some(event) = self.take(regs) else {
                // Somebody has just stopped to look, on this CPU or another.
                report.more = true;
                return report;
            };
            sink(&event);
            report.reported += 1;
        }
        let produced = regs.event_index(EVENTQ_PROD_REG);
        let next = self.reader.try_lock().map(|reader| reader.next);
        report.more = produced != u32::MAX && next.is_none_or(|next| produced & self.mask() != next);
        report
    }

    /// How many events there are to take; `None` where nobody answers.
    fn look<R: Registers>(&self, regs: &Regs<R>, report: &mut FaultReport) -> Option<u32> {
        let Some(mut reader) = self.reader.try_lock() else {
            report.more = true;
            return None;
        };
        let produced = regs.event_index(EVENTQ_PROD_REG);
        if produced == u32::MAX {
            // The reserved bits of a unit that is there read zero.
            return None;
        }
        let mut left = produced.wrapping_sub(reader.next) & self.mask();
        if left > 1 << self.log2_slots {
            // More than fit: hardware contradicts itself. Start anew from where it says it is.
            reader.next = produced & self.mask();
            reader.ended = [0; _];
            report.lost = true;
            left = 0;
        }
        let overflow = produced & EVENTQ::OVERFLOW::SET.value;
        report.lost |= overflow != reader.overflow;
        reader.overflow = overflow;
        if left == 0 && report.lost {
            regs.write_event_index(EVENTQ_CONS_REG, reader.next | overflow);
        }
        Some(left)
    }

    /// Takes the next event, which there is; `None` where another has the reader.
    fn take<R: Registers>(&self, regs: &Regs<R>) -> Option<EventRecord> {
        let mut reader = self.reader.try_lock()?;
        let at = reader.next;
        let event = reader.event(at, self.log2_slots);
        let over = reader.mark(at, self.log2_slots, false);
        reader.next = (at + 1) & self.mask();
        // Read whole by now: hardware may write another in its place.
        regs.write_event_index(EVENTQ_CONS_REG, reader.next | reader.overflow);
        Some(event.ended(over))
    }

    /// Index and wrap bit.
    fn mask(&self) -> u32 {
        (2 << self.log2_slots) - 1
    }
}

impl<H: Hal> Reader<H> {
    fn event(&mut self, index: u32, log2_slots: u8) -> EventRecord {
        let slot = (index & ((1 << log2_slots) - 1)) as usize;
        let ring = self.ring.ring();
        EventRecord::new(core::array::from_fn(|word| ring.load(slot * EVENT_WORDS + word).unwrap_or(0)))
    }

    /// Notes whether the stall of the event at `index` is over; what was noted before.
    fn mark(&mut self, index: u32, log2_slots: u8, over: bool) -> bool {
        let slot = (index & ((1 << log2_slots) - 1)) as usize;
        let Some(word) = self.ended.get_mut(slot / WORD_BITS) else { return false };
        let bit = 1 << (slot % WORD_BITS);
        let before = *word & bit != 0;
        *word = if over { *word | bit } else { *word & !bit };
        before
    }
}
