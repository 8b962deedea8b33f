//! The command queue (sections 3.5, 4 and 7.1).

use super::command::{Command, Executed, decode};
use super::control;
use super::interrupt::{Interrupt, Message, Source};
use super::switches::Queue;
use super::unit::Unit;
use super::violation::Violation;
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;

/// CERROR codes.
const ILLEGAL: u32 = 1;
const ABORT: u32 = 2;
const ATC_TIME_OUT: u32 = 3;

/// Opcode of CMD_SYNC.
const SYNC: u64 = 0x46;

/// GERROR.CMDQ_ERR.
const CMDQ_ERR: u32 = 1;
/// GERROR.MSI_CMDQ_ABT_ERR.
const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;

/// A queue's registers: base and the two indices, wrap bit included.
#[derive(Clone, Copy, Default)]
pub(super) struct Ring {
    pub(super) base: u64,
    pub(super) prod: u32,
    pub(super) cons: u32,
    /// OVFLG and OVACKFLG, of queues that the unit writes.
    pub(super) overflow: bool,
    pub(super) acknowledged: bool,
}

impl Ring {
    /// log2 of the entries, as far as `limit` allows.
    pub(super) fn log2(&self, limit: u32) -> u32 {
        (self.base as u32 & 0x1f).min(limit)
    }

    /// Entries between consumer and producer, modulo twice the size.
    pub(super) fn filled(&self, log2: u32) -> u32 {
        self.prod.wrapping_sub(self.cons) & ((2 << log2) - 1)
    }

    pub(super) const fn entries(&self) -> u64 {
        self.base & 0x000f_ffff_ffff_ffe0
    }
}

/// The index after `index`, wrap bit included.
pub(super) const fn next(index: u32, log2: u32) -> u32 {
    (index + 1) & ((2 << log2) - 1)
}

impl Unit {
    fn command_log2(&self) -> u32 {
        self.commands.log2(self.config.command_log2())
    }

    /// A write to CMDQ_PROD.
    pub(super) fn produce(&mut self, value: u32) {
        let log2 = self.command_log2();
        if value >> (log2 + 1) != 0 {
            return self.violations.push(Violation::Index { offset: 0x98, value });
        }
        if self.cr0.maybe() & control::CMDQEN != 0 {
            let (before, cons) = (self.commands.filled(log2), self.commands.cons);
            let now = Ring { prod: value, ..self.commands }.filled(log2);
            if now > 1 << log2 || now < before {
                self.violations.push(Violation::Produced { prod: value, cons });
            }
        }
        self.commands.prod = value;
        self.lag = self.switches.lag;
        if self.lag == 0 {
            self.run_queue();
        }
    }

    /// A look at CMDQ_CONS.
    pub(super) fn consumer(&mut self) -> u32 {
        if self.lag > 0 {
            self.lag -= 1;
            if self.lag == 0 {
                self.run_queue();
            }
        }
        self.commands.cons | self.command_error << 24
    }

    fn fail(&mut self, code: u32) {
        self.command_error = code;
        self.global_error(CMDQ_ERR);
    }

    /// Executes commands up to the producer, an error, or where a switch stops it.
    pub(super) fn run_queue(&mut self) {
        let log2 = self.command_log2();
        while self.cr0.actual & control::CMDQEN != 0
            && self.lag == 0
            && (self.gerror ^ self.gerrorn) & CMDQ_ERR == 0
            && self.commands.filled(log2) != 0
        {
            if self.switches.queue == Queue::Stopped || self.switches.stop_after == Some(0) {
                return;
            }
            let slot = self.commands.cons & ((1 << log2) - 1);
            let (raw, command) = match self.fetch(slot) {
                Ok(fetched) => fetched,
                Err(code) => return self.fail(code),
            };
            if self.switches.queue == Queue::NoSync && matches!(command, Command::Sync { .. }) {
                return;
            }
            if let Some(left) = &mut self.switches.stop_after {
                *left -= 1;
            }
            if let Err(code) = self.execute(command) {
                return self.fail(code);
            }
            self.log.push(Executed { slot: slot as usize, raw, command });
            self.commands.cons = next(self.commands.cons, log2);
            if let Command::Sync { signal: 1, message } = command {
                self.signal(message);
            }
        }
    }

    /// Reads and decodes the command of `slot`.
    fn fetch(&mut self, slot: u32) -> Result<([u64; 2], Command), u32> {
        let mut raw = [0; 2];
        if self.switches.aborts != 0 {
            self.switches.aborts -= 1;
            return Err(ABORT);
        }
        for (index, word) in raw.iter_mut().enumerate() {
            let phys = self.commands.entries() + u64::from(slot) * 16 + index as u64 * 8;
            *word = self.memory.device_read64(PhysAddr::new(phys)).ok_or(ABORT)?;
        }
        // A CMD_SYNC may have been replaced by another: that is not to be seen.
        if self.refused == Some((slot, raw)) && raw[0] & 0xff != SYNC {
            return Err(ILLEGAL);
        }
        self.refused = None;
        if let Some(left) = &mut self.switches.fail_after {
            if *left == 0 {
                self.switches.fail_after = None;
                self.refused = Some((slot, raw));
                return Err(ILLEGAL);
            }
            *left -= 1;
        }
        Ok((raw, decode(&self.config, raw).ok_or(ILLEGAL)?))
    }

    /// Does what the command says. Invalidations only begin.
    fn execute(&mut self, command: Command) -> Result<(), u32> {
        match command {
            Command::Sync { .. } => {
                if self.timing_out {
                    // What was given up on is not asked again; what still waits may be given up on later.
                    self.timing_out = self.switches.time_outs_again != 0;
                    self.switches.time_outs_again = self.switches.time_outs_again.saturating_sub(1);
                    return Err(ATC_TIME_OUT);
                }
                self.complete();
            }
            Command::AtcInvalidate { sid, .. } => {
                self.timing_out |= self.switches.silent.contains(&sid);
                if let Some(left) = &mut self.switches.time_out_after {
                    if *left == 0 {
                        self.switches.time_out_after = None;
                        self.timing_out = true;
                    } else {
                        *left -= 1;
                    }
                }
            }
            other => self.deferred.push(other),
        }
        Ok(())
    }

    /// Lets every invalidation before a CMD_SYNC take effect. Their order is the unit's own.
    fn complete(&mut self) {
        let mut deferred = core::mem::take(&mut self.deferred);
        let before = if self.switches.translations_first {
            deferred.sort_by_key(Command::is_configuration);
            self.caches.inputs()
        } else {
            Vec::new()
        };
        let mut asked = before.is_empty();
        for command in deferred {
            match command {
                Command::ConfigAll => self.unknown[0] = false,
                Command::TlbiEverything => self.unknown[1] = false,
                Command::TlbiEl2All => self.unknown[2] = false,
                _ => {}
            }
            if command.is_configuration() && !core::mem::replace(&mut asked, true) {
                self.ask_again(&before);
            }
            self.violations.extend(self.caches.invalidate(&command));
        }
    }

    /// Reports a CMD_SYNC that asked for it.
    fn signal(&mut self, message: Option<(u64, u32)>) {
        if message.is_some() && self.switches.lose_messages {
            return self.global_error(MSI_CMDQ_ABT_ERR);
        }
        let message = message.map(|(address, data)| {
            if self.memory.device_write32(PhysAddr::new(address), data).is_none() {
                self.violations.push(Violation::MessageNowhere { address });
            }
            Message { address, data }
        });
        self.interrupts.push(Interrupt { source: Source::Sync, message });
    }
}
