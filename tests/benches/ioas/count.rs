//! What is counted rather than timed: callgrind collects inside of [`counted`] alone, and writes a file after each call.

use crate::common::callgrind::valgrind;
use crate::domains::Kind;
use crate::measure::{Extra, filled};
use crate::spaces::Space;
use crate::trees::Job;
use crate::work::{Order, SIZES, batch, places};
use iommu_core::tree::Tree;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

/// What is done in one call that is counted.
fn times(areas: usize) -> usize {
    batch(areas).clamp(16, 256)
}

/// Callgrind knows it by its name.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

/// Instructions of one operation of each kind, the unmap included.
#[derive(Clone, Debug)]
pub struct Counts {
    /// On what kind of domain; none: trees alone.
    pub kind: Option<Kind>,
    /// How areas lie.
    pub order: Order,
    /// How many there are.
    pub areas: usize,
    /// For each size, where areas are not in holes; then for each extra operation. Of trees: this project's, and the
    /// standard library's.
    pub counts: Vec<u64>,
}

/// `--count KIND ORDER AREAS`: does each operation [`times`] times, after it was done as often to make page tables.
///
/// # Panics
///
/// Where the arguments are others.
pub fn run(arguments: &[String]) {
    let [kind, order, areas] = arguments else { panic!("--count KIND ORDER AREAS") };
    let areas: usize = areas.parse().expect("a number");
    let order = [Order::Sequential, Order::Random, Order::Holes].into_iter().find(|known| known.name() == order);
    let order = order.expect("an order");
    match Kind::ALL.into_iter().find(|known| known.name() == kind) {
        Some(kind) => spaces(kind, order, areas),
        None => trees(order, areas),
    }
}

fn spaces(kind: Kind, order: Order, areas: usize) {
    let (mut space, there) = filled(kind, order, areas);
    for len in SIZES.into_iter().filter(|_| order != Order::Holes) {
        let all = places(order, areas, len, times(areas));
        let mut work = || {
            for some in all.chunks(batch(areas)) {
                some.iter().for_each(|(iova, phys)| space.map(*iova, *phys, len));
                some.iter().for_each(|(iova, _)| space.unmap(*iova, len));
            }
        };
        work();
        counted(&mut work);
    }
    for extra in Extra::of(order) {
        let all = extra.places(order, areas, &there);
        let mut work = || all[..times(areas)].iter().for_each(|(from, to)| extra.once(&mut space, *from, *to));
        work();
        counted(&mut work);
    }
    // Taking down what stands is not what this is about, and takes long.
    std::process::exit(0);
}

fn trees(order: Order, areas: usize) {
    let mut tree = Tree::new();
    let mut job = Job::new(&mut tree, order, areas);
    counted(&mut || job.run(&mut tree, times(areas)));
    let mut map = BTreeMap::new();
    let mut job = Job::new(&mut map, order, areas);
    counted(&mut || job.run(&mut map, times(areas)));
    std::process::exit(0);
}

/// Has callgrind count this very program. `None` without valgrind.
///
/// # Panics
///
/// Where that fails.
pub fn count(kind: Option<Kind>, order: Order, areas: usize) -> Option<Counts> {
    let name = kind.map_or("trees", Kind::name);
    let folder = std::env::temp_dir().join(format!("ioas-{}-{name}-{}-{areas}", std::process::id(), order.name()));
    fs::create_dir_all(&folder).expect("a folder for counts");
    let mut command = Command::new(valgrind()?);
    command.env_remove("VALGRIND_OPTS").stdout(Stdio::null()).stderr(Stdio::null());
    let name_of_counted = concat!(module_path!(), "::counted");
    command.arg("--tool=callgrind");
    command.args(["--toggle-collect", "--dump-after"].map(|option| format!("{option}={name_of_counted}")));
    command.arg(format!("--callgrind-out-file={}", folder.join("out").display()));
    command.arg(std::env::current_exe().expect("the program that runs"));
    command.args(["--count", name, order.name(), &areas.to_string()]);
    assert!(command.status().expect("valgrind runs").success(), "{command:?}");
    let total = |number: usize| {
        let text = fs::read_to_string(folder.join(format!("out.{number}"))).ok()?;
        text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok())
    };
    let counts: Vec<u64> = (1..).map_while(total).map(|total| total / times(areas) as u64).collect();
    fs::remove_dir_all(&folder).expect("the folder goes");
    let extras = Extra::of(order).len() + if order == Order::Holes { 0 } else { SIZES.len() };
    let expected = if kind.is_some() { extras } else { 2 };
    assert!(counts.len() >= expected, "{name} {order:?} {areas}: callgrind wrote {counts:?}");
    Some(Counts { kind, order, areas, counts: counts[..expected].to_vec() })
}
