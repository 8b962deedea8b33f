//! What invalidations cost: commands, doorbells and register accesses of each operation, instructions, throughput.
//!
//! `cargo bench --bench queue` prints the tables and writes them to the workspace's `target/bench/vtd.md` and
//! `target/bench/smmuv3.md`. Without `--bench`, as `cargo test --benches` runs it, everything is done once and nothing is written: the numbers then mean
//! nothing. `--count` is what [`count`] is about.
//!
//! * [`costs`]: what is counted on the device models; the test `queue_costs` holds it to its limits.
//! * [`hardware`]: a unit that costs nothing itself, for [`count`], instructions, and [`threads`], throughput.

#[path = "../common/mod.rs"]
mod common;

mod costs;
mod count;
mod hardware;
mod threads;

use common::text::Table;
use costs::{Measured, OPERATIONS};
use hardware::Architecture;
use iommu_tests::script::workspace;
use std::fmt::Write;
use std::fs;

const HEAD: &str = "
Written by `cargo bench --bench queue`; what is measured is in `tests/benches/queue`. Counts hold everywhere; times for
the machine that this ran on.
";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--count", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return count::run(rest);
    }
    let real = arguments.iter().any(|argument| argument == "--bench");
    let (flushes, rounds) = if real { (50_000, 5) } else { (100, 1) };
    measure::<iommu_tests::house::Vtd, hardware::Vtd>(real, flushes, rounds);
    measure::<iommu_tests::house::Smmuv3, hardware::Smmuv3>(real, flushes, rounds);
    if !real {
        println!("everything ran once; for numbers: cargo bench --bench queue");
    }
}

/// Everything about one architecture, once; where it is `real`, as it should be, and written.
fn measure<D: Measured, A: Architecture>(real: bool, flushes: u64, rounds: usize) {
    let rows = costs::all::<D>();
    eprintln!("{}: throughput", D::NAME);
    let throughput = threads::all::<A>(flushes, rounds);
    if !real {
        return;
    }
    eprintln!("{}: instructions, by callgrind", D::NAME);
    let text = report::<D, A>(&rows, count::all::<A>(), &throughput);
    println!("{text}");
    // In the workspace's own target folder, wherever cargo was told to build.
    let folder = workspace().join("target/bench");
    fs::create_dir_all(&folder).expect("a folder for the tables");
    fs::write(folder.join(A::NAME).with_extension("md"), text).expect("a file for the tables");
}

fn report<D: Measured, A: Architecture>(
    rows: &[costs::Row],
    instructions: Option<Vec<[u64; 3]>>,
    throughput: &[threads::Throughput],
) -> String {
    let mut text = format!("# Invalidations of the {} driver\n{HEAD}", D::NAME);
    text += "\n## Commands and accesses of one operation, counted on the device model\n\n";
    text += "Invalidations + waits / doorbells / other register accesses. Unmaps are of one gather and with their flush.\n\n";
    let mut table = Table::new(["unit"]);
    table.head(OPERATIONS);
    for row in rows {
        table.row([row.name.as_str()]);
        table.more(
            row.costs.map(|cost| format!("{}+{} / {} / {}", cost.commands, cost.waits, cost.doorbells, cost.accesses)),
        );
    }
    let _ = writeln!(text, "{table}");
    text += "## Instructions, with hardware that answers at once\n\n";
    let mut table = Table::new(["confirmed by"]);
    table.head(count::KINDS.map(|(_, what)| what));
    for (kind, name) in A::KINDS.iter().enumerate() {
        table.row([*name]);
        table.more(match &instructions {
            Some(all) => all[kind].map(|count| count.to_string()),
            None => count::KINDS.map(|_| "not measured: run ./qemu-run.sh --setup".into()),
        });
    }
    let _ = writeln!(text, "{table}");
    text += "## Throughput: map, unmap and flush of a page, each thread its own\n\n";
    text += "Whoever comes while a round is on its way shares the next doorbell. Two threads that come back as soon as they\n";
    text += "are served take turns instead, and so do more threads than there are CPUs: while one is served another writes.\n\n";
    let mut table = Table::new(["confirmed by", "after", "threads", "flushes/s", "x one thread", "doorbells/flush"]);
    for line in throughput {
        let one =
            throughput.iter().find(|other| (other.kind, other.latency, other.threads) == (line.kind, line.latency, 1));
        table.row([
            A::KINDS[line.kind].to_owned(),
            format!("{} ns", line.latency),
            line.threads.to_string(),
            format!("{:.0}", line.per_second),
            format!("{:.2}", line.per_second / one.map_or(line.per_second, |one| one.per_second)),
            format!("{:.2}", line.doorbells),
        ]);
    }
    let _ = write!(text, "{table}");
    text
}
