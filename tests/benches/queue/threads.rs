//! Throughput: threads that unmap and flush as fast as they can, each its own pages of one domain.

use crate::hardware::{Architecture, Machine};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, Prot};
use std::sync::Barrier;
use std::time::Instant;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Which kind of unit.
    pub kind: usize,
    /// Nanoseconds from doorbell to confirmation.
    pub latency: u64,
    /// CPUs.
    pub threads: u64,
    /// Flushes in a second, of all threads.
    pub per_second: f64,
    /// Doorbells for each flush.
    pub doorbells: f64,
}

/// Everything, with `flushes` by each thread; the best of `rounds`.
pub fn all<A: Architecture>(flushes: u64, rounds: usize) -> Vec<Throughput> {
    let latencies = (0..A::KINDS.len()).flat_map(|kind| [0, 1_000, 5_000].map(|latency| (kind, latency)));
    let kinds = latencies.flat_map(|(kind, latency)| [1, 2, 4].map(|threads| (kind, latency, threads)));
    let best = |(kind, latency, threads)| {
        let measured = (0..rounds).map(|_| measure::<A>(kind, latency, threads, flushes));
        measured.max_by(|a, b| a.per_second.total_cmp(&b.per_second)).expect("a round")
    };
    kinds.map(best).collect()
}

fn measure<A: Architecture>(kind: usize, latency: u64, threads: u64, flushes: u64) -> Throughput {
    let (machine, unit) = Machine::<A>::up(kind, latency, false);
    let domain = Machine::<A>::domain(&unit);
    let start = Barrier::new(threads as usize);
    machine.take_doorbells();
    let (shared, start) = (&*domain, &start);
    let work = move |thread: u64| {
        let domain = shared;
        let iova = Iova::new(thread << 30 | 0x1000);
        let page = IovaRange::from_len(iova, 4096).expect("a page");
        let memory = [PhysExtent::new(PhysAddr::new(0x5000_0000), 4096)];
        domain.map(Iova::new(thread << 30), &memory, Prot::READ_WRITE).expect("a map");
        start.wait();
        let began = Instant::now();
        for _ in 0..flushes {
            let mut gather = Gather::new();
            domain.map(iova, &memory, Prot::READ_WRITE).expect("a map");
            domain.unmap(page, &mut gather).expect("an unmap");
            domain.flush(&mut gather).expect("a flush");
        }
        (began, Instant::now())
    };
    let times: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    });
    let began = times.iter().map(|(began, _)| *began).min().expect("a thread");
    let ended = times.iter().map(|(_, ended)| *ended).max().expect("a thread");
    let all = (threads * flushes) as f64;
    let per_second = all / ended.duration_since(began).as_secs_f64();
    let doorbells = machine.take_doorbells() as f64 / all;
    assert!(doorbells > 0.0, "no flush reached hardware");
    Throughput { kind, latency, threads, per_second, doorbells }
}
