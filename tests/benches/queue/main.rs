//! What invalidations cost: commands, doorbells and register accesses of each operation, instructions, throughput.
//!
//! `cargo bench --bench queue` prints the tables and writes them to the workspace's `target/bench/vtd.md`. Without
//! `--bench`, as `cargo test --benches` runs it, everything is done once and nothing is written: the numbers then mean
//! nothing. `--count` is what [`count`] is about.
//!
//! * [`costs`]: what is counted on the device model; the test `queue_costs` holds it to its limits.
//! * [`hardware`]: a unit that costs nothing itself, for [`count`], instructions, and [`threads`], throughput.

#[path = "../common/mod.rs"]
mod common;

mod costs;
mod count;
mod hardware;
mod threads;

use common::text::Table;
use costs::OPERATIONS;
use iommu_tests::script::workspace;
use std::fmt::Write;
use std::fs;

const HEAD: &str = "\
# Invalidations of the VT-d driver

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
    let rows = costs::all();
    eprintln!("throughput");
    let throughput = threads::all(flushes, rounds);
    if !real {
        return println!("everything ran once; for numbers: cargo bench --bench queue");
    }
    eprintln!("instructions, by callgrind");
    let text = report(&rows, count::all(), &throughput);
    println!("{text}");
    // In the workspace's own target folder, wherever cargo was told to build.
    let folder = workspace().join("target/bench");
    fs::create_dir_all(&folder).expect("a folder for the tables");
    fs::write(folder.join("vtd.md"), text).expect("a file for the tables");
}

fn report(rows: &[costs::Row], instructions: Option<[u64; 3]>, throughput: &[threads::Throughput]) -> String {
    let mut text = HEAD.to_owned();
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
    let mut table = Table::new(["what", "instructions"]);
    for (index, (_, what)) in count::KINDS.iter().enumerate() {
        let count = instructions.map_or("not measured: run ./qemu-run.sh --setup".into(), |all| all[index].to_string());
        table.row([(*what).to_owned(), count]);
    }
    let _ = writeln!(text, "{table}");
    text += "## Throughput: map, unmap and flush of a page, each thread its own\n\n";
    text += "Whoever comes while a round is on its way shares the next doorbell. Two threads that come back as soon as they\n";
    text += "are served take turns instead, and so do more threads than there are CPUs: while one is served another writes.\n\n";
    let mut table = Table::new(["hardware answers after", "threads", "flushes/s", "x one thread", "doorbells/flush"]);
    for line in throughput {
        let one = throughput.iter().find(|other| other.latency == line.latency && other.threads == 1);
        table.row([
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
