//! How time is taken.
//!
//! A timing covers one call for each slot of the work, so that a call's share of the clock's own time is small; what is
//! left of it is subtracted. Contenders take turns. Each goes through its tables once before it is timed, so that they
//! are in the cache as far as they fit. What counts of all timings is the mean of the middle half: it is as little moved
//! by interruptions as the median, and finer than the steps of the clock.

use crate::common::clock::{clock, middle};
use crate::common::host;
use crate::rows::Row;
use crate::work::{Contender, Work};
use std::time::Instant;

/// Timed pairs in a row, after one that is not.
const REPETITIONS: usize = 3;

/// How often, and with which clock.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Rounds over all contenders.
    rounds: usize,
    /// Nanoseconds that a timing of nothing shows.
    clock: f64,
}

impl Timing {
    /// For numbers that mean something.
    pub fn real() -> Self {
        Self { rounds: 80, clock: clock() }
    }

    /// To see that everything runs.
    pub fn once() -> Self {
        Self { rounds: 1, clock: 0.0 }
    }

    /// The same for a row, where a call may take so long that fewer will do.
    pub fn of(self, row: Row) -> Self {
        let share = if row == Row::GibOfPages { 8 } else { 1 };
        Self { rounds: self.rounds.div_ceil(share), ..self }
    }
}

/// What came out for one contender.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Nanoseconds of one call: of the first operation and of the second.
    pub ns: [f64; 2],
    /// Frames that were taken meanwhile.
    pub taken: usize,
}

/// Has the contenders take turns at `work`.
pub fn measure(contenders: &mut [Box<dyn Contender>], work: &Work, timing: Timing) -> Vec<Sample> {
    let mut times = vec![[Vec::new(), Vec::new()]; contenders.len()];
    let mut taken = vec![0; contenders.len()];
    for _ in 0..timing.rounds {
        for ((contender, times), taken) in contenders.iter_mut().zip(&mut times).zip(&mut taken) {
            for repetition in 0..=REPETITIONS {
                contender.prepare(work);
                let before = host::taken();
                let start = Instant::now();
                contender.first(work);
                let first = start.elapsed();
                let start = Instant::now();
                contender.second(work);
                let second = start.elapsed();
                *taken += host::taken() - before;
                if repetition > 0 {
                    for (times, time) in times.iter_mut().zip([first, second]) {
                        times.push((time.as_nanos() as f64 - timing.clock).max(0.0) / work.slots.len() as f64);
                    }
                }
            }
        }
    }
    times.into_iter().zip(taken).map(|(ns, taken)| Sample { ns: ns.map(middle), taken }).collect()
}
