//! Requests for translations and translated requests, one by one (sections 3.9.1.2 and 3.9.1.3).

mod smmuv3_common;

use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::smmuv3::{Config, Denied, FaultCode, Granted};
use smmuv3_common::*;

const ATSCHK: u32 = 1 << 4;
const EATS: u64 = 1 << 28;
const SPLIT: u64 = 2 << 28;

const UNSUPPORTED: Result<Granted, Denied> = Err(Denied::Unsupported { recorded: true });

fn ask(bench: &Bench, iova: u64, write: bool) -> Result<Granted, Denied> {
    bench.model.ats_request(SID, None, Iova::new(iova), write)
}

fn granted(address: u64, bits: u32, read: bool, write: bool) -> Result<Granted, Denied> {
    Ok(Granted { address: PhysAddr::new(address), bits, read, write })
}

fn translated(bench: &Bench, phys: u64) -> Result<u64, FaultCode> {
    let found = bench.model.ats_translated(SID, PhysAddr::new(phys), true);
    found.map(PhysAddr::get).map_err(|blocked| blocked.code)
}

fn allow(bench: &Bench, bits: u64) {
    let word = bench.ste(SID) + 8;
    bench.set(word, bench.get(word) & !(3 << 28) | bits);
}

/// Types of the events since the last look.
fn events(bench: &Bench) -> Vec<FaultCode> {
    bench.model.take_events().iter().map(|event| event.code).collect()
}

fn up(kind: u32) -> Bench {
    let bench = match kind {
        1 => Bench::first(Config::server()),
        2 => Bench::second(Config::server()),
        _ => Bench::nested(Config::server()),
    };
    bench.enable(ATSCHK);
    allow(&bench, EATS);
    bench
}

#[test]
fn a_stream_that_may_is_given_page_and_rights() {
    let bench = up(1);
    bench.map_first(3, 0x5000);
    bench.set(bench.first[2] + 4 * 8, 0x6000 | PAGE_1 | 1 << 7);
    bench.set(bench.first[1] + 8, 0x4000_0000 | PAGE_1 & !2);
    assert_eq!(ask(&bench, 0x3123, true), granted(0x5000, 12, true, true));
    // With NW set writes are not asked for, and not given.
    assert_eq!(ask(&bench, 0x3123, false), granted(0x5000, 12, true, false));
    assert_eq!(ask(&bench, 0x4000, true), granted(0x6000, 12, true, false));
    assert_eq!(ask(&bench, 0x20_5000, true), granted(0x4000_0000, 21, true, true));
    assert_eq!(events(&bench), []);
    let bench = up(2);
    bench.set(bench.second[2] + 3 * 8, 0x5000 | PAGE_2 & !(1 << 6));
    // Write only.
    assert_eq!(ask(&bench, 0x3000, true), granted(0x5000, 12, false, true));
    let bench = up(3);
    bench.map_first(3, 0x7000);
    bench.map_second(7, 0x9000);
    assert_eq!(ask(&bench, 0x3000, true), granted(0x9000, 12, true, true));
}

#[test]
fn faults_of_translation_give_no_rights_and_no_event() {
    let bench = up(1);
    bench.set(bench.first[2] + 8, 0x5000 | PAGE_1 & !(1 << 10));
    bench.set(bench.first[2] + 16, 0x5000 | PAGE_1 & !(1 << 6));
    bench.set(bench.first[2] + 24, 0x5000 | PAGE_1 | 1 << 46);
    for page in 0..4 {
        let at = page * 0x1000;
        assert_eq!(ask(&bench, at + 0x123, true), granted(at, 12, false, false), "{page}");
    }
    assert_eq!(events(&bench), []);
    // The smallest unit of translation is that of the unit.
    let bench = Bench::first(Config::server().granules(Config::GRAN64K));
    bench.enable(ATSCHK);
    allow(&bench, EATS);
    let cd = bench.cd(SID.into());
    bench.set(cd, bench.get(cd) | 1 << 6);
    bench.set(cd + 8, frames(&bench.memory, 4));
    assert_eq!(ask(&bench, 0x5_1234, true), granted(0x5_0000, 16, false, false));
}

