//! The register file (section 6.3): two pages of 64 KiB.

use super::config::Config;
use super::control::{CMDQEN, Control, EVENTQEN, PRIQEN, SMMUEN};
use super::event::EVENTQ_ABT;
use super::queue::CMDQ_ERR;
use super::unit::Unit;
use super::violation::Violation;
use Register::*;

/// Which register an access meets. A number is an identification register's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    Identity(u32),
    Cr0,
    Cr0Ack,
    Cr1,
    Cr2,
    Gbpa,
    IrqCtrl,
    IrqCtrlAck,
    Gerror,
    Gerrorn,
    /// _IRQ_CFG0, 1 and 2 of one of the three.
    MessageAddress(usize),
    MessageData(usize),
    MessageAttributes(usize),
    Tables,
    TablesConfig,
    CommandBase,
    CommandProd,
    CommandCons,
    EventBase,
    EventProd,
    EventCons,
    RequestBase,
    RequestProd,
    RequestCons,
}

impl Unit {
    /// The register that holds the byte at `offset`: offset, width, which.
    fn register(&self, offset: usize) -> Option<(usize, usize, Register)> {
        let config = &self.config;
        let found = match offset & !3 {
            0x00 => (4, Identity(config.idr0)),
            0x04 => (4, Identity(config.idr1)),
            // IDR2, IDR4, STATUSR.
            0x08 | 0x10 | 0x40 => (4, Identity(0)),
            0x0c => (4, Identity(config.idr3)),
            0x14 => (4, Identity(config.idr5)),
            0x18 => (4, Identity(config.iidr)),
            0x1c => (4, Identity(config.aidr)),
            0x20 => (4, Cr0),
            0x24 => (4, Cr0Ack),
            0x28 => (4, Cr1),
            0x2c => (4, Cr2),
            0x44 => (4, Gbpa),
            0x50 => (4, IrqCtrl),
            0x54 => (4, IrqCtrlAck),
            0x60 => (4, Gerror),
            0x64 => (4, Gerrorn),
            0x68 | 0x6c => (8, MessageAddress(0)),
            0x70 => (4, MessageData(0)),
            0x74 => (4, MessageAttributes(0)),
            0x80 | 0x84 => (8, Tables),
            0x88 => (4, TablesConfig),
            0x90 | 0x94 => (8, CommandBase),
            0x98 => (4, CommandProd),
            0x9c => (4, CommandCons),
            0xa0 | 0xa4 => (8, EventBase),
            0xb0 | 0xb4 => (8, MessageAddress(2)),
            0xb8 => (4, MessageData(2)),
            0xbc => (4, MessageAttributes(2)),
            0xc0 | 0xc4 => (8, RequestBase),
            0xd0 | 0xd4 => (8, MessageAddress(1)),
            0xd8 => (4, MessageData(1)),
            0xdc => (4, MessageAttributes(1)),
            0x1_00a8 => (4, EventProd),
            0x1_00ac => (4, EventCons),
            0x1_00c8 => (4, RequestProd),
            0x1_00cc => (4, RequestCons),
            _ => return None,
        };
        let (width, register) = found;
        Some((offset & !(width - 1), width, register))
    }

    /// Finds the register for an access, and notes what is wrong with it. `Ok(None)` where there is none.
    fn access(&mut self, offset: usize, width: usize) -> Result<Option<(usize, Register)>, ()> {
        if !offset.is_multiple_of(width) {
            self.violations.push(Violation::Misaligned { offset, width });
            return Err(());
        }
        if offset.checked_add(width).is_none_or(|end| end > self.config.window) {
            self.violations.push(Violation::OutsideWindow { offset, width });
            return Err(());
        }
        let Some((first, own, register)) = self.register(offset) else { return Ok(None) };
        // Registers of 8 bytes may be reached in halves.
        if width > own {
            self.violations.push(Violation::WrongWidth { offset, width });
            return Err(());
        }
        Ok(Some((offset - first, register)))
    }

