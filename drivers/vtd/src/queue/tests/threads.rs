//! Several CPUs at once.

use super::*;
use iommu_models::vtd::Execution;
use std::collections::BTreeSet;
use std::sync::{Barrier, Mutex};
use std::thread;

const BATCHES: u16 = 100;

/// Every worker's batches; what it asked for is done when it returns. How many doorbells that took.
fn work(bed: &Bed, workers: u16) -> usize {
    let (start, done) = (Barrier::new(workers.into()), Mutex::new(BTreeSet::new()));
    bed.counts();
    thread::scope(|scope| {
        for worker in 0..workers {
            let (start, done) = (&start, &done);
            scope.spawn(move || {
                start.wait();
                for n in 0..BATCHES {
                    let batch: Vec<_> = (0..1 + n % 5)
                        .map(|at| Invalidation::PasidIotlb { domain: worker << 12 | n, pasid: at.into(), pages: None })
                        .collect();
                    bed.run(&batch).unwrap_or_else(|error| panic!("worker {worker}, batch {n}: {error}"));
                    let mut done = done.lock().unwrap();
                    done.extend(bed.model.take_log().into_iter().filter(|it| it.done).map(|it| it.raw[0]));
                    for invalidation in batch {
                        assert!(done.remove(&word(invalidation)), "worker {worker}, batch {n}: not done");
                    }
                }
            });
        }
    });
    bed.check();
    bed.counts().1
}

#[test]
fn each_caller_returns_once_its_own_is_done() {
    for order in [Execution::Queued, Execution::Late, Execution::Shuffled(5)] {
        for workers in [2, 3, 4] {
            let bed = Bed::server();
            // A look of another thread at the clock must not use up this one's time.
            bed.memory.set_clock_step(0);
            bed.model.set_execution(order);
            // Hardware takes its time, so that others come meanwhile.
            bed.model.report_after(12);
            let doorbells = work(&bed, workers);
            let batches = usize::from(workers * BATCHES);
            // How many share one is up to the machine; `costs` has callers who must.
            assert!(doorbells <= batches, "{workers} workers: {doorbells} doorbells of {batches} batches");
        }
    }
}

#[test]
fn hardware_that_answers_at_once_serves_them_too() {
    let bed = Bed::server();
    bed.memory.set_clock_step(0);
    assert!(work(&bed, 4) <= usize::from(4 * BATCHES));
}

#[test]
fn refusals_under_contention_reach_one_caller_each() {
    let bed = Bed::server();
    bed.memory.set_clock_step(0);
    bed.model.report_after(1);
    let (failed, provoked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..4u16 {
            let (bed, failed, provoked) = (&bed, &failed, &provoked);
            scope.spawn(move || {
                for n in 0..200u16 {
                    if worker == 0 && n % 10 == 0 && provoked.load(Ordering::Relaxed) == failed.load(Ordering::Relaxed)
                    {
                        provoked.fetch_add(1, Ordering::Relaxed);
                        bed.model.fail_descriptor_after(usize::from(n % 3));
                    }
                    let batch = [domain(worker << 12 | n), domain(worker << 12 | 0x800 | n)];
                    match bed.run(&batch) {
                        Ok(_) => {}
                        Err(HwError::Queue { code: 3, entry }) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            let own = batch.iter().any(|it| word(*it) == entry) || is_wait(entry);
                            assert!(own, "worker {worker}, {n}: {entry:#x} is not its own");
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let (failed, provoked) = (failed.into_inner(), provoked.into_inner());
    assert!(failed > 0 && failed <= provoked, "{failed} callers of {provoked} refusals");
    bed.check();
}
