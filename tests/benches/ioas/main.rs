//! The address space beside a baseline of the same semantics and beside a public range map.
//!
//! `cargo bench --bench ioas` prints the tables and writes them to the workspace's `target/bench/ioas.md`. Without
//! `--bench`, as `cargo test --benches` runs it, everything small is done once and nothing is written: the numbers then
//! mean nothing. With `-- --areas N` it is about so many areas alone, and nothing is counted or written. `--count` is what
//! [`count`] is about.
//!
//! * [`work`]: what address spaces hold and what is done; [`domains`]: what lies below them.
//! * [`spaces`]: this project, the [`baseline`], the public crate; [`trees`]: the tree of ranges alone.
//! * [`measure`]: how time is taken; [`count`]: how instructions are counted; [`memory`]: what records take.
//! * [`report`]: the tables.

#[path = "../common/mod.rs"]
mod common;

mod baseline;
mod count;
mod domains;
mod measure;
mod memory;
mod report;
mod spaces;
mod trees;
mod work;

use domains::Kind;
use iommu_tests::script::workspace;
use measure::Timing;
use report::Report;
use std::fs;
use work::{AREAS, Order};

#[global_allocator]
static HEAP: memory::Heap = memory::Heap;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--count", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return count::run(rest);
    }
    let real = arguments.iter().any(|argument| argument == "--bench");
    let timing = Timing { rounds: if real { 20 } else { 0 }, clock: common::clock::clock() };
    let only = arguments.iter().skip_while(|argument| *argument != "--areas").nth(1);
    let only = only.map(|only| only.parse().expect("--areas is followed by a number"));
    let areas: &[usize] = match &only {
        Some(only) => std::slice::from_ref(only),
        None => {
            if real {
                &AREAS
            } else {
                &AREAS[..1]
            }
        }
    };
    let mut report = Report::default();
    for order in [Order::Sequential, Order::Random] {
        for areas in areas {
            eprintln!("trees, {}, {areas} areas", order.name());
            report.trees.push(trees::line(order, *areas, timing));
        }
    }
    for kind in Kind::ALL {
        for areas in areas {
            for order in [Order::Sequential, Order::Random] {
                eprintln!("{}, {}, {areas} areas", kind.name(), order.name());
                report.lines.extend(measure::lines(kind, order, *areas, timing));
            }
            for order in [Order::Sequential, Order::Random, Order::Holes] {
                report.extras.extend(measure::extras(kind, order, *areas, timing));
            }
        }
    }
    eprintln!("memory");
    report.memory = memory::lines(areas[areas.len() - 1]);
    if !real {
        return println!("everything ran once; for numbers: cargo bench --bench ioas");
    }
    if only.is_some() {
        return println!("{report}");
    }
    report.counts = counts(areas);
    let text = report.to_string();
    println!("{text}");
    // In the workspace's own target folder, wherever cargo was told to build.
    let folder = workspace().join("target/bench");
    fs::create_dir_all(&folder).expect("a folder for the tables");
    fs::write(folder.join("ioas.md"), text).expect("a file for the tables");
}

/// All counts, two programs at a time.
fn counts(areas: &[usize]) -> Vec<count::Counts> {
    let mut jobs = Vec::new();
    for areas in areas.iter().rev() {
        for kind in [None, Some(Kind::Null), Some(Kind::SecondStage)] {
            for order in [Order::Sequential, Order::Random, Order::Holes] {
                if kind.is_some() || order != Order::Holes {
                    jobs.push((kind, order, *areas));
                }
            }
        }
    }
    let jobs = std::sync::Mutex::new(jobs.into_iter());
    let worker = || {
        let next = || jobs.lock().expect("no panics").next();
        std::iter::from_fn(next).filter_map(|(kind, order, areas)| {
            eprintln!("instructions: {}, {}, {areas} areas", kind.map_or("trees", Kind::name), order.name());
            count::count(kind, order, areas)
        })
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(|| worker().collect::<Vec<_>>()), scope.spawn(|| worker().collect())];
        workers.into_iter().flat_map(|worker| worker.join().expect("no panics")).collect()
    })
}