    /// Reads `width` bytes; all ones where the access is wrong.
    pub(super) fn read(&mut self, offset: usize, width: usize) -> u64 {
        match self.access(offset, width) {
            Err(()) => u64::MAX,
            Ok(None) => 0,
            Ok(Some((inside, register))) => {
                let value = self.value(register) >> (inside * 8);
                if width == 4 { value & 0xffff_ffff } else { value }
            }
        }
    }

    fn value(&mut self, register: Register) -> u64 {
        match register {
            Identity(value) => value.into(),
            Cr0 => self.cr0.wanted.into(),
            Cr0Ack => self.acknowledgement(Control::Cr0).into(),
            Cr1 => self.cr1.into(),
            Cr2 => self.cr2.into(),
            Gbpa => self.gbpa_value().into(),
            IrqCtrl => self.irq.wanted.into(),
            IrqCtrlAck => self.acknowledgement(Control::Irq).into(),
            Gerror => self.gerror.into(),
            Gerrorn => self.gerrorn.into(),
            MessageAddress(which) => self.messages[which].address,
            MessageData(which) => self.messages[which].data.into(),
            MessageAttributes(which) => self.messages[which].attributes.into(),
            Tables => self.tables.base,
            TablesConfig => self.tables.config.into(),
            CommandBase => self.commands.base,
            CommandProd => self.commands.prod.into(),
            CommandCons => self.consumer().into(),
            EventBase => self.events.base,
            EventProd => self.events.produced().into(),
            EventCons => self.events.consumed().into(),
            RequestBase => self.requests.base,
            RequestProd => self.requests.produced().into(),
            RequestCons => self.requests.consumed().into(),
        }
    }

    /// The value without `reserved` bits, which are noted.
    fn checked(&mut self, offset: usize, value: u64, reserved: u64) -> u64 {
        if value & reserved != 0 {
            self.violations.push(Violation::ReservedBits { offset, bits: value & reserved });
        }
        value & !reserved
    }

    /// Whether a write is let through: `guard` of CR0 is off, and acknowledged.
    fn guarded(&mut self, offset: usize, value: u64, guard: u32) -> bool {
        let open = self.cr0.maybe() & guard == 0;
        if !open {
            self.violations.push(Violation::WhileEnabled { offset, value });
        }
        open
    }

