//! Registers that remember what was written, and let a test look before and after each write.

pub use crate::spy::{Moment, Write};

use iommu_hal::regs::Registers;
use iommu_models::smmuv3::Model;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// SMMU_CR0.
pub const CR0: usize = 0x20;
/// SMMU_CR0ACK.
pub const CR0ACK: usize = 0x24;
/// SMMU_CR1.
pub const CR1: usize = 0x28;
/// SMMU_CR2.
pub const CR2: usize = 0x2c;
/// SMMU_GBPA.
pub const GBPA: usize = 0x44;
/// SMMU_IRQ_CTRL.
pub const IRQ_CTRL: usize = 0x50;
/// SMMU_GERROR.
pub const GERROR: usize = 0x60;
/// SMMU_GERRORN.
pub const GERRORN: usize = 0x64;
/// SMMU_STRTAB_BASE.
pub const STRTAB_BASE: usize = 0x80;
/// SMMU_STRTAB_BASE_CFG.
pub const STRTAB_BASE_CFG: usize = 0x88;
/// SMMU_CMDQ_BASE.
pub const CMDQ_BASE: usize = 0x90;
/// SMMU_CMDQ_PROD: a write to it is the doorbell.
pub const CMDQ_PROD: usize = 0x98;
/// SMMU_CMDQ_CONS.
pub const CMDQ_CONS: usize = 0x9c;
/// SMMU_EVENTQ_BASE.
pub const EVENTQ_BASE: usize = 0xa0;
/// SMMU_EVENTQ_PROD.
pub const EVENTQ_PROD: usize = 0x1_00a8;
/// SMMU_EVENTQ_CONS.
pub const EVENTQ_CONS: usize = 0x1_00ac;

/// CR0.SMMUEN.
pub const SMMUEN: u32 = 1;
/// CR0.PRIQEN.
pub const PRIQEN: u32 = 1 << 1;
/// CR0.EVENTQEN.
pub const EVENTQEN: u32 = 1 << 2;
/// CR0.CMDQEN.
pub const CMDQEN: u32 = 1 << 3;
/// CR0.ATSCHK.
pub const ATSCHK: u32 = 1 << 4;
/// GBPA.ABORT.
pub const ABORT: u32 = 1 << 20;
/// GBPA.UPDATE.
pub const UPDATE: u32 = 1 << 31;

/// What is called around each write. It may use the model and the memory; not while it runs itself.
pub type Hook = Box<dyn FnMut(Write, Moment) + Send>;

/// Registers of a model.
pub struct Spy {
    model: Arc<Model>,
    writes: Mutex<Vec<Write>>,
    reads: AtomicUsize,
    hook: Mutex<Option<Hook>>,
}

impl Spy {
    /// The registers of `model`.
    pub fn new(model: Arc<Model>) -> Self {
        Self { model, writes: Mutex::default(), reads: AtomicUsize::new(0), hook: Mutex::default() }
    }

    /// Writes since the last call, in order.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.writes.lock().unwrap())
    }

    /// Reads since the last call.
    pub fn take_reads(&self) -> usize {
        self.reads.swap(0, Ordering::Relaxed)
    }

    /// Sets or removes what is called around each write.
    pub fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.lock().unwrap() = hook;
    }

    fn call(&self, write: Write, moment: Moment) {
        // Not held while the hook runs: it may read and write registers itself.
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(write, moment);
            self.hook.lock().unwrap().get_or_insert(hook);
        }
    }

    fn write(&self, offset: usize, value: u64, does: impl FnOnce(&Model)) {
        let write = Write { offset, value };
        self.writes.lock().unwrap().push(write);
        self.call(write, Moment::Before);
        does(&self.model);
        self.call(write, Moment::After);
    }
}

impl Registers for Spy {
    fn len(&self) -> usize {
        self.model.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.model.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value.into(), |model| model.write32(offset, value));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.model.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value, |model| model.write64(offset, value));
    }
}
