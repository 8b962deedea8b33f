//! The order in which descriptors take effect, and everything that a queue may do late, or never.

mod common;

use common::*;
use iommu_core::addr::Iova;
use iommu_hal::Hal as _;
use iommu_models::vtd::{Config, Descriptor, Execution, FaultCode, Hook, Violation};
use std::sync::{Arc, Mutex};

const IQE: u32 = 1 << 4;
const ITE: u32 = 1 << 6;
const FENCE: u64 = 1 << 6;
const OTHER: u64 = 6;

/// Descriptors, by what they are.
const CONTEXT: (u64, u64) = (0x11, 0);
const PASIDS: (u64, u64) = (0x37, 0);
const IOTLB: (u64, u64) = (0x12, 0);
const PASID_IOTLB: (u64, u64) = (DOMAIN << 16 | 2 << 4 | 6, 0);
const INTERRUPTS: (u64, u64) = (0x04, 0);
const DEVICE: (u64, u64) = ((RID as u64) << 32 | 3, 0x1000);
const PASID_DEVICE: (u64, u64) = ((RID as u64) << 16 | 8, 0x1000);

fn wait(bench: &Bench, data: u64) -> (u64, u64) {
    (data << 32 | 1 << 5 | 5, bench.status + data * 8)
}

/// Queues all of it at once.
fn queue(bench: &mut Bench, descriptors: &[(u64, u64)]) {
    for (low, high) in descriptors {
        bench.put(*low, *high);
    }
    bench.ring();
}

/// The slots in the order in which they were executed.
fn executed(execution: Execution, build: impl Fn(&Bench) -> Vec<(u64, u64)>) -> Vec<usize> {
    let mut bench = Bench::up(Config::server());
    bench.model.set_execution(execution);
    let descriptors = build(&bench);
    queue(&mut bench, &descriptors);
    let log = bench.model.take_log();
    assert!(log.iter().all(|executed| executed.done));
    assert_eq!(bench.model.violations(), []);
    log.iter().map(|executed| executed.slot).collect()
}

#[test]
fn classes_keep_their_order_and_nothing_else_does() {
    let reversed =
        |descriptors: &[(u64, u64)]| executed(Execution::Reversed, |bench| [descriptors, &[wait(bench, 1)]].concat());
    // What must follow.
    for pair in [
        [CONTEXT, PASIDS],
        [CONTEXT, IOTLB],
        [CONTEXT, PASID_IOTLB],
        [PASIDS, IOTLB],
        [PASIDS, PASID_IOTLB],
        [IOTLB, DEVICE],
        [IOTLB, PASID_DEVICE],
        [PASID_IOTLB, PASID_DEVICE],
        [INTERRUPTS, DEVICE],
        [INTERRUPTS, PASID_DEVICE],
    ] {
        assert_eq!(reversed(&pair), [0, 1, 2], "{pair:x?}");
    }
    // What need not: among them a device TLB without PASID behind type 6.
    for pair in [
        [PASID_IOTLB, DEVICE],
        [CONTEXT, DEVICE],
        [PASIDS, CONTEXT],
        [IOTLB, PASIDS],
        [DEVICE, IOTLB],
        [IOTLB, PASID_IOTLB],
        [CONTEXT, CONTEXT],
        [IOTLB, INTERRUPTS],
        [DEVICE, PASID_DEVICE],
    ] {
        assert_eq!(reversed(&pair), [1, 0, 2], "{pair:x?}");
    }
    assert_eq!(reversed(&[CONTEXT, PASIDS, IOTLB, DEVICE]), [0, 1, 2, 3, 4]);
    assert_eq!(reversed(&[CONTEXT, DEVICE, PASIDS, IOTLB]), [1, 0, 2, 3, 4]);
}

#[test]
fn what_is_behind_a_wait_may_overtake_it_unless_it_is_a_fence() {
    let run = |fence: u64| {
        executed(Execution::Reversed, |bench| {
            let first = wait(bench, 1);
            vec![PASID_IOTLB, (first.0 | fence, first.1), DEVICE, wait(bench, 2)]
        })
    };
    assert_eq!(run(0), [2, 3, 0, 1], "the second wait too: it waits for what is behind the first");
    assert_eq!(run(FENCE), [0, 1, 2, 3]);
}

