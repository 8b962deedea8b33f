//! GCMD and GSTS (sections 11.4.4, 11.4.5).

use super::unit::Unit;
use super::violation::Violation;

pub(super) const TRANSLATION: u32 = 1 << 31;
pub(super) const ROOT: u32 = 1 << 30;
pub(super) const FAULT_LOG: u32 = 1 << 29;
pub(super) const ADVANCED_LOG: u32 = 1 << 28;
pub(super) const WRITE_BUFFER: u32 = 1 << 27;
pub(super) const QUEUE: u32 = 1 << 26;
pub(super) const REMAP: u32 = 1 << 25;
pub(super) const REMAP_TABLE: u32 = 1 << 24;
pub(super) const COMPATIBILITY: u32 = 1 << 23;

/// Bits whose written value replaces the state.
const LEVELS: u32 = TRANSLATION | ADVANCED_LOG | QUEUE | REMAP | COMPATIBILITY;
/// Bits that trigger something once when written as 1.
const TRIGGERS: u32 = ROOT | FAULT_LOG | WRITE_BUFFER | REMAP_TABLE;
const GCMD: usize = 0x18;

/// A command that was not answered yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) bits: u32,
    /// Looks at GSTS before it is.
    polls: u32,
}

impl Unit {
    /// A write to GCMD.
    pub(super) fn command(&mut self, value: u32) {
        if value & !(LEVELS | TRIGGERS) != 0 {
            self.violations.push(Violation::ReservedBits { offset: GCMD, bits: (value & !(LEVELS | TRIGGERS)).into() });
        }
        if self.pending.bits != 0 {
            self.violations.push(Violation::CommandWhilePending { pending: self.pending.bits, value });
        }
        let changed = (value ^ self.commanded) & LEVELS;
        let mut bits = changed | value & TRIGGERS;
        if bits.count_ones() > 1 {
            self.violations.push(Violation::ManyCommands { bits });
        }
        let config = &self.config;
        let mut missing = FAULT_LOG | ADVANCED_LOG;
        for (bit, present) in [
            (WRITE_BUFFER, config.cap_bit(4)),
            (QUEUE, config.ecap_bit(1)),
            (REMAP | REMAP_TABLE | COMPATIBILITY, config.ecap_bit(3)),
        ] {
            missing |= if present { 0 } else { bit };
        }
        if bits & missing != 0 {
            self.violations.push(Violation::NoCommand { bits: bits & missing });
            bits &= !missing;
        }
        self.commanded ^= bits & LEVELS;
        // One-shot: the pointers' status falls until the new one is in place; the flush's rises until it is done.
        self.status_bits &= !(bits & (ROOT | REMAP_TABLE));
        self.status_bits |= bits & WRITE_BUFFER;
        self.pending.bits |= bits;
        self.pending.polls = self.switches.polls;
        if self.pending.polls == 0 {
            self.answer();
        }
    }

    /// A look at GSTS.
    pub(super) fn global_status(&mut self) -> u32 {
        if self.pending.bits & !self.switches.never != 0 {
            match self.pending.polls {
                0 => self.answer(),
                _ => self.pending.polls -= 1,
            }
        }
        self.status_bits
    }

    /// Does what is pending, but for what is never answered.
    fn answer(&mut self) {
        let bits = self.pending.bits & !self.switches.never;
        self.pending.bits &= !bits;
        if bits & QUEUE != 0 {
            self.enable_queue(self.commanded & QUEUE != 0);
        }
        if bits & ROOT != 0 {
            self.set_root();
        }
        if bits & REMAP_TABLE != 0 {
            self.status_bits |= REMAP_TABLE;
        }
        if bits & TRANSLATION != 0 && self.commanded & TRANSLATION != 0 && self.status_bits & ROOT == 0 {
            self.violations.push(Violation::NoRoot);
        }
        if bits & WRITE_BUFFER != 0 {
            self.memory.flush_write_buffer();
        }
        self.status_bits &= !(bits & (LEVELS | WRITE_BUFFER));
        self.status_bits |= self.commanded & bits & LEVELS;
    }

    /// SRTP: latches RTADDR.
    fn set_root(&mut self) {
        let new = self.rtaddr;
        // Section 6.6: with ESRTPS the mode may change at any time.
        let changes = self.status_bits & TRANSLATION != 0 && !self.config.cap_bit(63);
        if changes && (new ^ self.root) >> 10 & 3 != 0 {
            self.violations.push(Violation::ModeWhileTranslating { rtaddr: new });
        }
        let known = match new >> 10 & 3 {
            0 => true,
            1 => self.config.ecap_bit(43),
            3 => self.config.ecap_bit(52),
            _ => false,
        };
        if !known {
            self.violations.push(Violation::NoMode { rtaddr: new });
        }
        self.root = new;
        self.status_bits |= ROOT;
        if self.config.cap_bit(63) {
            self.memory.flush_write_buffer();
            self.caches.clear();
        }
    }
}
