//! The invalidation queue (section 6.5.2): its registers, and fetching.

mod execute;
mod order;

pub use order::Execution;

use super::command;
use super::descriptor::{Descriptor, Executed, decode, iqei};
use super::fault::status;
use super::switches::Queue;
use super::unit::Unit;
use super::violation::Violation;
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;

const IQT: usize = 0x88;

/// The queue's registers as latched by QIE, and what was fetched.
#[derive(Default)]
pub(super) struct QueueState {
    /// IQA: base in 63:12, width in 11, size in 2:0.
    pub(super) iqa: u64,
    pub(super) head: u64,
    pub(super) tail: u64,
    /// Fetched and not executed, oldest first.
    pending: Vec<Fetched>,
    /// What is executed next.
    ready: Option<Fetched>,
    /// Everything pending is executed, with or without a wait.
    drain: bool,
    /// Looks at registers before the next wait is answered.
    looks: u32,
}

/// A descriptor that was fetched and understood.
#[derive(Clone, Copy)]
pub(super) struct Fetched {
    slot: usize,
    raw: [u64; 4],
    descriptor: Descriptor,
}

impl Fetched {
    const fn is_wait(&self) -> bool {
        matches!(self.descriptor, Descriptor::Wait { .. })
    }

    const fn is_fence(&self) -> bool {
        matches!(self.descriptor, Descriptor::Wait { fence: true, .. })
    }

    const fn log(&self, done: bool) -> Executed {
        Executed { slot: self.slot, raw: self.raw, descriptor: self.descriptor, done }
    }
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
            } else if self.queue.pending.iter().any(|fetched| !fetched.is_wait()) {
                // Section 6.5.2: the last descriptor completed must be a wait.
                self.violations.push(Violation::QueueNotQuiet { pending: self.queue.pending.len() });
            }
            self.queue.head = 0;
            self.queue.drain = true;
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
    }

    /// A look at IQH, IQT, FSTS or ICS, by which waits may be delayed.
    pub(super) fn look_at_queue(&mut self) {
        self.queue.looks = self.queue.looks.saturating_sub(1);
    }

    fn queue_error(&mut self, code: u8) {
        if !self.switches.anonymous {
            self.error_record = self.error_record & !0xf | u64::from(code);
        }
        self.set_status(status::QUEUE);
        // Section 6.5.2.11: what was fetched before is completed as usual.
        self.queue.drain = true;
    }

    /// Executes descriptors up to the tail, an error, or where a switch stops it.
    pub(super) fn run_queue(&mut self) {
        while self.advance().is_some() {
            self.execute_ready();
        }
    }

    /// Fetches until there is a descriptor to execute, and gives it. It is executed by [`Unit::execute_ready`].
    pub(super) fn advance(&mut self) -> Option<Descriptor> {
        loop {
            if let Some(ready) = &self.queue.ready {
                return Some(ready.descriptor);
            }
            if !self.is_full() && self.fetch_one() {
                continue;
            }
            if self.queue.looks > 0 {
                return None;
            }
            let Some(next) = self.choose() else {
                self.queue.drain = false;
                if self.queue.pending.is_empty() && self.queue_enabled() && self.queue.head == self.queue.tail {
                    self.time_out();
                }
                return None;
            };
            self.queue.ready = Some(self.queue.pending.remove(next));
        }
    }

    /// Whether what is pending goes before anything else is fetched.
    fn is_full(&self) -> bool {
        let pending = &self.queue.pending;
        let at_once = self.switches.execution == Execution::Queued && !pending.is_empty();
        at_once || !self.overtakes() && pending.iter().any(Fetched::is_wait)
    }

    /// Fetches one descriptor where that is possible; whether it was.
    fn fetch_one(&mut self) -> bool {
        let stopped = self.switches.queue == Queue::Stopped || self.switches.stop_after == Some(0);
        let halted = self.status & (status::QUEUE | status::TIME_OUT) != 0;
        if !self.queue_enabled() || halted || stopped {
            return false;
        }
        if let Err(code) = self.check_tail() {
            self.queue_error(code);
            return false;
        }
        if self.queue.head == self.queue.tail {
            return false;
        }
        let (raw, descriptor) = match self.fetch() {
            Ok(fetched) => fetched,
            Err(code) => {
                self.queue_error(code);
                return false;
            }
        };
        if let Some(left) = &mut self.switches.stop_after {
            *left -= 1;
        }
        let slot = (self.queue.head / self.queue.step()) as usize;
        self.queue.head = (self.queue.head + self.queue.step()) & (self.queue.size() - 1);
        let fetched = Fetched { slot, raw, descriptor };
        if fetched.is_wait() && !self.queue.pending.iter().any(Fetched::is_wait) {
            self.queue.looks = self.switches.wait_looks;
        }
        self.queue.pending.push(fetched);
        true
    }

    fn check_tail(&self) -> Result<(), u8> {
        let mode = self.root >> 10 & 3;
        let has_wide = self.config.ecap_bit(43) || self.config.ecap_bit(52);
        if self.queue.wide() && !has_wide || !self.queue.wide() && matches!(mode, 1 | 3) {
            return Err(iqei::WIDTH);
        }
        if mode == 2 {
            return Err(iqei::MODE);
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
        let legacy = self.root >> 10 & 3 == 0;
        decode(&self.config, self.queue.wide(), legacy, &raw).map(|descriptor| (raw, descriptor))
    }
}
