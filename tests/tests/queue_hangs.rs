//! The invalidation queue when hardware hangs or answers late, and its ring: every wait ends at its deadline, no
//! completion is taken for another's, nothing that hardware has yet to read is overwritten.

use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Gather, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Descriptor, FaultCode, Queue};
use iommu_tests::bench::{Bench, map, range, stream, try_unmap};
use iommu_tests::case::Case;
use iommu_tests::four_pages::{HUNG, PAGES, RED, four_pages, phys, unmap_four};
use iommu_tests::spy::{IQH, IQT};

fn second_stage() -> Case {
    Case::plain()[0].clone()
}

#[test]
fn a_hang_is_seen_within_the_deadline_and_the_queue_works_once_it_moves() {
    for queue in [Queue::Stopped, Queue::Mute] {
        for case in Case::plain() {
            let bench = Bench::up(&case);
            let domain = four_pages(&bench);
            let before = bench.memory.in_use();
            bench.model.set_queue(queue);
            bench.spy.take_reads();
            let (mut gather, found) = unmap_four(&*domain);
            assert_eq!(found, Err(HUNG), "{}", case.name);
            // 1 ms at 10 us a look, three reads a look.
            assert!(bench.spy.take_reads() < 500, "{}", case.name);
            assert!(!gather.is_empty());
            assert_eq!(bench.memory.in_use(), before);
            for _ in 0..5 {
                assert_eq!(domain.flush(&mut gather), Err(HUNG), "{}", case.name);
                assert_eq!(bench.unit.sync(), Err(HUNG));
                assert_eq!(bench.unit.detach(stream(RED)), Err(HUNG));
            }
            assert!(bench.spy.take_reads() < 20_000);
            bench.model.set_queue(Queue::Running);
            domain.flush(&mut gather).expect("it moves again");
            bench.detach(RED);
            PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(FaultCode::CONTEXT_NOT_PRESENT)));
            bench.unit.sync().expect("and works");
            bench.check();
        }
    }
}

#[test]
fn a_completion_that_comes_late_is_taken_for_no_other() {
    let bench = Bench::up(&second_stage());
    let domain = four_pages(&bench);
    // Many waits given up on, one after the other.
    let mut given_up = Vec::new();
    bench.model.set_queue(Queue::Stopped);
    assert_eq!(bench.unit.sync(), Err(HUNG));
    given_up.push(bench.unit.marker());
    for _ in 0..3 {
        assert_eq!(bench.unit.sync(), Err(HUNG));
    }
    bench.model.take_log();

    // The old one completes just when a new one is submitted, which itself never does.
    bench.model.set_queue(Queue::Running);
    let late = bench.model.take_log();
    assert!(late.iter().any(|it| matches!(it.descriptor,
        Descriptor::Wait { status: Some((_, data)), .. } if given_up.contains(&data))));
    bench.model.set_queue(Queue::Stopped);
    assert_eq!(try_unmap(&*domain, PAGES[0], 0x1000), Err(HUNG), "nothing was invalidated for this one");
    bench.model.set_queue(Queue::Running);
    let marker = bench.unit.sync().expect("works");
    assert!(!given_up.contains(&marker));
    bench.check();
}

#[test]
fn a_completion_in_the_middle_of_the_next_wait_is_not_its_own() {
    // Late by one: while the driver waits for its second wait, hardware completes the first and stops again.
    let bench = Bench::up(&second_stage());
    bench.model.set_queue(Queue::Mute);
    assert_eq!(bench.unit.sync(), Err(HUNG));
    let first = bench.unit.marker();
    // The status word as hardware would write it late, now that the next batch is on its way.
    let log = bench.model.take_log();
    let Some(Descriptor::Wait { status: Some((status, data)), .. }) = log.first().map(|it| it.descriptor) else {
        panic!("{log:?}")
    };
    assert_eq!(data, first);
    // Nothing but its own number is its own: neither an older one, nor one that is to come, nor what was there at first.
    for other in [first, first + 100, u32::MAX, 0] {
        let memory = bench.memory.clone();
        bench.spy.set_hook(Some(Box::new(move |write, _| {
            if write.offset == IQT {
                // Into every cell that a wait may report to.
                let cells = (0..256).map(|slot| PhysAddr::new((status.get() & !0xfff) + slot * 8));
                cells.for_each(|cell| memory.device_write32(cell, other).unwrap());
            }
        })));
        assert_eq!(bench.unit.sync(), Err(HUNG), "taken for the wait of {other:#x}");
    }
    bench.spy.set_hook(None);
    bench.model.set_queue(Queue::Running);
    bench.unit.sync().expect("works");
    bench.check();
}

