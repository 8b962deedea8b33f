//! The unit as drivers and tests see it.

use super::command::{Command, Executed};
use super::config::Config;
use super::dma::Blocked;
use super::endpoint::Endpoint;
use super::event::Event;
use super::interrupt::Interrupt;
use super::stall::{Resumed, Stalled};
use super::unit::Unit;
use super::violation::Violation;
use super::walk::{FaultCode, Tables, Translation, translate};
use crate::memory::TestMemory;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysExtent};
use iommu_hal::regs::Registers;
use spin::{Mutex, MutexGuard};

/// CMDQ_CONS.
const CMDQ_CONS: usize = 0x9c;

/// What is called before a command takes effect. It may use the model and the memory; while it runs itself, other
/// commands take effect without it.
pub type Hook = Box<dyn FnMut(&Model, &Command) + Send>;

/// An SMMUv3. Share it by [`Arc`]: the driver takes it as [`Registers`], the test keeps the rest.
pub struct Model {
    unit: Arc<Mutex<Unit>>,
    hook: Mutex<Option<Hook>>,
    config: Config,
    memory: Arc<TestMemory>,
}

impl Model {
    /// A unit after reset, whose DMA goes to `memory`. Its caches may hold anything until they are invalidated.
    pub fn new(config: Config, memory: Arc<TestMemory>) -> Self {
        Self { unit: Arc::new(Mutex::new(Unit::new(config, memory.clone()))), hook: Mutex::new(None), config, memory }
    }

    /// What the unit is.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The memory behind it.
    pub const fn memory(&self) -> &Arc<TestMemory> {
        &self.memory
    }

    /// A request of stream `sid`, with or without substream, for the `len` bytes from `iova`: where they lie, neighbours
    /// joined. No data moves.
    ///
    /// Caches are used and filled; with the unit disabled GBPA decides.
    ///
    /// # Errors
    ///
    /// The first page that is blocked; the event is recorded as the unit would.
    ///
    /// # Panics
    ///
    /// Where the range wraps.
    pub fn dma(
        &self,
        sid: u32,
        ssid: Option<u32>,
        iova: Iova,
        len: u64,
        write: bool,
    ) -> Result<Vec<PhysExtent>, Blocked> {
        self.unit.lock().dma(sid, ssid, iova, len, write)
    }

    /// Where the tables in memory lead now: no cache, no event, SMMUEN not looked at.
    ///
    /// # Errors
    ///
    /// As [`translate`].
    pub fn translate(&self, sid: u32, ssid: Option<u32>, iova: Iova, write: bool) -> Result<Translation, FaultCode> {
        let read64 = |phys| self.memory.device_read64(phys);
        translate(&read64, self.tables(), &self.config, sid, ssid, iova, write)
    }

    /// STRTAB_BASE and STRTAB_BASE_CFG as they stand.
    pub fn tables(&self) -> Tables {
        self.unit.lock().tables
    }

    /// Whether SMMUEN is on and acknowledged.
    pub fn is_enabled(&self) -> bool {
        self.unit.lock().cr0.actual & super::control::SMMUEN != 0
    }

    /// Entries in the caches: STEs, CDs, translations.
    pub fn cached(&self) -> [usize; 3] {
        self.unit.lock().caches.len()
    }

    /// What was done wrong so far. A test ends with `assert_eq!(model.violations(), [])`.
    pub fn violations(&self) -> Vec<Violation> {
        self.unit.lock().violations.clone()
    }

    /// What was done wrong since the last call, in order.
    pub fn take_violations(&self) -> Vec<Violation> {
        core::mem::take(&mut self.unit.lock().violations)
    }

    /// Commands executed since the last call, in order.
    pub fn take_log(&self) -> Vec<Executed> {
        core::mem::take(&mut self.unit.lock().log)
    }

    /// Events since the last call, in order, those that found no room in the queue included.
    pub fn take_events(&self) -> Vec<Event> {
        core::mem::take(&mut self.unit.lock().recorded)
    }

    /// Requests that wait for an answer, oldest first.
    pub fn stalled(&self) -> Vec<Stalled> {
        self.unit.lock().all_stalled()
    }

    /// Stream and tag of each record of a stall that is still to be answered.
    pub fn unanswered(&self) -> Vec<(u32, u16)> {
        self.unit.lock().unanswered()
    }

    /// What became of requests that waited, since the last call, in order.
    pub fn take_resumed(&self) -> Vec<Resumed> {
        core::mem::take(&mut self.unit.lock().resumed)
    }

    /// Everything that waits is tried again without having been asked for, as a unit may at any moment: what goes on is
    /// done, and its record is still to be answered; nothing is recorded of what does not.
    pub fn retry_early(&self) {
        self.unit.lock().retry_early();
    }

    /// The function behind stream `sid`, as one with ATS.
    pub const fn endpoint(&self, sid: u32) -> Endpoint<'_> {
        Endpoint::new(self, sid)
    }

    /// Events sent to waiting CPUs since the last call: for a CMD_SYNC that asked, and when the queue is full no longer.
    pub fn take_wake_ups(&self) -> usize {
        core::mem::take(&mut self.unit.lock().wake_ups)
    }

    /// Interrupts sent since the last call, in order.
    pub fn take_interrupts(&self) -> Vec<Interrupt> {
        core::mem::take(&mut self.unit.lock().interrupts)
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
        if offset & !3 == CMDQ_CONS {
            // What the look brings about shows in what is read.
            unit.look_at_queue();
            drop(unit);
            self.settle();
            return self.unit.lock().read(offset, width);
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
