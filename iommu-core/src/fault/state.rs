//! What waits in a queue: events in order, and groups of page requests.

use super::port::Port;
use super::requests::{Group, Groups};
use super::{Cookie, Event, MOST_REQUESTS, Record};
use crate::hw::{Fault, PageRequest};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use iommu_alloc::{OutOfMemory, Shared};

/// What is looked at under the lock at a time, where groups of one stream are searched for or withdrawn events passed over.
const LOOK: u32 = 256;

/// Bits of a cookie that say where its group is: as many as [`MOST_EVENTS`](super::MOST_EVENTS) needs. The others count
/// groups: 2^48 of them are not reached in the lifetime of a machine.
pub(super) const PLACE_BITS: u32 = 16;

/// An event that was not read.
struct Waiting {
    sequence: u64,
    what: What,
}

pub(super) enum What {
    Fault(Fault),
    /// By its place.
    Group(u32),
    /// A group whose stream was detached meanwhile.
    Withdrawn,
}

/// The events and groups of a queue.
pub(super) struct State {
    /// Oldest first. Has the memory for `depth` of them.
    waiting: VecDeque<Waiting>,
    depth: usize,
    pub(super) groups: Groups,
    /// Sequence of the next event, and of the next one that a reader expects. In 64 bits, which never wrap.
    next: u64,
    expected: u64,
    /// Cookies that were given.
    cookies: u64,
}

/// How many requests there is room for.
fn requests(depth: usize) -> usize {
    (depth * 4).max(MOST_REQUESTS)
}

impl State {
    /// Bytes of memory that room for `depth` events takes, at most [`MOST_EVENTS`](super::MOST_EVENTS).
    pub(super) fn bytes(depth: usize) -> usize {
        depth * size_of::<Waiting>() + Groups::bytes(depth, requests(depth))
    }

    /// Room for `depth` events, at most [`MOST_EVENTS`](super::MOST_EVENTS).
    pub(super) fn new(depth: usize) -> Result<Self, OutOfMemory> {
        let mut waiting = VecDeque::new();
        waiting.try_reserve_exact(depth).map_err(|_| OutOfMemory)?;
        // Both are small enough.
        let groups = Groups::new(depth as u32, requests(depth) as u32)?;
        Ok(Self { waiting, depth, groups, next: 0, expected: 0, cookies: 0 })
    }

    /// An event that finds no room, or that can not be delivered.
    pub(super) fn lose(&mut self, count: u64) {
        self.next = self.next.wrapping_add(count);
    }

    /// Adds an event; whether there was room.
    pub(super) fn push(&mut self, what: What) -> bool {
        let room = self.waiting.len() < self.depth;
        if room {
            self.waiting.push_back(Waiting { sequence: self.next, what });
        }
        self.lose(1);
        room
    }

    /// A page request. Whether its group is over and has to be refused.
    pub(super) fn request(&mut self, port: &Shared<Port>, request: &PageRequest) -> bool {
        let (number, last) = (request.group, request.last);
        if port.stale.remove(number) {
            self.groups.discard(port, number);
        }
        if port.void.contains(number) {
            if last {
                port.void.remove(number);
                self.groups.discard(port, number);
                self.lose(1);
            }
            return last;
        }
        let Some(at) = self.groups.add(port, request) else {
            if last {
                self.lose(1);
            } else {
                port.void.insert(number);
            }
            return last;
        };
        if !last {
            return false;
        }
        self.groups.close(at, self.next);
        let room = self.push(What::Group(at));
        if !room {
            self.groups.remove(at);
        }
        !room
    }

    /// The next record, with requests in `room`, which must hold so many.
    pub(super) fn read(&mut self, room: &mut Vec<PageRequest>) -> Next {
        for _ in 0..LOOK {
            let Some(Waiting { what: What::Withdrawn, .. }) = self.waiting.front() else { break };
            self.waiting.pop_front();
        }
        let Some(waiting) = self.waiting.front() else {
            if self.expected == self.next {
                return Next::Nothing;
            }
            self.expected = self.next;
            return Next::Record(Record { sequence: self.next.wrapping_sub(1) as u32, lost: true, event: Event::Lost });
        };
        let sequence = waiting.sequence;
        let event = match waiting.what {
            What::Fault(fault) => Event::Fault(fault),
            What::Group(at) => {
                let count = self.groups.count(at);
                if room.capacity() < count {
                    return Next::Room(count);
                }
                self.cookies += 1;
                let cookie = self.cookies << PLACE_BITS | u64::from(at);
                self.groups.deliver(at, cookie, room);
                Event::PageRequests { cookie: Cookie(cookie), requests: core::mem::take(room) }
            }
            // More of these than are to be passed over without a reporter getting a turn.
            What::Withdrawn => return Next::Room(0),
        };
        self.waiting.pop_front();
        let lost = self.expected != sequence;
        self.expected = sequence.wrapping_add(1);
        // The sequence wraps, as documented.
        Next::Record(Record { sequence: sequence as u32, lost, event })
    }

    /// Takes out one group of `port`, from the place `from` on.
    pub(super) fn withdraw(&mut self, port: &Shared<Port>, from: &mut u32) -> Option<Group> {
        let (at, group) = self.groups.take_any(port, from, LOOK)?;
        if let Some(sequence) = group.sequence()
            && let Ok(index) = self.waiting.binary_search_by_key(&sequence, |waiting| waiting.sequence)
            && let Some(waiting) = self.waiting.get_mut(index)
            && matches!(waiting.what, What::Group(place) if place == at)
        {
            waiting.what = What::Withdrawn;
        }
        Some(group)
    }

    /// Has the next event be number `sequence`.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, sequence: u64) {
        (self.next, self.expected) = (sequence, sequence);
    }

    /// Places that there is memory for.
    #[cfg(test)]
    pub(super) fn memory(&self) -> (usize, u32) {
        (self.waiting.capacity(), self.groups.places())
    }
}

/// What a reader gets.
pub(super) enum Next {
    Record(Record),
    Nothing,
    /// The next event needs room for so many requests, maybe none: ask again.
    Room(usize),
}