#[test]
fn a_stream_that_may_not_is_unsupported() {
    let bench = up(1);
    bench.map_first(0, 0x5000);
    allow(&bench, 0);
    assert_eq!((ask(&bench, 0, false), events(&bench)), (UNSUPPORTED, vec![FaultCode::F_BAD_ATS_TREQ]));
    // Bypass, whatever EATS says.
    let bench = up(1);
    bench.set_ste(SID, &[4 << 1 | 1, EATS]);
    assert_eq!((ask(&bench, 0, false), events(&bench)), (UNSUPPORTED, vec![FaultCode::F_BAD_ATS_TREQ]));
    // An STE that aborts: nothing is recorded.
    bench.set_ste(SID, &[1, EATS]);
    let mut bench = bench;
    bench.cfgi_ste(SID);
    assert_eq!((ask(&bench, 0, false), events(&bench)), (Err(Denied::Unsupported { recorded: false }), vec![]));
    bench.disable(SMMUEN);
    assert_eq!((ask(&bench, 0, false), events(&bench)), (UNSUPPORTED, vec![FaultCode::F_BAD_ATS_TREQ]));
}

#[test]
fn a_broken_configuration_aborts_without_event() {
    let broken = |change: &dyn Fn(&Bench), code| {
        let bench = up(1);
        bench.map_first(0, 0x5000);
        change(&bench);
        assert_eq!((ask(&bench, 0, false), events(&bench)), (Err(Denied::Aborted(code)), vec![]), "{code:?}");
    };
    broken(&|bench| bench.set(bench.ste(SID), 0), FaultCode::C_BAD_STE);
    broken(&|bench| bench.set(bench.cd(SID.into()), 0), FaultCode::C_BAD_CD);
    broken(&|bench| bench.set(bench.first[0], 0x2000 | 3), FaultCode::F_WALK_EABT);
    broken(&|bench| bench.set(bench.ste(SID), 0x2000 | 5 << 1 | 1), FaultCode::F_CD_FETCH);
    let substreams = |bench: &Bench| bench.set(bench.ste(SID), bench.cds | 3 << 59 | 5 << 1 | 1);
    broken(&substreams, FaultCode::F_STREAM_DISABLED);
    let bench = up(1);
    let found = bench.model.ats_request(SID, Some(1), Iova::new(0), false);
    assert_eq!(found, Err(Denied::Aborted(FaultCode::C_BAD_SUBSTREAMID)));
    let found = bench.model.ats_request(64, None, Iova::new(0), false);
    assert_eq!(found, Err(Denied::Aborted(FaultCode::C_BAD_STREAMID)));
    assert_eq!(events(&bench), []);
}

#[test]
fn substreams_are_asked_for_as_well() {
    let bench = up(1);
    bench.map_first(3, 0x5000);
    for word in 0..8 {
        bench.set(bench.cds + 5 * 64 + word * 8, bench.get(bench.cd(SID.into()) + word * 8));
    }
    bench.set_ste(SID, &[4 << 59 | bench.cds | 5 << 1 | 1, EATS | 1, 0, 0]);
    let found = bench.model.ats_request(SID, Some(5), Iova::new(0x3000), true);
    assert_eq!(found, granted(0x5000, 12, true, true));
    // Past stage 1 by S1DSS.
    assert_eq!(ask(&bench, 0x3000, true), granted(0x3000, 12, true, true));
}

#[test]
fn flags_are_written_when_the_translation_is_asked_for() {
    let (clean, af) = (0x5000 | PAGE_1 | 1 << 7 | 1 << 51, 1 << 10);
    for (write, after, rights) in [(false, clean, false), (true, clean & !(1 << 7), true)] {
        let bench = up(1);
        let cd = bench.cd(SID.into());
        bench.set(cd, bench.get(cd) | 3 << 42);
        bench.set(bench.first[2], clean & !af);
        assert_eq!(ask(&bench, 0, write), granted(0x5000, 12, true, rights));
        assert_eq!(bench.get(bench.first[2]), after, "{write}");
    }
}

