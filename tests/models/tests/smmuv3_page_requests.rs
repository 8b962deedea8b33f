//! The PRI queue: records, overflow, and the answers that a unit gives by itself.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::{Config, PageAnswer, PageRequest, Source, Violation};
use smmuv3_common::*;

const PRIQEN: u32 = 1 << 1;
const PRIQ_BASE: usize = 0xc0;
const PRIQ_PROD: usize = 0x1_00c8;
const PRIQ_CONS: usize = 0x1_00cc;
const OVERFLOW: u32 = 1 << 31;

/// A unit with a PRI queue of 4 entries at the returned address.
fn with_pri() -> (Bench, u64) {
    let bench = Bench::first(Config::server());
    let queue = frame(&bench.memory);
    bench.write64(PRIQ_BASE, queue | 2);
    bench.enable(PRIQEN);
    bench.write32(IRQ_CTRL, 2);
    (bench, queue)
}

const fn request(group: u16) -> PageRequest {
    PageRequest { pasid: None, group, iova: Iova::new(0x1234_5678), read: true, write: false, last: true }
}

const fn answer(pasid: Option<u32>, group: u16, code: u8) -> PageAnswer {
    PageAnswer { pasid, group, code }
}

#[test]
fn a_request_is_recorded_and_answered() {
    let (mut bench, queue) = with_pri();
    let with = PageRequest { pasid: Some(0x54321), write: true, last: false, ..request(0x1ff) };
    assert!(bench.model.endpoint(SID).request_page(&with) && bench.model.endpoint(SID).request_page(&request(3)));
    assert_eq!(bench.read32(PRIQ_PROD), 2);
    let sid = u64::from(SID);
    assert_eq!(bench.get(queue), sid | 0x54321 << 32 | 1 << 60 | 1 << 61 | 1 << 63);
    assert_eq!(bench.get(queue + 8), 0x1234_5000 | 0x1ff);
    assert_eq!((bench.get(queue + 16), bench.get(queue + 24)), (sid | 1 << 60 | 1 << 62, 0x1234_5000 | 3));
    assert_eq!(bench.model.take_interrupts().iter().map(|it| it.source).collect::<Vec<_>>(), [Source::PageRequests]);
    bench.submit(0x41 | sid << 32, 2 << 12 | 3);
    bench.submit(0x41 | sid << 32 | 1 << 11 | 0x54321 << 12, 1 << 12 | 0x1ff);
    bench.submit(0x41 | sid << 32, 4);
    assert_eq!(
        bench.model.endpoint(SID).take_answers(),
        [answer(None, 3, 0), answer(Some(0x54321), 0x1ff, 1), answer(None, 4, 15)]
    );
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn without_room_the_unit_answers_until_the_overflow_is_acknowledged() {
    let (bench, _) = with_pri();
    let function = bench.model.endpoint(SID);
    for group in 0..4 {
        assert!(function.request_page(&request(group)));
    }
    assert!(!function.request_page(&request(4)));
    assert!(!function.request_page(&PageRequest { last: false, ..request(5) }));
    assert_eq!(bench.read32(PRIQ_PROD), 4 | OVERFLOW);
    // Room does not help.
    bench.write32(PRIQ_CONS, 2);
    assert!(!function.request_page(&request(6)));
    assert_eq!(function.take_answers(), [answer(None, 4, 0), answer(None, 6, 0)]);
    bench.write32(PRIQ_CONS, 2 | OVERFLOW);
    assert!(function.request_page(&request(7)));
    assert_eq!(bench.read32(PRIQ_PROD), 5 | OVERFLOW);
    assert_eq!(bench.model.violations(), []);
    bench.write32(PRIQ_CONS, 6 | OVERFLOW);
    let wrong = Violation::Consumed { prod: 5 | OVERFLOW, cons: 6 | OVERFLOW };
    assert_eq!(bench.model.take_violations(), [wrong]);
}

#[test]
fn the_pasid_of_an_answer_is_as_the_stream_entry_says() {
    let (mut bench, _) = with_pri();
    for group in 0..4 {
        bench.model.endpoint(SID).request_page(&request(group));
    }
    let with = PageRequest { pasid: Some(1), ..request(9) };
    bench.model.endpoint(SID).request_page(&with);
    bench.set(bench.ste(SID) + 8, 1 << 18);
    bench.cfgi_ste(SID);
    bench.model.endpoint(SID).request_page(&with);
    assert_eq!(bench.model.endpoint(SID).take_answers(), [answer(None, 9, 0), answer(Some(1), 9, 0)]);
    // No entry that is valid.
    bench.model.endpoint(9).request_page(&with);
    assert_eq!(bench.model.endpoint(9).take_answers(), [answer(None, 9, 15)]);
}

#[test]
fn a_queue_that_is_off_or_broken_refuses() {
    let (bench, _) = with_pri();
    let function = bench.model.endpoint(SID);
    bench.disable(PRIQEN);
    assert!(!function.request_page(&request(1)));
    bench.write64(PRIQ_BASE, 0x2000 | 2);
    bench.enable(PRIQEN);
    assert!(!function.request_page(&request(2)));
    assert_eq!((bench.read32(GERROR), bench.read32(PRIQ_PROD)), (1 << 3, 0));
    bench.disable(SMMUEN);
    assert!(!function.request_page(&request(3)));
    assert_eq!(function.take_answers(), [1, 2, 3].map(|group| answer(None, group, 15)));
}
