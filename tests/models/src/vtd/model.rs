//! The unit as drivers and tests see it.

use super::config::Config;
use super::descriptor::{Descriptor, Executed};
use super::dma::{Blocked, Completion};
use super::drain::InFlight;
use super::endpoint::Endpoint;
use super::fault::FaultRecord;
use super::unit::Unit;
use super::violation::Violation;
use super::walk::{FaultCode, Request, Translation, translate};
use crate::memory::TestMemory;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysExtent};
use iommu_hal::regs::Registers;
use spin::{Mutex, MutexGuard};

/// A message-signalled interrupt of the unit itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// What is called before a descriptor takes effect. It may use the model and the memory; while it runs itself, other
/// descriptors take effect without it.
pub type Hook = Box<dyn FnMut(&Model, &Descriptor) + Send>;

/// A VT-d unit. Share it by [`Arc`]: the driver takes it as [`Registers`], the test keeps the rest.
pub struct Model {
    unit: Arc<Mutex<Unit>>,
    faults: Mutex<Vec<FaultRecord>>,
    hook: Mutex<Option<Hook>>,
    config: Config,
    memory: Arc<TestMemory>,
}

impl Model {
    /// A unit after reset, whose DMA goes to `memory`.
    pub fn new(config: Config, memory: Arc<TestMemory>) -> Self {
        if config.cap & Config::CAP_RWBF != 0 {
            memory.buffer_writes();
        }
        let unit = Arc::new(Mutex::new(Unit::new(config, memory.clone())));
        Self { unit, faults: Mutex::new(Vec::new()), hook: Mutex::new(None), config, memory }
    }

    /// What the unit is.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The memory behind it.
    pub const fn memory(&self) -> &Arc<TestMemory> {
        &self.memory
    }

    /// A request of `requester`, with or without PASID, for the `len` bytes from `iova`: where they lie, neighbours
    /// joined. No data moves.
    ///
    /// Caches are used and filled; with translation disabled the request passes untranslated.
    ///
    /// # Errors
    ///
    /// The first page that is blocked; the fault is recorded as the unit would.
    ///
    /// # Panics
    ///
    /// Where the range wraps.
    pub fn dma(
        &self,
        requester: u16,
        pasid: Option<u32>,
        iova: Iova,
        len: u64,
        write: bool,
    ) -> Result<Vec<PhysExtent>, Blocked> {
        let request = Request::new(requester, pasid, iova, write);
        let done = self.unit.lock().dma(&request, len);
        done.inspect_err(|blocked| self.note(&request, blocked))
    }

    /// One request of any kind, which stays in its page. No data moves.
    ///
    /// # Errors
    ///
    /// That it is blocked; the fault is recorded as the unit would.
    pub fn request(&self, request: &Request) -> Result<Completion, Blocked> {
        let done = self.unit.lock().request(request);
        done.inspect_err(|blocked| self.note(request, blocked))
    }

    pub(super) fn note(&self, request: &Request, blocked: &Blocked) {
        if blocked.reported {
            self.faults.lock().push(FaultRecord::of(&request.at(blocked.page), blocked.code));
        }
    }

    /// The function `requester`, as one with ATS.
    pub const fn endpoint(&self, requester: u16) -> Endpoint<'_> {
        Endpoint::new(self, requester)
    }

    /// Where the tables in memory lead now from the root that was latched: no cache, no fault, TES not looked at.
    ///
    /// # Errors
    ///
    /// As [`translate`].
    pub fn translate(
        &self,
        requester: u16,
        pasid: Option<u32>,
        iova: Iova,
        write: bool,
    ) -> Result<Translation, FaultCode> {
        let read64 = |phys| self.memory.device_read64(phys);
        translate(&read64, self.root(), &self.config, requester, pasid, iova, write)
    }

    /// The value of RTADDR that SRTP latched last; zero before.
    pub fn root(&self) -> u64 {
        self.unit.lock().root
    }

    /// Entries in the caches: contexts, PASIDs, translations.
    pub fn cached(&self) -> [usize; 3] {
        self.unit.lock().caches.len()
    }

    /// Paging-structure entries in the caches: of the first stage, of the second.
    pub fn cached_structures(&self) -> [usize; 2] {
        self.unit.lock().caches.structures.len()
    }

    /// What was done wrong so far. A test ends with `assert_eq!(model.violations(), [])`.
    pub fn violations(&self) -> Vec<Violation> {
        self.unit.lock().violations.clone()
    }

    /// What was done wrong since the last call, in order.
    pub fn take_violations(&self) -> Vec<Violation> {
        core::mem::take(&mut self.unit.lock().violations)
    }

    /// Descriptors executed since the last call, in order.
    pub fn take_log(&self) -> Vec<Executed> {
        core::mem::take(&mut self.unit.lock().log)
    }

    /// Faults since the last call, in order, those that found no room in the records included.
    pub fn take_faults(&self) -> Vec<FaultRecord> {
        core::mem::take(&mut *self.faults.lock())
    }

    /// Invalidations by registers done since the last call, in order.
    pub fn take_register_log(&self) -> Vec<Descriptor> {
        core::mem::take(&mut self.unit.lock().by_register.log)
    }

    /// Requests that are on their way to memory; see [`Model::linger`].
    pub fn in_flight(&self) -> Vec<InFlight> {
        self.unit.lock().draining.all()
    }

    /// Interrupts sent since the last call, in order.
    pub fn take_messages(&self) -> Vec<Message> {
        core::mem::take(&mut self.unit.lock().messages)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Unit> {
        self.unit.lock()
    }

    pub(super) const fn unit(&self) -> &Arc<Mutex<Unit>> {
        &self.unit
    }

    pub(super) fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.lock() = hook;
    }

    fn read(&self, offset: usize, width: usize) -> u64 {
        let mut unit = self.unit.lock();
        if unit.switches.absent {
            return u64::MAX;
        }
        let value = unit.read(offset, width);
        drop(unit);
        self.settle();
        value
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut unit = self.unit.lock();
        if !unit.switches.absent {
            unit.write(offset, width, value);
            drop(unit);
            self.settle();
        }
    }

    /// Executes what the queue has to execute, with the hook in between.
    pub(super) fn settle(&self) {
        // Not held while the hook runs: it may use the unit itself.
        let Some(mut hook) = self.hook.lock().take() else { return self.unit.lock().run_queue() };
        loop {
            let Some(next) = self.unit.lock().advance() else { break };
            hook(self, &next);
            self.unit.lock().execute_ready();
        }
        self.hook.lock().get_or_insert(hook);
    }
}

impl Registers for Model {
    fn len(&self) -> usize {
        self.config.window
    }

    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, 8)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, 8, value);
    }
}
