//! Events bit for bit.

use super::EventRecord;
use crate::spec::event::Class;
use alloc::string::ToString;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{AccessKind, Fault, FaultKind, Pasid, Stream, StreamId};

fn decode(words: [u64; 4]) -> Fault {
    EventRecord::new(words).fault()
}

#[test]
fn fields_are_where_the_specification_says() {
    let fault = decode([0x10 | 0x0123 << 32, 1 << 35 | 2 << 40, 0x1234_5678_9abc, 0]);
    assert_eq!(fault.stream, Stream::function(StreamId::new(0x123)));
    assert_eq!((fault.iova, fault.granule), (Iova::new(0x1234_5678_9abc), 1));
    assert_eq!((fault.access, fault.kind, fault.code), (AccessKind::Read, FaultKind::NotMapped, 0x10));
    assert_eq!(fault.text, "not mapped in stage 1 (F_TRANSLATION)");
    let second = decode([0x13 | 0xffff_ffff << 32, 1 << 39 | 2 << 40, 0x1000, 0x7000]);
    assert_eq!((second.access, second.kind, second.code), (AccessKind::Write, FaultKind::Permission, 0x13));
    assert_eq!((second.stream.id.get(), second.text), (u32::MAX, "no permission in stage 2 (F_PERMISSION)"));
    assert_eq!(decode([0x13, 1 << 34 | 1 << 35, 0, 0]).access, AccessKind::Execute);
    assert_eq!(decode([0x13, 1 << 34, 0, 0]).access, AccessKind::Write);
    let tagged = decode([0x10 | 1 << 11 | 0xf_1234 << 12, 0, 0, 0]);
    assert_eq!(tagged.stream, Stream::with_pasid(StreamId::new(0), Pasid::new(0xf_1234).unwrap()));
    assert_eq!(decode([0x10 | 0xf_1234 << 12, 0, 0, 0]).stream.pasid, None);
    // C_BAD_SUBSTREAMID has no SSV: its substream is always there.
    assert_eq!(decode([0x08 | 0xf_1234 << 12, 0, 0, 0]).stream, tagged.stream);
}

#[test]
fn events_of_no_access_have_no_address() {
    let bad = decode([0x02 | 7 << 32, 1 << 35, 0x5000, 0x6000]);
    assert_eq!((bad.kind, bad.iova, bad.granule), (FaultKind::Blocked, Iova::new(0), 0));
    assert_eq!(bad.access, AccessKind::Write);
    assert_eq!(decode([0x04, 0, 0, 0]).kind, FaultKind::Structure);
    assert_eq!(decode([0xff, 0, 0, 0]).kind, FaultKind::Unknown);
    assert_eq!(decode([0xe5, 0, 0, 0]).text, "an event of this implementation");
}

/// What word 2 and word 3 of each event hold, and whether it may stall (sections 7.3.2 to 7.3.21).
const FIELDS: [(u8, &str, bool, &str, bool); 19] = [
    (0x01, "F_UUT", true, "", false),
    (0x02, "C_BAD_STREAMID", false, "", false),
    (0x03, "F_STE_FETCH", false, "fetch", false),
    (0x04, "C_BAD_STE", false, "", false),
    (0x05, "F_BAD_ATS_TREQ", true, "", false),
    (0x06, "F_STREAM_DISABLED", false, "", false),
    (0x07, "F_TRANSL_FORBIDDEN", true, "", false),
    (0x08, "C_BAD_SUBSTREAMID", false, "", false),
    (0x09, "F_CD_FETCH", false, "fetch", false),
    (0x0a, "C_BAD_CD", false, "", false),
    (0x0b, "F_WALK_EABT", true, "fetch", false),
    (0x10, "F_TRANSLATION", true, "ipa", true),
    (0x11, "F_ADDR_SIZE", true, "ipa", true),
    (0x12, "F_ACCESS", true, "ipa", true),
    (0x13, "F_PERMISSION", true, "ipa", true),
    (0x20, "F_TLB_CONFLICT", true, "", false),
    (0x21, "F_CFG_CONFLICT", false, "", false),
    (0x24, "E_PAGE_REQUEST", true, "", false),
    (0x25, "F_VMS_FETCH", false, "fetch", false),
];

