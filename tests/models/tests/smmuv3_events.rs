//! Events: what is recorded of a refused request, where, and what happens when there is no room.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::{Config, FaultCode, Interrupt, Source, Violation};
use smmuv3_common::*;

const OVERFLOW: u32 = 1 << 31;

#[test]
fn a_record_holds_what_was_refused() {
    let bench = Bench::first(Config::nested());
    assert_eq!(bench.write_at(0x3210), Err(FaultCode::F_TRANSLATION));
    assert_eq!(bench.read32(EVENTQ_PROD), 1);
    let sid = u64::from(SID) << 32;
    // CLASS IN; RnW clear.
    assert_eq!([0, 1, 2, 3].map(|word| bench.event(0, word)), [0x10 | sid, 2 << 40, 0x3210, 0]);
    assert_eq!(bench.read_at(0x4000), Err(FaultCode::F_TRANSLATION));
    assert_eq!([0, 1, 2, 3].map(|word| bench.event(1, word)), [0x10 | sid, 2 << 40 | 1 << 35, 0x4000, 0]);
    let events = bench.model.take_events();
    assert_eq!(events.len(), 2);
    assert_eq!(
        (events[0].sid, events[0].iova, events[0].write, events[0].recorded),
        (SID, Iova::new(0x3210), true, true)
    );
}

#[test]
fn stage_2_says_so_and_names_its_input() {
    let bench = Bench::second(Config::nested());
    assert_eq!(bench.read_at(0x3210), Err(FaultCode::F_TRANSLATION));
    let second = 1 << 39 | 2 << 40 | 1 << 35;
    assert_eq!([1, 2, 3].map(|word| bench.event(0, word)), [second, 0x3210, 0x3000]);
    // Nested: the address that stage 1 gave; then a table of stage 1; then the CD.
    let mut bench = Bench::nested(Config::nested());
    bench.map_first(3, 0x7000);
    assert_eq!(bench.read_at(0x3210), Err(FaultCode::F_TRANSLATION));
    assert_eq!([1, 2, 3].map(|word| bench.event(0, word)), [second, 0x3210, 0x7000]);
    bench.set(bench.first[1], 0x8000 | 3);
    bench.tlbi_vmid(VMID);
    assert_eq!(bench.read_at(0x3210), Err(FaultCode::F_TRANSLATION));
    assert_eq!([1, 2, 3].map(|word| bench.event(1, word)), [1 << 39 | 1 << 40 | 1 << 35, 0x3210, 0x8000]);
    bench.set(bench.ste(SID), 0x9040 | 7 << 1 | 1);
    bench.cfgi_ste(SID);
    assert_eq!(bench.write_at(0x3210), Err(FaultCode::F_TRANSLATION));
    assert_eq!([1, 2, 3].map(|word| bench.event(2, word)), [1 << 39, 0x3210, 0x9000]);
}

#[test]
fn configuration_errors_name_no_address() {
    let mut bench = Bench::up(Config::nested());
    assert_eq!(bench.write_at(0x1000), Err(FaultCode::C_BAD_STE));
    assert_eq!(bench.access(64, None, 0x1000, true), Err(FaultCode::C_BAD_STREAMID));
    bench.set_ste(SID, &[0x2000 | 5 << 1 | 1, 0]);
    bench.cfgi_ste(SID);
    assert_eq!(bench.write_at(0x1000), Err(FaultCode::F_CD_FETCH));
    assert_eq!([0, 1, 2, 3].map(|word| bench.event(0, word)), [4 | u64::from(SID) << 32, 0, 0, 0]);
    assert_eq!([0, 1, 2, 3].map(|word| bench.event(1, word)), [2 | 64 << 32, 0, 0, 0]);
    assert_eq!([0, 1, 2, 3].map(|word| bench.event(2, word)), [9 | u64::from(SID) << 32, 0, 0, 0x2000]);
    let bench = Bench::up(Config::server());
    assert_eq!(bench.access(SID, Some(0x1_2345), 0x1000, true), Err(FaultCode::C_BAD_STE));
    assert_eq!(bench.event(0, 0), 4 | 1 << 11 | 0x1_2345 << 12 | u64::from(SID) << 32);
}

