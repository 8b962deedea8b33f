//! Cases of random steps: each step is made from a number of its own, so that a case that fails can be made shorter by
//! leaving steps out.
#![allow(dead_code, reason = "each suite is a crate of its own and uses part of this")]

use crate::oracle::Random;
use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// Attempts to shorten a case that fails, at most.
const ATTEMPTS: usize = 400;

thread_local! {
    /// Whether panics of this thread are looked for, and not to be told of.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The number that all others come from: `PGTABLE_SEED`, or another in each run.
fn seed() -> u64 {
    let given = std::env::var("PGTABLE_SEED").ok();
    let given = given.map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("PGTABLE_SEED in hex"));
    given.unwrap_or_else(|| RandomState::new().build_hasher().finish())
}

fn fails(run: &mut dyn FnMut(&[u64], bool), steps: &[u64]) -> bool {
    QUIET.set(true);
    let failed = catch_unwind(AssertUnwindSafe(|| run(steps, false))).is_err();
    QUIET.set(false);
    failed
}

/// Runs `count` cases of `steps` steps each. `run` is given the numbers of the steps, and whether to tell of each; the
/// first number stands for all that is no step.
pub fn run(count: usize, steps: usize, mut run: impl FnMut(&[u64], bool)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                tell(info)
            }
        }));
    });
    let seed = seed();
    let mut random = Random(seed);
    for number in 0..count {
        let case: Vec<u64> = (0..=steps).map(|_| random.next()).collect();
        if fails(&mut run, &case) {
            let shortest = shorten(&mut run, case);
            eprintln!("case {number} of PGTABLE_SEED={seed:#x} fails; all that it takes are the steps {shortest:#x?}:");
            run(&shortest, true);
            panic!("the case that failed a moment ago did not do so again");
        }
    }
}

/// Leaves steps out, as many as can be without the case succeeding.
fn shorten(run: &mut dyn FnMut(&[u64], bool), mut case: Vec<u64>) -> Vec<u64> {
    let mut attempts = 0;
    let mut chunk = case.len() / 2;
    while chunk != 0 {
        let mut from = 1;
        while from < case.len() && attempts < ATTEMPTS {
            let to = (from + chunk).min(case.len());
            let shorter = [&case[..from], &case[to..]].concat();
            attempts += 1;
            if fails(run, &shorter) {
                case = shorter;
            } else {
                from = to;
            }
        }
        chunk /= 2;
    }
    case
}
