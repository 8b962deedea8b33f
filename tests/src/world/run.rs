//! Many worlds of one kind, from seeds.

use super::machine::Machine;
use super::{Numbers, World};
use crate::figures;
use crate::random::Random;
use std::time::Instant;

/// Worlds of one run, and steps in each. `WORLD_SEED` and `WORLD_STEPS` set other seeds and more steps.
const WORLDS: u64 = 250;
const STEPS: usize = 400;
const THREADS: usize = 2;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs worlds of this kind of machine, and prints how much was compared. Ends with a panic at the first difference.
pub fn worlds_of<M: Machine>(name: &str) {
    let (seed, steps) = (setting("WORLD_SEED", 1), setting("WORLD_STEPS", STEPS as u64) as usize);
    let begin = Instant::now();
    let run = |first: u64| {
        let (mut done, mut accesses) = (0, 0);
        for world_seed in (first..WORLDS).step_by(THREADS) {
            let mut world = World::<M>::new(Numbers::Random(Random::new(seed.wrapping_mul(1000) + world_seed)));
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
        let running: Vec<_> = (0..THREADS as u64).map(|first| scope.spawn(move || run(first))).collect();
        let done = running.into_iter().map(|thread| thread.join().expect("no difference"));
        done.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    });
    let seconds = begin.elapsed().as_secs();
    figures::print(&format!("{name}: {WORLDS} units, {done} operations, {accesses} accesses compared in {seconds} s"));
    assert!(done >= 100_000 || steps < STEPS);
}
