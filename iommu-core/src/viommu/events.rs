//! Events for the guest: one bounded queue of each type, told of losses by sequence numbers.

use super::{Amounts, OBJECT, Viommu, ViommuInner};
use crate::error::Error;
use crate::hw::StreamId;
use alloc::vec::Vec;
use iommu_alloc::Shared;

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Counts the queue's events, lost ones too; wraps.
    pub sequence: u32,
    /// Events were lost right before this one.
    pub lost: bool,
    /// The guest's number of the device that it concerns, if it concerns one.
    pub virt_id: Option<u64>,
    /// What happened, in the layout of the driver.
    pub words: [u64; 4],
}

/// A queue, in memory that it had from the beginning.
pub(super) struct Ring {
    kind: u32,
    slots: Vec<Event>,
    /// The oldest event, and how many there are.
    first: usize,
    count: usize,
    /// Of the next event.
    sequence: u32,
    /// Events were lost since the last one that was kept.
    lost: bool,
}

impl Ring {
    fn push(&mut self, virt_id: Option<u64>, words: [u64; 4]) -> bool {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let len = self.slots.len();
        let free = self.count < len;
        if free && let Some(slot) = self.slots.get_mut(place(self.first, self.count, len)) {
            *slot = Event { sequence, lost: self.lost, virt_id, words };
            self.count = self.count.saturating_add(1);
        }
        self.lost = !free;
        free
    }

    fn pop(&mut self) -> Option<Event> {
        self.count = self.count.checked_sub(1)?;
        let event = self.slots.get(self.first).copied();
        self.first = place(self.first, 1, self.slots.len());
        event
    }
}

/// The place `by` behind `at` in a ring of `len`, which is not 0. Neither is larger.
fn place(at: usize, by: usize, len: usize) -> usize {
    let behind = at.saturating_add(by);
    behind.checked_sub(len).unwrap_or(behind)
}

/// A queue of events of one type. Dropped, they are nobody's.
pub struct EventQueue {
    viommu: Shared<ViommuInner>,
    kind: u32,
    /// What it costs.
    cost: Amounts,
}

impl EventQueue {
    /// Most events that a queue can hold.
    pub const MOST_EVENTS: usize = 1 << 16;

    /// The oldest event that was not read, if any.
    pub fn read(&self) -> Option<Event> {
        let mut state = self.viommu.state.lock();
        state.rings.iter_mut().find(|ring| ring.kind == self.kind)?.pop()
    }

    /// Whether events were lost that nothing in the queue tells of: the next one to come will. A reader that finds nothing
    /// more asks this.
    pub fn has_lost(&self) -> bool {
        let state = self.viommu.state.lock();
        state.rings.iter().any(|ring| ring.kind == self.kind && ring.lost)
    }

    /// The type of its events, in the driver's numbers.
    pub fn kind(&self) -> u32 {
        self.kind
    }
}

impl Drop for EventQueue {
    fn drop(&mut self) {
        let ring = {
            let mut state = self.viommu.state.lock();
            let at = state.rings.iter().position(|ring| ring.kind == self.kind);
            at.map(|at| state.rings.swap_remove(at))
        };
        // Memory is given back without the lock.
        drop(ring);
        self.viommu.release(self.cost);
    }
}

impl Viommu {
    /// A queue for events of type `kind`, in the driver's numbers, that holds `depth` of them.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where `depth` is 0 or more than [`EventQueue::MOST_EVENTS`]; [`Error::Exists`] where there is a
    /// queue of this type; [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn events(&self, kind: u32, depth: usize) -> Result<EventQueue, Error> {
        if depth == 0 || depth > EventQueue::MOST_EVENTS {
            return Err(Error::Invalid("a queue of no events, or of too many"));
        }
        let bytes = depth.saturating_mul(size_of::<Event>());
        let cost = Amounts { metadata: bytes as u64, ..OBJECT };
        self.0.charge(cost)?;
        let entered = Ring::new(kind, depth).and_then(|ring| self.0.enter_ring(ring));
        if let Err(error) = entered {
            self.0.release(cost);
            return Err(error);
        }
        Ok(EventQueue { viommu: self.0.clone(), kind, cost })
    }

    /// Puts an event of type `kind` into its queue, with the guest's number of the device behind `stream`. Returns whether
    /// the guest will see it: not where there is no queue of the type, the queue is full, or `stream` is no device of the
    /// guest's.
    ///
    /// May be called in interrupt context.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] where another CPU, or what was interrupted, is at the queues: nothing has happened, so the event
    /// stays where it came from, to be posted later.
    pub fn post(&self, kind: u32, stream: Option<StreamId>, words: [u64; 4]) -> Result<bool, Error> {
        let mut state = self.0.state.try_lock().ok_or(Error::Busy)?;
        let virt_id = match stream {
            None => None,
            Some(stream) => match state.vdevices.iter().find(|entry| entry.has_stream(stream)) {
                Some(entry) => Some(entry.virt_id),
                None => return Ok(false),
            },
        };
        let ring = state.rings.iter_mut().find(|ring| ring.kind == kind);
        Ok(ring.is_some_and(|ring| ring.push(virt_id, words)))
    }
}

impl Ring {
    fn new(kind: u32, depth: usize) -> Result<Self, Error> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(depth).map_err(|_| Error::OutOfMemory)?;
        slots.resize(depth, Event::default());
        Ok(Self { kind, slots, first: 0, count: 0, sequence: 0, lost: false })
    }
}

#[cfg(test)]
impl Ring {
    /// The next event has this sequence.
    pub(super) fn wind_to(&mut self, sequence: u32) {
        self.sequence = sequence;
    }
}

impl ViommuInner {
    /// Adds a ring; where that fails, it is dropped after the lock.
    fn enter_ring(&self, ring: Ring) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.rings.iter().any(|other| other.kind == ring.kind) {
            return Err(Error::Exists);
        }
        state.rings.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        state.rings.push(ring);
        Ok(())
    }
}
