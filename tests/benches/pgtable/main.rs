//! Page tables beside what no table can be faster than, and beside public crates.
//!
//! `cargo bench --bench pgtable` prints the table and writes it to the workspace's `target/bench/pgtable.md`. Without
//! `--bench`, as `cargo test --benches` runs it, everything is done once and nothing is written: the numbers then mean
//! nothing. `--count` is what [`count`] is about.
//!
//! * [`rows`]: the operations, where they are done, and who does them; [`work`]: what they ask of whoever does them.
//! * [`ours`]: this project; [`limit`]: loops over bare entries, with the bits in [`bits`]; [`peers`]: public crates.
//! * [`common::host`]: frames for all of them.
//! * [`measure`]: how time is taken; [`callgrind`]: how instructions are counted.
//! * [`report`]: the table.

#[path = "../common/mod.rs"]
mod common;

mod bits;
mod callgrind;
mod count;
mod limit;
mod measure;
mod ours;
mod peers;
mod report;
mod rows;
mod work;

use iommu_tests::script::workspace;
use measure::{Sample, Timing};
use report::{Line, Report};
use rows::{Row, Subject};
use std::fs;

const TIB: u64 = 1 << 40;

/// Everything of one row, in four places, by four copies of the code.
fn measure_row<F: Subject>(row: Row, timing: Timing) -> [Vec<Sample>; 4] {
    fn at<F: Subject, const OFFSET: u64>(row: Row, place: usize, timing: Timing) -> Vec<Sample> {
        let work = row.work(place);
        let mut contenders = row.contenders::<F, OFFSET>(&work);
        measure::measure(&mut contenders, &work, timing.of(row))
    }
    [
        at::<F, 0>(row, 0, timing),
        at::<F, TIB>(row, 1, timing),
        at::<F, { 2 * TIB }>(row, 2, timing),
        at::<F, { 3 * TIB }>(row, 3, timing),
    ]
}

fn measure_format<F: Subject>(report: &mut Report, timing: Timing) {
    for row in Row::ALL {
        eprintln!("{}: {}", F::NAME, row.names().join(", "));
        report.lines.extend(Line::of::<F>(row, &measure_row::<F>(row, timing)));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--count", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return count::run(rest);
    }
    let real = arguments.iter().any(|argument| argument == "--bench");
    let timing = if real { Timing::real() } else { Timing::once() };
    let mut report = Report::default();
    measure_format::<iommu_pgtable::VtdSecondStage>(&mut report, timing);
    measure_format::<iommu_pgtable::VtdFirstStage>(&mut report, timing);
    measure_format::<iommu_pgtable::Armv8Stage1>(&mut report, timing);
    measure_format::<iommu_pgtable::Armv8Stage2>(&mut report, timing);
    if !real {
        return println!("everything ran once; for numbers: cargo bench --bench pgtable");
    }
    eprintln!("instructions, by callgrind");
    report.instructions = count::all();
    let text = report.to_string();
    println!("{text}");
    // In the workspace's own target folder, wherever cargo was told to build.
    let folder = workspace().join("target/bench");
    fs::create_dir_all(&folder).expect("a folder for the table");
    fs::write(folder.join("pgtable.md"), text).expect("a file for the table");
}
