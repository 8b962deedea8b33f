//! The command queue (sections 3.5, 3.21.2, 4 and 7.1): its registers, and fetching.

mod execute;
mod order;

pub use order::Execution;

use super::command::{Command, Executed, decode};
use super::control;
use super::switches::Queue;
use super::unit::Unit;
use super::violation::Violation;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;

/// CERROR codes.
const ILLEGAL: u32 = 1;
const ABORT: u32 = 2;
const ATC_TIME_OUT: u32 = 3;

/// Opcode of CMD_SYNC.
const SYNC: u64 = 0x46;

/// GERROR.CMDQ_ERR.
pub(super) const CMDQ_ERR: u32 = 1;

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

    /// PROD of a queue that the unit writes, with OVFLG.
    pub(super) const fn produced(&self) -> u32 {
        self.prod | (self.overflow as u32) << 31
    }

    /// CONS of a queue that the unit writes, with OVACKFLG.
    pub(super) const fn consumed(&self) -> u32 {
        self.cons | (self.acknowledged as u32) << 31
    }

    /// The queue after a write of `value` to CONS, at `offset`, and what is wrong with it.
    pub(super) fn consume(self, value: u32, log2: u32, enabled: bool, offset: usize) -> (Self, Vec<Violation>) {
        let (index, flag) = (value & 0x7fff_ffff, value >> 31 != 0);
        if index >> (log2 + 1) != 0 {
            return (self, alloc::vec![Violation::Index { offset, value }]);
        }
        let mut faults = Vec::new();
        let after = Self { cons: index, acknowledged: flag, ..self };
        if enabled {
            if after.filled(log2) > self.filled(log2) {
                faults.push(Violation::Consumed { prod: self.produced(), cons: value });
            }
            if flag != self.acknowledged && flag != self.overflow {
                faults.push(Violation::NoOverflow { value });
            }
        }
        (after, faults)
    }
}

/// The index after `index`, wrap bit included.
pub(super) const fn next(index: u32, log2: u32) -> u32 {
    (index + 1) & ((2 << log2) - 1)
}

/// What was fetched, and what is known of what will be.
#[derive(Default)]
pub(super) struct QueueState {
    /// Consumed, and not in effect, oldest first.
    pending: Vec<Fetched>,
    /// A CMD_SYNC that waits for what is pending; it is not consumed.
    sync: Option<Fetched>,
    /// What takes effect next.
    ready: Option<Fetched>,
    /// Looks at CMDQ_CONS before anything is fetched.
    lag: u32,
    /// Looks before the CMD_SYNC that waits goes on.
    looks: u32,
    /// A device TLB did not answer.
    timing_out: bool,
    /// A command that was refused on demand, and is until it is another.
    refused: Option<(u32, [u64; 2])>,
    /// Commands as they were handed over, by index.
    seen: BTreeMap<u32, [u64; 2]>,
    /// What was cached when a CMD_SYNC was met, where everybody asks again for it.
    inputs: Vec<u64>,
}

/// A command that was fetched and understood.
#[derive(Clone, Copy)]
pub(super) struct Fetched {
    slot: u32,
    raw: [u64; 2],
    command: Command,
}

impl Unit {
    fn command_log2(&self) -> u32 {
        self.commands.log2(self.config.command_log2())
    }

    const fn command_error_active(&self) -> bool {
        (self.gerror ^ self.gerrorn) & CMDQ_ERR != 0
    }

    /// A write to CMDQ_PROD.
    pub(super) fn produce(&mut self, value: u32) {
        let log2 = self.command_log2();
        if value >> (log2 + 1) != 0 {
            return self.violations.push(Violation::Index { offset: 0x98, value });
        }
        let before = self.commands.prod;
        if self.cr0.maybe() & control::CMDQEN != 0 {
            let cons = self.commands.cons;
            let now = Ring { prod: value, ..self.commands }.filled(log2);
            // With an error active what was not consumed may be taken back (section 7.1).
            let back = now < self.commands.filled(log2) && !self.command_error_active();
            if now > 1 << log2 || back {
                self.violations.push(Violation::Produced { prod: value, cons });
            }
        }
        self.commands.prod = value;
        self.see(before);
        self.queue.lag = self.switches.lag;
    }

    /// Remembers the commands from `first` on: until they are consumed they are the unit's.
    fn see(&mut self, first: u32) {
        let log2 = self.command_log2();
        if self.cr0.actual & control::CMDQEN == 0 || self.command_error_active() {
            return;
        }
        let mut index = first & ((2 << log2) - 1);
        for _ in 0..(2u32 << log2) {
            if index == self.commands.prod & ((2 << log2) - 1) {
                break;
            }
            if let Some(raw) = self.raw_command(index & ((1 << log2) - 1)) {
                self.queue.seen.insert(index, raw);
            }
            index = next(index, log2);
        }
    }

    /// The queue was enabled, or its error acknowledged: everything is fetched anew.
    pub(super) fn restart_queue(&mut self) {
        self.queue.seen.clear();
        self.see(self.commands.cons);
    }

    /// The queue was disabled, or met an error: what is not consumed is forgotten.
    pub(super) fn halt_queue(&mut self) {
        self.queue.seen.clear();
        self.queue.sync = None;
        self.queue.looks = 0;
    }

