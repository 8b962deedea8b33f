//! The tree of ranges alone, beside the standard library's map.

use crate::common::clock::middle;
use crate::measure::Timing;
use crate::work::{Order, Random};
use iommu_core::tree::Tree;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

/// Ranges of 4 KiB, with a number each.
pub trait Ranges {
    /// Puts one in, unless another one is in the way.
    fn insert(&mut self, start: u64, value: u32) -> bool;
    /// The lowest that shares an address with the 4 KiB from `start` on.
    fn overlap(&self, start: u64) -> Option<(u64, u64, u32)>;
    /// Takes one out.
    fn remove(&mut self, start: u64) -> bool;
}

const LAST: u64 = 0xfff;

impl Ranges for Tree<u32> {
    #[inline(never)]
    fn insert(&mut self, start: u64, value: u32) -> bool {
        Self::insert(self, start, start + LAST, value).is_ok()
    }

    #[inline(never)]
    fn overlap(&self, start: u64) -> Option<(u64, u64, u32)> {
        self.first_overlap(start, start + LAST)
    }

    #[inline(never)]
    fn remove(&mut self, start: u64) -> bool {
        Self::remove(self, start).is_some()
    }
}

impl Ranges for BTreeMap<u64, (u64, u64)> {
    #[inline(never)]
    fn insert(&mut self, start: u64, value: u32) -> bool {
        if self.range(..=start + LAST).next_back().is_some_and(|(_, (last, _))| *last >= start) {
            return false;
        }
        Self::insert(self, start, (start + LAST, value.into()));
        true
    }

    #[inline(never)]
    fn overlap(&self, start: u64) -> Option<(u64, u64, u32)> {
        let (found, (last, value)) = self.range(..=start + LAST).next_back()?;
        (*last >= start).then_some((*found, *last, *value as u32))
    }

    #[inline(never)]
    fn remove(&mut self, start: u64) -> bool {
        Self::remove(self, &start).is_some()
    }
}

/// An insert, a look and a removal, again and again.
pub struct Job {
    order: Order,
    areas: u64,
    /// The next range in sequence.
    next: u64,
    random: Random,
}

impl Job {
    /// Fills `ranges`.
    pub fn new<R: Ranges>(ranges: &mut R, order: Order, areas: usize) -> Self {
        let mut job = Self { order, areas: areas as u64, next: 0, random: Random(3) };
        let mut count = 0;
        while count < areas {
            let start = job.start();
            count += usize::from(ranges.insert(start, count as u32));
        }
        job
    }

    /// Random ranges lie in a space of 47 bits; those in sequence have holes of their own size between them.
    fn start(&mut self) -> u64 {
        if self.order == Order::Random {
            return (self.random.next() >> 17) & !LAST;
        }
        self.next += 1;
        self.next * 2 * (LAST + 1)
    }

    /// Does it `times` times. In sequence the highest comes and the lowest goes, else the one that came goes.
    pub fn run<R: Ranges>(&mut self, ranges: &mut R, times: usize) {
        for number in 0..times {
            let start = self.start();
            if !ranges.insert(black_box(start), number as u32) {
                continue;
            }
            black_box(ranges.overlap(black_box(start)));
            let gone = if self.order == Order::Random { start } else { (self.next - self.areas) * 2 * (LAST + 1) };
            assert!(ranges.remove(black_box(gone)));
        }
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct TreeLine {
    /// How ranges lie.
    pub order: Order,
    /// How many there are.
    pub areas: usize,
    /// Nanoseconds of an insert, a look and a removal.
    pub ours: f64,
    /// The same of a `BTreeMap`.
    pub map: f64,
    /// Bytes for each range.
    pub bytes: f64,
}

/// Both, side by side.
pub fn line(order: Order, areas: usize, timing: Timing) -> TreeLine {
    let times = 1_000;
    let (mut ours, mut map) = (Tree::new(), BTreeMap::new());
    let mut jobs = (Job::new(&mut ours, order, areas), Job::new(&mut map, order, areas));
    let bytes = ours.bytes() as f64 / areas as f64;
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..=timing.rounds * 25 {
        let start = Instant::now();
        jobs.0.run(&mut ours, times);
        samples.0.push(start.elapsed().as_nanos() as f64 / times as f64);
        let start = Instant::now();
        jobs.1.run(&mut map, times);
        samples.1.push(start.elapsed().as_nanos() as f64 / times as f64);
    }
    TreeLine { order, areas, ours: middle(samples.0), map: middle(samples.1), bytes }
}
