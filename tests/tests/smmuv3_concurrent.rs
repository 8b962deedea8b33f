//! Several CPUs at once: maps, unmaps, attaches, detaches and fault reports of one unit do not disturb each other.

use iommu_core::hw::{Target, Unit as _};
use iommu_tests::random::Random;
use iommu_tests::smmuv3::bench::{Bench, map, stream, unmap};
use iommu_tests::smmuv3::case::Case;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const LARGE: u64 = 1 << 21;
const ROUNDS: u64 = 120;

/// Each worker has its own 4 MiB of addresses, and its own stream.
fn work(bench: &Bench, domain: &dyn iommu_core::hw::Domain, worker: u64) {
    let mut random = Random::new(worker + 1);
    let (base, sid) = (worker * 2 * LARGE, 0x08 + worker as u32 * 8);
    let phys = 0x10_0000_0000 + base;
    bench.attach(sid, domain);
    for _ in 0..ROUNDS {
        // A whole table, a large leaf, or a few pages.
        let (offset, len, shift) = match random.below(3) {
            0 => (0, LARGE, 0x1000),
            1 => (LARGE, LARGE, 0),
            _ => (random.below(16) << 12, (1 + random.below(16)) << 12, 0),
        };
        map(domain, base + offset, phys + offset + shift, len);
        bench.expect(sid, base + offset, Ok(phys + offset + shift));
        bench.expect(sid, base + offset + len - 1, Ok(phys + offset + shift + len - 1));
        unmap(domain, base + offset, len);
        bench.expect(sid, base + offset, Err(bench.case.not_mapped()));
    }
    bench.detach(sid);
}

#[test]
fn several_cpus_map_and_unmap_in_one_domain_while_streams_come_and_go() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        // Hardware takes its time.
        bench.model.execute_after(1);
        // A look of another thread at the clock must not use up this one's time.
        bench.memory.set_clock_step(0);
        let [_, beside, far] = case.streams();
        let domain = bench.domain();
        let (other, done) = (bench.domain_with(0, 0x5000_0000, 0x1000), AtomicBool::new(false));
        thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|worker| {
                    let (bench, domain) = (&bench, &*domain);
                    scope.spawn(move || work(bench, domain, worker))
                })
                .collect();
            scope.spawn(|| {
                // Another function changes hands all the time, and faults are looked after.
                while !done.load(Ordering::Relaxed) {
                    for target in [Target::Paging(&*other), Target::Identity, Target::Paging(&*domain), Target::Blocked]
                    {
                        bench.unit.attach(stream(far), target).unwrap();
                        bench.unit.report_faults(&mut |_| {});
                        let extra = bench.domain_with(0, 0x6000_0000, 0x1000);
                        bench.attach(beside, &*extra);
                    }
                }
            });
            let failed = workers.into_iter().any(|worker| worker.join().is_err());
            done.store(true, Ordering::Relaxed);
            assert!(!failed, "{}", case.name);
        });
        drop((domain, other));
        bench.check();
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
    }
}