    /// A look at CMDQ_CONS, by which commands may be delayed.
    pub(super) fn look_at_queue(&mut self) {
        self.queue.lag = self.queue.lag.saturating_sub(1);
        self.look_at_sync();
    }

    /// A look at CMDQ_CONS, or at the clock, by which a CMD_SYNC may be delayed.
    pub(super) fn look_at_sync(&mut self) {
        self.queue.looks = self.queue.looks.saturating_sub(1);
    }

    /// CMDQ_CONS.
    pub(super) const fn consumer(&self) -> u32 {
        self.commands.cons | self.command_error << 24
    }

    fn fail(&mut self, code: u32) {
        self.command_error = code;
        self.halt_queue();
        self.global_error(CMDQ_ERR);
    }

    /// Executes commands up to the producer, an error, or where a switch stops it.
    pub(super) fn run_queue(&mut self) {
        while self.advance().is_some() {
            self.execute_ready();
        }
    }

    /// Fetches until there is a command that takes effect, and gives it. It does by [`Unit::execute_ready`].
    pub(super) fn advance(&mut self) -> Option<Command> {
        loop {
            if let Some(ready) = &self.queue.ready {
                return Some(ready.command);
            }
            if self.command_error_active() {
                self.queue.sync = None;
            }
            if let Some(sync) = self.queue.sync {
                if self.queue.looks > 0 || self.switches.queue != Queue::Running {
                    return None;
                }
                if self.queue.timing_out {
                    // What was given up on is not asked again; what still waits may be given up on later.
                    self.queue.timing_out = self.switches.time_outs_again != 0;
                    self.switches.time_outs_again = self.switches.time_outs_again.saturating_sub(1);
                    // Section 4.7.3: which invalidations of device TLBs were done is not known; the others go on.
                    self.queue.pending.retain(|done| !matches!(done.command, Command::AtcInvalidate { .. }));
                    self.fail(ATC_TIME_OUT);
                    return None;
                }
                self.queue.ready = match self.choose() {
                    Some(index) => Some(self.queue.pending.remove(index)),
                    None => {
                        self.queue.sync = None;
                        Some(sync)
                    }
                };
                continue;
            }
            if self.switches.execution == Execution::Queued && !self.queue.pending.is_empty() {
                self.queue.ready = Some(self.queue.pending.remove(0));
                continue;
            }
            if !self.fetch_one() {
                return None;
            }
        }
    }

    /// Fetches one command where that is possible; whether it was.
    fn fetch_one(&mut self) -> bool {
        let log2 = self.command_log2();
        let stopped = self.switches.queue == Queue::Stopped || self.switches.stop_after == Some(0) || self.failed;
        let enabled = self.cr0.actual & control::CMDQEN != 0 && !self.command_error_active();
        if stopped || !enabled || self.queue.lag > 0 || self.commands.filled(log2) == 0 {
            return false;
        }
        let index = self.commands.cons;
        let slot = index & ((1 << log2) - 1);
        let aborted = self.switches.aborts != 0;
        self.switches.aborts = self.switches.aborts.saturating_sub(1);
        let Some(raw) = self.raw_command(slot).filter(|_| !aborted) else {
            self.fail(ABORT);
            return false;
        };
        if self.switches.queue == Queue::NoSync && raw[0] & 0xff == SYNC {
            return false;
        }
        if self.queue.seen.get(&index).is_some_and(|seen| *seen != raw) {
            self.violations.push(Violation::CommandChanged { slot: slot as usize });
        }
        let Some(decoded) = (if self.refuses(slot, raw) { None } else { decode(&self.config, raw) }) else {
            self.fail(ILLEGAL);
            return false;
        };
        if let Some(left) = &mut self.switches.stop_after {
            *left -= 1;
        }
        let fetched = Fetched { slot, raw, command: decoded.command };
        if let Command::Sync { .. } = fetched.command {
            self.begin_sync(fetched);
            return true;
        }
        self.consume_command(&fetched);
        match decoded.flaw {
            Some(flaw) => self.violations.push(flaw),
            None if fetched.command.is_invalidation() => self.begin(fetched),
            None => self.perform(&fetched.command),
        }
        true
    }

    /// Moves the consumer past a command.
    fn consume_command(&mut self, fetched: &Fetched) {
        let log2 = self.command_log2();
        self.queue.seen.remove(&self.commands.cons);
        // Somebody may wait for room (section 4.1.2).
        if self.commands.filled(log2) == 1 << log2 {
            self.wake();
        }
        self.commands.cons = next(self.commands.cons, log2);
        self.log.push(Executed { slot: fetched.slot as usize, raw: fetched.raw, command: fetched.command });
    }

    fn raw_command(&self, slot: u32) -> Option<[u64; 2]> {
        let at = self.commands.entries() + u64::from(slot) * 16;
        let word = |phys| self.memory.device_read64(PhysAddr::new(phys));
        Some([word(at)?, word(at + 8)?])
    }

    /// Whether a command is refused on demand.
    fn refuses(&mut self, slot: u32, raw: [u64; 2]) -> bool {
        // A CMD_SYNC may have been replaced by another: that is not to be seen.
        if self.queue.refused == Some((slot, raw)) && raw[0] & 0xff != SYNC {
            return true;
        }
        self.queue.refused = None;
        match &mut self.switches.fail_after {
            Some(0) => {
                self.switches.fail_after = None;
                self.queue.refused = Some((slot, raw));
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}
