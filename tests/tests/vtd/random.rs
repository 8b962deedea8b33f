//! Random units x random operations, failures among them x accesses of devices, with caches at their most stale.

use iommu_tests::figures;
use iommu_tests::random::Random;
use iommu_tests::world::{Numbers, VtdMachine, World};
use std::time::Instant;

/// Worlds of one run, and steps in each. `VTD_SEED` and `VTD_STEPS` set other seeds and more steps.
const WORLDS: u64 = 250;
const STEPS: usize = 400;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_forbidden_goes_through_and_nothing_permitted_is_refused() {
    let (seed, steps) = (setting("VTD_SEED", 1), setting("VTD_STEPS", STEPS as u64) as usize);
    let begin = Instant::now();
    let threads = 2;
    let run = |first: u64| {
        let (mut done, mut accesses) = (0, 0);
        for world_seed in (first..WORLDS).step_by(threads) {
            let mut world =
                World::<VtdMachine>::new(Numbers::Random(Random::new(seed.wrapping_mul(1000) + world_seed)));
            for _ in 0..steps {
                world.step();
            }
            done += steps;
            accesses += world.accesses();
            world.finish();
        }
        (done, accesses)
    };
    let (done, accesses) = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads as u64).map(|first| scope.spawn(move || run(first))).collect();
        let done = running.into_iter().map(|thread| thread.join().expect("no difference"));
        done.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    });
    let seconds = begin.elapsed().as_secs();
    figures::print(&format!("vtd: {WORLDS} units, {done} operations, {accesses} accesses compared in {seconds} s"));
    assert!(done >= 100_000 || steps < STEPS);
}
