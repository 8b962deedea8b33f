//! Fault records read, decoded and cleared (section 7.2.1), polled or in answer to the unit's interrupt.
//!
//! Takes no lock but its own, and waits for none, so that it can run in interrupt context while a map, an unmap or an
//! attach is under way.

mod decode;
mod interrupt;

pub use interrupt::MsiMessage;

use crate::capabilities::Capabilities;
use crate::spec::fault::FaultRecord;
use crate::spec::registers::*;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu_core::hw::{Fault, FaultReport};
use iommu_core::warn;
use iommu_hal::regs::Registers;
use spin::Mutex;
use tock_registers::LocalRegisterCopy;

/// Most rounds through the record registers in one call: a storm must not keep the caller for ever.
const ROUNDS: usize = 4;

/// Bit of the last 32-bit word of a record that clears it.
const CLEAR: u32 = 1 << 31;

type Status = LocalRegisterCopy<u32, FSTS::Register>;

/// The fault records of one unit.
pub(crate) struct Faults {
    /// Keeps two readers from clearing each other's record half-read.
    reader: Mutex<()>,
    /// Somebody came while another was reading, and went without a look.
    missed: AtomicBool,
    /// Keeps two who set the interrupt from mixing their messages.
    interrupt: Mutex<()>,
    offset: usize,
    records: usize,
}

/// What stands in a record register.
enum Record {
    Empty,
    Fault(FaultRecord),
    /// All ones, reserved bits included, on a unit that else answers.
    Lies,
    /// Nobody answers any more.
    Gone,
}

impl Faults {
    pub(crate) fn new(caps: &Capabilities) -> Self {
        Self {
            reader: Mutex::new(()),
            missed: AtomicBool::new(false),
            interrupt: Mutex::new(()),
            offset: caps.fault_offset(),
            records: caps.fault_records(),
        }
    }

    /// Hands pending faults to `sink`, oldest first. Where somebody else is at it, hands over none: both are told that
    /// there is more.
    pub(crate) fn report<R: Registers>(&self, io: &R, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        // Before the try: whoever holds the lock now looks at this once it has given it back.
        self.missed.store(true, Ordering::SeqCst);
        let Some(reader) = self.reader.try_lock() else {
            return FaultReport { more: true, ..FaultReport::default() };
        };
        self.missed.store(false, Ordering::SeqCst);
        let mut report = self.drain(io, sink);
        drop(reader);
        // The fault that brought the other one here may have come after the last look, and its interrupt is spent.
        report.more |= self.missed.swap(false, Ordering::SeqCst);
        report
    }

    fn drain<R: Registers>(&self, io: &R, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        let mut report = FaultReport::default();
        let Some(first) = status(io) else { return report };
        if first.is_set(FSTS::ICE) {
            // Nobody has to do anything about it, but as long as it stands no fault raises an interrupt.
            warn!("an invalidation completion that nobody waits for");
            io.write32(FSTS_REG, FSTS::ICE::SET.value);
        }
        if !first.is_set(FSTS::PPF) && !first.is_set(FSTS::PFO) {
            return report;
        }
        let mut index = first.read(FSTS::FRI) as usize % self.records;
        let mut found = false;
        for looked in 0..self.records * ROUNDS {
            let at = self.offset + index * FRCD_LEN;
            match record(io, at) {
                // Records are taken in turn, so that nothing follows an empty one. But FRI may lie: then all are looked at.
                Record::Empty if found || looked + 1 >= self.records => break,
                Record::Empty => {}
                Record::Fault(record) => {
                    found = true;
                    io.write32(at + 12, CLEAR);
                    sink(&decode::fault(record));
                    report.reported += 1;
                }
                Record::Lies => {
                    found = true;
                    io.write32(at + 12, CLEAR);
                    report.lost = true;
                }
                Record::Gone => return report,
            }
            index = (index + 1) % self.records;
        }
        let Some(last) = status(io) else { return report };
        if last.is_set(FSTS::PFO) {
            report.lost = true;
            // While the bit stands nothing new is recorded.
            io.write32(FSTS_REG, FSTS::PFO::SET.value);
        }
        // Where none was found the bit lies, and a caller that comes back for more would do so for ever.
        report.more = found && last.is_set(FSTS::PPF);
        report
    }

    /// Throws away what is recorded, within a bound: for records left over from before bring-up.
    pub(crate) fn discard<R: Registers>(&self, io: &R) {
        self.report(io, &mut |_| {});
    }
}

/// FSTS; `None` where nobody answers: the reserved bits of a unit that is there read zero.
fn status<R: Registers>(io: &R) -> Option<Status> {
    let status = io.read32(FSTS_REG);
    (status != u32::MAX).then(|| LocalRegisterCopy::new(status))
}

/// The record at offset `at`.
fn record<R: Registers>(io: &R, at: usize) -> Record {
    let high = io.read64(at + 8);
    let record = FaultRecord::from(u128::from(high) << 64 | u128::from(io.read64(at)));
    if !record.fault() {
        Record::Empty
    } else if high != u64::MAX {
        Record::Fault(record)
    } else if status(io).is_some() {
        Record::Lies
    } else {
        Record::Gone
    }
}

#[cfg(test)]
mod tests;
