//! Instructions by callgrind: exact, and alike on every run.

use crate::common::callgrind::{instructions, valgrind};
use crate::hardware::Machine;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, Prot};

/// What is counted.
pub const KINDS: [(&str, &str); 3] = [
    ("sync", "a wait alone, from call to confirmation"),
    ("flush-1", "the flush of a gather with 1 page"),
    ("flush-8", "the flush of a gather with 8 pages apart"),
];

/// `--count KIND TIMES FLUSHED`: does everything but the last FLUSHED flushes TIMES times.
///
/// # Panics
///
/// Where the arguments are others.
pub fn run(arguments: &[String]) {
    let [kind, times, flushed] = arguments else { panic!("--count KIND TIMES FLUSHED") };
    let [times, flushed]: [u32; 2] = [times, flushed].map(|number| number.parse().expect("a number"));
    let (_, unit) = Machine::up(0, true);
    let domain = Machine::domain(&unit);
    let pages = match kind.as_str() {
        "sync" => {
            for _ in 0..flushed {
                unit.sync().expect("a wait");
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

/// Instructions of each of [`KINDS`]. `None` without valgrind.
pub fn all() -> Option<[u64; 3]> {
    const TIMES: u64 = 64;
    let valgrind = valgrind()?;
    let program = std::env::current_exe().expect("the program that runs");
    let total = |kind: &str, flushed: u64| {
        let numbers = [TIMES, flushed].map(|number| number.to_string());
        instructions(&valgrind, &program, &["--count", kind, &numbers[0], &numbers[1]])
    };
    Some(KINDS.map(|(kind, _)| (total(kind, TIMES) - total(kind, TIMES / 2)).div_ceil(TIMES / 2)))
}