#[test]
fn every_event_tells_what_it_holds_and_nothing_else() {
    let known = |number| FIELDS.iter().find(|row| row.0 == number);
    for number in 0..=u8::MAX {
        // Everything set: STALL, S2, class IN, both addresses.
        let words =
            [u64::from(number) | 5 << 32, 0xabcd | 1 << 31 | 1 << 39 | 2 << 40, 0x1234_5678, 0x00ab_cdef_0123_4fff];
        let record = EventRecord::new(words);
        let fault = record.fault();
        let (name, input, other, stalls) =
            known(number).map_or(("event", false, "", false), |row| (row.1, row.2, row.3, row.4));
        assert!(fault.text.contains(name), "{number:#x}: {}", fault.text);
        assert_eq!(fault.kind == FaultKind::Unknown, known(number).is_none(), "{number:#x}");
        assert_eq!((record.input().is_some(), fault.granule != 0), (input, input), "{name}");
        let intermediate = (other == "ipa").then_some(0x00ab_cdef_0123_4000);
        assert_eq!(record.intermediate(), intermediate, "{name}");
        let fetched = (other == "fetch").then_some(PhysAddr::new(0x00ab_cdef_0123_4ff8));
        assert_eq!(record.fetched(), fetched, "{name}");
        let tag = stalls.then_some(0xabcd);
        assert_eq!((record.stalled(), fault.stalled), (tag, tag), "{name}");
        let staged = stalls || name == "F_WALK_EABT";
        assert_eq!((record.stage2(), record.class()), (staged, staged.then_some(Class::Input)), "{name}");
        // Without S2 there is no intermediate address, and without STALL nothing waits.
        let plain = EventRecord::new([words[0], 0xabcd, words[2], words[3]]);
        assert_eq!((plain.intermediate(), plain.stalled()), (None, None), "{name}");
        let text = record.to_string();
        assert!(words.iter().all(|word| text.contains(&alloc::format!("{word:#018x}"))), "{text}");
        assert_eq!(text.contains("intermediate 0xabcdef01234000"), other == "ipa", "{text}");
        assert_eq!(text.contains("stalled as 0xabcd"), stalls, "{text}");
    }
}

#[test]
fn what_was_translated_is_told_of_stage_2() {
    let text = |class: u64, stage2: u64| decode([0x10, stage2 << 39 | class << 40, 0, 0]).text;
    assert_eq!(text(0, 1), "not mapped in stage 2, of a context descriptor (F_TRANSLATION)");
    assert_eq!(text(1, 1), "not mapped in stage 2, of a table of stage 1 (F_TRANSLATION)");
    assert_eq!(text(2, 1), "not mapped in stage 2 (F_TRANSLATION)");
    assert_eq!(text(1, 0), "not mapped in stage 1 (F_TRANSLATION)");
    let read = EventRecord::new([0x0b, 1 << 39 | 1 << 40 | 1 << 16, 0, 0x1000]).to_string();
    assert!(read.contains("stage 2, class Table") && read.contains("refused by granule protection"), "{read}");
    assert!(EventRecord::new([0x10, 1 << 33, 0, 0]).to_string().contains(", privileged"));
}

#[test]
fn hints_name_the_page_and_the_access() {
    let of = |bits: u64| decode([0x24, bits, 0x1234_5fff, 0]);
    assert_eq!((of(0).iova, of(0).granule), (Iova::new(0x1234_5000), 4096));
    for (bit, access) in [
        (97, AccessKind::Execute),
        (98, AccessKind::Write),
        (99, AccessKind::Read),
        (101, AccessKind::Execute),
        (102, AccessKind::Write),
        (103, AccessKind::Read),
    ] {
        assert_eq!(of(1 << (bit - 64)).access, access, "bit {bit}");
    }
    assert_eq!(decode([0x05, 0, 0x1000, 0]).access, AccessKind::Read, "translation requests are for reads at least");
}