    /// Writes `width` bytes.
    pub(super) fn write(&mut self, offset: usize, width: usize, value: u64) {
        let (inside, register) = match self.access(offset, width) {
            Err(()) => return,
            Ok(None) => return self.violations.push(Violation::NoRegister { offset, value }),
            Ok(Some(found)) => found,
        };
        // The other half of a register of 8 bytes stays.
        let half = |old: u64| match (width, inside) {
            (4, 0) => old & !0xffff_ffff | value,
            (4, 4) => old & 0xffff_ffff | value << 32,
            _ => value,
        };
        let beyond = !((1u64 << self.config.output_bits()) - 1);
        let absent = |present: bool| if present { 0 } else { !0 };
        let pri = absent(self.config.has(Config::PRI));
        // RA or WA, address, LOG2SIZE.
        let queue = !(1 << 62 | 0x000f_ffff_ffff_ffe0 | 0x1f) | beyond & !(1 << 62);
        match register {
            Identity(_) | Cr0Ack | IrqCtrlAck | Gerror => {
                self.violations.push(Violation::ReadOnly { offset, value });
            }
            Cr0 => self.set_control(Control::Cr0, value as u32),
            IrqCtrl => self.set_control(Control::Irq, value as u32),
            Gbpa => self.set_gbpa(value as u32),
            Gerrorn => self.acknowledge_errors(value as u32),
            Cr1 => {
                let new = self.checked(offset, value, !0xfff) as u32;
                let (tables, queues) = ((new ^ self.cr1) & 0xfc0 != 0, (new ^ self.cr1) & 0x3f != 0);
                let guard = if tables { SMMUEN } else { 0 } | if queues { CMDQEN | EVENTQEN | PRIQEN } else { 0 };
                if self.guarded(offset, value, guard) {
                    self.cr1 = new;
                }
            }
            Cr2 => {
                let hyp = u64::from(!self.config.has(Config::HYP));
                // REC_CFG_ATS needs IDR0.ATSRECERR.
                let ats = u64::from(!self.config.has(1 << 23)) << 3;
                let new = self.checked(offset, value, !0xf | hyp | ats) as u32;
                if self.guarded(offset, value, if new != self.cr2 { SMMUEN } else { 0 }) {
                    self.cr2 = new;
                }
            }
            Tables if self.guarded(offset, value, SMMUEN) => {
                let new = half(self.tables.base);
                self.tables.base = self.checked(0x80, new, !(1 << 62 | 0x000f_ffff_ffff_ffc0) | beyond & !(1 << 62));
            }
            TablesConfig if self.guarded(offset, value, SMMUEN) => {
                self.tables.config = self.checked(offset, value, !(0x7ff | 3 << 16)) as u32;
            }
            CommandBase if self.guarded(offset, value, CMDQEN) => {
                self.commands.base = self.checked(0x90, half(self.commands.base), queue);
            }
            CommandProd => self.produce(value as u32),
            CommandCons if self.guarded(offset, value, CMDQEN) => {
                self.commands.cons = self.checked(offset, value, !0xf_ffff) as u32;
            }
            EventBase if self.guarded(offset, value, EVENTQEN) => {
                self.events.base = self.checked(0xa0, half(self.events.base), queue);
            }
            EventProd if self.guarded(offset, value, EVENTQEN) => {
                let value = self.checked(offset, value, !(0xf_ffff | 1 << 31)) as u32;
                (self.events.prod, self.events.overflow) = (value & 0xf_ffff, value >> 31 != 0);
            }
            EventCons => {
                let log2 = self.event_log2();
                let (ring, faults) = self.events.consume(value as u32, log2, self.cr0.maybe() & EVENTQEN != 0, offset);
                self.events = ring;
                self.violations.extend(faults);
                self.settle_stalls();
            }
            RequestBase if self.guarded(offset, value, PRIQEN) => {
                self.requests.base = self.checked(0xc0, half(self.requests.base), queue | pri);
            }
            RequestProd if self.guarded(offset, value, PRIQEN) => {
                let value = self.checked(offset, value, !(0xf_ffff | 1 << 31) | pri) as u32;
                (self.requests.prod, self.requests.overflow) = (value & 0xf_ffff, value >> 31 != 0);
            }
            RequestCons => {
                let value = self.checked(offset, value, !(0xf_ffff | 1 << 31) | pri) as u32;
                let log2 = self.requests.log2(self.config.pri_log2());
                let (ring, faults) = self.requests.consume(value, log2, self.cr0.maybe() & PRIQEN != 0, offset);
                self.requests = ring;
                self.violations.extend(faults);
            }
            MessageAddress(which) | MessageData(which) | MessageAttributes(which) => {
                if self.irq.maybe() >> which & 1 != 0 {
                    return self.violations.push(Violation::WhileEnabled { offset, value });
                }
                let msi = absent(self.config.has(Config::MSI)) | if which == 1 { pri } else { 0 };
                match register {
                    MessageAddress(_) => {
                        let new = half(self.messages[which].address);
                        self.messages[which].address = self.checked(offset - inside, new, !0x000f_ffff_ffff_fffc | msi);
                    }
                    MessageData(_) => self.messages[which].data = self.checked(offset, value, msi) as u32,
                    _ => self.messages[which].attributes = self.checked(offset, value, !0x3f | msi) as u32,
                }
            }
            // Refused by what guards them.
            _ => {}
        }
    }

    /// A write to GERRORN.
    fn acknowledge_errors(&mut self, value: u32) {
        let known = 0x1fd;
        let value = self.checked(0x64, value.into(), !known) as u32;
        let (toggled, active) = (value ^ self.gerrorn, self.gerror ^ self.gerrorn);
        if toggled & !active != 0 {
            self.violations.push(Violation::NoSuchError { bits: toggled & !active });
        }
        self.gerrorn ^= toggled & active;
        if toggled & active & CMDQ_ERR != 0 {
            self.restart_queue();
        }
        if toggled & active & EVENTQ_ABT != 0 {
            self.settle_stalls();
        }
    }
}
