//! Fault records read, decoded and cleared (section 7.2.1).
//!
//! Takes no lock but its own, so that it can run in interrupt context while a map, an unmap or an attach is under way.

use crate::capabilities::Capabilities;
use crate::spec::fault::{FaultRecord, reason};
use crate::spec::registers::*;
use iommu_core::addr::Iova;
use iommu_core::hw::{AccessKind, Fault, FaultKind, FaultReport, Pasid, RequesterId, Stream};
use iommu_hal::regs::Registers;
use spin::Mutex;
use tock_registers::LocalRegisterCopy;

/// Most rounds through the record registers in one call: a storm must not keep the caller for ever.
const ROUNDS: usize = 4;

/// Bit of the last 32-bit word of a record that clears it.
const CLEAR: u32 = 1 << 31;

/// The fault records of one unit.
pub(crate) struct Faults {
    /// Keeps two readers from clearing each other's record half-read.
    reader: Mutex<()>,
    offset: usize,
    records: usize,
}

impl Faults {
    pub(crate) fn new(caps: &Capabilities) -> Self {
        Self { reader: Mutex::new(()), offset: caps.fault_offset(), records: caps.fault_records() }
    }

    /// Hands pending faults to `sink`, oldest first.
    pub(crate) fn report<R: Registers>(&self, io: &R, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        let mut report = FaultReport::default();
        let Some(_reader) = self.reader.try_lock() else {
            report.more = true;
            return report;
        };
        let status = || LocalRegisterCopy::<u32, FSTS::Register>::new(io.read32(FSTS_REG));
        let first = status();
        if first.get() == u32::MAX {
            // Nobody answers: the reserved bits of a unit that is there read zero.
            return report;
        }
        if !first.is_set(FSTS::PPF) && !first.is_set(FSTS::PFO) {
            return report;
        }
        let mut index = first.read(FSTS::FRI) as usize % self.records;
        for _ in 0..self.records * ROUNDS {
            let at = self.offset + index * FRCD_LEN;
            let high = io.read64(at + 8);
            let record = FaultRecord::from(u128::from(high) << 64 | u128::from(io.read64(at)));
            if !record.fault() {
                break;
            }
            io.write32(at + 12, CLEAR);
            sink(&decode(record));
            report.reported += 1;
            index = (index + 1) % self.records;
        }
        let last = status();
        report.lost = last.is_set(FSTS::PFO);
        report.more = last.is_set(FSTS::PPF);
        if report.lost {
            // While the bit stands nothing new is recorded.
            io.write32(FSTS_REG, FSTS::PFO::SET.value);
        }
        report
    }

    /// Throws away what is recorded, within a bound: for records left over from before bring-up.
    pub(crate) fn discard<R: Registers>(&self, io: &R) {
        self.report(io, &mut |_| {});
    }
}

/// A record in the core's terms.
fn decode(record: FaultRecord) -> Fault {
    let (kind, text) = reason(record.reason());
    let pasid = if record.pasid_present() { Pasid::new(record.pasid()) } else { None };
    let (iova, granule) = match kind {
        FaultKind::Interrupt => (record.info() >> 36, 1),
        _ => (record.info() << 12, 4096),
    };
    Fault {
        stream: Stream { id: RequesterId::new(record.source()).into(), pasid },
        iova: Iova::new(iova),
        granule,
        access: match (record.type1(), record.type2()) {
            (true, true) => AccessKind::Atomic,
            // EXE has a meaning only for requests with PASID.
            _ if record.execute() && record.pasid_present() => AccessKind::Execute,
            (true, false) => AccessKind::Read,
            (false, _) => AccessKind::Write,
        },
        kind,
        code: record.reason().into(),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record from its bit numbers: (first bit, value).
    fn record(fields: &[(u32, u128)]) -> Fault {
        decode(FaultRecord::from(fields.iter().fold(1 << 127, |word, (bit, value)| word | value << bit)))
    }

    #[test]
    fn fields_are_where_the_specification_says() {
        let fault = record(&[(12, 0xabcde), (64, 0x0123), (96, 0x79), (126, 1)]);
        assert_eq!(fault.stream, Stream::function(RequesterId::new(0x123)));
        assert_eq!(fault.iova, Iova::new(0xabcd_e000));
        assert_eq!((fault.access, fault.kind, fault.code), (AccessKind::Read, FaultKind::Permission, 0x79));
        let fault = record(&[(95, 1), (104, 0xf_1234), (96, 0x59)]);
        assert_eq!(fault.stream.pasid, Pasid::new(0xf_1234));
        assert_eq!((fault.access, fault.kind), (AccessKind::Write, FaultKind::Blocked));
        assert_eq!(record(&[(126, 1), (92, 1)]).access, AccessKind::Atomic);
        assert_eq!(record(&[(126, 1), (94, 1), (95, 1)]).access, AccessKind::Execute);
        assert_eq!(record(&[(126, 1), (94, 1)]).access, AccessKind::Read);
        let interrupt = record(&[(48, 0x1234), (96, 0x22)]);
        assert_eq!((interrupt.kind, interrupt.iova, interrupt.granule), (FaultKind::Interrupt, Iova::new(0x1234), 1));
        assert_eq!(record(&[(96, 0xff)]).kind, FaultKind::Unknown);
    }
}
