//! The queue on paper: hardware that fits in a file, of the smallest rings and of both kinds: one that tells of a wait by its
//! number, and one whose position tells. Drivers test what is theirs on their models.

mod schedules;
mod seats;

extern crate std;

use super::{Found, HUNG, Marker, Port, Queue, Ring};
use core::ptr::NonNull;
use core::time::Duration;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_hal::{FrameRequest, Hal};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// [`HwError::Queue`] code of a device that did not answer.
const SILENT: u8 = 9;
/// Reason of a refusal.
const REFUSED: u8 = 5;

std::thread_local! {
    /// Whether threads are shuttle's, all of which run on one of the system's.
    static SHUTTLE: Cell<bool> = const { Cell::new(false) };
}

/// Another CPU may go on here.
fn point() {
    if SHUTTLE.get() {
        shuttle::thread::yield_now();
    }
}

/// What stands in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    /// Of a device's TLB where there is one; the rest tells who asked.
    Item(Item),
    Fence,
    Wait(Marker),
}

/// A rank, who asked, and a device.
type Item = (u8, u16, Option<u32>);

/// A CPU that has no memory to give.
struct Clock(Mutex<u64>);

#[allow(unsafe_code, reason = "it hands out nothing that could be misused")]
// SAFETY: no frame is ever allocated, so nothing is promised of any.
unsafe impl Hal for Clock {
    fn alloc_frames(&self, _: FrameRequest) -> Option<PhysAddr> {
        None
    }
    unsafe fn free_frames(&self, _: PhysAddr, _: FrameRequest) {}
    fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
    fn clean(&self, _: PhysAddr, _: usize) {}
    fn invalidate(&self, _: PhysAddr, _: usize) {}
    fn now(&self) -> u64 {
        *self.0.lock().unwrap()
    }
    fn relax(&self) {
        point();
    }
}

/// A ring that everybody can look into.
#[derive(Clone)]
struct Paper {
    slots: u64,
    /// A full ring looks like none that is empty.
    wraps: bool,
    memory: Arc<Mutex<Vec<Slot>>>,
}

impl Paper {
    fn at(&self, place: u64) -> Slot {
        self.memory.lock().unwrap()[(place % self.slots) as usize]
    }

    fn put(&self, place: u64, slot: Slot) -> Option<()> {
        point();
        self.memory.lock().unwrap()[(place % self.slots) as usize] = slot;
        Some(())
    }
}

impl Ring for Paper {
    type Item = Item;
    type Order = Option<u8>;

    const TIMED_OUT: u8 = SILENT;

    fn period(&self) -> u64 {
        if self.wraps { 2 * self.slots } else { self.slots }
    }
    fn most(&self) -> u64 {
        if self.wraps { self.slots - 1 } else { self.slots - 2 }
    }
    fn fence_before(order: &mut Option<u8>, item: &Item) -> bool {
        order.replace(item.0).is_some_and(|before| before < item.0)
    }
    fn device(item: &Item) -> Option<u32> {
        item.2
    }
    fn device_at(&self, place: u64) -> Option<u32> {
        if let Slot::Item(item) = self.at(place) { item.2 } else { None }
    }
    fn is_fence_at(&self, place: u64) -> bool {
        !matches!(self.at(place), Slot::Item(_))
    }
    fn first_word(&self, place: u64) -> u64 {
        if let Slot::Item(item) = self.at(place) { item.1.into() } else { u64::MAX }
    }
    fn write(&self, place: u64, item: &Item) -> Option<()> {
        self.put(place, Slot::Item(*item))
    }
    fn write_fence(&self, place: u64) -> Option<()> {
        self.put(place, Slot::Fence)
    }
    fn write_wait(&self, place: u64, marker: Marker, _: bool) -> Option<()> {
        self.put(place, Slot::Wait(marker))
    }
    fn marker(&self, last: Marker, _: u64) -> Marker {
        last.wrapping_add(1)
    }
}

/// What hardware has come to.
#[derive(Default)]
struct Machine {
    /// What it was told of, and what it has read.
    told: u64,
    read: u64,
    /// Items that it did, in order.
    done: Vec<Item>,
    /// The wait that it confirmed last.
    confirmed: Option<Marker>,
    /// What it complains of, and stands still for.
    error: Option<Found>,
    doorbells: usize,
    /// A device of the items since the last fence that does not answer.
    unanswered: bool,
    /// What a test asks for: so many items until one is refused, a device that never answers, so many places that cannot be
    /// read.
    refuse_after: Option<u64>,
    silent: Option<u32>,
    unreadable: u32,
}

