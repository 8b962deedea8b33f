//! Registers that remember what was written, and let a test look before and after each write.

use crate::heap::plenty;
use iommu_hal::regs::Registers;
use iommu_models::vtd::Model;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// GCMD.
pub const GCMD: usize = 0x18;
/// GSTS.
pub const GSTS: usize = 0x1c;
/// RTADDR.
pub const RTADDR: usize = 0x20;
/// FSTS.
pub const FSTS: usize = 0x34;
/// FECTL.
pub const FECTL: usize = 0x38;
/// IQH.
pub const IQH: usize = 0x80;
/// IQT: a write to it is the doorbell.
pub const IQT: usize = 0x88;
/// IQA.
pub const IQA: usize = 0x90;

/// GCMD.TE and GSTS.TES.
pub const TE: u32 = 1 << 31;
/// GCMD.SRTP and GSTS.RTPS.
pub const SRTP: u32 = 1 << 30;
/// GCMD.WBF and GSTS.WBFS.
pub const WBF: u32 = 1 << 27;
/// GCMD.QIE and GSTS.QIES.
pub const QIE: u32 = 1 << 26;
/// GCMD.IRE and GSTS.IRES.
pub const IRE: u32 = 1 << 25;

/// A write to a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    /// Offset in bytes.
    pub offset: usize,
    /// What was written.
    pub value: u64,
}

/// When a test is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The unit does not know of the write yet.
    Before,
    /// The unit has done what it asks for.
    After,
}

/// What is called around each write. It may use the model and the memory; not while it runs itself.
pub type Hook = Box<dyn FnMut(Write, Moment) + Send>;

/// Registers of a model. What it takes of the heap is not the driver's.
pub struct Spy<M = Model> {
    model: Arc<M>,
    writes: Mutex<Vec<Write>>,
    reads: AtomicUsize,
    hook: Mutex<Option<Hook>>,
}

impl<M: Registers> Spy<M> {
    /// The registers of `model`.
    pub fn new(model: Arc<M>) -> Self {
        Self { model, writes: Mutex::default(), reads: AtomicUsize::new(0), hook: Mutex::default() }
    }

    /// Writes since the last call, in order.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut locked(&self.writes))
    }

    /// Reads since the last call.
    pub fn take_reads(&self) -> usize {
        self.reads.swap(0, Ordering::Relaxed)
    }

    /// Sets or removes what is called around each write.
    pub fn set_hook(&self, hook: Option<Hook>) {
        *locked(&self.hook) = hook;
    }

    fn call(&self, write: Write, moment: Moment) {
        // A test that has failed drops its domains: nothing more is asserted, or the first message would be lost.
        if std::thread::panicking() {
            return;
        }
        // Not held while the hook runs: it may read and write registers itself.
        let hook = locked(&self.hook).take();
        if let Some(mut hook) = hook {
            hook(write, moment);
            locked(&self.hook).get_or_insert(hook);
        }
    }

    fn write(&self, offset: usize, value: u64, does: impl FnOnce(&M)) {
        plenty(|| {
            let write = Write { offset, value };
            locked(&self.writes).push(write);
            self.call(write, Moment::Before);
            does(&self.model);
            self.call(write, Moment::After);
        });
    }
}

impl Spy<Model> {
    /// Values written to GCMD since the last call of this or [`Spy::take_writes`].
    pub fn take_commands(&self) -> Vec<u32> {
        let writes = self.take_writes();
        writes.iter().filter(|write| write.offset == GCMD).map(|write| write.value as u32).collect()
    }
}

/// The lock, whether or not a test has failed meanwhile.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Registers> Registers for Spy<M> {
    fn len(&self) -> usize {
        self.model.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.reads.fetch_add(1, Ordering::Relaxed);
        plenty(|| self.model.read32(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value.into(), |model| model.write32(offset, value));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.reads.fetch_add(1, Ordering::Relaxed);
        plenty(|| self.model.read64(offset))
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value, |model| model.write64(offset, value));
    }
}
