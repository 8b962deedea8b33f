//! The queue alone against the device model.

mod costs;
mod devices;
mod errors;
mod schedules;
mod threads;

extern crate std;

use super::ring::Ring;
use super::{Completion, Marker, Queue};
use crate::regs::Regs;
use crate::spec::command::{AtcPages, Command};
use crate::spec::registers::*;
use crate::tables::Structure;
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_driver::queue::{HUNG, Probe, Told};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{Config, Model};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// CMDQ_CONS.ERR.
const ILLEGAL: u8 = 1;
const ABORTED: u8 = 2;
const UNANSWERED: u8 = 3;

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
        let counter = if offset == CMDQ_PROD_REG { &self.doorbells } else { &self.writes };
        counter.fetch_add(1, Ordering::Relaxed);
        self.model.write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        point();
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.model.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        point();
        self.writes.fetch_add(1, Ordering::Relaxed);
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

/// A unit without streams, and its queue.
pub(super) struct Bed {
    memory: Arc<TestMemory>,
    hal: Arc<Patient>,
    model: Arc<Model>,
    regs: Regs<Arc<Counted>>,
    queue: Queue<Arc<Patient>>,
    /// What was executed up to the last look.
    seen: Mutex<Vec<[u64; 2]>>,
}

impl Bed {
    /// A queue of 2^`log2` commands in memory that the unit snoops, or not.
    fn new(config: Config, log2: u8, completion: Completion) -> Self {
        let coherent = config.idr0 & Config::COHACC != 0;
        let base = PhysAddr::new(0x1_0000_0000);
        let memory = Arc::new(if coherent { TestMemory::new(base, 64) } else { TestMemory::non_coherent(base, 64) });
        let model = Arc::new(Model::new(config, memory.clone()));
        let (reads, doorbells, writes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        // A hundred looks at the clock.
        let regs = Regs::new(
            Arc::new(Counted { model: model.clone(), reads, doorbells, writes }),
            Duration::from_millis(1),
            false,
        );
        let hal = Arc::new(Patient(memory.clone()));
        let walker = if coherent { WalkerMemory::Coherent } else { WalkerMemory::NonCoherent };
        let queue = Queue::new(&hal, FrameRequest::single(40, walker), log2, completion).unwrap();
        queue.install(&regs);
        regs.set_cr0(&hal, CR0::CMDQEN::SET.value, "CMDQEN").unwrap();
        // Device TLBs are not asked anything while the unit is off. What it caches is not looked at here.
        regs.set_cr0(&hal, CR0::CMDQEN::SET.value | CR0::SMMUEN::SET.value, "SMMUEN").unwrap();
        model.take_violations();
        let bed = Self { memory, hal, model, regs, queue, seen: Mutex::default() };
        bed.counts();
        bed
    }

    fn server() -> Self {
        Self::new(Config::server().sid_bits(32), 8, Completion::Poll)
    }

    fn run(&self, batch: &[Command]) -> Result<Marker, HwError> {
        self.queue.run(&self.hal, &self.regs, batch)
    }

    fn probe(&self) -> Probe<'_, Ring<Arc<Patient>>> {
        self.queue.0.probe()
    }

    /// Writes a batch as another CPU would, that has not gone further yet.
    fn join(&self, batch: &[Command]) -> usize {
        self.probe().join(batch).expect("room")
    }

    fn outcome(&self, seat: usize) -> Option<Told> {
        self.probe().outcome(seat)
    }

    /// Reads, doorbells and other writes since the last call.
    fn counts(&self) -> (usize, usize, usize) {
        let io = self.regs.io();
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::Relaxed);
        (take(&io.reads), take(&io.doorbells), take(&io.writes))
    }

    /// What was executed, CMD_SYNCs included.
    fn executed(&self) -> Vec<[u64; 2]> {
        self.model.take_log().into_iter().map(|it| it.raw).collect()
    }

    #[track_caller]
    fn check(&self) {
        assert_eq!(self.model.violations(), []);
        assert_eq!(self.memory.take_stale_reads(), []);
        let io = &self.model;
        assert_eq!((io.read32(GERROR_REG) ^ io.read32(GERRORN_REG)) & 1, 0, "every error is cleared");
    }
}

/// Queues of every kind, of 2^n commands.
fn beds(log2: u8) -> impl Iterator<Item = Bed> {
    let kinds = [
        (Config::server().sid_bits(32), Completion::Poll),
        (Config::server().sid_bits(32), Completion::Event),
        (Config::server().sid_bits(32), Completion::Message),
        (Config::server().sid_bits(32).non_coherent(), Completion::Message),
    ];
    kinds.into_iter().map(move |(config, completion)| Bed::new(config, log2, completion))
}

/// Of a stream's configuration.
fn config(id: u32) -> Command {
    Command::cfgi_ste(id, true)
}

/// Of a domain: a word that tells who asked.
fn domain(id: u16) -> Command {
    Command::tlbi_nh_asid(0, id)
}

fn device(stream: u32) -> Command {
    Command::atc_inv(stream, None, false, AtcPages::ALL)
}

/// Whether a command is a CMD_SYNC.
fn is_sync(raw: [u64; 2]) -> bool {
    raw[0] & 0xff == 0x46
}
