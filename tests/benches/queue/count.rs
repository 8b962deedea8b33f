//! Instructions by callgrind: exact, and alike on every run.

use crate::common::callgrind::{instructions, valgrind};
use crate::hardware::{Architecture, Machine, Smmuv3, Vtd};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, Prot};

/// What is counted.
pub const KINDS: [(&str, &str); 3] = [
    ("sync", "a wait alone, from call to confirmation"),
    ("flush-1", "the flush of a gather with 1 page"),
    ("flush-8", "the flush of a gather with 8 pages apart"),
];

/// `--count ARCHITECTURE UNIT KIND TIMES FLUSHED`: on a unit of that kind, does everything TIMES times, and the flush the first
/// FLUSHED times.
///
/// # Panics
///
/// Where the arguments are others.
pub fn run(arguments: &[String]) {
    let [architecture, unit, kind, times, flushed] = arguments else {
        panic!("--count ARCHITECTURE UNIT KIND TIMES FLUSHED")
    };
    let [unit, times, flushed]: [usize; 3] = [unit, times, flushed].map(|number| number.parse().expect("a number"));
    match architecture.as_str() {
        Vtd::NAME => run_on::<Vtd>(unit, kind, times, flushed),
        Smmuv3::NAME => run_on::<Smmuv3>(unit, kind, times, flushed),
        other => panic!("{other} is no architecture"),
    }
}

fn run_on<A: Architecture>(unit: usize, kind: &str, times: usize, flushed: usize) {
    let (_, unit) = Machine::<A>::up(unit, 0, true);
    let domain = Machine::<A>::domain(&unit);
    let pages = match kind {
        "sync" => {
            for _ in 0..flushed {
                A::sync(&unit);
            }
            return;
        }
        "flush-1" => 1,
        "flush-8" => 8,
        other => panic!("{other} is none of {KINDS:?}"),
    };
    let at = |page: u64| Iova::new(0x10_0000 + page * 0x1_3000);
    // Keeps the table.
    domain.map(Iova::new(0), &[PhysExtent::new(PhysAddr::new(0), 4096)], Prot::READ_WRITE).expect("a map");
    for time in 0..times {
        let mut gather = Gather::new();
        for page in 0..pages {
            let memory = PhysExtent::new(PhysAddr::new(0x5000_0000), 4096);
            domain.map(at(page), &[memory], Prot::READ_WRITE).expect("a map");
            domain.unmap(IovaRange::from_len(at(page), 4096).expect("a page"), &mut gather).expect("an unmap");
        }
        if time < flushed {
            domain.flush(&mut gather).expect("a flush");
        }
    }
}

/// Instructions of each of [`KINDS`] on each kind of unit. `None` without valgrind.
pub fn all<A: Architecture>() -> Option<Vec<[u64; 3]>> {
    const TIMES: u64 = 64;
    let valgrind = valgrind()?;
    let program = std::env::current_exe().expect("the program that runs");
    let total = |unit: usize, kind: &str, flushed: u64| {
        let [unit, times, flushed] = [unit as u64, TIMES, flushed].map(|number| number.to_string());
        instructions(&valgrind, &program, &["--count", A::NAME, &unit, kind, &times, &flushed])
    };
    let one = |unit, kind| (total(unit, kind, TIMES) - total(unit, kind, TIMES / 2)).div_ceil(TIMES / 2);
    Some((0..A::KINDS.len()).map(|unit| KINDS.map(|(kind, _)| one(unit, kind))).collect())
}
