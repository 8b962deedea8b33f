//! Functions with ATS: what they hold, what covers it, when it is gone, and what becomes of invalidations that nobody
//! answers.

mod smmuv3_common;

use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::smmuv3::{Config, Endpoint, Execution, FaultCode};
use smmuv3_common::*;

const CMDQ_ERR: u32 = 1;
const ATSCHK: u32 = 1 << 4;
/// ATC_INV of everything.
const ALL: u64 = 52;

/// A unit with [`SID`] behind stage 1 with EATS of 1, and translated requests checked.
fn with_ats() -> Bench {
    let mut bench = Bench::first(Config::server());
    bench.enable(ATSCHK);
    bench.set(bench.ste(SID) + 8, 1 << 28);
    bench.cfgi_ste(SID);
    for page in 0..8 {
        bench.map_first(page, 0x10_0000 + page * 0x1000);
    }
    bench
}

fn function(bench: &Bench) -> Endpoint<'_> {
    bench.model.endpoint(SID)
}

fn atc(bench: &mut Bench, high: u64) {
    bench.run(0x40 | u64::from(SID) << 32, high);
}

fn held(bench: &Bench) -> Vec<u64> {
    function(bench).cached().iter().map(|held| held.iova.get()).collect()
}

fn fill(bench: &Bench, pages: u64) {
    function(bench).dma(None, Iova::new(0), pages * 0x1000, true).unwrap();
}

