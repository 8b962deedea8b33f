//! Requests that wait for an answer: their records, CMD_RESUME and CMD_STALL_TERM, and what happens without room.

mod smmuv3_common;

use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_models::smmuv3::{Blocked, Config, Outcome, Violation};
use smmuv3_common::*;

const STALL: u64 = 1 << 31;
/// CMD_RESUME: Ac, Ab.
const RETRY: u64 = 1 << 12;
const TERM_ABORT: u64 = 2 << 12;
const TERM_ZEROS: u64 = 0;

/// A unit with [`SID`] behind stage 1 with CD.S, and as many records at once.
fn stalling(max: u32) -> Bench {
    let server = Config::server();
    let bench = Bench::first(Config { idr5: server.idr5 & 0xffff | max << 16, ..server });
    let cd = bench.cd(SID.into());
    bench.set(cd, bench.get(cd) | 1 << 44);
    bench
}

fn stall(bench: &Bench, iova: u64, write: bool) -> Blocked {
    let blocked = bench.model.dma(SID, None, Iova::new(iova), 4, write).unwrap_err();
    assert!(blocked.stalled && blocked.reported);
    blocked
}

/// STAG of event number `slot`.
fn tag(bench: &Bench, slot: u64) -> u64 {
    let word = bench.event(slot, 1);
    assert_ne!(word & STALL, 0);
    word & 0xffff
}

fn resume(bench: &mut Bench, how: u64, tag: u64) {
    bench.submit(0x44 | how | u64::from(SID) << 32, tag);
}

fn outcomes(bench: &Bench) -> Vec<(u64, Outcome)> {
    bench.model.take_resumed().into_iter().map(|it| (it.request.iova.get(), it.outcome)).collect()
}

fn done(phys: u64) -> Outcome {
    Outcome::Done(vec![PhysExtent::new(PhysAddr::new(phys), 4)])
}

