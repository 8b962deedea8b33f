//! CR0, IRQ_CTRL and GBPA: what takes effect only once it is acknowledged (sections 6.3.9, 6.3.14, 6.3.17).

use super::config::Config;
use super::queue::Ring;
use super::unit::Unit;
use super::violation::Violation;

pub(super) const SMMUEN: u32 = 1;
pub(super) const PRIQEN: u32 = 1 << 1;
pub(super) const EVENTQEN: u32 = 1 << 2;
pub(super) const CMDQEN: u32 = 1 << 3;
pub(super) const ATSCHK: u32 = 1 << 4;

/// GBPA.UPDATE.
const UPDATE: u32 = 1 << 31;
/// GBPA.ABORT.
pub(super) const ABORT: u32 = 1 << 20;

/// A control register and its acknowledgement.
#[derive(Clone, Copy, Default)]
pub(super) struct Acknowledged {
    /// As written.
    pub(super) wanted: u32,
    /// As it is in force.
    pub(super) actual: u32,
    /// Looks at the acknowledgement before it follows.
    polls: u32,
}

impl Acknowledged {
    /// Bits that are set, or not surely clear.
    pub(super) const fn maybe(&self) -> u32 {
        self.wanted | self.actual
    }
}

/// CR0 or IRQ_CTRL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    Cr0,
    Irq,
}

impl Unit {
    fn control(&mut self, which: Control) -> &mut Acknowledged {
        match which {
            Control::Cr0 => &mut self.cr0,
            Control::Irq => &mut self.irq,
        }
    }

    /// A write to CR0 or IRQ_CTRL.
    pub(super) fn set_control(&mut self, which: Control, value: u32) {
        let pri = if self.config.has(Config::PRI) { PRIQEN } else { 0 };
        let (offset, known) = match which {
            Control::Cr0 => {
                let ats = if self.config.has(Config::ATS) { 1 << 4 } else { 0 };
                let wildcard = if self.config.has(1 << 17) { 7 << 6 } else { 0 };
                (0x20, SMMUEN | EVENTQEN | CMDQEN | pri | ats | wildcard)
            }
            Control::Irq => (0x50, 1 | 1 << 2 | pri),
        };
        if which == Control::Cr0 && (value ^ self.cr0.wanted) & ATSCHK != 0 && self.caches.split_stage() {
            self.violations.push(Violation::SplitStageUnchecked);
        }
        if value & !known != 0 {
            self.violations.push(Violation::ReservedBits { offset, bits: (value & !known).into() });
        }
        let (polls, value) = (self.switches.polls, value & known);
        let control = self.control(which);
        let early = (control.wanted ^ control.actual) & (control.wanted ^ value) != 0;
        control.wanted = value;
        control.polls = polls;
        if early {
            self.violations.push(Violation::BeforeAcknowledged { offset, value });
        }
        if polls == 0 {
            self.acknowledge(which);
        }
    }

    /// A look at CR0ACK or IRQ_CTRLACK.
    pub(super) fn acknowledgement(&mut self, which: Control) -> u32 {
        let control = self.control(which);
        match control.polls {
            0 => self.acknowledge(which),
            _ => control.polls -= 1,
        }
        self.control(which).actual
    }

    /// Does what is pending, but for what is never acknowledged.
    pub(super) fn acknowledge(&mut self, which: Control) {
        let never = match which {
            Control::Cr0 => self.switches.never,
            Control::Irq => self.switches.never_irq,
        };
        let control = self.control(which);
        let changed = (control.wanted ^ control.actual) & !never;
        control.actual ^= changed;
        let risen = changed & control.actual;
        if which == Control::Irq || changed == 0 {
            return;
        }
        let fallen = changed & !risen;
        if fallen & CMDQEN != 0 {
            self.halt_queue();
        }
        if fallen & SMMUEN != 0 {
            self.abort_all_stalls();
        }
        if risen & CMDQEN != 0 {
            self.check_queue(0x90, self.commands, self.config.command_log2(), 4);
            self.restart_queue();
        }
        if risen & EVENTQEN != 0 {
            self.check_queue(0xa0, self.events, self.config.event_log2(), 5);
            self.settle_stalls();
        }
        if risen & PRIQEN != 0 {
            self.check_queue(0xc0, self.requests, self.config.pri_log2(), 4);
        }
        if risen & SMMUEN != 0 {
            self.check_tables();
            let [configuration, translations, el2] = self.unknown;
            if configuration || translations || el2 {
                self.violations.push(Violation::CachesUnknown { configuration, translations, el2 });
            }
        }
    }

    /// A queue was enabled whose entries have 2^`entry` bytes.
    fn check_queue(&mut self, offset: usize, ring: Ring, limit: u32, entry: u32) {
        let base = ring.base;
        let log2 = base as u32 & 0x1f;
        let clipped = log2.min(limit);
        if ring.filled(clipped) > 1 << clipped || (ring.prod | ring.cons) >> (clipped + 1) != 0 {
            self.violations.push(Violation::Indices { offset, prod: ring.prod, cons: ring.cons });
        }
        if log2 > limit {
            self.violations.push(Violation::QueueSize { offset, log2 });
        }
        let size = 1u64 << (log2.min(limit) + entry).max(5);
        if base & 0x000f_ffff_ffff_ffe0 & (size - 1) != 0 {
            self.violations.push(Violation::BaseMisaligned { offset, base });
        }
    }

    /// The stream table was enabled.
    fn check_tables(&mut self) {
        let (base, value) = (self.tables.base, self.tables.config);
        let (log2, split) = (value & 0x3f, value >> 6 & 0x1f);
        let size = match value >> 16 & 3 {
            0 => log2 + 6,
            1 if self.config.two_level() && matches!(split, 6 | 8 | 10) => (log2.saturating_sub(split) + 3).max(6),
            _ => return self.violations.push(Violation::Format { value }),
        };
        if base & 0x000f_ffff_ffff_ffc0 & ((1 << size) - 1) != 0 {
            self.violations.push(Violation::BaseMisaligned { offset: 0x80, base });
        }
    }

    /// A write to GBPA.
    pub(super) fn set_gbpa(&mut self, value: u32) {
        let known = 0x1f | 0x3f << 8 | 0xf << 16 | ABORT | UPDATE;
        if value & !known != 0 {
            self.violations.push(Violation::ReservedBits { offset: 0x44, bits: (value & !known).into() });
        }
        if value & UPDATE == 0 {
            return self.violations.push(Violation::WithoutUpdate { value });
        }
        if self.gbpa_next.is_some() {
            return self.violations.push(Violation::BeforeAcknowledged { offset: 0x44, value });
        }
        self.gbpa_next = Some((value & known & !UPDATE, self.switches.polls));
        if self.switches.polls == 0 {
            self.update_gbpa();
        }
    }

    pub(super) fn update_gbpa(&mut self) {
        if !self.switches.never_gbpa
            && let Some((value, 0)) = self.gbpa_next
        {
            self.gbpa = value;
            self.gbpa_next = None;
        }
    }

    /// A look at GBPA.
    pub(super) fn gbpa_value(&mut self) -> u32 {
        match &mut self.gbpa_next {
            Some((_, polls)) if *polls > 0 => *polls -= 1,
            _ => self.update_gbpa(),
        }
        self.gbpa | if self.gbpa_next.is_some() { UPDATE } else { 0 }
    }
}
