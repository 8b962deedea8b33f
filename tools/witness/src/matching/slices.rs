//! The trace, cut at the markers.

use super::mismatch::Mismatch;
use crate::event::{Access, Event, What};
use std::collections::HashMap;

/// Events between two markers.
pub struct Slice<'a> {
    /// From right after the first marker to the second one, included.
    events: &'a [Event],
    end: &'a Event,
}

impl<'a> Slice<'a> {
    /// What happened in between.
    pub fn inside(&self) -> &'a [Event] {
        &self.events[..self.events.len() - 1]
    }

    /// The same, and the wait that ended it.
    pub fn with_end(&self) -> &'a [Event] {
        self.events
    }

    /// The wait that ended it.
    pub fn end(&self) -> &'a Event {
        self.end
    }

    /// The accesses of devices, with their lines.
    pub fn accesses(&self) -> impl Iterator<Item = (usize, Access)> + 'a {
        self.inside().iter().filter_map(|event| match event.what {
            What::Access(access) => Some((event.line, access)),
            _ => None,
        })
    }
}

/// Hands out the slices in the order of the trace.
pub struct Slices<'a> {
    events: &'a [Event],
    /// Where each status data was written first, and where again.
    waits: HashMap<u32, (usize, Option<usize>)>,
    /// Everything before belongs to a slice or gap that was handed out.
    done: usize,
}

impl<'a> Slices<'a> {
    /// Looks up the waits among `events`.
    pub fn new(events: &'a [Event]) -> Self {
        let mut waits = HashMap::<_, (usize, Option<usize>)>::new();
        for (at, event) in events.iter().enumerate() {
            if let What::Wait(data) = event.what {
                waits.entry(data).and_modify(|(_, again)| *again = again.or(Some(at))).or_insert((at, None));
            }
        }
        Self { events, waits, done: 0 }
    }

    /// Status data that was written more than once, and the line of the second time; in order.
    pub fn repeated(&self) -> Vec<(u32, usize)> {
        let again = |(data, (_, again)): (&u32, &(usize, Option<usize>))| again.map(|at| (*data, self.events[at].line));
        let mut repeated: Vec<_> = self.waits.iter().filter_map(again).collect();
        repeated.sort_by_key(|(_, line)| *line);
        repeated
    }

    /// The slice between two markers, and the gap between it and the one before.
    pub fn next(&mut self, (begin, end): (u32, u32)) -> Result<(&'a [Event], Slice<'a>), Mismatch> {
        let (from, to) = (self.find(begin)?, self.find(end)?);
        let line = |at: usize| self.events[at].line;
        // The end of one check may be the beginning of the next.
        if from + 1 < self.done {
            let expected = format!("marker {begin:#x} after those of the checks before");
            return Err(Mismatch::at(line(from), expected, "it earlier"));
        }
        if to <= from {
            return Err(Mismatch::at(line(to), format!("marker {end:#x} after marker {begin:#x}"), "it earlier"));
        }
        let gap = &self.events[self.done..from.max(self.done)];
        self.done = to + 1;
        Ok((gap, Slice { events: &self.events[from + 1..=to], end: &self.events[to] }))
    }

    /// What follows the last slice.
    pub fn rest(&self) -> &'a [Event] {
        &self.events[self.done..]
    }

    fn find(&self, data: u32) -> Result<usize, Mismatch> {
        match self.waits.get(&data) {
            Some((at, None)) => Ok(*at),
            Some((_, Some(again))) => {
                Err(Mismatch::at(self.events[*again].line, format!("marker {data:#x} once"), "it again"))
            }
            None => Err(Mismatch::plain(format!("marker {data:#x} is not in the trace"))),
        }
    }
}
