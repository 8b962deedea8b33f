//! Invalidation by registers (sections 6.5.1 and 11.4.6): CCMD, IVA and IOTLB.
//!
//! Legacy mode only, before major version 6, and while the queue is off. What is commanded where none of it may be is
//! flagged; with the queue on it is never answered, otherwise answered with granularity 0.

use super::descriptor::{Descriptor, Granularity};
use super::unit::Unit;
use super::violation::Violation;

const CCMD: usize = 0x28;

/// ICC and IVT.
const START: u64 = 1 << 63;

/// The two commands and what is left of them.
#[derive(Default)]
pub(super) struct RegisterInvalidation {
    pub(super) context: Command,
    pub(super) iotlb: Command,
    pub(super) address: u64,
    /// Done so far.
    pub(super) log: alloc::vec::Vec<Descriptor>,
}

/// One command register.
#[derive(Default)]
pub(super) struct Command {
    value: u64,
    /// Looks at the register before it is answered.
    polls: u32,
    /// It never is: the queue was on.
    refused: bool,
}

impl Command {
    const fn pending(&self) -> bool {
        self.value & START != 0
    }
}

impl Unit {
    /// A write to CCMD.
    pub(super) fn context_command(&mut self, value: u64) {
        // Bits 60:59 are read only.
        const RESERVED: u64 = 0x1ff_ffff << 34;
        if self.refuses_command(CCMD, value, RESERVED) {
            return;
        }
        self.by_register.context = self.begin(CCMD, value & !(RESERVED | 3 << 59));
        self.answer_context(false);
    }

    /// A write to IOTLB.
    pub(super) fn iotlb_command(&mut self, value: u64) {
        const RESERVED: u64 = 1 << 62 | 1 << 59 | 0x7f << 50 | 0xffff_ffff;
        let offset = self.config.iotlb_offset() + 8;
        if self.refuses_command(offset, value, RESERVED) {
            return;
        }
        self.by_register.iotlb = self.begin(offset, value & !(RESERVED | 3 << 57));
        self.answer_iotlb(false);
    }

    /// A write to IVA.
    pub(super) fn invalidate_address(&mut self, value: u64) {
        let offset = self.config.iotlb_offset();
        if self.by_register.iotlb.pending() {
            self.violations.push(Violation::WriteWhilePending { offset, value });
            return;
        }
        if value & 0xf80 != 0 {
            self.violations.push(Violation::ReservedBits { offset, bits: value & 0xf80 });
        }
        self.by_register.address = value & !0xf80;
    }

    /// A look at CCMD.
    pub(super) fn context_answer(&mut self) -> u64 {
        self.answer_context(true);
        // What was written to FM and SID does not come back.
        self.by_register.context.value & !(3 << 32 | 0xffff << 16)
    }

    /// A look at IOTLB.
    pub(super) fn iotlb_answer(&mut self) -> u64 {
        self.answer_iotlb(true);
        self.by_register.iotlb.value
    }

    /// Whether a write to a command register goes nowhere, since one is under way.
    fn refuses_command(&mut self, offset: usize, value: u64, reserved: u64) -> bool {
        if self.by_register.context.pending() || self.by_register.iotlb.pending() {
            self.violations.push(Violation::WriteWhilePending { offset, value });
            return true;
        }
        if value & reserved != 0 {
            self.violations.push(Violation::ReservedBits { offset, bits: value & reserved });
        }
        false
    }

    fn begin(&mut self, offset: usize, value: u64) -> Command {
        let refused = value & START != 0 && self.queue_enabled();
        if value & START != 0 && (refused || !self.has_register_invalidation()) {
            self.violations.push(Violation::InvalidationByRegister { offset, value });
        }
        Command { value, polls: self.switches.polls, refused }
    }

    /// Whether the unit takes invalidations by registers at all.
    const fn has_register_invalidation(&self) -> bool {
        self.root >> 10 & 3 == 0 && self.config.version >> 4 & 0xf < 6
    }

    /// Whether the command is answered now.
    fn is_due(never: bool, command: &mut Command, look: bool) -> bool {
        if !command.pending() || command.refused || never {
            return false;
        }
        if look && command.polls > 0 {
            command.polls -= 1;
            return false;
        }
        command.polls == 0
    }

    fn answer_context(&mut self, look: bool) {
        if !Self::is_due(self.switches.never_invalidate, &mut self.by_register.context, look) {
            return;
        }
        let value = self.by_register.context.value & !START;
        let domain = self.domain_of(value);
        let source = (value >> 16) as u16;
        let mask = [0, 4, 6, 7][(value >> 32 & 3) as usize];
        let granularity = match (value >> 61 & 3, self.switches.coarse) {
            (1, _) => Some((1, Granularity::Global)),
            (2, _) | (3, true) => Some((2, Granularity::Domain(domain))),
            (3, false) => Some((3, Granularity::Device { domain, source, mask })),
            _ => None,
        };
        let granularity = granularity.filter(|_| self.has_register_invalidation());
        self.by_register.context.value = value | granularity.map_or(0, |(actual, _)| actual << 59);
        if let Some((_, granularity)) = granularity {
            self.invalidate_by_register(Descriptor::ContextCache(granularity));
        }
    }

    fn answer_iotlb(&mut self, look: bool) {
        if !Self::is_due(self.switches.never_invalidate, &mut self.by_register.iotlb, look) {
            return;
        }
        let value = self.by_register.iotlb.value & !START;
        let domain = self.domain_of(value >> 32);
        let address = self.by_register.address;
        let pages = Granularity::Pages {
            domain,
            pasid: None,
            address: address & !0xfff,
            mask: (address & 0x3f) as u8,
            leaf_only: address & 1 << 6 != 0,
        };
        let granularity = match value >> 60 & 3 {
            1 => Some((1, Granularity::Global)),
            2 => Some((2, Granularity::Domain(domain))),
            3 if self.switches.coarse || !self.config.cap_bit(39) => Some((2, Granularity::Domain(domain))),
            3 if address & 0x3f <= self.config.mamv() => Some((3, pages)),
            _ => None,
        };
        let granularity = granularity.filter(|_| self.has_register_invalidation());
        self.by_register.iotlb.value = value | granularity.map_or(0, |(actual, _)| actual << 57);
        if let Some((_, granularity)) = granularity {
            let (drain_writes, drain_reads) = (value & 1 << 48 != 0, value & 1 << 49 != 0);
            self.invalidate_by_register(Descriptor::Iotlb { granularity, drain_writes, drain_reads });
            self.drained();
        }
    }

    /// The domain id in the low 16 bits, without those that the unit does not look at.
    const fn domain_of(&self, value: u64) -> u16 {
        value as u16 & self.config.domain_mask()
    }

    fn invalidate_by_register(&mut self, descriptor: Descriptor) {
        self.apply(&descriptor);
        self.by_register.log.push(descriptor);
    }
}
