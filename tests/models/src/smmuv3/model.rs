//! The unit as drivers and tests see it.

use super::command::Executed;
use super::config::Config;
use super::dma::Blocked;
use super::event::Event;
use super::interrupt::Interrupt;
use super::unit::Unit;
use super::violation::Violation;
use super::walk::{FaultCode, Tables, Translation, translate};
use crate::memory::TestMemory;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysExtent};
use iommu_hal::regs::Registers;
use spin::{Mutex, MutexGuard};

/// An SMMUv3. Share it by [`Arc`]: the driver takes it as [`Registers`], the test keeps the rest.
pub struct Model {
    unit: Arc<Mutex<Unit>>,
    config: Config,
    memory: Arc<TestMemory>,
}

impl Model {
    /// A unit after reset, whose DMA goes to `memory`. Its caches may hold anything until they are invalidated.
    pub fn new(config: Config, memory: Arc<TestMemory>) -> Self {
        Self { unit: Arc::new(Mutex::new(Unit::new(config, memory.clone()))), config, memory }
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

    /// Interrupts sent since the last call, in order.
    pub fn take_interrupts(&self) -> Vec<Interrupt> {
        core::mem::take(&mut self.unit.lock().interrupts)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Unit> {
        self.unit.lock()
    }

    fn read(&self, offset: usize, width: usize) -> u64 {
        let mut unit = self.unit.lock();
        if unit.switches.absent { u64::MAX } else { unit.read(offset, width) }
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut unit = self.unit.lock();
        if !unit.switches.absent {
            unit.write(offset, width, value);
        }
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
