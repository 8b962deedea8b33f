//! What is counted rather than timed: a number of maps and then of unmaps, in tables that are there.

use crate::bits::Bits;
use crate::callgrind::{self, FORMATS};
use crate::ours::Ours;
use crate::work::{Contender, MapUnmap, Slot, Work};
use iommu_pgtable::{Armv8Stage1, Armv8Stage2, FirstStageOptions, Vtd, VtdFirstStage, VtdOptions, VtdSecondStage};

/// Slots. No call may ask for more.
const SLOTS: usize = 64;
const PAGE: u64 = 4096;
/// Valgrind has memory at low addresses.
const OFFSET: u64 = 1 << 16;

/// `--count FORMAT PAGES MAPS UNMAPS`: maps the first MAPS slots of PAGES pages, then unmaps the first UNMAPS of them.
///
/// # Panics
///
/// Where the arguments are others.
pub fn run(arguments: &[String]) {
    let [format, numbers @ ..] = arguments else { panic!("--count FORMAT PAGES MAPS UNMAPS") };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [pages @ 1..=256, maps, unmaps] = numbers[..] else { panic!("a format and three numbers, PAGES up to 256") };
    match FORMATS.iter().position(|name| name == format) {
        Some(0) => count::<VtdSecondStage>(Default::default(), pages, maps, unmaps),
        Some(1) => count::<VtdFirstStage>(Default::default(), pages, maps, unmaps),
        Some(2) => count::<Armv8Stage1>(Default::default(), pages, maps, unmaps),
        Some(3) => count::<Armv8Stage2>(Default::default(), pages, maps, unmaps),
        Some(4) => count::<Vtd>(VtdOptions::Second(Default::default()), pages, maps, unmaps),
        Some(5) => count::<Vtd>(VtdOptions::First(FirstStageOptions::default()), pages, maps, unmaps),
        _ => panic!("{format} is none of {FORMATS:?}"),
    }
}

fn count<F: Bits>(options: F::Options, pages: u64, maps: u64, unmaps: u64) {
    // Each slot in a table of its own, so that no unmap takes the table out. Memory lies such that no larger leaf fits.
    let slot = |index: usize| {
        let iova = (1 << 32) + index as u64 * 512 * PAGE;
        Slot { index, iova, phys: iova + 5 * PAGE }
    };
    let mut work = Work { slots: (0..SLOTS).map(slot).collect(), len: pages * PAGE, leaf: PAGE };
    let mut table = Ours::<OFFSET, F>::with(false, options);
    table.warm(&work);
    let mut table = MapUnmap(table);
    work.slots.truncate(maps as usize);
    table.first(&work);
    work.slots.truncate(unmaps as usize);
    table.second(&work);
}

/// Counts of this very program: for each format those of a map and an unmap of 256 pages. `None` without valgrind.
pub fn all() -> Option<[[u64; 2]; FORMATS.len()]> {
    let valgrind = callgrind::valgrind()?;
    let program = std::env::current_exe().expect("the program that runs");
    Some(FORMATS.map(|format| callgrind::map_and_unmap(&valgrind, &program, format, 256)))
}