#[test]
fn nothing_happens_before_a_wait_asks_for_it() {
    for execution in [Execution::Late, Execution::Reversed, Execution::Shuffled(3)] {
        let mut bench = Bench::up(Config::second_stage());
        bench.map(3, 0x5000);
        assert_eq!(bench.read_at(0x3000), Ok(0x5000));
        bench.map(3, 0x6000);
        bench.model.set_execution(execution);
        bench.iotlb_page(DOMAIN, 0x3000, 0);
        bench.iotlb_domain(OTHER);
        assert_eq!((bench.read64(IQH), bench.model.take_log().len()), (64, 0), "fetched");
        assert_eq!(bench.read_at(0x3000), Ok(0x5000));
        // Turned off without a wait: not quiet, and done all the same.
        let mut quiet = Bench::up(Config::second_stage());
        quiet.model.set_execution(execution);
        quiet.iotlb_domain(DOMAIN);
        quiet.write32(GCMD, TE);
        assert_eq!(quiet.model.violations(), [Violation::QueueNotQuiet { pending: 1 }]);
        assert_eq!(quiet.model.take_log().len(), 1);
        assert!(bench.wait(1));
        assert_eq!((bench.read_at(0x3000), bench.model.take_log().len()), (Ok(0x6000), 3));
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn in_order_is_at_once() {
    let mut bench = Bench::up(Config::second_stage());
    queue(&mut bench, &[PASIDS, CONTEXT, IOTLB]);
    let slots: Vec<usize> = bench.model.take_log().iter().map(|executed| executed.slot).collect();
    assert_eq!(slots, [0, 1, 2]);
}

#[test]
fn shuffling_keeps_what_must_be_kept_and_tries_the_rest() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let slots = executed(Execution::Shuffled(seed), |bench| {
            vec![CONTEXT, PASIDS, IOTLB, PASID_IOTLB, INTERRUPTS, PASID_DEVICE, wait(bench, 1)]
        });
        let at = |slot: usize| slots.iter().position(|other| *other == slot).unwrap();
        assert!(at(0) < at(1) && at(1) < at(2) && at(1) < at(3), "{slots:?}");
        assert!((2..5).all(|slot| at(slot) < at(5)) && at(6) == 6, "{slots:?}");
        let again = executed(Execution::Shuffled(seed), |bench| {
            vec![CONTEXT, PASIDS, IOTLB, PASID_IOTLB, INTERRUPTS, PASID_DEVICE, wait(bench, 1)]
        });
        assert_eq!(slots, again);
        orders.insert(slots);
    }
    // The interrupt entries in five places, the other two in two orders.
    assert_eq!(orders.len(), 10);
}

#[test]
fn errors_let_what_was_fetched_be_done() {
    for execution in [Execution::Late, Execution::Reversed] {
        let mut bench = Bench::up(Config::second_stage());
        bench.map(3, 0x5000);
        assert_eq!(bench.read_at(0x3000), Ok(0x5000));
        bench.map(3, 0x6000);
        bench.model.set_execution(execution);
        let last = wait(&bench, 1);
        queue(&mut bench, &[IOTLB, (0xf, 0), last]);
        assert_eq!((bench.read32(FSTS), bench.read64(IQH)), (IQE, 32));
        assert_eq!(bench.read_at(0x3000), Ok(0x6000));
        bench.set(bench.queue + 32, CONTEXT.0);
        bench.write32(FSTS, IQE);
        assert_eq!(bench.get(bench.status + 8) as u32, 1);
    }
}

#[test]
fn a_hook_sees_each_descriptor_before_it_takes_effect() {
    let mut bench = Bench::up(Config::second_stage());
    bench.map(3, 0x5000);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.map(3, 0x6000);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let hook: Hook = Box::new(move |model, next| {
        let found = model.dma(RID, None, Iova::new(0x3000), 1, false).map(|extents| extents[0].start.get());
        noted.lock().unwrap().push((*next, found.ok()));
    });
    bench.model.on_descriptor(Some(hook));
    let last = wait(&bench, 1);
    queue(&mut bench, &[CONTEXT, IOTLB, last]);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.iter().map(|(_, found)| *found).collect::<Vec<_>>(), [Some(0x5000), Some(0x5000), Some(0x6000)]);
    assert!(matches!(seen[0].0, Descriptor::ContextCache(_)) && matches!(seen[2].0, Descriptor::Wait { .. }));
    bench.model.on_descriptor(None);
    assert!(bench.wait(1));
}

