//! The queue alone against the device model.

mod costs;
mod devices;
mod errors;
mod registers;
mod schedules;
mod threads;

extern crate std;

use super::ring::Ring;
use super::{Invalidator, Marker};
use crate::capabilities::Mode;
use crate::regs::Regs;
use crate::spec::descriptor::{Descriptor, Drain};
use crate::spec::invalidation::{Invalidation, IotlbScope, TlbPages, TlbTarget};
use crate::spec::registers::*;
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, RequesterId};
use iommu_driver::queue::{HUNG, Probe, Told};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_models::vtd::{Config, Model};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

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

/// Registers that count.
pub(super) struct Counted {
    model: Arc<Model>,
    reads: AtomicUsize,
    doorbells: AtomicUsize,
    writes: AtomicUsize,
    /// FSTS.ITE is set again as often as this once it is cleared: the device, and how often.
    echoes: Mutex<(u16, usize)>,
}

impl Registers for Counted {
    fn len(&self) -> usize {
        self.model.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        point();
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.model.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        point();
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.model.write32(offset, value);
        let (source, left) = &mut *self.echoes.lock().unwrap();
        if offset == FSTS_REG && value & FSTS::ITE::SET.value != 0 && *left != 0 {
            *left -= 1;
            self.model.raise_time_out(*source);
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        point();
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.model.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        point();
        let counter = if offset == IQT_REG { &self.doorbells } else { &self.writes };
        counter.fetch_add(1, Ordering::Relaxed);
        self.model.write64(offset, value);
    }
}

/// The memory, on CPUs that let others run while they wait.
pub(super) struct Patient(Arc<TestMemory>);

#[allow(unsafe_code, reason = "what is promised is promised by the memory")]
// SAFETY: every method but one forwards to an implementation that keeps the promises.
unsafe impl Hal for Patient {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        self.0.alloc_frames(request)
    }
    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.0.free_frames(frames, request) }
    }
    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        self.0.phys_to_virt(phys)
    }
    fn clean(&self, phys: PhysAddr, len: usize) {
        self.0.clean(phys, len)
    }
    fn invalidate(&self, phys: PhysAddr, len: usize) {
        self.0.invalidate(phys, len)
    }
    fn now(&self) -> u64 {
        self.0.now()
    }
    fn relax(&self) {
        if SHUTTLE.get() { shuttle::thread::yield_now() } else { std::thread::yield_now() }
    }
    fn stored(&self, phys: PhysAddr) {
        point();
        self.0.stored(phys)
    }
}

/// A unit that translates through an empty root, and its queue.
pub(super) struct Bed {
    memory: Arc<TestMemory>,
    hal: Arc<Patient>,
    model: Arc<Model>,
    regs: Regs<Arc<Counted>>,
    invalidator: Invalidator<Arc<Patient>>,
    /// What was executed up to the last look.
    seen: Mutex<Vec<(u64, bool)>>,
}

impl Bed {
    fn new(config: Config) -> Self {
        let memory = Arc::new(TestMemory::new(PhysAddr::new(0x1_0000_0000), 64));
        let model = Arc::new(Model::new(config, memory.clone()));
        let (reads, doorbells, writes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let counted = Counted { model: model.clone(), reads, doorbells, writes, echoes: Mutex::default() };
        // A hundred looks at the clock.
        let regs = Regs::new(Arc::new(counted), Duration::from_millis(1));
        let caps = regs.capabilities().unwrap();
        let hal = Arc::new(Patient(memory.clone()));
        let invalidator = Invalidator::new(&hal, &caps, 48).unwrap();
        invalidator.enable(&hal, &regs).unwrap();
        let root = memory.alloc_frames(FrameRequest::single(48, WalkerMemory::Coherent)).unwrap();
        let mode = if caps.mode() == Mode::Scalable { 1 << 10 } else { 0 };
        regs.io().write64(RTADDR_REG, root.get() | mode);
        regs.trigger(&memory, GSTS::RTPS, true, "RTPS").unwrap();
        regs.set(&memory, GSTS::TES, true, "TES").unwrap();
        let bed = Self { memory, hal, model, regs, invalidator, seen: Mutex::default() };
        bed.counts();
        bed
    }

    fn server() -> Self {
        Self::new(Config::server())
    }

    fn run(&self, batch: &[Invalidation]) -> Result<Marker, HwError> {
        self.invalidator.run(&self.hal, &self.regs, batch)
    }

    fn queue(&self) -> Probe<'_, Ring<Arc<Patient>>> {
        match &self.invalidator {
            Invalidator::Queue(queue) => queue.probe(),
            Invalidator::Registers(_) => panic!("no queue"),
        }
    }

    /// Writes a batch as another CPU would, that has not gone further yet.
    fn join(&self, batch: &[Invalidation]) -> usize {
        self.queue().join(batch).expect("room")
    }

    fn outcome(&self, seat: usize) -> Option<Told> {
        self.queue().outcome(seat)
    }

    /// Reads, doorbells and other writes since the last call.
    fn counts(&self) -> (usize, usize, usize) {
        let io = self.regs.io();
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::Relaxed);
        (take(&io.reads), take(&io.doorbells), take(&io.writes))
    }

    /// First words of what was executed, waits included, and whether it took effect.
    fn executed(&self) -> Vec<(u64, bool)> {
        self.model.take_log().into_iter().map(|it| (it.raw[0], it.done)).collect()
    }

    #[track_caller]
    fn check(&self) {
        assert_eq!(self.model.violations(), []);
        assert_eq!(self.memory.take_stale_reads(), []);
        assert_eq!(self.model.read32(FSTS_REG) & 0x70, 0, "every error is cleared");
    }
}

const NO_DRAIN: Drain = Drain { writes: false, reads: false };

/// Of a domain's second stage: a word that tells who asked.
fn domain(id: u16) -> Invalidation {
    Invalidation::Iotlb { scope: IotlbScope::Domain(id), drain: NO_DRAIN }
}

fn device(source: u16) -> Invalidation {
    let target = TlbTarget { source: RequesterId::new(source), physical: None, queue_depth: 32 };
    Invalidation::DeviceTlb { target, pages: TlbPages::All }
}

fn word(invalidation: Invalidation) -> u64 {
    Descriptor::from(invalidation).0[0]
}

/// Whether a first word is a wait's.
fn is_wait(word: u64) -> bool {
    word & 0xf == 5
}