#[test]
fn markers_only_grow_and_each_is_its_own_waits() {
    let bench = Bench::up(&second_stage());
    let mut before = bench.unit.marker();
    for _ in 0..1000 {
        let marker = bench.unit.sync().unwrap();
        assert!(marker > before);
        let log = bench.model.take_log();
        assert!(matches!(log[..], [it] if matches!(it.descriptor,
            Descriptor::Wait { status: Some((_, data)), .. } if data == marker)));
        before = marker;
    }
}

#[test]
fn the_ring_wraps_for_thousands_of_batches_of_every_size() {
    let bench = Bench::up(&second_stage());
    let domain = bench.domain();
    // Keeps the table, so that no batch but the last frees it.
    map(&*domain, 0x1000, 0x6000_0000, 0x1000);
    bench.attach(RED, &*domain);
    let (mut executed, mut slots) = (0usize, [0usize; 256]);
    for round in 0..4000usize {
        // One to eight separate pages: two to nine descriptors with the wait.
        let count = round % 8 + 1;
        let pages: Vec<u64> = (0..count as u64).map(|n| 0x1_0000 + n * 0x2000).collect();
        let mut gather = Gather::new();
        for iova in &pages {
            map(&*domain, *iova, 0x5000_0000, 0x1000);
            assert_eq!(bench.read(RED, *iova), Ok(0x5000_0000));
            domain.unmap(range(*iova, 0x1000), &mut gather).unwrap();
        }
        domain.flush(&mut gather).unwrap();
        let log = bench.model.take_log();
        assert_eq!(log.len(), count + 1, "round {round}");
        for done in &log {
            slots[done.slot] += 1;
        }
        executed += log.len();
        assert_eq!(bench.read(RED, pages[round % count]), Err(FaultCode::SECOND_PERMISSION));
        bench.model.take_faults();
    }
    assert!(executed > 80 * 256 && slots.iter().all(|count| *count > 60), "every slot was used: {slots:?}");
    bench.check();
}

#[test]
fn a_ring_that_fills_up_while_hardware_stands_still_is_never_overwritten() {
    let bench = Bench::up(&second_stage());
    let domain = four_pages(&bench);
    bench.model.take_log();
    bench.model.set_queue(Queue::Stopped);
    // Each attempt would put four more into a ring of 256.
    let (mut gather, found) = unmap_four(&*domain);
    assert_eq!(found, Err(HUNG));
    let before = (bench.model.read64(IQH) / 32, bench.model.read64(IQT) / 32);
    for _ in 0..100 {
        assert_eq!(domain.flush(&mut gather), Err(HUNG));
        assert_eq!(bench.model.violations(), []);
        let (head, tail) = (bench.model.read64(IQH) / 32, bench.model.read64(IQT) / 32);
        assert_eq!((head, tail), (before.0, before.1), "hardware is told of nothing while it reads nothing");
    }
    bench.model.set_queue(Queue::Running);
    domain.flush(&mut gather).expect("works");
    // All four pages are gone by what was executed, whichever attempt it belonged to.
    PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(FaultCode::SECOND_PERMISSION)));
    bench.check();
}

#[test]
fn a_queue_that_stops_anywhere_in_the_ring_goes_on_there() {
    for n in 0..40 {
        let bench = Bench::up(&second_stage());
        let domain = four_pages(&bench);
        bench.model.stop_queue_after(n);
        let mut failed = 0;
        for _ in 0..9 {
            let (mut gather, found) = unmap_four(&*domain);
            if found == Err(HUNG) {
                failed += 1;
                bench.model.set_queue(Queue::Running);
                domain.flush(&mut gather).expect("works");
            }
            PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(FaultCode::SECOND_PERMISSION)));
            PAGES.iter().for_each(|iova| map(&*domain, *iova, phys(*iova), 0x1000));
        }
        assert_eq!(failed, 1, "it stops once");
        bench.check();
    }
}
