//! The register file: which register lies where (section 11.4.1), and what an access does.

use super::model::Message;
use super::unit::Unit;
use super::violation::Violation;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Version,
    Cap,
    Ecap,
    Command,
    Status,
    Root,
    ContextCommand,
    ProtectedMemory,
    /// Base (0) or limit (1) of the low (0) or high (1) protected region.
    Region(usize, usize),
    FaultStatus,
    FaultControl,
    FaultData,
    FaultAddress,
    FaultUpperAddress,
    QueueHead,
    QueueTail,
    QueueAddress,
    Completion,
    CompletionControl,
    CompletionData,
    CompletionAddress,
    CompletionUpperAddress,
    QueueError,
    InterruptTable,
    /// The page-request event, of units with page requests: there to be masked, as none comes.
    PageRequestControl,
    InvalidateAddress,
    IotlbCommand,
    /// A fault record.
    Record(usize),
    /// One that exists but is not modelled: reads as zero.
    Other,
}

use Register::*;

/// Offset, width in bytes.
const REGISTERS: [(usize, usize, Register); 29] = [
    (0x00, 4, Version),
    (0x08, 8, Cap),
    (0x10, 8, Ecap),
    (0x18, 4, Command),
    (0x1c, 4, Status),
    (0x20, 8, Root),
    (0x28, 8, ContextCommand),
    (0x34, 4, FaultStatus),
    (0x38, 4, FaultControl),
    (0x3c, 4, FaultData),
    (0x40, 4, FaultAddress),
    (0x44, 4, FaultUpperAddress),
    (0x58, 8, Other),
    (0x64, 4, ProtectedMemory),
    (0x68, 4, Region(0, 0)),
    (0x6c, 4, Region(0, 1)),
    (0x70, 8, Region(1, 0)),
    (0x78, 8, Region(1, 1)),
    (0x80, 8, QueueHead),
    (0x88, 8, QueueTail),
    (0x90, 8, QueueAddress),
    (0x9c, 4, Completion),
    (0xa0, 4, CompletionControl),
    (0xa4, 4, CompletionData),
    (0xa8, 4, CompletionAddress),
    (0xac, 4, CompletionUpperAddress),
    (0xb0, 8, QueueError),
    (0xb8, 8, InterruptTable),
    (0xe0, 4, PageRequestControl),
];

impl Unit {
    /// The register that holds the byte at `offset`: offset, width, which.
    fn register(&self, offset: usize) -> Option<(usize, usize, Register)> {
        let records = self.config.fault_offset();
        if let Some(inside) = offset.checked_sub(records)
            && inside / 16 < self.records.len()
        {
            return Some((records + inside / 16 * 16, 16, Record(inside / 16)));
        }
        let iotlb = self.config.iotlb_offset();
        if (iotlb..iotlb + 16).contains(&offset) {
            let which = if offset < iotlb + 8 { InvalidateAddress } else { IotlbCommand };
            return Some((iotlb + (offset - iotlb) / 8 * 8, 8, which));
        }
        let found = REGISTERS.into_iter().find(|(first, width, _)| (*first..first + width).contains(&offset));
        found.filter(|(_, _, register)| !matches!(register, PageRequestControl) || self.config.ecap_bit(29))
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
        // A fault record is read in whatever pieces; the others as a whole.
        if own != 16 && (offset != first || own != width) {
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
            Ok(Some((inside, register))) => self.value(register, inside),
        }
    }