/// A request between two invalidations fills a cache from one that is still stale.
#[test]
fn caches_closer_to_the_device_are_invalidated_last() {
    let stale = |order: &[(u64, u64)]| {
        let mut bench = Bench::up(Config::second_stage());
        bench.map(3, 0x5000);
        assert_eq!(bench.read_at(0x3000), Ok(0x5000));
        // The PASID entry goes.
        bench.set(bench.pasids, 0);
        let asks: Hook = Box::new(|model, _| {
            let _ = model.dma(RID, None, Iova::new(0x3000), 1, false);
        });
        bench.model.on_descriptor(Some(asks));
        let last = wait(&bench, 1);
        queue(&mut bench, &[order, &[last]].concat());
        bench.model.on_descriptor(None);
        bench.read_at(0x3000)
    };
    assert_eq!(stale(&[PASIDS, IOTLB]), Err(FaultCode::PASID_NOT_PRESENT));
    assert_eq!(stale(&[IOTLB, PASIDS]), Ok(0x5000));
    assert_eq!(stale(&[CONTEXT, PASIDS, IOTLB]), Err(FaultCode::PASID_NOT_PRESENT));
    assert_eq!(stale(&[IOTLB]), Ok(0x5000));
}

#[test]
fn waits_report_after_some_looks() {
    for register in [IQH, IQT, FSTS, ICS] {
        for execution in [Execution::Queued, Execution::Late] {
            let mut bench = Bench::up(Config::second_stage());
            bench.map(3, 0x5000);
            assert_eq!(bench.read_at(0x3000), Ok(0x5000));
            bench.map(3, 0x6000);
            bench.model.set_execution(execution);
            bench.model.report_after(3);
            let (first, second) = (wait(&bench, 1), wait(&bench, 2));
            queue(&mut bench, &[IOTLB, first, second]);
            let mut looks = 0;
            while bench.get(bench.status + 8) == 0 {
                let old = if execution == Execution::Late { 0x5000 } else { 0x6000 };
                assert_eq!(bench.read_at(0x3000), Ok(old));
                assert_eq!(bench.get(bench.status + 16), 0);
                let _ = match register {
                    FSTS | ICS => bench.read32(register).into(),
                    _ => bench.read64(register),
                };
                looks += 1;
                assert!(looks <= 3);
            }
            assert_eq!((looks, bench.read_at(0x3000)), (3, Ok(0x6000)));
            while bench.get(bench.status + 16) == 0 {
                let _ = bench.read32(FSTS);
                looks += 1;
            }
            assert_eq!(looks, 6);
            assert_eq!(bench.model.violations(), []);
        }
    }
}

#[test]
fn looks_at_the_clock_are_looks_too() {
    let mut bench = Bench::up(Config::second_stage());
    bench.model.report_after(5);
    assert!(!bench.wait(1));
    for _ in 0..4 {
        let _ = bench.memory.now();
        assert_eq!(bench.get(bench.status), 0);
    }
    let _ = bench.memory.now();
    assert_eq!(bench.get(bench.status), 1);
    bench.model.report_after(0);
    assert!(bench.wait(2));
}

#[test]
fn a_completion_is_lost_once() {
    let mut bench = Bench::up(Config::second_stage());
    bench.model.drop_completion_after(1);
    assert!(bench.wait(1));
    assert!(!bench.wait(2));
    assert!(bench.wait(3));
    let done: Vec<bool> = bench.model.take_log().iter().map(|executed| executed.done).collect();
    assert_eq!(done, [true, false, true]);
    // The interrupt is lost with it.
    bench.model.drop_completion_after(0);
    bench.submit(0x15, 0);
    assert_eq!(bench.read32(ICS), 0);
    bench.submit(0x15, 0);
    assert_eq!(bench.read32(ICS), 1);
}

