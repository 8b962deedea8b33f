//! The translations that functions hold themselves: asked for, held for ever, used past the tables, invalidated.

mod common;

use common::*;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::vtd::{Answer, Blocked, Config, Descriptor, FaultCode, Held, Hook, Violation};

const DTE: u64 = 1 << 2;
const PASIDE: u64 = 1 << 3;
const DIT: u64 = 1 << 41;
const PASID: u32 = 64;

/// A unit with device TLBs, [`RID`] and its PASID 64 on the first stage, with DTE.
fn up(config: Config) -> Bench {
    let mut bench = Bench::up(config);
    let table = frame(&bench.memory);
    for word in 0..8 {
        bench.set(table + word * 8, bench.get(bench.pasids + word * 8));
    }
    bench.set(bench.directory + 8, table | 1);
    bench.set(bench.context_entry(RID), bench.directory | PASIDE | DTE | 1);
    bench.context_device(RID);
    bench
}

fn dma(bench: &Bench, pasid: Option<u32>, iova: u64) -> Result<u64, Blocked> {
    bench.model.endpoint(RID).dma(pasid, Iova::new(iova), 1, true).map(|extents| extents[0].start.get())
}

/// Nothing was given, and nobody is told.
fn not_given(iova: u64) -> Result<u64, Blocked> {
    let page = Iova::new(iova & !0xfff);
    Err(Blocked { code: FaultCode::NONE, page, reported: false, answer: Answer::Empty })
}

/// Type 3, with the address and S.
fn device_tlb(bench: &mut Bench, rid: u16, address: u64) {
    bench.submit(u64::from(rid) << 32 | 3, address);
}

/// Type 8.
fn pasid_device_tlb(bench: &mut Bench, rid: u16, pasid: u32, address: u64) {
    bench.submit(u64::from(pasid) << 32 | u64::from(rid) << 16 | 8, address);
}

/// Takes the leaf of page 3 out, and the IOTLB's translations with it.
fn unmap(bench: &mut Bench) {
    bench.set(bench.leaf(3), 0);
    bench.iotlb_domain(DOMAIN);
}

