//! Rows about the stream table and context descriptors, and about what guests ask for.

use super::*;
use crate::spec::command::Range;

#[test]
fn a_new_stream_table_drops_everything() {
    assert_eq!(run(Change::StreamTable), [CFGI_ALL, TLBI_NSNH_ALL]);
    assert_eq!(run_on(&caps(1, 1), Change::StreamTable), [CFGI_ALL, TLBI_EL2_ALL, TLBI_NSNH_ALL]);
}

#[test]
fn a_stored_word_drops_its_structure_and_where_it_is_new_what_leads_there() {
    let entry = |new_table| Change::EntryStored { stream: STREAM, new_table };
    assert_eq!(run(entry(false)), [CFGI_STE]);
    assert_eq!(run(entry(true)), [CFGI_STE_AND_LEVEL_1]);
    let context = |index, new_table| Change::ContextStored { stream: STREAM, index, new_table };
    assert_eq!(run(context(0, false)), [CFGI_CD_0]);
    assert_eq!(run(context(PASID, false)), [CFGI_CD_PASID]);
    assert_eq!(run(context(PASID, true)), [[CFGI_CD_PASID[0], 0]]);
}

#[test]
fn an_entry_that_leads_nowhere_drops_all_that_was_filled_through_it() {
    let cleared = |tag, atc| run(Change::EntryCleared { user: user(STREAM, None, atc), tag });
    assert_eq!(cleared(FIRST, false), [CFGI_STE, CFGI_CD_ALL, TLBI_NH_ASID]);
    assert_eq!(cleared(SECOND, false), [CFGI_STE, TLBI_S12_VMALL]);
    assert_eq!(cleared(GUEST, false), [CFGI_STE, CFGI_CD_ALL, TLBI_S12_VMALL]);
    assert_eq!(cleared(Tag::Bypass, false), [CFGI_STE]);
    assert_eq!(cleared(FIRST, true), [CFGI_STE, CFGI_CD_ALL, TLBI_NH_ASID, ATC_ALL]);
    assert_eq!(cleared(SECOND, true), [CFGI_STE, TLBI_S12_VMALL, ATC_ALL]);
    assert_eq!(cleared(GUEST, true), [CFGI_STE, CFGI_CD_ALL, TLBI_S12_VMALL, ATC_ALL]);
    // What passes through is not translated, but device TLBs hold it.
    assert_eq!(cleared(Tag::Bypass, true), [CFGI_STE, ATC_ALL]);
}

#[test]
fn a_context_that_leads_nowhere_drops_what_was_filled_through_it() {
    let cleared = |pasid, atc| run(Change::ContextCleared { user: user(STREAM, pasid, atc), tag: FIRST });
    assert_eq!(cleared(None, false), [CFGI_CD_0, TLBI_NH_ASID]);
    assert_eq!(cleared(Some(PASID), false), [CFGI_CD_PASID, TLBI_NH_ASID]);
    assert_eq!(cleared(None, true), [CFGI_CD_0, TLBI_NH_ASID, ATC_ALL]);
    assert_eq!(cleared(Some(PASID), true), [CFGI_CD_PASID, TLBI_NH_ASID, ATC_ALL_OF_PASID]);
}

#[test]
fn a_device_tlb_forgets_everything_and_stalled_accesses_end() {
    assert_eq!(run(Change::DeviceTlbCleared { stream: STREAM }), [ATC_ALL]);
    assert_eq!(run(Change::StalledLeft { stream: STREAM }), [[0x45 | SID, 0]]);
}

#[test]
fn a_retired_domain_leaves_nothing_under_its_id() {
    assert_eq!(run(Change::DomainRetired { tag: FIRST }), [TLBI_NH_ASID]);
    assert_eq!(run(Change::DomainRetired { tag: SECOND }), [TLBI_S12_VMALL]);
    assert_eq!(run(Change::DomainRetired { tag: GUEST }), [TLBI_S12_VMALL]);
    assert_eq!(run(Change::DomainRetired { tag: Tag::Bypass }), [] as [Words; 0]);
}

#[test]
fn a_guest_reaches_its_own_streams_and_its_own_vmid() {
    let other_guest = Tag::Guest { vmid: 0x1234, number: 8 };
    let third = StreamId::new(0x33);
    let users = users(&[
        (user(STREAM, None, true), GUEST),
        (user(OTHER, None, false), GUEST),
        (user(third, None, true), other_guest),
        (user(StreamId::new(0x44), None, true), SECOND),
    ]);
    let asked = |request| run(Change::GuestChanged { tag: GUEST, users: &users, request });
    let both = |words: [u64; 2]| [[words[0] | SID, words[1]], [words[0] | OTHER_SID, words[1]]];
    assert_eq!(asked(GuestRequest::Context { index: PASID, leaf: true }), both([0x05 | 0x5_4321 << 12, 1]));
    assert_eq!(asked(GuestRequest::Context { index: 0, leaf: false }), both([0x05, 0]));
    assert_eq!(asked(GuestRequest::Contexts), both([0x06, 0]));
    assert_eq!(asked(GuestRequest::All), [TLBI_NH_ALL]);
    assert_eq!(asked(GuestRequest::Asid(0xabcd)), [[0x11 | 0x1234 << 32 | 0xabcd << 48, 0]]);
    let form = Range { granule: 2, num: 3, scale: 4, level: 3 };
    let pages = Pages { address: 0x7000_4000, leaves_only: true, range: Some(form) };
    let (low, high) = (num(3) | scale(4) | 0x1234 << 32, 0x7000_4000 | LEAF | ttl(3) | 2 << 10);
    let va = GuestRequest::Pages { asid: Some(0xabcd), pages };
    assert_eq!(asked(va), [[0x12 | low | 0xabcd << 48, high]]);
    assert_eq!(asked(GuestRequest::Pages { asid: None, pages }), [[0x13 | low, high]]);
    // Of its streams only one has a device TLB.
    let pages = AtcPages { address: 0x8000, size: 2 };
    let device = |pasid, global| asked(GuestRequest::Device { pasid, global, pages });
    assert_eq!(device(None, false), [[0x40 | SID, 0x8000 | 2]]);
    let word0 = 0x40 | 1 << 9 | 1 << 11 | 0x5_4321 << 12 | SID;
    assert_eq!(device(Pasid::new(PASID), true), [[word0, 0x8000 | 2]]);
}