/// Its registers.
struct Board<const WRAPS: bool>(Mutex<Machine>);

impl<const WRAPS: bool> Board<WRAPS> {
    /// Does one thing that it was told of.
    fn step(&self, ring: &Paper) {
        let mut machine = self.0.lock().unwrap();
        if machine.error.is_some() || machine.read == machine.told {
            return;
        }
        if machine.unreadable != 0 {
            machine.unreadable -= 1;
            machine.error = Some(Found::Unread(1));
            return;
        }
        match ring.at(machine.read) {
            Slot::Item(item) => {
                if machine.refuse_after == Some(0) {
                    machine.refuse_after = None;
                    machine.error = Some(Found::Refused(REFUSED));
                    return;
                }
                machine.refuse_after = machine.refuse_after.map(|left| left - 1);
                if item.2.is_some() && item.2 == machine.silent {
                    machine.unanswered = true;
                } else {
                    machine.done.push(item);
                }
            }
            _ if core::mem::take(&mut machine.unanswered) => {
                machine.error = Some(Found::Unanswered(None));
                return;
            }
            Slot::Wait(marker) => machine.confirmed = Some(marker),
            Slot::Fence => {}
        }
        machine.read += 1;
    }
}

impl<const WRAPS: bool> Port<Paper> for Board<WRAPS> {
    const READ_IS_DONE: bool = WRAPS;

    fn timeout(&self) -> Duration {
        Duration::from_millis(1)
    }
    fn ring_doorbell(&self, _: &Paper, end: u64) {
        point();
        let mut machine = self.0.lock().unwrap();
        assert!(end >= machine.told, "hardware is told of less than before");
        machine.told = end;
        machine.doorbells += 1;
    }
    fn is_complete(&self, ring: &Paper, place: u64, marker: Marker) -> bool {
        point();
        self.step(ring);
        let machine = self.0.lock().unwrap();
        if WRAPS { machine.read == place + 1 } else { machine.confirmed == Some(marker) }
    }
    fn look(&self, _: &Paper) -> Option<Found> {
        point();
        self.0.lock().unwrap().error
    }
    fn position(&self, ring: &Paper) -> Option<u64> {
        point();
        // It goes on whether anybody polls or not.
        self.step(ring);
        Some(self.0.lock().unwrap().read % ring.period())
    }
    fn resume(&self, _: &Paper, found: Found, end: u64) {
        point();
        let mut machine = self.0.lock().unwrap();
        assert_eq!(machine.error.take(), Some(found));
        assert_eq!(machine.told, end, "it goes on up to where it was told");
    }
}

/// A queue of so many slots, and its hardware.
struct Bed<const WRAPS: bool> {
    queue: Queue<Paper>,
    board: Board<WRAPS>,
    clock: Clock,
}

impl<const WRAPS: bool> Bed<WRAPS> {
    fn new(slots: u64) -> Self {
        let memory = Arc::new(Mutex::new(std::vec![Slot::Fence; slots as usize]));
        Self {
            queue: Queue::new(Paper { slots, wraps: WRAPS, memory }),
            board: Board(Mutex::default()),
            clock: Clock(Mutex::new(0)),
        }
    }

    fn run(&self, batch: &[Item]) -> Result<Marker, HwError> {
        self.queue.run(&self.clock, &self.board, batch)
    }

    fn done(&self) -> Vec<Item> {
        self.board.0.lock().unwrap().done.clone()
    }
}

#[test]
fn a_ring_without_room_for_an_item_is_an_error_and_no_loop() {
    let bed = Bed::<true>::new(1);
    bed.run(&[]).expect("a wait fits");
    assert_eq!(bed.run(&[(0, 1, None)]), Err(HUNG));
}

#[test]
fn batches_of_every_length_go_in_order_through_rings_of_every_size() {
    fn all<const WRAPS: bool>(slots: u64) {
        let bed = Bed::<WRAPS>::new(slots);
        let mut wanted = Vec::new();
        for n in 0..30u16 {
            // Ranks rise in the middle, where a fence is due.
            let batch: Vec<Item> = (0..n).map(|at| ((at >= n / 2).into(), n << 8 | at, None)).collect();
            bed.run(&batch).unwrap();
            wanted.extend(batch);
            assert_eq!(bed.done(), wanted, "{slots} slots");
        }
        let machine = bed.board.0.lock().unwrap();
        assert_eq!(machine.read, machine.told);
    }
    for log2 in 1..=6 {
        all::<true>(1 << log2);
        all::<false>(2 << log2);
    }
}
