//! Groups of page requests, from the first request to the answer, in memory that is there from the beginning.

use super::MOST_REQUESTS;
use super::pool::{NONE, Pool};
use super::port::{MOST_OPEN, Port};
use crate::addr::Iova;
use crate::hw::{PageRequest, Prot};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use iommu_alloc::{OutOfMemory, Shared};

/// Where a group stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More requests will come.
    Open,
    /// Whole; to be read, as the event of this sequence.
    Queued(u64),
    /// With the owner, who answers by this cookie.
    Delivered(u64),
}

/// A group that was not answered.
pub(super) struct Group {
    pub(super) port: Shared<Port>,
    /// The device's number for it.
    pub(super) number: u16,
    stage: Stage,
    /// Its requests, oldest first.
    first: u32,
    newest: u32,
    count: usize,
}

impl Group {
    /// The event that it is, where it was not read.
    pub(super) fn sequence(&self) -> Option<u64> {
        match self.stage {
            Stage::Queued(sequence) => Some(sequence),
            _ => None,
        }
    }
}

/// One request. Stream and number are its group's.
struct Held {
    iova: Iova,
    prot: Prot,
    next: u32,
}

/// All groups of a queue.
pub(super) struct Groups {
    groups: Pool<Group>,
    requests: Pool<Held>,
}

impl Groups {
    /// Bytes of memory that room for so many groups and requests takes.
    pub(super) fn bytes(groups: usize, requests: usize) -> usize {
        Pool::<Group>::bytes(groups) + Pool::<Held>::bytes(requests)
    }

    /// Room for so many groups and requests.
    pub(super) fn new(groups: u32, requests: u32) -> Result<Self, OutOfMemory> {
        Ok(Self { groups: Pool::new(groups)?, requests: Pool::new(requests)? })
    }

    /// Adds `request` to its group, the first one opens it. `None` where that can not be: then nothing is held of the
    /// group any more.
    pub(super) fn add(&mut self, port: &Shared<Port>, request: &PageRequest) -> Option<u32> {
        let at = match self.open(port, request.group) {
            Some(at) => at,
            None => self.start(port, request)?,
        };
        let added = self.append(at, request);
        if added.is_none() {
            self.remove(at);
        }
        added.map(|()| at)
    }

    /// The place of the open group `number`.
    pub(super) fn open(&self, port: &Port, number: u16) -> Option<u32> {
        let places = port.open.iter().map(|place| place.load(Ordering::Relaxed));
        places.into_iter().find(|at| self.groups.get(*at).is_some_and(|group| group.number == number))
    }

    /// The numbers of all open groups.
    pub(super) fn all_open(&self, port: &Port) -> [Option<u16>; MOST_OPEN] {
        port.open.each_ref().map(|place| Some(self.groups.get(place.load(Ordering::Relaxed))?.number))
    }

    fn start(&mut self, port: &Shared<Port>, request: &PageRequest) -> Option<u32> {
        // A group of one request is over before anybody could look for it.
        let place = if request.last {
            None
        } else {
            Some(port.open.iter().find(|place| place.load(Ordering::Relaxed) == NONE)?)
        };
        let (number, stage) = (request.group, Stage::Open);
        let at =
            self.groups.insert(Group { port: port.clone(), number, stage, first: NONE, newest: NONE, count: 0 })?;
        if let Some(place) = place {
            place.store(at, Ordering::Relaxed);
        }
        port.groups.fetch_add(1, Ordering::Relaxed);
        Some(at)
    }

    fn append(&mut self, at: u32, request: &PageRequest) -> Option<()> {
        let group = self.groups.get_mut(at).filter(|group| group.count < MOST_REQUESTS)?;
        let held = self.requests.insert(Held { iova: request.iova, prot: request.prot, next: NONE })?;
        match self.requests.get_mut(group.newest) {
            Some(before) => before.next = held,
            None => group.first = held,
        }
        group.newest = held;
        group.count += 1;
        Some(())
    }

    /// No more requests will come of the group at `at`: it is the event `sequence`.
    pub(super) fn close(&mut self, at: u32, sequence: u64) {
        if let Some(group) = self.groups.get_mut(at) {
            group.stage = Stage::Queued(sequence);
            forget_open(&group.port, at);
        }
    }

    /// How many requests the group at `at` holds.
    pub(super) fn count(&self, at: u32) -> usize {
        self.groups.get(at).map_or(0, |group| group.count)
    }

    /// Moves the requests of the group at `at` to `into`, which has room for them. From now on the group is answered by
    /// `cookie`.
    pub(super) fn deliver(&mut self, at: u32, cookie: u64, into: &mut Vec<PageRequest>) {
        let Some(group) = self.groups.get_mut(at) else { return };
        let (stream, number) = (group.port.stream, group.number);
        group.stage = Stage::Delivered(cookie);
        let mut next = core::mem::replace(&mut group.first, NONE);
        while let Some(Held { iova, prot, next: following }) = self.requests.remove(next) {
            into.push(PageRequest { stream, iova, prot, group: number, last: following == NONE });
            next = following;
        }
    }

    /// Takes out the group at `at`, where it was delivered under `cookie`.
    pub(super) fn take_delivered(&mut self, at: u32, cookie: u64) -> Option<Group> {
        self.groups.get(at).filter(|group| group.stage == Stage::Delivered(cookie))?;
        self.remove(at)
    }

    /// Takes out what is held of the open group `number`. Whoever drops that is not the last owner of the port.
    pub(super) fn discard(&mut self, port: &Port, number: u16) {
        if let Some(at) = self.open(port, number) {
            self.remove(at);
        }
    }

    /// Takes out all open groups of `port`.
    pub(super) fn discard_open(&mut self, port: &Port) {
        for place in &port.open {
            let at = place.load(Ordering::Relaxed);
            self.remove(at);
        }
    }

    /// Looks at up to `most` places from `from` on, for a group of `port`, and takes it out. `from` goes on.
    pub(super) fn take_any(&mut self, port: &Shared<Port>, from: &mut u32, most: u32) -> Option<(u32, Group)> {
        let end = from.saturating_add(most).min(self.groups.places());
        while *from < end {
            let at = *from;
            *from += 1;
            if self.groups.get(at).is_some_and(|group| Shared::same(&group.port, port)) {
                return self.remove(at).map(|group| (at, group));
            }
        }
        None
    }

    /// Takes out the group at `at` and forgets its requests.
    pub(super) fn remove(&mut self, at: u32) -> Option<Group> {
        let group = self.groups.remove(at)?;
        let mut next = group.first;
        while let Some(held) = self.requests.remove(next) {
            next = held.next;
        }
        forget_open(&group.port, at);
        group.port.groups.fetch_sub(1, Ordering::Relaxed);
        Some(group)
    }

    /// How many places there are for groups.
    pub(super) fn places(&self) -> u32 {
        self.groups.places()
    }

    /// Groups and requests that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.groups.full(), self.requests.full())
    }
}

fn forget_open(port: &Port, at: u32) {
    if let Some(place) = port.open.iter().find(|place| place.load(Ordering::Relaxed) == at) {
        place.store(NONE, Ordering::Relaxed);
    }
}
