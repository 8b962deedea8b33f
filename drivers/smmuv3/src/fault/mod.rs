//! The event queue (sections 3.5 and 7.2): read, decoded and given back to hardware.
//!
//! Takes no lock but its own and, without waiting for it, that of the error register, so that it can run in interrupt
//! context while a map, an unmap or an attach is under way.

use crate::errors::ErrorLog;
use crate::queue::queue_base;
use crate::regs::Regs;
use crate::spec::event::{EVENT_WORDS, EventWord0, EventWord1, reason};
use crate::spec::registers::*;
use core::mem::ManuallyDrop;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{AccessKind, Fault, FaultReport, HwError, Pasid, Stream, StreamId};
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use spin::Mutex;

/// log2 of the events in the queue, where the unit has room for as many: 1024 of 32 bytes. One large access may be
/// reported in many pieces.
const LOG2_SLOTS: u8 = 10;
/// log2 of the bytes in an event, and in a frame.
const EVENT_LOG2: u8 = 5;
const FRAME_LOG2: u8 = 12;

/// The event queue of one unit.
pub(crate) struct Faults<H: Hal> {
    reader: Mutex<Reader<H>>,
    base: PhysAddr,
    log2_slots: u8,
    allocate: bool,
}

/// Who reads the queue, one at a time.
struct Reader<H: Hal> {
    // Hardware writes to it as long as the queue is on, which nobody turns off.
    ring: ManuallyDrop<Frames<H>>,
    /// Index and wrap bit of the next event.
    next: u32,
    /// The overflow flag that was acknowledged last.
    overflow: u32,
}

impl<H: Hal + Clone> Faults<H> {
    /// Allocates the queue, of at most 2^`most_log2` events.
    pub(crate) fn new(hal: &H, request: FrameRequest, most_log2: u8) -> Result<Self, HwError> {
        let log2_slots = LOG2_SLOTS.min(most_log2);
        let order = (log2_slots + EVENT_LOG2).saturating_sub(FRAME_LOG2);
        let ring = Frames::alloc(hal.clone(), FrameRequest { order, ..request }).ok_or(HwError::OutOfMemory)?;
        let (base, allocate) = (ring.phys(), request.memory == WalkerMemory::Coherent);
        let reader = Reader { ring: ManuallyDrop::new(ring), next: 0, overflow: 0 };
        Ok(Self { reader: Mutex::new(reader), base, log2_slots, allocate })
    }

    /// Points the unit at the empty queue, which must be off.
    pub(crate) fn install<R: Registers>(&self, regs: &Regs<R>) {
        regs.io().write64(EVENTQ_BASE_REG, queue_base(self.base, self.log2_slots, self.allocate));
        regs.io().write32(EVENTQ_PROD_REG, 0);
        regs.io().write32(EVENTQ_CONS_REG, 0);
    }

    /// The first frame that hardware writes events to.
    pub(crate) fn frame(&self) -> PhysAddr {
        self.base
    }

    /// Gives the memory back, which hardware no longer writes to.
    pub(crate) fn give_back(self) {
        drop(ManuallyDrop::into_inner(self.reader.into_inner().ring));
    }

    /// Hands pending events to `sink`, oldest first, at most as many as the queue holds.
    pub(crate) fn report<R: Registers>(
        &self,
        regs: &Regs<R>,
        errors: &ErrorLog,
        sink: &mut dyn FnMut(&Fault),
    ) -> FaultReport {
        let mut report = FaultReport::default();
        let Some(mut reader) = self.reader.try_lock() else {
            report.more = true;
            return report;
        };
        report.lost = errors.collect(regs).lost_events();
        let io = regs.io();
        let produced = io.read32(EVENTQ_PROD_REG);
        if produced == u32::MAX {
            // Nobody answers: the reserved bits of a unit that is there read zero.
            return report;
        }
        let mask = (2 << self.log2_slots) - 1;
        let overflow = produced & EVENTQ::OVERFLOW::SET.value;
        let mut left = produced.wrapping_sub(reader.next) & mask;
        if left > 1 << self.log2_slots {
            // More than fit: hardware contradicts itself. Start anew from where it says it is.
            reader.next = produced & mask;
            report.lost = true;
            left = 0;
        }
        report.lost |= overflow != reader.overflow;
        if left == 0 && report.lost {
            reader.overflow = overflow;
            io.write32(EVENTQ_CONS_REG, reader.next | overflow);
        }
        for _ in 0..left {
            let event = reader.event(self.log2_slots);
            reader.next = (reader.next + 1) & mask;
            reader.overflow = overflow;
            // Read whole by now: hardware may write another in its place.
            io.write32(EVENTQ_CONS_REG, reader.next | overflow);
            sink(&decode(event));
            report.reported += 1;
        }
        let produced = io.read32(EVENTQ_PROD_REG);
        report.more = produced != u32::MAX && produced & mask != reader.next;
        report
    }
}

