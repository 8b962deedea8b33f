//! A record in the core's terms.

use crate::spec::fault::{FaultRecord, Reason};
use iommu_core::addr::Iova;
use iommu_core::hw::{AccessKind, Fault, FaultKind, Pasid, RequesterId, Stream};

/// What `record` tells of. Its reason may be one that there are no words for.
pub(super) fn fault(record: FaultRecord) -> Fault {
    let reason = Reason::from_code(record.reason());
    let pasid = if record.pasid_present() { Pasid::new(record.pasid()) } else { None };
    let (iova, granule) = match reason.kind() {
        // The index of the interrupt stands where addresses have their top 16 bits.
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
        kind: reason.kind(),
        code: reason.code().into(),
        text: reason.text(),
        stalled: None,
    }
}