#[test]
fn what_nobody_asked_for_is_not_recorded() {
    let mut bench = Bench::first(Config::nested());
    // CD.R, STE.S2R, an STE that aborts, RECINVSID.
    bench.set(bench.cd(SID.into()), bench.get(bench.cd(SID.into())) & !(1 << 45));
    assert_eq!(bench.write_at(0), Err(FaultCode::F_TRANSLATION));
    bench.attach_second(SID + 1, VMID);
    bench.set(bench.ste(SID + 1) + 16, bench.get(bench.ste(SID + 1) + 16) & !(1 << 58));
    assert_eq!(bench.access(SID + 1, None, 0, true), Err(FaultCode::F_TRANSLATION));
    bench.set_ste(SID + 2, &[1]);
    assert_eq!(bench.access(SID + 2, None, 0, true), Err(FaultCode::NONE));
    bench.disable(SMMUEN);
    bench.write32(CR2, 0);
    bench.enable(SMMUEN);
    assert_eq!(bench.access(1000, None, 0, true), Err(FaultCode::C_BAD_STREAMID));
    assert_eq!((bench.read32(EVENTQ_PROD), bench.model.take_events()), (0, vec![]));
    let blocked = bench.model.dma(SID, None, Iova::new(0x1ff0), 0x20, true).unwrap_err();
    assert_eq!((blocked.iova, blocked.reported), (Iova::new(0x1ff0), false));
}

