//! The invalidation queue (section 6.5.2).

use super::Message;
use super::command;
use super::descriptor::{Descriptor, Executed, Granularity, decode, iqei};
use super::fault::status;
use super::model::Queue;
use super::unit::Unit;
use super::violation::Violation;
use iommu_core::addr::PhysAddr;

const IQT: usize = 0x88;

/// The queue's registers as latched by QIE.
#[derive(Default)]
pub(super) struct QueueState {
    /// IQA: base in 63:12, width in 11, size in 2:0.
    pub(super) iqa: u64,
    pub(super) head: u64,
    pub(super) tail: u64,
}

impl QueueState {
    const fn wide(&self) -> bool {
        self.iqa & 1 << 11 != 0
    }

    const fn base(&self) -> u64 {
        self.iqa & !0xfff
    }

    /// Size in bytes.
    const fn size(&self) -> u64 {
        0x1000 << (self.iqa & 7)
    }

    /// Size of a descriptor in bytes.
    const fn step(&self) -> u64 {
        if self.wide() { 32 } else { 16 }
    }
}

impl Unit {
    pub(super) const fn queue_enabled(&self) -> bool {
        self.status_bits & command::QUEUE != 0
    }

    /// QIE was answered.
    pub(super) fn enable_queue(&mut self, enable: bool) {
        if !enable {
            if self.queue.head != self.queue.tail {
                let (iqh, iqt) = (self.queue.head, self.queue.tail);
                self.violations.push(Violation::QueueNotEmpty { iqh, iqt });
            }
            self.queue.head = 0;
            return;
        }
        self.queue.iqa = self.iqa;
        self.queue.head = 0;
        if self.queue.base() & (self.queue.size() - 1) != 0 {
            self.violations.push(Violation::QueueMisaligned { iqa: self.iqa });
        }
        if self.queue.tail != 0 {
            self.violations.push(Violation::TailNotZero { iqt: self.queue.tail });
        }
    }

    /// A write to IQT.
    pub(super) fn set_tail(&mut self, value: u64) {
        if value & !0x7_fff0 != 0 {
            self.violations.push(Violation::ReservedBits { offset: IQT, bits: value & !0x7_fff0 });
        }
        self.queue.tail = value & 0x7_fff0;
        if self.queue_enabled() {
            if self.queue.tail & (self.queue.step() - 1) != 0 {
                self.violations.push(Violation::TailMisaligned { iqt: value });
            } else if self.queue.tail >= self.queue.size() {
                self.violations.push(Violation::TailOutOfRange { iqt: value });
            }
        }
        self.run_queue();
    }

    fn queue_error(&mut self, code: u8) {
        self.error_record = self.error_record & !0xf | u64::from(code);
        self.set_status(status::QUEUE);
    }

    /// Executes descriptors up to the tail, an error, or where a switch stops it.
    pub(super) fn run_queue(&mut self) {
        while self.queue_enabled() && self.status & (status::QUEUE | status::TIME_OUT) == 0 {
            if self.switches.queue == Queue::Stopped || self.switches.stop_after == Some(0) {
                return;
            }
            if let Err(code) = self.check_tail() {
                return self.queue_error(code);
            }
            if self.queue.head == self.queue.tail {
                return self.time_out();
            }
            let (raw, descriptor) = match self.fetch() {
                Ok(fetched) => fetched,
                Err(code) => return self.queue_error(code),
            };
            if let Some(left) = &mut self.switches.stop_after {
                *left -= 1;
            }
            let slot = (self.queue.head / self.queue.step()) as usize;
            self.queue.head = (self.queue.head + self.queue.step()) & (self.queue.size() - 1);
            let done = self.execute(raw[0], &descriptor);
            self.log.push(Executed { slot, raw, descriptor, done });
        }
    }

    fn check_tail(&self) -> Result<(), u8> {
        let scalable = self.root >> 10 & 3 == 1;
        if self.queue.wide() != scalable && (scalable || !self.config.ecap_bit(43)) {
            return Err(iqei::WIDTH);
        }
        if self.queue.tail & (self.queue.step() - 1) != 0 {
            return Err(iqei::TAIL_ALIGNMENT);
        }
        if self.queue.tail >= self.queue.size() { Err(iqei::TAIL) } else { Ok(()) }
    }

