//! How time is taken: contenders take turns, and what counts of all samples is the mean of the middle half.

use crate::common::clock::middle;
use crate::domains::Kind;
use crate::spaces::{Baseline, Ours, Peer, Serial, Space};
use crate::work::{Order, Place, SIZES, background, batch, places};
use std::time::Instant;

/// How often, and with which clock.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Rounds over all contenders.
    pub rounds: usize,
    /// Nanoseconds that a timing of nothing shows.
    pub clock: f64,
}

/// Nanoseconds of one map and of one unmap.
pub type Pair = [f64; 2];

/// What was measured of one size.
#[derive(Clone, Debug)]
pub struct Line {
    /// On what kind of domain.
    pub kind: Kind,
    /// How areas lie.
    pub order: Order,
    /// How many there are.
    pub areas: usize,
    /// Bytes of what is mapped.
    pub len: u64,
    /// This project.
    pub ours: Pair,
    /// A `BTreeMap` of areas and one of gaps.
    pub baseline: Pair,
    /// The same behind one lock.
    pub serial: Pair,
    /// The range map.
    pub peer: Pair,
}

/// Places that are gone through in one round.
fn count(areas: usize) -> usize {
    batch(areas).max(SAMPLE)
}

fn fill(space: &mut dyn Space, areas: &[Place]) {
    for (iova, phys) in areas {
        space.map(*iova, *phys, 4096);
    }
}

/// Calls in one sample at least: so few that most samples are not interrupted.
const SAMPLE: usize = 256;

/// Samples of one operation, in nanoseconds a call.
#[derive(Default)]
struct Samples {
    all: Vec<f64>,
    ns: f64,
    calls: usize,
}

impl Samples {
    fn time<T>(&mut self, timing: Timing, some: &[T], mut call: impl FnMut(&T)) {
        for some in some.chunks(SAMPLE) {
            let start = Instant::now();
            some.iter().for_each(&mut call);
            self.ns += (start.elapsed().as_nanos() as f64 - timing.clock).max(0.0);
            self.calls += some.len();
            if self.calls >= SAMPLE {
                self.all.push(self.ns / self.calls as f64);
                (self.ns, self.calls) = (0.0, 0);
            }
        }
    }
}

/// Maps and unmaps each place, some at a time.
fn round(
    space: &mut dyn Space,
    all: &[Place],
    len: u64,
    at_a_time: usize,
    timing: Timing,
    [mapped, unmapped]: &mut [Samples; 2],
) {
    for some in all.chunks(at_a_time) {
        mapped.time(timing, some, |(iova, phys)| space.map(*iova, *phys, len));
        unmapped.time(timing, some, |(iova, _)| space.unmap(*iova, len));
    }
}

/// Map and unmap of each size among these areas.
pub fn lines(kind: Kind, order: Order, areas: usize, timing: Timing) -> Vec<Line> {
    let mut spaces: [Box<dyn Space>; 4] = [
        Box::new(Ours::new(kind)),
        Box::new(Baseline::new(kind)),
        Box::new(Serial::new(kind)),
        Box::new(Peer::new(kind)),
    ];
    let there = background(order, areas);
    spaces.iter_mut().for_each(|space| fill(&mut **space, &there));
    let line = |len: u64| {
        let all = places(order, areas, len, count(areas));
        let mut samples: [[Samples; 2]; 4] = Default::default();
        for number in 0..=timing.rounds {
            for (space, samples) in spaces.iter_mut().zip(&mut samples) {
                // The first round makes page tables, and is not counted where there is another.
                if number == 1 {
                    *samples = Default::default();
                }
                round(&mut **space, &all, len, batch(areas), timing, samples);
            }
        }
        let [ours, baseline, serial, peer] = samples.map(|pair| pair.map(|samples| middle(samples.all)));
        Line { kind, order, areas, len, ours, baseline, serial, peer }
    };
    SIZES.map(line).to_vec()
}

/// An operation of this project that the others do not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extra {
    /// Two pages where there is room, and an unmap.
    Place,
    /// A copy of one of the areas, and an unmap.
    Copy,
}

impl Extra {
    /// Those that are measured among areas in this order.
    pub fn of(order: Order) -> &'static [Self] {
        match order {
            Order::Sequential => &[Self::Place, Self::Copy],
            Order::Random => &[Self::Copy],
            Order::Holes => &[Self::Place],
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Place => "placed automatically: 2 pages",
            Self::Copy => "copied: 1 page",
        }
    }

    /// Does it once, and undoes it.
    pub fn once(self, space: &mut Ours, from: Place, to: Place) {
        match self {
            Self::Place => {
                let at = space.place(to.1, 8192);
                space.unmap(at, 8192);
            }
            Self::Copy => {
                space.copy(from.0, 4096, to.0);
                space.unmap(to.0, 4096);
            }
        }
    }

    /// Where from, and where to.
    pub fn places(self, order: Order, areas: usize, there: &[Place]) -> Vec<(Place, Place)> {
        let step = (areas / 256).max(1);
        let from = there.iter().copied().step_by(step).cycle();
        from.zip(places(order, areas, 4096, 256)).collect()
    }
}

/// What an extra operation took.
#[derive(Clone, Debug)]
pub struct ExtraLine {
    /// Which.
    pub extra: Extra,
    /// On what kind of domain.
    pub kind: Kind,
    /// How areas lie.
    pub order: Order,
    /// How many there are.
    pub areas: usize,
    /// Nanoseconds, the unmap included.
    pub ns: f64,
}

/// A space of this project with a background.
pub fn filled(kind: Kind, order: Order, areas: usize) -> (Ours, Vec<Place>) {
    let mut space = Ours::new(kind);
    let there = background(order, areas);
    fill(&mut space, &there);
    (space, there)
}

/// What only this project does among these areas.
pub fn extras(kind: Kind, order: Order, areas: usize, timing: Timing) -> Vec<ExtraLine> {
    let (mut space, there) = filled(kind, order, areas);
    let line = |extra: &Extra| {
        let all = extra.places(order, areas, &there);
        let mut samples = Samples::default();
        for _ in 0..=timing.rounds {
            samples.time(timing, &all, |(from, to)| extra.once(&mut space, *from, *to));
        }
        ExtraLine { extra: *extra, kind, order, areas, ns: middle(samples.all) }
    };
    Extra::of(order).iter().map(line).collect()
}
