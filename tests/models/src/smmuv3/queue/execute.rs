//! What commands do.

use super::Fetched;
use crate::smmuv3::command::Command;
use crate::smmuv3::control;
use crate::smmuv3::interrupt::{Interrupt, Message, Source};
use crate::smmuv3::unit::Unit;
use crate::smmuv3::violation::Violation;
use crate::smmuv3::walk::{FaultCode, Request};
use iommu_core::addr::PhysAddr;

/// GERROR.MSI_CMDQ_ABT_ERR.
const MSI_CMDQ_ABT: u32 = 1 << 4;

impl Unit {
    /// An invalidation was consumed: from now on it may take effect.
    pub(super) fn begin(&mut self, fetched: Fetched) {
        if let Command::AtcInvalidate { sid, .. } = fetched.command {
            // Section 4.5.1: ignored with SMMUEN clear.
            if self.cr0.actual & control::SMMUEN == 0 {
                return;
            }
            if self.does_not_answer(sid) {
                self.queue.timing_out = true;
                return;
            }
        }
        self.queue.pending.push(fetched);
    }

    fn does_not_answer(&mut self, sid: u32) -> bool {
        if self.switches.silent.contains(&sid) {
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

    /// A CMD_SYNC was met.
    pub(super) fn begin_sync(&mut self, fetched: Fetched) {
        self.queue.sync = Some(fetched);
        let pending = self.queue.pending.iter().map(|done| &done.command);
        self.queue.looks = self.switches.sync_looks.max(self.device_tlbs.looks(pending));
        if self.switches.translations_first && self.queue.inputs.is_empty() {
            self.queue.inputs = self.caches.inputs();
        }
    }

    /// What is done at once, and done when it is consumed.
    pub(super) fn perform(&mut self, command: &Command) {
        match *command {
            Command::Prefetch { sid, ssid, address } => self.prefetch(sid, ssid, address),
            Command::PageResponse { .. } => self.page_response(command),
            Command::Resume { sid, tag, action } => self.resume(sid, tag, action),
            Command::StallTerminate { sid } => self.terminate_stalls(sid),
            _ => {}
        }
    }

    /// Lets the command that [`Unit::advance`] gave take effect.
    pub(in crate::smmuv3) fn execute_ready(&mut self) {
        let Some(fetched) = self.queue.ready.take() else { return };
        match fetched.command {
            Command::Sync { signal, message } => {
                self.queue.inputs.clear();
                // The message is there before the consumer moves, and both before anybody looks.
                self.signal(signal, message);
                self.consume_command(&fetched);
                self.settle_stalls();
            }
            command => self.apply(&command),
        }
    }

    fn apply(&mut self, command: &Command) {
        match command {
            Command::ConfigAll => self.unknown[0] = false,
            Command::TlbiEverything => self.unknown[1] = false,
            Command::TlbiEl2All => self.unknown[2] = false,
            _ => {}
        }
        if command.is_configuration() && !self.queue.inputs.is_empty() {
            let inputs = core::mem::take(&mut self.queue.inputs);
            self.ask_again(&inputs);
        }
        self.stale_stalls();
        let found = self.caches.invalidate(command);
        self.violations.extend(found);
        self.invalidate_device_tlbs(command);
    }

    /// Fills caches ahead of time, without a record of what goes wrong (section 4.2).
    fn prefetch(&mut self, sid: u32, ssid: Option<u32>, address: Option<u64>) {
        if self.cr0.actual & control::SMMUEN != 0 {
            let _ = self.look_up(sid, ssid, address.unwrap_or(0));
        }
    }

    /// What a read that nobody is told of would meet; caches are filled.
    pub(in crate::smmuv3) fn look_up(&mut self, sid: u32, ssid: Option<u32>, iova: u64) -> Result<(), FaultCode> {
        self.translate(Request { sid, ssid, iova, write: false }).map(drop).map_err(|refused| refused.code)
    }

    /// Reports a CMD_SYNC that asked for it.
    fn signal(&mut self, signal: u8, message: Option<(u64, u32)>) {
        match &mut self.switches.drop_after {
            Some(0) => {
                self.switches.drop_after = None;
                return;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if signal == 2 {
            self.wake();
        }
        if signal != 1 {
            return;
        }
        let Some((address, data)) = message else {
            return self.interrupts.push(Interrupt { source: Source::Sync, message: None });
        };
        if self.switches.aborted_messages.contains(&Source::Sync) {
            return self.global_error(MSI_CMDQ_ABT);
        }
        if self.memory.device_write32(PhysAddr::new(address), data).is_none() {
            self.violations.push(Violation::MessageNowhere { address });
            return self.global_error(MSI_CMDQ_ABT);
        }
        self.interrupts.push(Interrupt { source: Source::Sync, message: Some(Message { address, data }) });
    }

    /// Wakes waiting CPUs, where the unit can (IDR0.SEV).
    pub(super) fn wake(&mut self) {
        if self.config.idr0 >> 14 & 1 != 0 {
            self.wake_ups += 1;
        }
    }
}
