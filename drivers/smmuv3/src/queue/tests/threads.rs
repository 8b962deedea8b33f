//! Several CPUs at once.

use super::*;
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
                    let batch: Vec<_> =
                        (0..1 + n % 5).map(|at| Command::cfgi_cd((worker << 12 | n).into(), at.into(), true)).collect();
                    bed.run(&batch).unwrap_or_else(|error| panic!("worker {worker}, batch {n}: {error}"));
                    let mut done = done.lock().unwrap();
                    done.extend(bed.executed());
                    for command in batch {
                        assert!(done.remove(&command.0), "worker {worker}, batch {n}: not done");
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
    for log2 in [3, 4, 8] {
        for bed in beds(log2) {
            for workers in [2, 4] {
                // A look of another thread at the clock must not use up this one's time.
                bed.memory.set_clock_step(0);
                // Hardware takes its time, so that others come meanwhile.
                bed.model.execute_after(12);
                let doorbells = work(&bed, workers);
                let batches = usize::from(workers * BATCHES);
                // How many share one is up to the machine; `costs` has callers who must.
                assert!(doorbells <= batches, "{workers} workers: {doorbells} doorbells of {batches} batches");
            }
        }
    }
}

#[test]
fn queues_of_two_serve_them_too() {
    for bed in beds(1) {
        bed.memory.set_clock_step(0);
        work(&bed, 4);
    }
}

#[test]
fn refusals_under_contention_reach_one_caller_each() {
    let bed = Bed::server();
    bed.memory.set_clock_step(0);
    bed.model.execute_after(1);
    let (failed, provoked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..4u16 {
            let (bed, failed, provoked) = (&bed, &failed, &provoked);
            scope.spawn(move || {
                for n in 0..200u16 {
                    if worker == 0 && n % 10 == 0 && provoked.load(Ordering::Relaxed) == failed.load(Ordering::Relaxed)
                    {
                        provoked.fetch_add(1, Ordering::Relaxed);
                        bed.model.fail_command_after(usize::from(n % 3));
                    }
                    let batch = [domain(worker << 12 | n), domain(worker << 12 | 0x800 | n)];
                    match bed.run(&batch) {
                        Ok(_) => {}
                        Err(HwError::Queue { code: ILLEGAL, entry }) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            let own = batch.iter().any(|it| it.0[0] == entry) || entry & 0xff == 0x46;
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
