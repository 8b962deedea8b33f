//! Fault records, fault status and the events they raise (sections 7.2, 11.4.7, 11.4.14).

use super::config::Config;
use super::unit::Unit;
use super::walk::{AddressType, FaultCode, Operation, Request};
use iommu_core::addr::Iova;

/// FSTS bits.
pub(super) mod status {
    pub(in crate::vtd) const OVERFLOW: u32 = 1;
    pub(in crate::vtd) const PENDING: u32 = 1 << 1;
    pub(in crate::vtd) const QUEUE: u32 = 1 << 4;
    pub(in crate::vtd) const COMPLETION: u32 = 1 << 5;
    pub(in crate::vtd) const TIME_OUT: u32 = 1 << 6;
    /// What a 1 written clears.
    pub(in crate::vtd) const CLEARABLE: u32 = OVERFLOW | QUEUE | COMPLETION | TIME_OUT;
}

/// F in the upper word of a record.
const RECORDED: u64 = 1 << 63;

/// A request that was refused, as FRCD tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultRecord {
    /// Source id.
    pub requester: u16,
    /// PASID of the request.
    pub pasid: Option<u32>,
    /// The page.
    pub page: Iova,
    /// What was asked for.
    pub operation: Operation,
    /// AT.
    pub address: AddressType,
    /// ER of a request with PASID.
    pub execute: bool,
    /// PR of a request with PASID.
    pub privileged: bool,
    /// The reason.
    pub code: FaultCode,
}

impl FaultRecord {
    /// What is told of a request that ended with `code`.
    pub const fn of(request: &Request, code: FaultCode) -> Self {
        let tagged = request.pasid.is_some();
        Self {
            requester: request.requester,
            pasid: request.pasid,
            page: Iova::new(request.iova.get() & !0xfff),
            operation: request.operation,
            address: request.address,
            execute: request.execute && tagged,
            privileged: request.privileged && tagged,
            code,
        }
    }

    /// Whether it was a write.
    pub const fn write(&self) -> bool {
        matches!(self.operation, Operation::Write)
    }

    /// The two words of FRCD, with F set (section 11.4.7.6), as `config` has their fields.
    const fn words(&self, config: &Config) -> [u64; 2] {
        let mut upper = RECORDED | (self.code.0 as u64) << 32 | self.requester as u64;
        // T1 and T2: 0,0 a write; 1,0 a read; 1,1 both at once.
        upper |= match self.operation {
            Operation::Write => 0,
            Operation::Read | Operation::ZeroLengthRead => 1 << 62,
            Operation::Atomic => 1 << 62 | 1 << 28,
        };
        if config.ecap_bit(2) {
            upper |= match self.address {
                AddressType::Untranslated => 0,
                AddressType::Translation => 1 << 60,
                AddressType::Translated => 2 << 60,
            };
        }
        if let Some(pasid) = self.pasid
            && config.ecap_bit(40)
        {
            upper |= 1 << 31 | (pasid as u64) << 40 | (self.execute as u64) << 30 | (self.privileged as u64) << 29;
        }
        // Bits above the largest AGAW are reserved.
        let page = self.page.get() & !0xfff & ((1 << config.address_bits()) - 1);
        [page, upper]
    }
}

/// FECTL or IECTL with what goes with it: the mask, a message held back, and the message itself.
#[derive(Default)]
pub(super) struct Event {
    pub(super) masked: bool,
    pub(super) held: bool,
    pub(super) data: u32,
    pub(super) address: u64,
}

impl Event {
    /// Whether a message goes out now; held back while masked.
    pub(super) fn raise(&mut self) -> bool {
        self.held |= self.masked;
        !self.masked
    }

    pub(super) fn control(&self) -> u32 {
        u32::from(self.masked) << 31 | u32::from(self.held) << 30
    }

    /// A write to the control register. Whether a message that was held back goes out now.
    pub(super) fn set_control(&mut self, value: u32) -> bool {
        self.masked = value >> 31 != 0;
        !self.masked && core::mem::take(&mut self.held)
    }
}

impl Unit {
    /// FSTS as software reads it.
    pub(super) fn fault_status(&self) -> u32 {
        let pending = if self.records.iter().any(|record| record[1] & RECORDED != 0) { status::PENDING } else { 0 };
        self.status | pending | u32::from(self.first_record) << 8
    }

    /// Sets status bits, and raises the event where none was set before.
    pub(super) fn set_status(&mut self, bits: u32) {
        let quiet = self.fault_status() & 0xff == 0;
        self.status |= bits;
        if quiet {
            self.raise_fault_event();
        }
    }

    fn raise_fault_event(&mut self) {
        if self.fault_event.raise() {
            self.messages.push(super::Message { address: self.fault_event.address, data: self.fault_event.data });
        }
    }

    /// A write to FSTS.
    pub(super) fn clear_status(&mut self, value: u32) {
        self.status &= !(value & status::CLEARABLE);
        self.settle_fault_event();
        // Section 6.5.2.9: fetching goes on once the error is cleared.
        self.run_queue();
    }

    /// A message held back has no cause any more once all status is clear.
    fn settle_fault_event(&mut self) {
        if self.fault_status() & 0xff == 0 {
            self.fault_event.held = false;
        }
    }

    /// Records a fault where there is room.
    pub(super) fn record(&mut self, record: &FaultRecord) {
        if self.status & status::OVERFLOW != 0 {
            return;
        }
        let slot = self.next_record;
        if self.records[slot][1] & RECORDED != 0 {
            self.set_status(status::OVERFLOW);
            return;
        }
        let status = self.fault_status();
        if status & status::PENDING == 0 {
            self.first_record = slot as u8;
        }
        self.records[slot] = record.words(&self.config);
        self.next_record = (slot + 1) % self.records.len();
        if status & 0xff == 0 {
            self.raise_fault_event();
        }
    }

    /// A write of 1 to F of the record in `slot`.
    pub(super) fn clear_record(&mut self, slot: usize) {
        self.records[slot][1] &= !RECORDED;
        self.settle_fault_event();
    }
}