#[test]
fn a_request_waits_and_goes_on_when_it_is_told_to() {
    let mut bench = stalling(4);
    stall(&bench, 0x3210, true);
    let waiting = bench.model.stalled();
    assert_eq!((waiting.len(), waiting[0].iova, waiting[0].write), (1, Iova::new(0x3210), true));
    let found = tag(&bench, 0);
    assert_eq!(waiting[0].tag.map(u64::from), Some(found));
    assert_eq!((bench.event(0, 0), bench.event(0, 2)), (0x10 | u64::from(SID) << 32, 0x3210));
    assert_eq!(bench.event(0, 1), found | STALL | 2 << 40);
    // Still broken: it waits once more, with a record of its own.
    resume(&mut bench, RETRY, found);
    assert_eq!((outcomes(&bench), bench.model.stalled().len(), bench.read32(EVENTQ_PROD)), (vec![], 1, 2));
    bench.map_first(3, 0x7000);
    let again = tag(&bench, 1);
    // Ab does not matter.
    resume(&mut bench, RETRY | 2 << 12, again);
    assert_eq!(outcomes(&bench), [(0x3210, done(0x7210))]);
    assert_eq!((bench.model.stalled(), bench.model.unanswered()), (vec![], vec![]));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_request_that_is_terminated_is_aborted_or_reads_zeros() {
    let mut bench = stalling(4);
    stall(&bench, 0x1000, false);
    stall(&bench, 0x2000, false);
    let tags = [0, 1].map(|slot| tag(&bench, slot));
    assert_ne!(tags[0], tags[1]);
    resume(&mut bench, TERM_ABORT, tags[1]);
    resume(&mut bench, TERM_ZEROS, tags[0]);
    assert_eq!(outcomes(&bench), [(0x2000, Outcome::Aborted), (0x1000, Outcome::Zeros)]);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_tag_is_answered_once_and_by_its_own_stream() {
    let mut bench = stalling(4);
    stall(&bench, 0x1000, false);
    let found = tag(&bench, 0);
    bench.submit(0x44 | RETRY | 9 << 32, found);
    resume(&mut bench, RETRY, found ^ 1);
    resume(&mut bench, TERM_ABORT, found);
    resume(&mut bench, TERM_ABORT, found);
    let stray = |sid, tag: u64| Violation::StrayResume { sid, tag: tag as u16 };
    assert_eq!(bench.model.take_violations(), [stray(9, found), stray(SID, found ^ 1), stray(SID, found)]);
    assert_eq!(outcomes(&bench), [(0x1000, Outcome::Aborted)]);
}

#[test]
fn no_more_records_than_allowed_are_unanswered() {
    let mut bench = stalling(2);
    for page in 1..4 {
        stall(&bench, page << 12, false);
    }
    assert_eq!((bench.read32(EVENTQ_PROD), bench.model.stalled().len()), (2, 3));
    assert_eq!(bench.model.stalled()[2].tag, None);
    let first = tag(&bench, 0);
    resume(&mut bench, TERM_ABORT, first);
    assert_eq!(bench.read32(EVENTQ_PROD), 3);
    // The tag is used again.
    assert_eq!((tag(&bench, 2), bench.event(2, 2)), (first, 0x3000));
}

#[test]
fn without_room_a_record_waits_and_nothing_overflows() {
    let mut bench = stalling(16);
    let filler = || while bench.model.put_event([0xe0, 0, 0, 0]) {};
    // One overflow by the filler itself.
    filler();
    let full = bench.read32(EVENTQ_PROD);
    bench.write32(EVENTQ_CONS, full & 1 << 31);
    stall(&bench, 0x1000, false);
    stall(&bench, 0x2000, false);
    assert_eq!(bench.read32(EVENTQ_PROD), full, "no overflow, no record");
    // One is mended and invalidated: it is tried again and leaves no record; a plain one gets its own.
    bench.map_first(1, 0x8000);
    bench.tlbi_asid(0, ASID);
    assert_eq!(outcomes(&bench), [], "not before there is room");
    bench.write32(EVENTQ_CONS, full & 1 << 31 | 8);
    assert_eq!(outcomes(&bench), [(0x1000, done(0x8000))]);
    assert_eq!((bench.event(0, 2), bench.event(0, 1) & STALL), (0x2000, STALL));
    assert_eq!(bench.read32(EVENTQ_PROD) & 0xffff, (full & 0xffff) + 1);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn stall_term_needs_an_entry_that_ends_everything() {
    let mut bench = stalling(4);
    stall(&bench, 0x1000, false);
    stall(&bench, 0x2000, false);
    let term = 0x45 | u64::from(SID) << 32;
    bench.submit(term, 0);
    assert_eq!(bench.model.take_violations(), [Violation::StallTermWhileLive { sid: SID }]);
    // Written, but what is cached counts.
    bench.set(bench.ste(SID), 1);
    bench.submit(term, 0);
    assert_eq!(bench.model.take_violations(), [Violation::StallTermWhileLive { sid: SID }]);
    assert_eq!(outcomes(&bench), []);
    bench.cfgi_ste(SID);
    bench.submit(term, 0);
    assert_eq!(outcomes(&bench), [(0x1000, Outcome::Aborted), (0x2000, Outcome::Aborted)]);
    assert_eq!((bench.model.unanswered(), bench.model.violations()), (vec![], vec![]));
}

#[test]
fn switching_the_unit_off_ends_what_waits() {
    let bench = stalling(4);
    stall(&bench, 0x1000, false);
    bench.disable(SMMUEN);
    assert_eq!(outcomes(&bench), [(0x1000, Outcome::Aborted)]);
    assert_eq!(bench.model.unanswered(), []);
}

#[test]
fn what_goes_on_early_is_still_to_be_answered() {
    let mut bench = stalling(4);
    stall(&bench, 0x1000, true);
    stall(&bench, 0x2000, true);
    bench.map_first(1, 0x8000);
    bench.model.retry_early();
    assert_eq!(outcomes(&bench), [(0x1000, done(0x8000))]);
    assert_eq!((bench.model.stalled().len(), bench.model.unanswered().len()), (1, 2));
    assert_eq!(bench.read32(EVENTQ_PROD), 2, "nothing more is recorded");
    let [first, second] = [0, 1].map(|slot| tag(&bench, slot));
    resume(&mut bench, RETRY, first);
    resume(&mut bench, TERM_ABORT, second);
    assert_eq!(outcomes(&bench), [(0x2000, Outcome::Aborted)]);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_suppressed_record_is_made_up_for_by_the_answer_to_the_first() {
    let mut bench = stalling(4);
    bench.model.suppress_stalls(true);
    stall(&bench, 0x1000, true);
    stall(&bench, 0x1800, true);
    assert_eq!((bench.read32(EVENTQ_PROD), bench.model.stalled().len()), (1, 2));
    bench.map_first(1, 0x8000);
    let first = tag(&bench, 0);
    resume(&mut bench, RETRY, first);
    assert_eq!(outcomes(&bench), [(0x1000, done(0x8000)), (0x1800, done(0x8800))]);
}

#[test]
fn stage_2_stalls_by_its_own_bit() {
    let mut bench = Bench::up(Config::server());
    bench.attach_second(SID, VMID);
    bench.set(bench.ste(SID) + 16, bench.get(bench.ste(SID) + 16) | 1 << 57);
    stall(&bench, 0x5000, false);
    assert_eq!(bench.event(0, 1) & !0xffff, STALL | 1 << 35 | 1 << 39 | 2 << 40);
    let found = tag(&bench, 0);
    bench.map_second(5, 0x9000);
    resume(&mut bench, RETRY, found);
    assert_eq!(outcomes(&bench), [(0x5000, done(0x9000))]);
}

#[test]
fn a_broken_configuration_never_stalls() {
    let mut bench = stalling(4);
    bench.set(bench.cd(SID.into()), 0);
    bench.cfgi_cd(SID);
    let blocked = bench.model.dma(SID, None, Iova::new(0), 4, true).unwrap_err();
    assert!(!blocked.stalled && blocked.aborted);
    // Zeros where CD.A is clear.
    let mut bench = Bench::first(Config::server());
    let cd = bench.cd(SID.into());
    bench.set(cd, bench.get(cd) & !(1 << 46));
    bench.cfgi_cd(SID);
    assert!(!bench.model.dma(SID, None, Iova::new(0), 4, true).unwrap_err().aborted);
}