    /// Reads and decodes the descriptor at the head.
    fn fetch(&mut self) -> Result<([u64; 4], Descriptor), u8> {
        let mut raw = [0; 4];
        for (index, word) in raw.iter_mut().take(self.queue.step() as usize / 8).enumerate() {
            let phys = PhysAddr::new(self.queue.base() + self.queue.head + index as u64 * 8);
            *word = self.memory.device_read64(phys).ok_or(iqei::FETCH)?;
        }
        if let Some(left) = &mut self.switches.fail_after {
            if *left == 0 {
                self.switches.fail_after = None;
                return Err(iqei::TYPE);
            }
            *left -= 1;
        }
        let scalable = self.root >> 10 & 3 == 1;
        decode(&self.config, self.queue.wide(), scalable, &raw).map(|descriptor| (raw, descriptor))
    }

    /// Does what the descriptor says; whether it took effect.
    fn execute(&mut self, low: u64, descriptor: &Descriptor) -> bool {
        match *descriptor {
            Descriptor::Wait { .. } if self.timing_out.is_some() => {
                // Section 6.5.2.10: waits that were fetched are aborted.
                self.time_out();
                return false;
            }
            Descriptor::Wait { status, interrupt, .. } => return self.complete(status, interrupt),
            Descriptor::DeviceTlb { source, .. } | Descriptor::PasidDeviceTlb { source, .. } => {
                if self.status_bits & command::TRANSLATION == 0 {
                    self.violations.push(Violation::DeviceTlbWhileDisabled { descriptor: low });
                }
                if let Some(left) = &mut self.switches.time_out_after {
                    if *left == 0 {
                        self.switches.time_out_after = None;
                        self.timing_out = Some(source);
                        return false;
                    }
                    *left -= 1;
                }
            }
            Descriptor::ContextCache(Granularity::Domain(_)) if self.root >> 10 & 3 == 1 => {
                self.violations.push(Violation::NoEffect { descriptor: low });
            }
            Descriptor::Iotlb { granularity, .. } | Descriptor::PasidIotlb(granularity) => {
                if let Granularity::Pages { address, mask, .. } = granularity
                    && address & (0x1000u64.checked_shl(mask.into()).unwrap_or(0).wrapping_sub(1)) != 0
                {
                    self.violations.push(Violation::InvalidationMisaligned { address, mask });
                }
            }
            _ => {}
        }
        self.caches.invalidate(&self.widened(descriptor));
        true
    }

    /// Without CAP.PSI a page-selective invalidation of the second stage takes the whole domain.
    fn widened(&self, descriptor: &Descriptor) -> Descriptor {
        match *descriptor {
            Descriptor::Iotlb { granularity: Granularity::Pages { domain, .. }, drain_writes, drain_reads }
                if !self.config.cap_bit(39) =>
            {
                Descriptor::Iotlb { granularity: Granularity::Domain(domain), drain_writes, drain_reads }
            }
            other => other,
        }
    }

    fn complete(&mut self, report: Option<(PhysAddr, u32)>, interrupt: bool) -> bool {
        if self.switches.queue == Queue::Mute {
            return false;
        }
        if let Some((address, data)) = report
            && self.memory.device_write32(address, data).is_none()
        {
            self.violations.push(Violation::StatusNowhere { address });
        }
        if interrupt && !self.wait_done {
            self.wait_done = true;
            if self.completion_event.raise() {
                let event = &self.completion_event;
                self.messages.push(Message { address: event.address, data: event.data });
            }
        }
        true
    }

    /// Reports a device TLB that did not answer, where one did not.
    fn time_out(&mut self) {
        if let Some(source) = self.timing_out.take() {
            self.error_record = self.error_record & !(0xffff << 32) | u64::from(source) << 32;
            self.set_status(status::TIME_OUT);
        }
    }
}
