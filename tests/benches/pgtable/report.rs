//! The table, and what the issue wants of it.

use crate::common::clock::middle;
use crate::common::text::{Table, ns};
use crate::measure::Sample;
use crate::rows::{Row, Subject};
use std::fmt;

/// Nanoseconds of one call.
#[derive(Clone, Copy, Debug)]
struct Cell {
    ns: f64,
    /// The copy of the code that was fastest, and the one that was slowest.
    range: [f64; 2],
}

/// One operation on one format.
#[derive(Clone, Debug)]
pub struct Line {
    format: &'static str,
    row: Row,
    /// Which of the row's operations.
    operation: usize,
    limit: Cell,
    ours: Cell,
    /// By name. One may not be able to do it.
    peers: Vec<(&'static str, Option<Cell>)>,
    /// Frames that this project took.
    taken: usize,
}

impl Line {
    /// The lines of a row, from one set of samples for each copy of the code.
    pub fn of<F: Subject>(row: Row, copies: &[Vec<Sample>]) -> Vec<Self> {
        let cell = |contender: usize, operation: usize| {
            let mut ns = Vec::new();
            for copy in copies {
                ns.push(copy.get(contender)?.ns[operation]);
            }
            let range = ns.iter().fold([f64::MAX, 0.0], |[low, high], ns| [ns.min(low), ns.max(high)]);
            Some(Cell { ns: middle(ns), range })
        };
        let line = |operation| Self {
            format: F::NAME,
            row,
            operation,
            limit: cell(0, operation).expect("the limit comes first"),
            ours: cell(1, operation).expect("this project comes second"),
            peers: F::PEERS.iter().zip(2..).map(|(name, contender)| (*name, cell(contender, operation))).collect(),
            taken: copies.iter().map(|copy| copy[1].taken).sum(),
        };
        (0..row.names().len()).map(line).collect()
    }

    fn name(&self) -> &'static str {
        self.row.names()[self.operation]
    }

    /// How much slower this project is than the limit.
    fn to_limit(&self) -> f64 {
        self.ours.ns / self.limit.ns
    }

    /// How much faster this project is than the fastest of these crates.
    fn to_peers(&self, wanted: &[&str]) -> f64 {
        let peers = self.peers.iter().filter(|(name, _)| wanted.contains(name));
        peers.filter_map(|(_, cell)| Some(cell.as_ref()?.ns)).fold(f64::MAX, f64::min) / self.ours.ns
    }
}

/// All that was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One line for each operation on each format.
    pub lines: Vec<Line>,
    /// For each format the instructions of a map and an unmap of 256 pages.
    pub instructions: Option<[[u64; 2]; crate::callgrind::FORMATS.len()]>,
}

/// One of the targets.
struct Target<'r> {
    what: &'static str,
    bound: f64,
    /// The value has to be at least the bound, not at most.
    least: bool,
    /// What was measured, and where.
    values: Vec<(f64, String)>,
    /// What there is to say where it is missed.
    why: &'r str,
}

impl Target<'_> {
    /// The worst of the values, and whether it will do; nothing without values.
    fn worst(&self) -> Option<(&(f64, String), bool)> {
        let sign = if self.least { -1.0 } else { 1.0 };
        let worst = self.values.iter().max_by(|(a, _), (b, _)| (sign * a).total_cmp(&(sign * b)))?;
        Some((worst, sign * worst.0 <= sign * self.bound))
    }
}

const PAGE_AT_A_TIME: [&str; 2] = ["page_table_multiarch", "x86_64"];
const RANGE: [&str; 1] = ["aarch64-paging"];

impl Report {
    /// What `value` makes of each line of `rows` and `operation`.
    fn values(&self, rows: impl Fn(Row) -> bool, operation: usize, value: impl Fn(&Line) -> f64) -> Vec<(f64, String)> {
        let lines = self.lines.iter().filter(|line| rows(line.row) && line.operation == operation);
        let named = lines.map(|line| (value(line), format!("{}, {}", line.format, line.name())));
        // A crate that is not beside a line is infinitely slow there.
        named.filter(|(value, _)| *value < 1e100).collect()
    }