#[test]
fn answers_come_from_the_caches() {
    let mut bench = up(1);
    bench.map_first(0, 0x5000);
    assert_eq!(ask(&bench, 0, true), granted(0x5000, 12, true, true));
    bench.map_first(0, 0x6000);
    assert_eq!((ask(&bench, 0, true), bench.read_at(0)), (granted(0x5000, 12, true, true), Ok(0x5000)));
    bench.tlbi_asid(0, ASID);
    assert_eq!(ask(&bench, 0, true), granted(0x6000, 12, true, true));
    // EATS as well, with the STE.
    allow(&bench, 0);
    assert_eq!(ask(&bench, 0, true), granted(0x6000, 12, true, true));
    bench.cfgi_ste(SID);
    assert_eq!(ask(&bench, 0, true), UNSUPPORTED);
}

#[test]
fn translated_requests_pass_where_they_may() {
    let bench = up(1);
    assert_eq!(translated(&bench, 0x1234_5000), Ok(0x1234_5000));
    assert_eq!(translated(&bench, 1 << 48), Err(FaultCode::NONE));
    let mut bench = bench;
    for (words, code) in [
        ([bench.cd(SID.into()) | 5 << 1 | 1, 0], FaultCode::F_TRANSL_FORBIDDEN),
        ([4 << 1 | 1, EATS], FaultCode::F_TRANSL_FORBIDDEN),
        ([1, EATS], FaultCode::NONE),
        ([0, 0], FaultCode::NONE),
    ] {
        bench.set_ste(SID, &words);
        bench.cfgi_ste(SID);
        bench.model.take_events();
        assert_eq!(translated(&bench, 0x5000), Err(code));
        assert_eq!(events(&bench), if code == FaultCode::NONE { vec![] } else { vec![code] });
    }
    // Without the check everything passes.
    bench.disable(ATSCHK);
    assert_eq!(translated(&bench, 0x5000), Ok(0x5000));
    bench.disable(SMMUEN);
    assert_eq!(translated(&bench, 0x5000), Err(FaultCode::F_TRANSL_FORBIDDEN));
}

#[test]
fn stage_1_alone_is_asked_for_where_stage_2_follows() {
    let mut bench = up(3);
    allow(&bench, SPLIT);
    bench.map_first(3, 0x7000);
    bench.map_second(7, 0x9000);
    assert_eq!(ask(&bench, 0x3000, true), granted(0x7000, 12, true, true));
    assert_eq!(translated(&bench, 0x7010), Ok(0x9010));
    assert_eq!(
        (translated(&bench, 0xc000), events(&bench)),
        (Err(FaultCode::F_TRANSLATION), vec![FaultCode::F_TRANSLATION])
    );
    // Without the check there is none.
    bench.disable(ATSCHK);
    assert_eq!(ask(&bench, 0x3000, true), UNSUPPORTED);
    bench.enable(ATSCHK);
    // Not of one stage, nor where the unit does not have it.
    bench.set_ste(SID, &[6 << 1 | 1, SPLIT, STE_2 | VMID, bench.second[0]]);
    bench.cfgi_ste(SID);
    assert_eq!(ask(&bench, 0x3000, true), Err(Denied::Aborted(FaultCode::C_BAD_STE)));
    let bench = Bench::nested(Config::server().idr0_bits(Config::NS1ATS, true));
    allow(&bench, SPLIT);
    assert_eq!(bench.read_at(0x3000), Err(FaultCode::C_BAD_STE));
    // With stalls of stage 2.
    let bench = up(3);
    allow(&bench, SPLIT);
    let word = bench.ste(SID) + 16;
    bench.set(word, bench.get(word) | 1 << 57);
    assert_eq!(bench.read_at(0x3000), Err(FaultCode::C_BAD_STE));
    allow(&bench, 3 << 28);
    assert_eq!(bench.read_at(0x3000), Err(FaultCode::C_BAD_STE));
}