impl<H: Hal> Reader<H> {
    fn event(&mut self, log2_slots: u8) -> [u64; EVENT_WORDS] {
        let slot = (self.next & ((1 << log2_slots) - 1)) as usize;
        let ring = self.ring.ring();
        core::array::from_fn(|word| ring.load(slot * EVENT_WORDS + word).unwrap_or(0))
    }
}

/// An event in the core's terms. One that tells of no single access has address 0 with granularity 0, and is called a
/// write.
fn decode([word0, word1, address, _]: [u64; EVENT_WORDS]) -> Fault {
    let (event, access) = (EventWord0::from(word0), EventWord1::from(word1));
    let (kind, text, has_address) = reason(event.number(), access.stage2());
    let pasid = if event.substream_valid() { Pasid::new(event.substream()) } else { None };
    Fault {
        stream: Stream { id: StreamId::new(event.stream()), pasid },
        iova: Iova::new(if has_address { address } else { 0 }),
        granule: has_address.into(),
        access: match (access.read(), access.instruction()) {
            _ if !has_address => AccessKind::Write,
            (true, true) => AccessKind::Execute,
            (true, false) => AccessKind::Read,
            (false, _) => AccessKind::Write,
        },
        kind,
        code: event.number().into(),
        text,
        stalled: access.stall().then_some(access.stall_tag()).filter(|_| has_address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_core::hw::FaultKind;

    #[test]
    fn fields_are_where_the_specification_says() {
        let fault = decode([0x10 | 0x0123 << 32, 1 << 35 | 2 << 40, 0x1234_5678_9abc, 0]);
        assert_eq!(fault.stream, Stream::function(StreamId::new(0x123)));
        assert_eq!((fault.iova, fault.granule), (Iova::new(0x1234_5678_9abc), 1));
        assert_eq!((fault.access, fault.kind, fault.code), (AccessKind::Read, FaultKind::NotMapped, 0x10));
        assert_eq!(fault.text, "not mapped in stage 1 (F_TRANSLATION)");
        let second = decode([0x13 | 0xffff_ffff << 32, 1 << 39 | 2 << 40, 0x1000, 0x7000]);
        assert_eq!((second.access, second.kind, second.code), (AccessKind::Write, FaultKind::Permission, 0x13));
        assert_eq!((second.stream.id.get(), second.text), (u32::MAX, "no permission in stage 2 (F_PERMISSION)"));
        assert_eq!(decode([0x13, 1 << 34 | 1 << 35, 0, 0]).access, AccessKind::Execute);
        assert_eq!(decode([0x13, 1 << 34, 0, 0]).access, AccessKind::Write);
        let tagged = decode([0x10 | 1 << 11 | 0xf_1234 << 12, 0, 0, 0]);
        assert_eq!(tagged.stream, Stream::with_pasid(StreamId::new(0), Pasid::new(0xf_1234).unwrap()));
        assert_eq!(decode([0x10 | 0xf_1234 << 12, 0, 0, 0]).stream.pasid, None);
    }

    #[test]
    fn events_of_no_access_have_no_address() {
        let bad = decode([0x02 | 7 << 32, 1 << 35, 0x5000, 0x6000]);
        assert_eq!((bad.kind, bad.iova, bad.granule), (FaultKind::Blocked, Iova::new(0), 0));
        assert_eq!(bad.access, AccessKind::Write);
        assert_eq!(decode([0x04, 0, 0, 0]).kind, FaultKind::Structure);
        assert_eq!(decode([0xff, 0, 0, 0]).kind, FaultKind::Unknown);
        assert_eq!(decode([0xe5, 0, 0, 0]).text, "an event of this implementation");
    }
}
