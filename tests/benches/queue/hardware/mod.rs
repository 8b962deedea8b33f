//! Hardware that costs next to nothing: a unit that confirms whatever it is told, at once or after a while, and memory.
//!
//! * here: memory, time, and when what was told is confirmed.
//! * [`vtd`] and [`smmuv3`]: registers, and what is a confirmation.

mod smmuv3;
mod vtd;

pub use smmuv3::Smmuv3;
pub use vtd::Vtd;

use crate::common::host::Host;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{self, Domain, DomainConfig, Stage, Stream, StreamId, Target};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Valgrind has memory at low addresses.
const OFFSET: u64 = 1 << 16;

/// One architecture: its registers, and its driver.
pub trait Architecture: Default + Send + Sync + 'static {
    /// As in file names.
    const NAME: &'static str;
    /// The kinds of unit.
    const KINDS: &'static [&'static str];

    /// The driver on it.
    type Unit: hw::Unit;

    /// One of [`Architecture::KINDS`], by its place.
    fn of(kind: usize) -> Self;

    /// Has the driver bring it up.
    fn bring_up(machine: &Arc<Machine<Self>>) -> Self::Unit;

    /// A wait alone.
    fn sync(unit: &Self::Unit);

    /// Bytes of registers.
    fn window(&self) -> usize;

    /// The value of a register.
    fn read(&self, offset: usize) -> u64;

    /// Takes a value. Whether this tells of commands that end in a wait: it is to be [confirmed](Architecture::confirm).
    fn write(&self, offset: usize, value: u64) -> bool;

    /// Reports the wait that it was told of last.
    fn confirm(&self);
}

/// The unit, and the clock of the CPUs beside it.
#[derive(Default)]
pub struct Machine<A> {
    unit: A,
    doorbells: AtomicUsize,
    /// Nanoseconds from a doorbell to the confirmation.
    latency: u64,
    /// When the wait that is pending is confirmed; 0 where none is.
    due: AtomicU64,
    /// Time counts the looks at it, so that the same instructions run every time.
    looks: Option<AtomicU64>,
}

impl<A: Architecture> Machine<A> {
    /// Hardware of this kind with this latency, and the driver's unit.
    pub fn up(kind: usize, latency: u64, counted: bool) -> (Arc<Self>, A::Unit) {
        let looks = counted.then(AtomicU64::default);
        let machine = Arc::new(Self { unit: A::of(kind), latency, looks, ..Self::default() });
        let unit = A::bring_up(&machine);
        machine.take_doorbells();
        (machine, unit)
    }

    /// A domain that a function is led to: hardware is asked nothing about others.
    ///
    /// # Panics
    ///
    /// Where there is none.
    pub fn domain(unit: &A::Unit) -> Box<dyn Domain> {
        let domain = hw::Unit::create_domain(unit, &DomainConfig::new(Stage::Second)).expect("a domain");
        let stream = Stream::function(StreamId::new(8));
        hw::Unit::attach(unit, stream, Target::Paging(&*domain)).expect("an attach");
        domain
    }

    /// Doorbells since the last call.
    pub fn take_doorbells(&self) -> usize {
        self.doorbells.swap(0, Ordering::Relaxed)
    }

    /// The driver has one round on its way at a time.
    fn write(&self, offset: usize, value: u64) {
        if !self.unit.write(offset, value) {
            return;
        }
        self.doorbells.fetch_add(1, Ordering::Relaxed);
        if self.latency == 0 {
            return self.unit.confirm();
        }
        self.due.store(self.now() + self.latency, Ordering::Release);
    }
}

// SAFETY: all but time is what `Host` does.
unsafe impl<A: Architecture> Hal for Machine<A> {
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
        let over = due != 0 && self.now() >= due;
        if over && self.due.compare_exchange(due, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.unit.confirm();
        }
        std::hint::spin_loop();
    }
}

impl<A: Architecture> Registers for Machine<A> {
    fn len(&self) -> usize {
        self.unit.window()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.unit.read(offset) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.unit.read(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value);
    }
}