#[test]
fn an_answer_is_held_until_an_invalidation_covers_it() {
    let mut bench = up(Config::server());
    bench.map(3, 0x5000);
    assert_eq!(dma(&bench, None, 0x3123), Ok(0x5123));
    let (iova, phys) = (Iova::new(0x3000), PhysAddr::new(0x5000));
    let held = Held { pasid: None, iova, len: 0x1000, phys, read: true, write: true };
    assert_eq!(bench.model.endpoint(RID).cached(), [held]);
    unmap(&mut bench);
    bench.context_device(RID);
    bench.pasid_cache(DOMAIN, 0);
    assert_eq!(dma(&bench, None, 0x3123), Ok(0x5123));
    assert_eq!(bench.read_at(0x3000), Err(FaultCode::FIRST_NOT_PRESENT), "the unit itself knows better");
    device_tlb(&mut bench, RID + 1, 0x3000);
    device_tlb(&mut bench, RID, 0x4000);
    device_tlb(&mut bench, RID, 0x2000);
    pasid_device_tlb(&mut bench, RID, 0, 0x3000);
    // With G every PASID, but still only requests that have one.
    pasid_device_tlb(&mut bench, RID, 0, 0x3001);
    assert_eq!(dma(&bench, None, 0x3123), Ok(0x5123));
    device_tlb(&mut bench, RID, 0x3000);
    assert_eq!(bench.model.endpoint(RID).cached(), []);
    assert_eq!(dma(&bench, None, 0x3123), not_given(0x3000));
    assert_eq!(bench.model.take_faults().len(), 1, "of the untranslated request alone");
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn sizes_cover_what_they_say() {
    // Of pages 3 and 8, which does an invalidation with S take?
    for (address, takes) in [
        (0x3000, [true, false]),
        // Two pages from 2: bit 12 clear.
        (0x2001, [true, false]),
        // Four from 0: bit 12 set, bit 13 clear.
        (0x1001, [true, false]),
        (0x4001, [false, false]),
        // Sixteen from 0.
        (0x7001, [true, true]),
        // Eight from 8.
        (0xb001, [false, true]),
        // Half of everything, and all of it.
        (0x3fff_ffff_ffff_f001, [true, true]),
        (0x7fff_ffff_ffff_f001, [true, true]),
    ] {
        let mut bench = up(Config::server());
        for page in [3, 8] {
            bench.map(page, 0x5000);
            assert_eq!(dma(&bench, None, page << 12), Ok(0x5000));
        }
        device_tlb(&mut bench, RID, address);
        let held = bench.model.endpoint(RID).cached();
        let taken = [3, 8].map(|page| !held.iter().any(|held| held.iova.get() == page << 12));
        assert_eq!(taken, takes, "{address:#x}");
        assert_eq!(bench.model.violations(), []);
    }
    // No size at all: all bits set.
    let mut bench = up(Config::server());
    bench.map(3, 0x5000);
    assert_eq!(dma(&bench, None, 0x3000), Ok(0x5000));
    device_tlb(&mut bench, RID, 0xffff_ffff_ffff_f001);
    assert_eq!(bench.model.endpoint(RID).cached().len(), 1);
    assert_eq!(bench.model.violations(), [Violation::DeviceTlbSize { address: 0xffff_ffff_ffff_f001 }]);
}

#[test]
fn a_large_page_goes_with_any_part_of_it() {
    let mut bench = up(Config::server());
    bench.set(bench.tables[2] + 8, 0x4000_0000 | 0xe7);
    assert_eq!(dma(&bench, None, 0x2f_f000), Ok(0x400f_f000));
    assert_eq!(bench.model.endpoint(RID).cached()[0].len, 0x20_0000);
    device_tlb(&mut bench, RID, 0x40_0000);
    assert_eq!(bench.model.endpoint(RID).cached().len(), 1);
    device_tlb(&mut bench, RID, 0x21_0000);
    assert_eq!(bench.model.endpoint(RID).cached(), []);
}

#[test]
fn translations_with_pasid_go_by_type_8() {
    let mut bench = up(Config::server());
    bench.map(3, 0x5000);
    assert_eq!((dma(&bench, Some(PASID), 0x3000), dma(&bench, None, 0x3000)), (Ok(0x5000), Ok(0x5000)));
    bench.pasid_iotlb(DOMAIN, PASID.into());
    unmap(&mut bench);
    device_tlb(&mut bench, RID, 0x7fff_ffff_ffff_f001);
    pasid_device_tlb(&mut bench, RID, PASID + 1, 0x3000);
    pasid_device_tlb(&mut bench, RID + 1, PASID, 0x3000);
    pasid_device_tlb(&mut bench, RID, PASID, 0x4000);
    assert_eq!((dma(&bench, Some(PASID), 0x3000), dma(&bench, None, 0x3000)), (Ok(0x5000), not_given(0x3000)));
    pasid_device_tlb(&mut bench, RID, PASID, 0x3000);
    assert_eq!(dma(&bench, Some(PASID), 0x3000), not_given(0x3000));
    // S in bit 11: two pages from 2; then G, whatever the PASID.
    for (pasid, address) in [(PASID, 0x2800), (0, 0x3001), (0, 0x7fff_ffff_ffff_f801)] {
        bench.map(3, 0x6000);
        assert_eq!(dma(&bench, Some(PASID), 0x3000), Ok(0x6000));
        unmap(&mut bench);
        pasid_device_tlb(&mut bench, RID, pasid, address);
        assert_eq!(dma(&bench, Some(PASID), 0x3000), not_given(0x3000), "{address:#x}");
    }
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn without_dte_neither_kind_of_request_passes() {
    let mut bench = up(Config::server());
    bench.map(3, 0x5000);
    assert_eq!(dma(&bench, None, 0x3000), Ok(0x5000));
    bench.set(bench.context_entry(RID), bench.directory | PASIDE | 1);
    assert_eq!(dma(&bench, None, 0x3000), Ok(0x5000), "the context entry is cached");
    bench.context_device(RID);
    let blocked = dma(&bench, None, 0x3000).unwrap_err();
    assert_eq!((blocked.code.0, blocked.reported), (0x44, true));
    let blocked = bench.model.endpoint(RID).translate(None, Iova::new(0x3000), false).unwrap_err();
    assert_eq!((blocked.code.0, blocked.reported, blocked.answer), (0x44, true, Answer::Unsupported));
    assert_eq!(bench.model.take_faults().len(), 2);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    // A function that says "translated" reaches all of memory where it may.
    bench.set(bench.context_entry(RID), bench.directory | PASIDE | DTE | 1);
    bench.context_device(RID);
    assert_eq!(bench.model.endpoint(RID).translated(PhysAddr::new(0x1_2340_0000), true), Ok(()));
    bench.write32(GCMD, QIE);
    let blocked = bench.model.endpoint(RID).translated(PhysAddr::new(0x1_2340_0000), true).unwrap_err();
    assert!(!blocked.reported, "translation is off");
}

#[test]
fn a_unit_without_device_tlbs_takes_no_dte() {
    let config = Config::server().ecap_bits(Config::ECAP_DT, false);
    let bench = up(config);
    assert_eq!(bench.read32(FSTS), 0);
    assert_eq!(bench.read_at(0), Err(FaultCode::CONTEXT_RESERVED));
    assert!(bench.model.endpoint(RID).translate(None, Iova::new(0), false).is_err());
}

#[test]
fn an_answer_says_what_is_allowed() {
    let mut bench = up(Config::server());
    // Readable, and the device may write where it is told nothing of the sort.
    bench.set(bench.leaf(3), 0x5065);
    assert_eq!(bench.model.endpoint(RID).dma(None, Iova::new(0x3000), 1, false).unwrap()[0].start.get(), 0x5000);
    assert_eq!(dma(&bench, None, 0x3000), not_given(0x3000));
    assert_eq!(bench.model.endpoint(RID).translate(None, Iova::new(0x4000), false), Ok(None));
    assert_eq!(bench.model.take_faults(), []);
    // More is allowed now, but the unit holds the old translation, until it is told.
    bench.map(3, 0x5000);
    assert_eq!(dma(&bench, None, 0x3000), not_given(0x3000));
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(dma(&bench, None, 0x3000), Ok(0x5000));
}

#[test]
fn a_function_that_is_reset_holds_nothing() {
    let bench = up(Config::server());
    bench.map(3, 0x5000);
    assert_eq!(dma(&bench, None, 0x3000), Ok(0x5000));
    bench.model.endpoint(RID).forget();
    assert_eq!(bench.model.endpoint(RID).cached(), []);
}

#[test]
fn queue_depth_and_physical_function_are_looked_at() {
    let mut bench = up(Config::server());
    let function = bench.model.endpoint(RID);
    function.set_queue_depth(4);
    let low = u64::from(RID) << 32 | 3;
    for (pending, right) in [(4, true), (1, true), (5, false), (0, false)] {
        bench.submit(low | pending << 16, 0x1000);
        let descriptor = low | pending << 16;
        let expected = if right { vec![] } else { vec![Violation::DeviceTlbDepth { descriptor, depth: 4 }] };
        assert_eq!(bench.model.take_violations(), expected);
    }
    let descriptor = u64::from(RID) << 16 | 5 << 4 | 8;
    bench.submit(descriptor, 0x1000);
    assert_eq!(bench.model.take_violations(), [Violation::DeviceTlbDepth { descriptor, depth: 4 }]);
    // PFSID is reserved without DIT, and right with it.
    bench.submit(low | 4 << 16 | 8 << 12, 0x1000);
    assert_eq!((bench.read32(FSTS) & 1 << 4, bench.read64(IQERCD) & 0xf), (1 << 4, 4));
    let mut bench = up(Config::server().ecap_bits(DIT, true));
    bench.model.endpoint(RID).set_physical_function(0x1238);
    for (named, right) in [(0x1238u64, true), (RID.into(), false), (0, false)] {
        let fields = (named & 0xf) << 12 | (named & 0xfff0) << 48;
        for descriptor in [low | fields, u64::from(RID) << 16 | 8 | fields] {
            bench.submit(descriptor, 0x1000);
            let function = 0x1238;
            let expected = if right { vec![] } else { vec![Violation::DeviceTlbFunction { descriptor, function }] };
            assert_eq!(bench.model.take_violations(), expected, "{named:#x}");
        }
    }
}

/// What the device asks for between the two is answered from the IOTLB.
#[test]
fn a_device_tlb_before_the_iotlb_comes_too_soon() {
    for (iotlb_first, stale) in [(true, false), (false, true)] {
        let mut bench = up(Config::server());
        bench.map(3, 0x5000);
        assert_eq!(dma(&bench, None, 0x3000), Ok(0x5000));
        bench.set(bench.leaf(3), 0);
        let asks: Hook = Box::new(|model, next| {
            if matches!(next, Descriptor::Wait { .. }) {
                return;
            }
            let _ = model.endpoint(RID).translate(None, Iova::new(0x3000), true);
        });
        bench.model.on_descriptor(Some(asks));
        let (iotlb, device) = ((DOMAIN << 16 | 2 << 4 | 6, 0), (u64::from(RID) << 32 | 3, 0x3000));
        let order = if iotlb_first { [iotlb, device] } else { [device, iotlb] };
        for (low, high) in order {
            bench.put(low, high);
        }
        assert!(bench.wait(1));
        bench.model.on_descriptor(None);
        assert_eq!(bench.model.endpoint(RID).cached().len(), usize::from(stale));
        assert_eq!(dma(&bench, None, 0x3000), if stale { Ok(0x5000) } else { not_given(0x3000) });
    }
}

#[test]
fn legacy_mode_asks_for_type_1() {
    let bench = Bench::new(Config::server());
    let tables: Vec<u64> = (0..4).map(|_| frame(&bench.memory)).collect();
    for pair in tables.windows(2) {
        bench.set(pair[0], pair[1] | 3);
    }
    bench.set(tables[3] + 3 * 8, 0x5003);
    bench.set(bench.root, bench.context | 1);
    let entry = bench.context + u64::from(RID) * 16;
    bench.set(entry + 8, DOMAIN << 8 | 2);
    bench.set(entry, tables[0] | 1 << 2 | 1);
    bench.write64(RTADDR, bench.root);
    bench.command(SRTP);
    bench.command(TE);
    assert_eq!(dma(&bench, None, 0x3000), Ok(0x5000));
    bench.set(entry, tables[0] | 1);
    // CC global by register.
    bench.write64(0x28, 1 << 63 | 1 << 61);
    assert_eq!(dma(&bench, None, 0x3000).unwrap_err().code.0, 0x0d);
    assert_eq!(bench.model.violations(), []);
}
