//! Maps, unmaps, copies and splits, disjoint and overlapping.

use crate::explore::{Work, explore, quietly, side_by_side};
use crate::serial::{Came, Op, explains, real};
use crate::world::{AT, World};
use iommu_tests::mock::APERTURE_LAST;
use iommu_tests::oracle::flat::{Flat, Keeper, Kept};
use shuttle::rand::Rng;

/// A few pages that everything happens in.
const PAGES: u64 = 10;

fn random(random: &mut impl Rng) -> Op {
    let (at, pages, memory) = (random.gen_range(0..PAGES), random.gen_range(1..=3), random.gen_range(0..3));
    match random.gen_range(0..10) {
        0..3 => Op::Map { at, memory, pages },
        3..4 => Op::MapAnywhere { memory, pages },
        4..7 => Op::Unmap { at: at.saturating_sub(2), pages: random.gen_range(1..=6) },
        7..9 => Op::Copy { from: at, pages: random.gen_range(1..=2), to: random.gen_range(0..PAGES) },
        _ => Op::Split { at },
    }
}

/// An address space with areas and so many domains, and what it is flat.
fn start(domains: usize) -> (World, Vec<iommu_core::hwpt::Hwpt>, Flat) {
    quietly(|| {
        let world = World::new();
        let hwpts: Vec<_> = (0..domains).map(|unit| world.domain(0, unit)).collect();
        let mut flat = Flat::default();
        if domains > 0 {
            let keeper = Keeper::Domain(0);
            flat.kept.push(Kept { first: 0, last: AT - 1, keeper });
            flat.kept.push(Kept { first: APERTURE_LAST + 1, last: u64::MAX, keeper });
            flat.demands.push((keeper, 2048));
        }
        (world, hwpts, flat)
    })
}

/// CPUs that each do a few things, of which `choose` says what.
fn by_turns(domains: usize, programs: impl Fn(&mut shuttle::rand::rngs::ThreadRng) -> (Vec<Op>, Vec<Vec<Op>>)) {
    let (world, hwpts, mut flat) = start(domains);
    let (before, programs) = programs(&mut shuttle::rand::thread_rng());
    quietly(|| {
        let done: Vec<_> = before.iter().map(|op| (*op, real(&world, AT, *op))).collect();
        // Nobody is there yet, so what came of it is what ought to.
        assert!(explains(&world, AT, &flat, std::slice::from_ref(&done)), "{done:?}");
        flat = crate::serial::after(&world, AT, &flat, &done);
    });
    let work = programs.iter().map(|program| -> Work<'_, Vec<(Op, Came)>> {
        Box::new(|| program.iter().map(|op| (*op, real(&world, AT, *op))).collect())
    });
    let done = side_by_side(work.collect());
    quietly(|| {
        let lines: String = done.iter().map(|done| format!("\n{done:x?}")).collect();
        let end = world.areas(0);
        assert!(
            explains(&world, AT, &flat, &done),
            "no order explains, from {before:?},{lines}\nwhich ended in {end:?}"
        );
        hwpts.iter().for_each(|hwpt| world.check_domain(0, hwpt));
        world.check_pins();
        drop(hwpts);
        world.finish();
    });
}

#[test]
fn disjoint_maps_and_unmaps() {
    for domains in 0..3 {
        explore("disjoint maps and unmaps", 600, move || {
            by_turns(domains, |_| {
                // Neighbours, all of the same memory.
                let program = |cpu: u64| {
                    let (at, pages) = (cpu * 3, 3);
                    vec![Op::Map { at, memory: 0, pages }, Op::Unmap { at, pages }, Op::Map { at, memory: 1, pages }]
                };
                (vec![], (0..3).map(program).collect())
            });
        });
    }
}

#[test]
fn overlapping_maps() {
    explore("overlapping maps", 800, || {
        by_turns(1, |_| {
            let program =
                |cpu: u64| vec![Op::Map { at: cpu, memory: cpu as usize, pages: 3 }, Op::Unmap { at: cpu, pages: 3 }];
            (vec![], (0..3).map(program).collect())
        });
    });
}

#[test]
fn anything_by_turns() {
    for domains in 0..3 {
        explore("anything", 1500, move || {
            by_turns(domains, |dice| {
                let before = (0..dice.gen_range(0..4)).map(|_| random(dice)).collect();
                let programs = (0..3).map(|_| (0..dice.gen_range(1..=3)).map(|_| random(dice)).collect()).collect();
                (before, programs)
            });
        });
    }
}

#[test]
fn copies_of_what_goes() {
    explore("copies of what goes", 800, || {
        by_turns(1, |_| {
            let before = vec![Op::Map { at: 0, memory: 0, pages: 3 }];
            let gone = vec![Op::Unmap { at: 0, pages: 3 }, Op::Map { at: 0, memory: 1, pages: 3 }];
            let copy = |to| vec![Op::Copy { from: 1, pages: 2, to }];
            (before, vec![gone, copy(4), copy(5)])
        });
    });
}

/// A copy of several areas is of what stood there at one time.
#[test]
fn copies_of_several_areas_that_go() {
    explore("copies of several areas that go", 800, || {
        by_turns(0, |_| {
            let before = vec![Op::Map { at: 0, memory: 0, pages: 1 }, Op::Map { at: 1, memory: 1, pages: 1 }];
            let gone = vec![Op::Unmap { at: 0, pages: 2 }, Op::Map { at: 0, memory: 2, pages: 2 }];
            (before, vec![gone, vec![Op::Copy { from: 0, pages: 2, to: 4 }]])
        });
    });
}

#[test]
fn splits_of_what_goes() {
    explore("splits of what goes", 800, || {
        by_turns(1, |_| {
            let before = vec![Op::Map { at: 0, memory: 0, pages: 3 }];
            let split = vec![Op::Split { at: 1 }, Op::Unmap { at: 0, pages: 1 }];
            let other = vec![Op::Split { at: 2 }, Op::Unmap { at: 2, pages: 1 }];
            (before, vec![split, other, vec![Op::Copy { from: 0, pages: 3, to: 5 }]])
        });
    });
}
