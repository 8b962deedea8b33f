//! Hardware that costs next to nothing: a unit that confirms whatever it is told, at once or after a while, and memory.

use crate::common::host::Host;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Domain, DomainConfig, RequesterId, Stage, Stream, Target, Unit as _};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use iommu_vtd::{Config, Unit};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Valgrind has memory at low addresses.
const OFFSET: u64 = 1 << 16;
/// Bytes of the queue: 256 descriptors of 256 bits.
const QUEUE: u64 = 256 * 32;

/// The unit, and the clock of the CPUs beside it.
#[derive(Default)]
pub struct Machine {
    status: AtomicU32,
    queue: AtomicU64,
    doorbells: AtomicUsize,
    /// Nanoseconds from a doorbell to the confirmation.
    latency: u64,
    /// When the wait that is pending is confirmed; 0 where none is. Where it reports to, and what.
    due: AtomicU64,
    cell: AtomicU64,
    data: AtomicU32,
    /// Time counts the looks at it, so that the same instructions run every time.
    looks: Option<AtomicU64>,
}

/// A unit that is up on it.
pub type TestUnit = Unit<Arc<Machine>, Arc<Machine>>;

impl Machine {
    /// Hardware with this latency, and the driver's unit.
    ///
    /// # Panics
    ///
    /// Where it does not come up.
    pub fn up(latency: u64, counted: bool) -> (Arc<Self>, TestUnit) {
        let looks = counted.then(AtomicU64::default);
        let machine = Arc::new(Self { latency, looks, ..Self::default() });
        let config = Config { host_bits: 48, timeout: Duration::from_secs(10), ..Config::default() };
        let unit = Unit::bring_up(machine.clone(), machine.clone(), config).expect("a unit");
        machine.take_doorbells();
        (machine, unit)
    }

    /// A domain that a function is led to: hardware is asked nothing about others.
    pub fn domain(unit: &TestUnit) -> Box<dyn Domain> {
        let domain = unit.create_domain(&DomainConfig::new(Stage::Second)).expect("a domain");
        unit.attach(Stream::function(RequesterId::new(8)), Target::Paging(&*domain)).expect("an attach");
        domain
    }

    /// Doorbells since the last call.
    pub fn take_doorbells(&self) -> usize {
        self.doorbells.swap(0, Ordering::Relaxed)
    }

    /// What stands before the tail is a wait: the driver has one round on its way at a time.
    fn doorbell(&self, tail: u64) {
        let queue = self.queue.load(Ordering::Relaxed) & !0xfff;
        if queue == 0 {
            // Before there is one.
            return;
        }
        self.doorbells.fetch_add(1, Ordering::Relaxed);
        let wait = Host::<OFFSET>::pointer(queue + (tail + QUEUE - 32) % QUEUE).cast::<AtomicU64>();
        // SAFETY: the driver has given the queue to this unit for good, and reaches it by atomic accesses only.
        let [low, high] = [0, 1].map(|word| unsafe { &*wait.add(word) }.load(Ordering::Relaxed));
        let data = (low >> 32) as u32;
        if self.latency == 0 {
            return confirm(high, data);
        }
        self.cell.store(high, Ordering::Relaxed);
        self.data.store(data, Ordering::Relaxed);
        self.due.store(self.now() + self.latency, Ordering::Release);
    }
}

/// Reports a wait.
fn confirm(cell: u64, data: u32) {
    let cell = Host::<OFFSET>::pointer(cell).cast::<AtomicU32>();
    // SAFETY: the driver has given the cell to this unit for good. It reads 64 bits of which these are the lower; on this
    // architecture a load sees them whole.
    unsafe { &*cell }.store(data, Ordering::Release);
}

// SAFETY: all but time is what `Host` does.
unsafe impl Hal for Machine {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        Host::<OFFSET>.alloc_frames(request)
    }

    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        // SAFETY: the caller keeps the same promises.
        unsafe { Host::<OFFSET>.free_frames(frames, request) }
    }

    #[inline]
    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        Host::<OFFSET>.phys_to_virt(phys)
    }

    fn clean(&self, _: PhysAddr, _: usize) {}

    fn invalidate(&self, _: PhysAddr, _: usize) {}

    #[inline]
    fn now(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        match &self.looks {
            Some(looks) => looks.fetch_add(1, Ordering::Relaxed),
            // Never 0.
            None => START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1,
        }
    }

    /// Time passes for the unit as well.
    fn relax(&self) {
        let due = self.due.load(Ordering::Acquire);
        if due != 0 && self.now() >= due {
            let (cell, data) = (self.cell.load(Ordering::Relaxed), self.data.load(Ordering::Relaxed));
            if self.due.compare_exchange(due, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                confirm(cell, data);
            }
        }
        std::hint::spin_loop();
    }
}

impl Registers for Machine {
    fn len(&self) -> usize {
        4096
    }

    fn read32(&self, offset: usize) -> u32 {
        match offset {
            0x00 => 0x10,
            0x1c => self.status.load(Ordering::Relaxed),
            // FECTL and IECTL: masked.
            0x38 | 0xa0 => 1 << 31,
            _ => 0,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if offset == 0x18 {
            // Lasting states and the root pointer are acknowledged at once.
            self.status.fetch_and(1 << 30, Ordering::Relaxed);
            self.status.fetch_or(value & !(1 << 27), Ordering::Relaxed);
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        match offset {
            // What QEMU reports with `x-scalable-mode=on`, and everything snooped.
            0x08 => 0x00d2_008c_222f_0606,
            0x10 => 0x0000_4800_80f0_0f4a | 1 | 1 << 48,
            _ => 0,
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        match offset {
            0x88 => self.doorbell(value),
            0x90 => self.queue.store(value, Ordering::Relaxed),
            _ => {}
        }
    }
}
