//! Words worked out by hand from the bit numbers of section 6.5.2, with nothing of the layouts in them.

use super::*;

const fn id(raw: u16) -> RequesterId {
    RequesterId::new(raw)
}

const NO_DRAIN: Drain = Drain { writes: false, reads: false };

#[track_caller]
fn check(invalidation: Invalidation, word0: u64, word1: u64) {
    let descriptor = Descriptor::from(invalidation);
    assert_eq!(descriptor.0, [word0, word1, 0, 0], "{invalidation:?}: {descriptor:#x?}");
    assert_eq!(descriptor.words(Width::Bits128), [word0, word1]);
    assert_eq!(descriptor.words(Width::Bits256), [word0, word1, 0, 0]);
}

#[test]
fn type_1_of_the_context_cache() {
    check(Invalidation::ContextCache(ContextScope::Global), 1 | 1 << 4, 0);
    check(Invalidation::ContextCache(ContextScope::Domain(0xabcd)), 1 | 2 << 4 | 0xabcd << 16, 0);
    let device = ContextScope::Device { domain: 0xabcd, source: id(0x1234) };
    check(Invalidation::ContextCache(device), 1 | 3 << 4 | 0xabcd << 16 | 0x1234 << 32, 0);
}

#[test]
fn type_2_of_the_iotlb() {
    let both = Drain { writes: true, reads: true };
    let iotlb = |scope, drain| Invalidation::Iotlb { scope, drain };
    check(iotlb(IotlbScope::Global, both), 2 | 1 << 4 | 1 << 6 | 1 << 7, 0);
    check(iotlb(IotlbScope::Global, Drain { writes: true, reads: false }), 2 | 1 << 4 | 1 << 6, 0);
    check(iotlb(IotlbScope::Global, Drain { writes: false, reads: true }), 2 | 1 << 4 | 1 << 7, 0);
    check(iotlb(IotlbScope::Domain(0xffff), NO_DRAIN), 2 | 2 << 4 | 0xffff << 16, 0);
    let pages = Pages { address: 0x000a_bcde_f000_0000, mask: 9, leaves_only: false };
    check(iotlb(IotlbScope::Pages { domain: 7, pages }, NO_DRAIN), 2 | 3 << 4 | 7 << 16, 0x000a_bcde_f000_0000 | 9);
    let pages = Pages { address: 0x1000, mask: 0, leaves_only: true };
    check(iotlb(IotlbScope::Pages { domain: 7, pages }, both), 2 | 3 << 4 | 3 << 6 | 7 << 16, 0x1000 | 1 << 6);
}

#[test]
fn type_3_of_a_device_tlb() {
    let target = TlbTarget { source: id(0x0100), physical: None, queue_depth: 32 };
    let of = |target, pages| Invalidation::DeviceTlb { target, pages };
    // A queue of 32 is written as 0.
    check(of(target, TlbPages::Block { address: 0x5000, mask: 0 }), 3 | 0x0100 << 32, 0x5000);
    // 8 KiB: S, bit 12 clear. 16 KiB: S, bits 13:12 = 01.
    check(of(target, TlbPages::Block { address: 0x6000, mask: 1 }), 3 | 0x0100 << 32, 0x6000 | 1);
    check(of(target, TlbPages::Block { address: 0x8000, mask: 2 }), 3 | 0x0100 << 32, 0x9000 | 1);
    // 2 MiB: bits 19:12 set, 20 clear. 1 GiB: bits 28:12 set, 29 clear.
    check(of(target, TlbPages::Block { address: 0x4020_0000, mask: 9 }), 3 | 0x0100 << 32, 0x402f_f001);
    check(of(target, TlbPages::Block { address: 0x4000_0000, mask: 18 }), 3 | 0x0100 << 32, 0x5fff_f001);
    // The largest block: bits 61:12 set, 62 clear, and 63 chooses. Everything: all but bit 63.
    check(of(target, TlbPages::Block { address: 1 << 63, mask: 51 }), 3 | 0x0100 << 32, 0xbfff_ffff_ffff_f001);
    check(of(target, TlbPages::All), 3 | 0x0100 << 32, 0x7fff_ffff_ffff_f001);
    // An address inside of a block means the block.
    check(of(target, TlbPages::Block { address: 0xb000, mask: 2 }), 3 | 0x0100 << 32, 0x9000 | 1);

    // PFSID 0x4fed: d in bits 15:12, 4fe in bits 63:52. MIP 17 in bits 20:16.
    let target = TlbTarget { source: id(0xfffe), physical: Some(id(0x4fed)), queue_depth: 17 };
    check(of(target, TlbPages::All), 3 | 0xd << 12 | 17 << 16 | 0xfffe << 32 | 0x4fe << 52, 0x7fff_ffff_ffff_f001);
}

#[test]
fn type_4_of_the_interrupt_entry_cache() {
    check(Invalidation::InterruptEntries { index: None }, 4, 0);
    check(Invalidation::InterruptEntries { index: Some((0xbeef, 0)) }, 4 | 1 << 4 | 0xbeef << 32, 0);
    check(Invalidation::InterruptEntries { index: Some((0xbee0, 31)) }, 4 | 1 << 4 | 31 << 27 | 0xbee0 << 32, 0);
}