    fn targets(&self) -> Vec<Target<'_>> {
        let count = |operation: usize| {
            let counts = self.instructions.iter().flatten().zip(crate::callgrind::FORMATS);
            counts.map(|(counts, format)| (counts[operation] as f64, format.to_owned())).collect()
        };
        let most = |what, bound, values| Target { what, bound, least: false, values, why: "" };
        let least = |what, bound, values| Target { what, bound, least: true, values, why: "" };
        let fresh = |row| !Row::is_warm(row);
        let warm_run = |row| Row::is_run(row) && Row::is_warm(row);
        let taken = self.values(Row::is_warm, 0, |line| line.taken as f64);
        let unseen = "that crate drops a table that is covered as a whole without a look at its entries; here each is \
                      read, because the caller is told what was mapped";
        vec![
            most("map of 256 entries and more, times the limit", 1.5, self.values(Row::is_run, 0, Line::to_limit)),
            most("unmap of 256 entries and more, times the limit", 2.0, self.values(Row::is_run, 1, Line::to_limit)),
            most("instructions of a map of 256 x 4 KiB", 2500.0, count(0)),
            most("instructions of an unmap of 256 x 4 KiB", 2800.0, count(1)),
            most("map of 1 x 4 KiB, times the walk by hand", 3.0, self.values(is_page, 0, Line::to_limit)),
            most("unmap of 1 x 4 KiB, times the walk by hand", 3.0, self.values(is_page, 1, Line::to_limit)),
            least("map in runs, times faster than page at a time", 5.0, {
                self.values(Row::is_run, 0, |line| line.to_peers(&PAGE_AT_A_TIME))
            }),
            least("unmap in runs, times faster than page at a time", 3.0, {
                self.values(Row::is_run, 1, |line| line.to_peers(&PAGE_AT_A_TIME))
            }),
            least("map in runs, times faster than aarch64-paging", 2.0, {
                self.values(Row::is_run, 0, |line| line.to_peers(&RANGE))
            }),
            least("unmap in runs, times faster than aarch64-paging", 2.0, {
                self.values(warm_run, 1, |line| line.to_peers(&RANGE))
            }),
            Target {
                why: unseen,
                ..least("the same for whole tables", 2.0, self.values(fresh, 1, |line| line.to_peers(&RANGE)))
            },
            most("translate, times the walk by hand", 3.0, self.values(|row| row == Row::Translate, 0, Line::to_limit)),
            most("frames taken in tables that stay", 0.0, taken),
        ]
    }

    fn write_format(&self, f: &mut fmt::Formatter<'_>, format: &str) -> fmt::Result {
        let lines: Vec<_> = self.lines.iter().filter(|line| line.format == format).collect();
        let Some(first) = lines.first() else { return Ok(()) };
        let mut table = Table::new(["ns a call", "limit", "iommu-pgtable", "from..to", "x limit"]);
        for (name, _) in &first.peers {
            table.head([name, "x ours"]);
        }
        for line in lines {
            let [low, high] = line.ours.range.map(ns);
            table.row([line.name().to_owned(), ns(line.limit.ns), ns(line.ours.ns), format!("{low}..{high}")]);
            table.more([format!("{:.2}", line.to_limit())]);
            for (_, cell) in &line.peers {
                table.more(match cell {
                    Some(cell) => [ns(cell.ns), format!("{:.1}", cell.ns / line.ours.ns)],
                    None => ["-".to_owned(), "-".to_owned()],
                });
            }
        }
        writeln!(f, "## {format}\n\n{table}")
    }

    fn write_targets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["target", "wanted", "measured", "", "where it is worst"]);
        let mut notes = String::new();
        for target in self.targets() {
            let wanted = format!("{} {}", if target.least { "at least" } else { "at most" }, target.bound);
            let Some(((value, place), met)) = target.worst() else {
                table.row([target.what, &wanted, "-", "not measured", "run ./qemu-run.sh --setup for valgrind"]);
                continue;
            };
            let digits = if target.bound >= 100.0 { 0 } else { 2 };
            let verdict = if met { "met" } else { "**missed**" };
            table.row([target.what, &wanted, &format!("{value:.digits$}"), verdict, place]);
            if !met && !target.why.is_empty() {
                notes += &format!("\nMissed, {}: {}.\n", target.what, target.why);
            }
        }
        write!(f, "## Targets\n\n{table}{notes}")
    }
}

fn is_page(row: Row) -> bool {
    row == Row::Page
}

const HEAD: &str = "\
# Page tables beside the limit and beside public crates

Written by `cargo bench --bench pgtable`; what is measured is in `tests/benches/pgtable`. Absolute times hold for the
machine that this ran on; ratios are what to compare.

* Each number is the middle of four: four copies of the code, at four places of tables and addresses. Where a loop
  comes to lie in the program alone moves it; from..to are the fastest copy and the slowest.
* limit: for runs, a loop that loads, checks and stores (unmap: loads and stores zero) that many entries, 8 between two
  branches, their place known; where tables are made anew, each is zeroed before. For single entries and translate, a
  walk of 4 levels written by hand. For scans, a loop that loads, and clears what is dirty in one step each.
* 1 GiB in 4 KiB and in 2 MiB makes and frees 513 tables and 1. Here and with aarch64-paging that is timed, the frames'
  way back included; with x86_64 its clean-up does it; page_table_multiarch cannot free: it starts from an empty table.
* x86_64 beside VT-d's second stage works on tables of x86-64, which have the same shape. page_table_multiarch has
  entries that were written for this, as its own are those of the machine it is compiled for. It knows no dirty state;
  x86_64 clears it by plain stores, which may lose a write of hardware's.
";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        let mut formats: Vec<_> = self.lines.iter().map(|line| line.format).collect();
        formats.dedup();
        formats.iter().try_for_each(|format| self.write_format(f, format))?;
        self.write_targets(f)
    }
}
