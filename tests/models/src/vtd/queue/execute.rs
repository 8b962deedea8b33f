//! What descriptors do.

use crate::vtd::Message;
use crate::vtd::command;
use crate::vtd::descriptor::{Descriptor, Granularity};
use crate::vtd::fault::status;
use crate::vtd::switches::Queue;
use crate::vtd::unit::Unit;
use crate::vtd::violation::Violation;
use iommu_core::addr::PhysAddr;

impl Unit {
    /// Executes the descriptor that [`Unit::advance`] gave.
    pub(in crate::vtd) fn execute_ready(&mut self) {
        if let Some(fetched) = self.queue.ready.take() {
            let done = self.execute(fetched.raw[0], &fetched.descriptor);
            self.log.push(fetched.log(done));
        }
    }

    /// Does what the descriptor says; whether it took effect.
    fn execute(&mut self, low: u64, descriptor: &Descriptor) -> bool {
        // Section 6.5.2.11: nothing behind a device-TLB invalidation that timed out is sure to be executed.
        if self.timing_out.is_some() {
            if matches!(descriptor, Descriptor::Wait { .. }) {
                self.time_out();
            }
            return false;
        }
        match *descriptor {
            Descriptor::Wait { status, interrupt, .. } => return self.complete(status, interrupt),
            Descriptor::DeviceTlb { source, .. } | Descriptor::PasidDeviceTlb { source, .. } => {
                self.check_device_tlb(low, descriptor);
                if self.does_not_answer(source) {
                    self.timing_out = Some(source);
                    return false;
                }
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
        self.apply(descriptor);
        true
    }

    /// Drops what `descriptor` covers, with what goes before: the write buffer is flushed (section 6.8).
    pub(in crate::vtd) fn apply(&mut self, descriptor: &Descriptor) {
        match *descriptor {
            Descriptor::ContextCache(_)
            | Descriptor::PasidCache(_)
            | Descriptor::Iotlb { .. }
            | Descriptor::PasidIotlb(_)
            | Descriptor::InterruptEntries { .. } => self.memory.flush_write_buffer(),
            _ => {}
        }
        self.caches.invalidate(descriptor, self.root >> 10 & 3 == 1);
        self.device_tlbs.invalidate(descriptor);
        self.drain(descriptor);
    }

    fn check_device_tlb(&mut self, low: u64, descriptor: &Descriptor) {
        if self.status_bits & command::TRANSLATION == 0 {
            self.violations.push(Violation::DeviceTlbWhileDisabled { descriptor: low });
        }
        let throttled = self.config.ecap_bit(41);
        let found = self.device_tlbs.check(low, descriptor, throttled);
        self.violations.extend(found);
    }

    fn does_not_answer(&mut self, source: u16) -> bool {
        if self.switches.silent.contains(&source) {
            return true;
        }
        match &mut self.switches.time_out_after {
            Some(0) => {
                self.switches.time_out_after = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn complete(&mut self, report: Option<(PhysAddr, u32)>, interrupt: bool) -> bool {
        if self.queue.pending.iter().any(super::Fetched::is_wait) {
            self.queue.looks = self.switches.wait_looks;
        }
        if self.switches.queue == Queue::Mute {
            return false;
        }
        match &mut self.switches.drop_after {
            Some(0) => {
                self.switches.drop_after = None;
                return false;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.drained();
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

    /// Reports a device TLB that did not answer, where one did not: waits that were fetched are aborted, and what else
    /// was is not executed.
    pub(super) fn time_out(&mut self) {
        let Some(source) = self.timing_out.take() else { return };
        let aborted = core::mem::take(&mut self.queue.pending);
        self.log.extend(aborted.iter().map(|fetched| fetched.log(false)));
        self.queue.looks = 0;
        if self.status & status::TIME_OUT == 0 && !self.switches.anonymous {
            self.error_record = self.error_record & !(0xffff << 32) | u64::from(source) << 32;
        }
        self.set_status(status::TIME_OUT);
    }
}