    fn value(&mut self, register: Register, inside: usize) -> u64 {
        if matches!(register, QueueHead | QueueTail | FaultStatus | Completion) {
            self.look_at_queue();
        }
        match register {
            Version => self.config.version.into(),
            Cap => self.config.cap,
            Ecap => self.config.ecap,
            // IVA takes writes only.
            Command | InvalidateAddress | Other => 0,
            Status => self.global_status().into(),
            Root => self.rtaddr,
            ContextCommand => self.context_answer(),
            IotlbCommand => self.iotlb_answer(),
            ProtectedMemory => self.protection_status().into(),
            Region(region, bound) => self.protection.regions[region][bound],
            FaultStatus => self.fault_status().into(),
            FaultControl => self.fault_event.control().into(),
            FaultData => self.fault_event.data.into(),
            FaultAddress => self.fault_event.address & 0xffff_ffff,
            FaultUpperAddress => self.fault_event.address >> 32,
            QueueHead => self.queue.head,
            QueueTail => self.queue.tail,
            QueueAddress => self.iqa,
            Completion => self.wait_done.into(),
            CompletionControl => self.completion_event.control().into(),
            CompletionData => self.completion_event.data.into(),
            CompletionAddress => self.completion_event.address & 0xffff_ffff,
            CompletionUpperAddress => self.completion_event.address >> 32,
            QueueError => self.error_record,
            InterruptTable => self.irta,
            PageRequestControl => self.page_request_event.control().into(),
            Record(slot) => self.records[slot][inside / 8] >> (inside % 8 * 8),
        }
    }

    /// Writes `width` bytes.
    pub(super) fn write(&mut self, offset: usize, width: usize, value: u64) {
        let (inside, register) = match self.access(offset, width) {
            Err(()) => return,
            Ok(None) => return self.violations.push(Violation::NoRegister { offset, value }),
            Ok(Some(found)) => found,
        };
        match register {
            Version | Cap | Ecap | Status | QueueHead | QueueError => {
                self.violations.push(Violation::ReadOnly { offset, value });
            }
            Other => self.violations.push(Violation::NoRegister { offset, value }),
            Command => self.command(value as u32),
            Root => self.rtaddr = self.checked(offset, value, 0x3ff),
            ContextCommand => self.context_command(value),
            InvalidateAddress => self.invalidate_address(value),
            IotlbCommand => self.iotlb_command(value),
            ProtectedMemory => self.protect(value as u32),
            Region(region, bound) => self.set_region(offset, region, bound, value),
            InterruptTable => self.irta = self.checked(offset, value, 0x7f0),
            PageRequestControl => _ = self.page_request_event.set_control(value as u32),
            QueueAddress if self.queue_enabled() && value != self.iqa => {
                self.violations.push(Violation::QueueMoved { iqa: value });
            }
            QueueAddress => self.iqa = self.checked(offset, value, 0x7f8),
            QueueTail => self.set_tail(value),
            FaultStatus => self.clear_status(value as u32),
            FaultControl => {
                if self.fault_event.set_control(value as u32) {
                    self.messages.push(Message { address: self.fault_event.address, data: self.fault_event.data });
                }
            }
            CompletionControl => {
                if self.completion_event.set_control(value as u32) {
                    let event = &self.completion_event;
                    self.messages.push(Message { address: event.address, data: event.data });
                }
            }
            Completion if value & 1 != 0 => {
                self.wait_done = false;
                self.completion_event.held = false;
            }
            Completion => {}
            FaultData => self.fault_event.data = value as u32,
            FaultAddress => lower(&mut self.fault_event.address, value),
            FaultUpperAddress => upper(&mut self.fault_event.address, value),
            CompletionData => self.completion_event.data = value as u32,
            CompletionAddress => lower(&mut self.completion_event.address, value),
            CompletionUpperAddress => upper(&mut self.completion_event.address, value),
            Record(slot) => match (inside, width) {
                (12, 4) if value >> 31 & 1 != 0 => self.clear_record(slot),
                (8, 8) if value >> 63 != 0 => self.clear_record(slot),
                (12, 4) | (8, 8) => {}
                _ => self.violations.push(Violation::ReadOnly { offset, value }),
            },
        }
    }

    /// The value without `reserved` bits, which are noted, and those beyond the host's width.
    fn checked(&mut self, offset: usize, value: u64, reserved: u64) -> u64 {
        let reserved = reserved | !((1 << self.config.haw) - 1);
        if value & reserved != 0 {
            self.violations.push(Violation::ReservedBits { offset, bits: value & reserved });
        }
        value & !reserved
    }
}

fn lower(address: &mut u64, value: u64) {
    *address = *address & !0xffff_ffff | value & 0xffff_ffff;
}

fn upper(address: &mut u64, value: u64) {
    *address = *address & 0xffff_ffff | value << 32;
}