#[test]
fn a_full_queue_overflows_and_says_so_until_it_is_acknowledged() {
    let bench = Bench::first(Config::nested());
    let size = 1 << LOG2;
    for _ in 0..size {
        assert!(bench.read_at(0).is_err());
    }
    assert_eq!(bench.read32(EVENTQ_PROD), size);
    for _ in 0..3 {
        assert!(bench.read_at(0).is_err());
        assert_eq!(bench.read32(EVENTQ_PROD), size | OVERFLOW);
        assert!(!bench.model.take_events().last().unwrap().recorded);
    }
    // With room again recording goes on, acknowledged or not.
    bench.write32(EVENTQ_CONS, 3);
    assert!(bench.read_at(0).is_err());
    assert_eq!(bench.read32(EVENTQ_PROD), (size + 1) | OVERFLOW);
    assert!(bench.model.take_events().last().unwrap().recorded);
    bench.write32(EVENTQ_CONS, 3 | OVERFLOW);
    assert!(bench.read_at(0).is_err());
    assert_eq!(bench.read32(EVENTQ_PROD), (size + 2) | OVERFLOW);
    // The next overflow toggles the flag back.
    for _ in 0..size {
        assert!(bench.read_at(0).is_err());
    }
    assert_eq!(bench.read32(EVENTQ_PROD), size + 3);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn only_what_is_there_is_consumed() {
    let bench = Bench::first(Config::nested());
    assert!(bench.read_at(0).is_err() && bench.read_at(0).is_err());
    bench.write32(EVENTQ_CONS, 2);
    assert_eq!(bench.model.violations(), []);
    bench.write32(EVENTQ_CONS, 3);
    bench.write32(EVENTQ_CONS, 2 | OVERFLOW);
    bench.write32(EVENTQ_CONS, 2 << LOG2);
    assert_eq!(
        bench.model.take_violations(),
        [
            Violation::Consumed { prod: 2, cons: 3 },
            Violation::NoOverflow { value: 2 | OVERFLOW },
            Violation::Index { offset: EVENTQ_CONS, value: 2 << LOG2 },
        ]
    );
}

#[test]
fn without_queue_an_event_is_lost() {
    let bench = Bench::first(Config::nested());
    bench.disable(EVENTQEN);
    assert!(bench.read_at(0).is_err());
    assert_eq!((bench.read32(EVENTQ_PROD), bench.model.take_events()[0].recorded), (0, false));
    bench.write64(EVENTQ_BASE, 0x2000 | u64::from(LOG2));
    bench.enable(EVENTQEN);
    assert!(bench.read_at(0).is_err());
    assert_eq!((bench.read32(EVENTQ_PROD), bench.read32(GERROR)), (0, 1 << 2));
}

#[test]
fn an_interrupt_comes_when_the_queue_is_no_longer_empty() {
    let bench = Bench::first(Config::nested());
    assert!(bench.read_at(0).is_err());
    assert_eq!(bench.model.take_interrupts(), []);
    bench.write32(EVENTQ_CONS, 1);
    bench.write32(IRQ_CTRL, 4);
    assert!(bench.read_at(0).is_err() && bench.read_at(0).is_err());
    assert_eq!(bench.model.take_interrupts(), [Interrupt { source: Source::Events, message: None }]);
    bench.write32(EVENTQ_CONS, 3);
    assert!(bench.read_at(0).is_err());
    assert_eq!(bench.model.take_interrupts().len(), 1);
}

#[test]
fn any_record_can_be_put() {
    let bench = Bench::up(Config::nested());
    assert!(bench.model.put_event([0xe1 | 7 << 32, 1, 2, 3]));
    assert_eq!([0, 1, 2, 3].map(|word| bench.event(0, word)), [0xe1 | 7 << 32, 1, 2, 3]);
}

#[test]
fn like_events_are_merged_where_the_stream_allows_it() {
    let mut bench = Bench::first(Config::nested());
    bench.model.merge_events(true);
    assert!(bench.read_at(0x3000).is_err() && bench.read_at(0x3008).is_err());
    assert_eq!(bench.read32(EVENTQ_PROD), 2, "MEV is clear");
    bench.set(bench.ste(SID) + 8, 1 << 19);
    bench.cfgi_ste(SID);
    assert!(bench.read_at(0x3010).is_err() && bench.read_at(0x3ff8).is_err());
    assert_eq!((bench.read32(EVENTQ_PROD), bench.event(2, 2)), (3, 0x3010));
    assert!(bench.model.take_events().iter().all(|event| event.recorded));
    // Another page, another access, or one that was consumed.
    assert!(bench.read_at(0x4000).is_err() && bench.write_at(0x4000).is_err());
    assert_eq!(bench.read32(EVENTQ_PROD), 5);
    bench.write32(EVENTQ_CONS, 5);
    assert!(bench.write_at(0x4000).is_err());
    assert_eq!(bench.read32(EVENTQ_PROD), 6);
}

#[test]
fn what_is_unknown_may_be_anything() {
    let bench = Bench::first(Config::nested());
    bench.model.fill_unknown(true);
    assert!(bench.write_at(0x3210).is_err());
    // SSV is clear and S2 too.
    assert_eq!([0, 1, 2].map(|word| bench.event(0, word)), [0xffff_f010 | u64::from(SID) << 32, 2 << 40, 0x3210]);
    assert_ne!(bench.event(0, 3), 0);
}

#[test]
fn a_write_that_is_aborted_loses_one_and_stops_the_rest_until_acknowledged() {
    let bench = Bench::first(Config::nested());
    bench.model.fail_event_after(1);
    for _ in 0..3 {
        assert!(bench.read_at(0).is_err());
    }
    assert_eq!((bench.read32(EVENTQ_PROD), bench.read32(GERROR)), (1, 1 << 2));
    assert_eq!(bench.model.take_events().iter().map(|event| event.recorded).collect::<Vec<_>>(), [true, false, false]);
    bench.write32(GERRORN, 1 << 2);
    assert!(bench.read_at(0).is_err());
    assert_eq!(bench.read32(EVENTQ_PROD), 2);
    assert_eq!(bench.model.violations(), []);
}