#[test]
fn type_5_waits() {
    let words = |wait: Wait| Descriptor::from(wait).0;
    let status = Some((PhysAddr::new(0x1234_5678_9abc), 0xdead_beef));
    assert_eq!(words(Wait { status, ..Wait::default() }), [5 | 1 << 5 | 0xdead_beef << 32, 0x1234_5678_9abc, 0, 0]);
    assert_eq!(words(Wait { interrupt: true, ..Wait::default() }), [5 | 1 << 4, 0, 0, 0]);
    assert_eq!(words(Wait { fence: true, ..Wait::default() }), [5 | 1 << 6, 0, 0, 0]);
    assert_eq!(words(Wait { page_requests: true, ..Wait::default() }), [5 | 1 << 7, 0, 0, 0]);
}

#[test]
fn type_6_of_the_pasid_based_iotlb() {
    let of = |pages| Invalidation::PasidIotlb { domain: 0x8001, pasid: 0xf_fff1, pages };
    check(of(None), 6 | 2 << 4 | 0x8001 << 16 | 0xf_fff1 << 32, 0);
    let pages = Pages { address: 0xffff_8000_0020_0000, mask: 18, leaves_only: true };
    check(of(Some(pages)), 6 | 3 << 4 | 0x8001 << 16 | 0xf_fff1 << 32, 0xffff_8000_0020_0000 | 1 << 6 | 18);
}

#[test]
fn type_7_of_the_pasid_cache() {
    check(Invalidation::PasidCache(PasidScope::Domain(0x8001)), 7 | 0x8001 << 16, 0);
    let one = PasidScope::Pasid { domain: 0x8001, pasid: 0x8_0000 };
    check(Invalidation::PasidCache(one), 7 | 1 << 4 | 0x8001 << 16 | 0x8_0000 << 32, 0);
    check(Invalidation::PasidCache(PasidScope::Global), 7 | 3 << 4, 0);
}

#[test]
fn type_8_of_a_device_tlb_by_pasid() {
    let target = TlbTarget { source: id(0x0208), physical: None, queue_depth: 32 };
    let of = |target, pasid, pages| Invalidation::PasidDeviceTlb { target, pasid, pages };
    let all = TlbPages::All;
    // S is bit 11 here, and G bit 0.
    check(of(target, Some(0x1_2345), all), 8 | 0x0208 << 16 | 0x1_2345 << 32, 0x7fff_ffff_ffff_f800);
    check(of(target, None, all), 8 | 0x0208 << 16, 0x7fff_ffff_ffff_f801);
    let block = TlbPages::Block { address: 0x20_0000, mask: 0 };
    check(of(target, Some(1), block), 8 | 0x0208 << 16 | 1 << 32, 0x20_0000);
    let target = TlbTarget { source: id(0x0209), physical: Some(id(0x0200)), queue_depth: 1 };
    check(of(target, Some(1), block), 8 | 1 << 4 | 0x0209 << 16 | 1 << 32 | 0x020 << 52, 0x20_0000);
    let target = TlbTarget { source: id(0x0209), physical: Some(id(0x020f)), queue_depth: 31 };
    check(of(target, Some(1), block), 8 | 31 << 4 | 0xf << 12 | 0x0209 << 16 | 1 << 32 | 0x020 << 52, 0x20_0000);
}

#[test]
fn type_9_answers_page_requests() {
    let words = |response: PageGroupResponse| Descriptor::from(response).0;
    let response =
        PageGroupResponse { requester: id(0x0310), pasid: Some(0xa_bcde), group: 0x1ff, code: ResponseCode::Failure };
    assert_eq!(words(response), [9 | 1 << 4 | 0xf << 12 | 0x0310 << 16 | 0xa_bcde << 32, 0x1ff << 3, 0, 0]);
    let response = PageGroupResponse { pasid: None, group: 1, code: ResponseCode::InvalidRequest, ..response };
    assert_eq!(words(response), [9 | 1 << 12 | 0x0310 << 16, 1 << 3, 0, 0]);
    let response = PageGroupResponse { code: ResponseCode::Success, ..response };
    assert_eq!(words(response), [9 | 0x0310 << 16, 1 << 3, 0, 0]);
}

#[test]
fn numbers_beyond_their_field_touch_no_other() {
    let pasid = PasidScope::Pasid { domain: 1, pasid: u32::MAX };
    check(Invalidation::PasidCache(pasid), 7 | 1 << 4 | 1 << 16 | 0xf_ffff << 32, 0);
    let pages = Some(Pages { address: 0xfff, mask: 0xff, leaves_only: false });
    check(Invalidation::PasidIotlb { domain: 0, pasid: 0, pages }, 6 | 3 << 4, 0x3f);
    check(Invalidation::InterruptEntries { index: Some((0, 0xff)) }, 4 | 1 << 4 | 31 << 27, 0);
    let target = TlbTarget { source: id(0), physical: None, queue_depth: 0xff };
    check(Invalidation::DeviceTlb { target, pages: TlbPages::Block { address: 0, mask: 0xff } }, 3 | 31 << 16, {
        0x7fff_ffff_ffff_f001
    });
}