#[test]
fn what_it_holds_it_uses_until_an_invalidation_covers_it() {
    let mut bench = with_ats();
    fill(&bench, 2);
    assert_eq!(held(&bench), [0, 0x1000]);
    bench.set(bench.first[2] + 8, 0);
    bench.tlbi_va(0, ASID, 0x1000);
    // The unit knows nothing of it; the function does.
    assert_eq!(bench.read_at(0x1000), Err(FaultCode::F_TRANSLATION));
    assert_eq!(function(&bench).dma(None, Iova::new(0x1000), 4, true).unwrap()[0].start.get(), 0x10_1000);
    atc(&mut bench, 0x2000);
    assert_eq!(held(&bench), [0, 0x1000]);
    atc(&mut bench, 0x1000);
    assert_eq!(held(&bench), [0]);
    assert!(function(&bench).dma(None, Iova::new(0x1000), 4, true).is_err());
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn sizes_are_powers_of_two_and_aligned() {
    for (high, left) in [
        (0x3000 | 1, vec![0, 0x1000, 0x4000, 0x5000, 0x6000, 0x7000]),
        (0x3000 | 2, vec![0x4000, 0x5000, 0x6000, 0x7000]),
        (0x6000, vec![0, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x7000]),
        (0x8000 | 3, (0..8).map(|page| page << 12).collect()),
        (ALL, vec![]),
    ] {
        let mut bench = with_ats();
        fill(&bench, 8);
        atc(&mut bench, high);
        assert_eq!(held(&bench), left, "{high:#x}");
    }
}

#[test]
fn nothing_is_gone_before_the_sync() {
    let mut bench = with_ats();
    fill(&bench, 1);
    bench.submit(0x40 | u64::from(SID) << 32, ALL);
    assert_eq!((held(&bench), bench.read32(CMDQ_CONS)), (vec![0], bench.prod()));
    bench.sync();
    assert_eq!(held(&bench), []);
}

#[test]
fn an_invalidation_without_a_sync_after_that_of_the_unit_may_bring_it_back() {
    for (order, between, left) in [
        (Execution::Late, false, vec![]),
        (Execution::Reversed, false, vec![0x1000]),
        (Execution::Reversed, true, vec![]),
    ] {
        let mut bench = with_ats();
        function(&bench).set_eager(true);
        function(&bench).dma(None, Iova::new(0x1000), 4, true).unwrap();
        bench.model.set_execution(order);
        bench.set(bench.first[2] + 8, 0);
        bench.put(ASID << 48 | 0x12, 0x1001);
        if between {
            bench.put(0x46, 0);
        }
        atc(&mut bench, 0x1000);
        assert_eq!(held(&bench), left, "{order:?} {between}");
    }
}

#[test]
fn one_that_never_answers_fails_the_sync_and_only_the_sync() {
    let mut bench = with_ats();
    fill(&bench, 1);
    bench.access(9, None, 0, true).unwrap_err();
    let before = bench.model.cached()[2];
    assert_ne!(before, 0);
    bench.model.set_unanswering(SID, true);
    bench.put(0x30, 0);
    bench.put(0x40 | u64::from(SID) << 32, ALL);
    bench.sync();
    assert_eq!(bench.read32(CMDQ_CONS), 3 << 24 | (bench.prod() - 1));
    assert_eq!(bench.read32(GERROR) ^ bench.read32(GERRORN), CMDQ_ERR);
    // No guarantee of the CMD_SYNC is met.
    assert_eq!((held(&bench), bench.model.cached()[2]), (vec![0], before));
    bench.write32(GERRORN, CMDQ_ERR);
    assert_eq!(bench.read32(CMDQ_CONS) & 0xf_ffff, bench.prod());
    // The invalidation of translations goes on; that of the device is lost.
    assert_eq!((held(&bench), bench.model.cached()[2]), (vec![0], 0));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_time_out_loses_the_others_before_the_same_sync() {
    let mut bench = with_ats();
    fill(&bench, 1);
    bench.model.set_unanswering(9, true);
    bench.put(0x40 | u64::from(SID) << 32, ALL);
    bench.put(0x40 | 9 << 32, ALL);
    bench.sync();
    bench.write32(GERRORN, CMDQ_ERR);
    assert_eq!((bench.read32(CMDQ_CONS) & 0xf_ffff, held(&bench)), (bench.prod(), vec![0]));
    atc(&mut bench, ALL);
    assert_eq!(held(&bench), []);
}

#[test]
fn late_answers_hold_the_sync_by_the_depth_of_its_queue() {
    for (depth, looks) in [(4, 3), (2, 6), (1, 12)] {
        let mut bench = with_ats();
        fill(&bench, 4);
        function(&bench).set_queue_depth(depth);
        function(&bench).answer_after(3);
        for page in 0..4 {
            bench.put(0x40 | u64::from(SID) << 32, page << 12);
        }
        bench.sync();
        let mut seen = 0;
        while bench.read32(CMDQ_CONS) != bench.prod() {
            assert_eq!(held(&bench).len(), 4);
            seen += 1;
        }
        assert_eq!((seen + 1, held(&bench)), (looks, vec![]), "{depth}");
    }
}

#[test]
fn one_that_does_not_know_the_request_keeps_what_it_holds() {
    let mut bench = with_ats();
    fill(&bench, 1);
    function(&bench).set_refusing(true);
    atc(&mut bench, ALL);
    assert_eq!((held(&bench), bench.read32(GERROR)), (vec![0], 0));
}

#[test]
fn an_entry_that_allows_nothing_blocks_requests_and_what_comes_translated() {
    let mut bench = with_ats();
    fill(&bench, 1);
    bench.set(bench.ste(SID) + 8, 0);
    bench.cfgi_ste(SID);
    let blocked = function(&bench).dma(None, Iova::new(0), 4, true).unwrap_err();
    assert_eq!((blocked.code, blocked.reported), (FaultCode::F_TRANSL_FORBIDDEN, true));
    let read = 0;
    assert_eq!([0, 1, 2].map(|word| bench.event(0, word)), [7 | u64::from(SID) << 32, read, 0x10_0000]);
    function(&bench).forget();
    let blocked = function(&bench).translate(None, Iova::new(0), true).unwrap_err();
    assert_eq!((blocked.code, blocked.reported), (FaultCode::F_BAD_ATS_TREQ, true));
    assert_eq!(bench.event(1, 0), 5 | u64::from(SID) << 32);
    // Unchecked anything goes.
    bench.disable(ATSCHK);
    assert_eq!(function(&bench).translated(PhysAddr::new(0x77_7000), true), Ok(PhysAddr::new(0x77_7000)));
    bench.disable(SMMUEN);
    assert!(function(&bench).translated(PhysAddr::new(0x77_7000), true).is_err());
}

#[test]
fn with_the_unit_off_an_invalidation_is_ignored() {
    let mut bench = with_ats();
    fill(&bench, 1);
    bench.model.set_unanswering(SID, true);
    bench.disable(SMMUEN);
    atc(&mut bench, ALL);
    assert_eq!((held(&bench), bench.read32(GERROR)), (vec![0], 0));
}

#[test]
fn substreams_are_told_apart() {
    // Eight CDs, side by side in the frame; those without substream have number 0.
    let mut bench = with_ats();
    let table = frame(&bench.memory);
    for ssid in 0..3 {
        let cd = bench.cd(SID.into());
        for word in 0..4 {
            let value = bench.get(cd + word * 8);
            let asid = if word == 0 { ssid << 48 } else { 0 };
            bench.set(table + ssid * 64 + word * 8, value ^ asid);
        }
    }
    bench.set_ste(SID, &[table | 5 << 1 | 1 | 3 << 59, 1 << 28 | 2, 0, 0]);
    bench.cfgi_ste(SID);
    let fill = |bench: &Bench| {
        for pasid in [None, Some(1), Some(2)] {
            function(bench).dma(pasid, Iova::new(0x1000), 4, false).unwrap();
        }
    };
    let pasids = |bench: &Bench| function(bench).cached().iter().map(|held| held.pasid).collect::<Vec<_>>();
    let sid = u64::from(SID) << 32;
    for (low, left) in [
        (0x40 | sid, vec![Some(1), Some(2)]),
        (0x40 | sid | 1 << 11 | 1 << 12, vec![None, Some(2)]),
        (0x40 | sid | 1 << 11 | 1 << 12 | 1 << 9, vec![None]),
        // Global without substream means nothing.
        (0x40 | sid | 1 << 9, vec![Some(1), Some(2)]),
    ] {
        function(&bench).forget();
        fill(&bench);
        bench.run(low, 0x1000);
        assert_eq!(pasids(&bench), left, "{low:#x}");
    }
}
