use super::decode;
use crate::spec::fault::{FaultRecord, Reason};
use alloc::string::ToString;
use alloc::vec::Vec;
use iommu_core::addr::Iova;
use iommu_core::hw::{AccessKind, Fault, FaultKind, Pasid, RequesterId, Stream};

/// A record from its bit numbers: (first bit, value).
fn record(fields: &[(u32, u128)]) -> Fault {
    decode::fault(FaultRecord::from(fields.iter().fold(1 << 127, |word, (bit, value)| word | value << bit)))
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

/// The codes of the specification, range by range.
const CODES: [core::ops::RangeInclusive<u8>; 14] = [
    0x01..=0x0e,
    0x20..=0x29,
    0x30..=0x34,
    0x38..=0x3a,
    0x40..=0x49,
    0x50..=0x52,
    0x58..=0x5d,
    0x60..=0x60,
    0x70..=0x77,
    0x78..=0x7d,
    0x80..=0x87,
    0x89..=0x89,
    0x90..=0x91,
    0xa0..=0xa5,
];

#[test]
fn every_reason_has_its_code_and_every_code_is_kept() {
    for code in 0..=u8::MAX {
        let reason = Reason::from_code(code);
        let known = CODES.iter().any(|range| range.contains(&code));
        assert_eq!(reason.code(), code);
        assert_eq!(matches!(reason, Reason::Unknown(_)), !known, "{code:#x}");
        assert_eq!(reason.kind() == FaultKind::Unknown, !known, "{code:#x}");
        assert!(reason.to_string().starts_with(&alloc::format!("{code:#x}, ")));
    }
    let codes: Vec<u8> = Reason::KNOWN.iter().map(|reason| reason.code()).collect();
    assert!(codes.is_sorted_by(|one, next| one < next));
    assert_eq!(codes.len(), CODES.iter().map(|range| range.clone().count()).sum::<usize>());
}

#[test]
fn kinds_are_what_the_core_takes_them_for() {
    let of = |code| Reason::from_code(code).kind();
    // Entries that are not present block; interrupts are told apart from memory; widths are addresses.
    assert!([0x01, 0x02, 0x33, 0x39, 0x41, 0x51, 0x59].into_iter().all(|code| of(code) == FaultKind::Blocked));
    assert!((0x20..=0x28).all(|code| of(code) == FaultKind::Interrupt));
    assert!([0x04, 0x0e, 0x29, 0x74, 0x80, 0x83, 0x84, 0x87].into_iter().all(|code| of(code) == FaultKind::Address));
    assert!([0x05, 0x06, 0x79, 0x81, 0x82, 0x85, 0x86].into_iter().all(|code| of(code) == FaultKind::Permission));
    assert!(
        [0x0d, 0x31, 0x32, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x5c, 0x5d]
            .into_iter()
            .all(|code| of(code) == FaultKind::Request)
    );
    assert_eq!(of(0x71), FaultKind::NotMapped);
    assert_eq!(Reason::KNOWN.iter().filter(|reason| reason.kind() == FaultKind::Structure).count(), 34);
}
