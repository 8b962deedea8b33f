//! Random sequences of operations on address spaces, domains, accesses and memory, compared with a flat map after each.
//!
//! A sequence that fails is printed as short as it can be made. `ORACLE_SEED` asks for other sequences than those of every
//! run, `ORACLE_OPERATIONS` for more of them.

use iommu_tests::figures;
use iommu_tests::oracle::check::tallied;
use iommu_tests::oracle::run::{Outcome, outcome, shrink};
use iommu_tests::oracle::{Layout, Op};
use iommu_tests::random::Random;

/// Operations of one sequence.
const LENGTH: usize = 400;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn sequence(seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    let mut bytes = std::iter::from_fn(move || Some((random.number() >> 24) as u8));
    (0..LENGTH).filter_map(|_| Op::take(&mut bytes)).collect()
}

/// Runs sequences until there were as many operations as asked for.
fn compare(name: &str, layout: Layout, operations: u64) {
    let operations = setting("ORACLE_OPERATIONS", operations);
    let first = setting("ORACLE_SEED", 1);
    let mut done = 0;
    for seed in first.. {
        if done >= operations {
            break;
        }
        let ops = sequence(seed);
        if let Outcome::Differs(at, message) = outcome(layout, &ops) {
            let few = shrink(layout, &ops);
            let again = outcome(layout, &few);
            let lines: String = few.iter().map(|op| format!("    Op::{op:x?},\n")).collect();
            panic!("seed {seed}, operation {at}: {message}\nas few as possible, {again:?}:\n{lines}");
        }
        done += ops.len() as u64;
    }
    figures::print(&format!(
        "{name}: {done} operations as expected, seeds from {first} on; among them {:?}",
        tallied()
    ));
}

#[test]
fn everything_is_as_in_a_flat_map() {
    compare("small", Layout::Small, 100_000);
}

#[test]
fn the_whole_of_64_bits_is_as_in_a_flat_map() {
    compare("wide", Layout::Wide, 30_000);
}
