//! A `Hal` whose every call is a point at which a scheduler may let another CPU go on, so that it can try the orders of
//! what CPUs do.
//!
//! Tables are reached through `phys_to_virt`, once for each look into one, and every store is told to `stored`: so the
//! points lie before each table that is looked into, and after each store. Loads inside of one table are no points of
//! their own; a compare-and-exchange and the store of its result are one. What runs between two points runs at once.

use crate::common::{self, Kind};
use iommu_core::addr::PhysAddr;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::Format;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::{Config, Runner};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// What is noted beside the memory. No lock on it is held at a point.
#[derive(Default)]
struct Notes {
    /// Whether calls are points: not while a test sets things up.
    stepping: bool,
    /// The order of what CPUs did, as a number.
    order: u64,
    /// What was stored where, without marks.
    entries: BTreeMap<u64, u64>,
    /// Where each CPU stored last.
    stored: BTreeMap<usize, u64>,
    /// Frames that hardware may walk: they must not be freed.
    guarded: BTreeSet<u64>,
    freed: Vec<u64>,
}

pub struct Stepped {
    pub memory: TestMemory,
    visible: u64,
    point: AtomicUsize,
    notes: Mutex<Notes>,
}

impl Stepped {
    /// To be made inside of a schedule.
    pub fn new<K: Kind>(how: WalkerMemory) -> Self {
        Self {
            memory: common::memory_for(how),
            visible: <K::F as Format>::VISIBLE,
            point: AtomicUsize::new(0),
            notes: Mutex::default(),
        }
    }

    /// From now on every call is a point.
    pub fn step(&self) {
        self.notes.lock().unwrap().stepping = true;
    }

    /// No longer. Gives the number that stands for the order in which CPUs did what they did.
    pub fn stop(&self) -> u64 {
        let mut notes = self.notes.lock().unwrap();
        notes.stepping = false;
        notes.order
    }

    /// The scheduler may let another CPU go on here.
    fn point(&self, what: u64) {
        let mut notes = self.notes.lock().unwrap();
        if !notes.stepping {
            return;
        }
        let cpu = usize::from(shuttle::thread::current().id()) as u64;
        notes.order = (notes.order ^ (cpu << 8 | what)).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        drop(notes);
        self.point.load(Ordering::SeqCst);
    }

    /// Hardware may walk the frame from now on, whatever the tables say.
    pub fn guard(&self, frame: u64) {
        self.notes.lock().unwrap().guarded.insert(frame);
    }

    /// Hardware has forgotten the frame.
    pub fn release(&self, frame: u64) {
        self.notes.lock().unwrap().guarded.remove(&frame);
    }

    /// Whether the frame was ever freed.
    pub fn was_freed(&self, frame: u64) -> bool {
        self.notes.lock().unwrap().freed.contains(&frame)
    }

    /// Frames freed so far.
    pub fn freed(&self) -> usize {
        self.notes.lock().unwrap().freed.len()
    }
}

// SAFETY: every method forwards to an implementation that keeps the promises.
unsafe impl Hal for Stepped {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        self.point(0);
        let frames = self.memory.alloc_frames(request);
        self.point(1);
        frames
    }

    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        self.point(2);
        let mut notes = self.notes.lock().unwrap();
        assert!(!notes.guarded.contains(&frames.get()), "{frames} is freed, and hardware may still walk it");
        notes.freed.push(frames.get());
        drop(notes);
        // SAFETY: the caller keeps the same promises.
        unsafe { self.memory.free_frames(frames, request) };
        self.point(3);
    }

    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        self.point(4);
        assert!(self.memory.is_allocated(phys), "a look into a frame that was freed: {phys}");
        self.memory.phys_to_virt(phys)
    }

    fn clean(&self, phys: PhysAddr, len: usize) {
        self.point(5);
        self.memory.clean(phys, len);
        self.point(6);
    }

    fn invalidate(&self, phys: PhysAddr, len: usize) {
        self.memory.invalidate(phys, len);
    }

    fn now(&self) -> u64 {
        self.memory.now()
    }

    fn relax(&self) {
        // Whoever is waited for goes on.
        if self.notes.lock().unwrap().stepping {
            shuttle::thread::yield_now();
        }
    }

    fn stored(&self, phys: PhysAddr) {
        self.memory.stored(phys);
        if !self.notes.lock().unwrap().stepping {
            return;
        }
        let value = self.memory.read64(phys);
        let unmarked = value & !self.visible;
        let before = self.notes.lock().unwrap().entries.insert(phys.get(), unmarked);
        if value != unmarked && before == Some(unmarked) {
            // All that was stored is the mark of what is visible: so the rest must be.
            let seen = self.memory.device_read64(phys).map(|seen| seen & !self.visible);
            assert_eq!(seen, Some(unmarked), "the entry at {phys} is marked as visible");
        }
        // In a run of stores not every one is a point.
        let cpu = usize::from(shuttle::thread::current().id());
        let before = self.notes.lock().unwrap().stored.insert(cpu, phys.get());
        if before != Some(phys.get() - 8) || phys.get().is_multiple_of(1024) {
            self.point(7);
        }
    }
}

/// Tries schedules of `scenario`, which returns the number of the order that came of it. Prints how many were tried, and
/// returns that.
pub fn explore(name: &str, schedules: usize, scenario: impl Fn() -> u64 + Send + Sync + 'static) -> usize {
    let orders = Arc::new(Mutex::new(HashSet::new()));
    let noted = orders.clone();
    let run = Arc::new(move || {
        let order = scenario();
        noted.lock().unwrap().insert(order);
    });
    let mut tried = 0;
    // The same seed each time: what fails, fails again. SHUTTLE_RANDOM_SEED asks for other schedules.
    for (seed, depth) in [(1, 0), (2, 3), (3, 5)] {
        let count = if depth == 0 { schedules - schedules / 4 * 2 } else { schedules / 4 };
        let scheduler: Box<dyn Scheduler + Send> = match depth {
            0 => Box::new(RandomScheduler::new_from_seed(seed, count)),
            _ => Box::new(PctScheduler::new_from_seed(seed, depth, count)),
        };
        let mut config = Config::new();
        config.stack_size = 1 << 19;
        config.silence_warnings = true;
        let run = run.clone();
        tried += Runner::new(scheduler, config).run(move || run());
    }
    let orders = orders.lock().unwrap().len();
    println!("{name}: {tried} schedules, {orders} of them different");
    assert_eq!(tried, schedules);
    assert!(orders * 10 >= tried * 6, "{name}: too many schedules are the same");
    tried
}