#[test]
fn a_function_may_never_answer() {
    let mut bench = Bench::up(Config::server());
    bench.map(3, 0x5000);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.map(3, 0x6000);
    bench.model.set_unanswering(RID, true);
    for round in 1..4 {
        // What is behind the one that times out is not done either.
        let last = wait(&bench, round);
        queue(&mut bench, &[DEVICE, PASID_IOTLB, last]);
        assert_eq!((bench.read32(FSTS), bench.read64(IQERCD) >> 32), (ITE, RID.into()));
        assert_eq!((bench.get(bench.status + round * 8), bench.read_at(0x3000)), (0, Ok(0x5000)));
        let done: Vec<bool> = bench.model.take_log().iter().map(|executed| executed.done).collect();
        assert_eq!(done, [false; 3]);
        bench.write32(FSTS, ITE);
    }
    // Others answer.
    bench.submit(0x1111_0000_0003, 0x1000);
    assert!(bench.wait(9));
    bench.model.set_unanswering(RID, false);
    let last = wait(&bench, 4);
    queue(&mut bench, &[DEVICE, PASID_IOTLB, last]);
    assert_eq!((bench.read32(FSTS), bench.get(bench.status + 32), bench.read_at(0x3000)), (0, 4, Ok(0x6000)));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn the_first_error_names_its_source_and_old_hardware_names_none() {
    let bench = Bench::up(Config::server());
    bench.model.raise_time_out(0x1111);
    bench.model.raise_time_out(0x2222);
    bench.model.raise_unexpected_completion(0x3333);
    bench.model.raise_unexpected_completion(0x4444);
    assert_eq!(bench.read64(IQERCD) >> 32, 0x3333_1111);
    let mut bench = Bench::up(Config::server());
    bench.model.hide_error_records(true);
    bench.submit(0xf, 0);
    bench.model.raise_time_out(0x1111);
    bench.model.raise_unexpected_completion(0x3333);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE | ITE | 1 << 5, 0));
}

#[test]
fn domain_ids_are_as_wide_as_the_unit_says() {
    // ND 0: four bits.
    let mut bench = Bench::up(Config { cap: Config::second_stage().cap & !7, ..Config::second_stage() });
    bench.map(3, 0x5000);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.map(3, 0x6000);
    bench.iotlb_domain(OTHER);
    bench.iotlb_domain(OTHER | 0x10);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.iotlb_domain(DOMAIN | 0xab0);
    assert_eq!(bench.read_at(0x3000), Ok(0x6000));
}

#[test]
fn page_selective_needs_psi() {
    let mut bench = Bench::up(Config::second_stage().cap_bits(1 << 39, false));
    bench.iotlb_page(DOMAIN, 0x3000, 0);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 4));
    // Not those of the first stage.
    let mut bench = Bench::up(Config::first_stage().cap_bits(1 << 39, false));
    bench.pasid_iotlb_page(DOMAIN, 0, 0x3000, 0);
    assert!(bench.wait(1));
}

#[test]
fn modes_and_widths_go_together() {
    const ADMS: u64 = 1 << 52;
    let up = |config: Config, mode: u64, wide: bool| {
        let bench = Bench::new(config);
        bench.write64(RTADDR, bench.root | mode << 10);
        bench.command(SRTP);
        bench.model.take_violations();
        bench.write64(IQA, bench.queue | u64::from(wide) << 11);
        bench.command(QIE);
        bench.set(bench.queue, 0x11);
        bench.write64(IQT, if wide { 32 } else { 16 });
        (bench.read32(FSTS) & IQE != 0, bench.read64(IQERCD) & 0xf)
    };
    let scalable = Config::server();
    let legacy = Config { ecap: 0xf0_0f4a, ..Config::second_stage() };
    let aborting = legacy.ecap_bits(ADMS, true);
    let fine = (false, 0);
    assert_eq!([up(scalable, 0, false), up(scalable, 0, true), up(scalable, 1, true)], [fine; 3]);
    assert_eq!(up(scalable, 1, false), (true, 5));
    assert_eq!((up(legacy, 0, false), up(legacy, 0, true)), (fine, (true, 5)));
    assert_eq!((up(aborting, 3, true), up(aborting, 3, false)), (fine, (true, 5)));
    // A mode that is none.
    assert_eq!(up(scalable, 2, true), (true, 7));
}
