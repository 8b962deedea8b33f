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
use spin::Mutex;

/// What the command queue does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Queue {
    /// Executes commands.
    #[default]
    Running,
    /// Executes them up to the next CMD_SYNC, which never completes.
    NoSync,
    /// Fetches none: the consumer stands still.
    Stopped,
}

#[derive(Default)]
pub(super) struct Switches {
    /// CR0 bits that are never acknowledged.
    pub(super) never: u32,
    /// IRQ_CTRL bits that are never acknowledged.
    pub(super) never_irq: u32,
    /// GBPA.UPDATE never falls.
    pub(super) never_gbpa: bool,
    /// Reads of an acknowledgement before it follows.
    pub(super) polls: u32,
    /// Reads of CMDQ_CONS before commands are executed.
    pub(super) lag: u32,
    /// TLB invalidations before those of the configuration.
    pub(super) translations_first: bool,
    pub(super) queue: Queue,
    pub(super) stop_after: Option<usize>,
    pub(super) fail_after: Option<usize>,
    pub(super) time_out_after: Option<usize>,
    /// Nobody answers on the bus.
    absent: bool,
}

/// An SMMUv3. Share it by [`Arc`]: the driver takes it as [`Registers`], the test keeps the rest.
pub struct Model {
    unit: Mutex<Unit>,
    config: Config,
    memory: Arc<TestMemory>,
}

impl Model {
    /// A unit after reset, whose DMA goes to `memory`. Its caches may hold anything until they are invalidated.
    pub fn new(config: Config, memory: Arc<TestMemory>) -> Self {
        Self { unit: Mutex::new(Unit::new(config, memory.clone())), config, memory }
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

    // Switches.

    /// Changes of these CR0 bits are never acknowledged; with 0 those that wait are, at the next read of CR0ACK.
    pub fn never_acknowledge(&self, bits: u32) {
        self.unit.lock().switches.never = bits;
    }

    /// As [`Model::never_acknowledge`], of IRQ_CTRL.
    pub fn never_acknowledge_irq(&self, bits: u32) {
        self.unit.lock().switches.never_irq = bits;
    }

    /// Whether updates of GBPA never complete.
    pub fn never_update_gbpa(&self, never: bool) {
        self.unit.lock().switches.never_gbpa = never;
    }

    /// From now on CR0, IRQ_CTRL and GBPA are acknowledged only after this many looks that still show the old state.
    pub fn acknowledge_after(&self, polls: u32) {
        self.unit.lock().switches.polls = polls;
    }

    /// From now on commands are executed only after this many reads of CMDQ_CONS that show nothing new.
    pub fn execute_after(&self, polls: u32) {
        self.unit.lock().switches.lag = polls;
    }

    /// From now on, of the invalidations between two CMD_SYNCs those of translations take effect first, and before those
    /// of the configuration do every stream whose STE is cached asks again for whatever was cached: commands between two
    /// CMD_SYNCs have no order, and devices do not wait.
    pub fn translations_first(&self, first: bool) {
        self.unit.lock().switches.translations_first = first;
    }

    /// How the queue treats commands from now on; what waits is executed at once where it can be.
    pub fn set_queue(&self, queue: Queue) {
        let mut unit = self.unit.lock();
        unit.switches.queue = queue;
        unit.switches.stop_after = None;
        unit.run_queue();
    }

    /// The queue executes `n` more commands and then stops until [`Model::set_queue`].
    pub fn stop_queue_after(&self, n: usize) {
        self.unit.lock().switches.stop_after = Some(n);
    }

    /// `n` more commands are taken, the next is refused with CERROR_ILL, for as long as it stands in its place; a
    /// CMD_SYNC only once.
    pub fn fail_command_after(&self, n: usize) {
        self.unit.lock().switches.fail_after = Some(n);
    }

    /// `n` more CMD_ATC_INV are answered, the next is not: CERROR_ATC_INV_SYNC at the CMD_SYNC.
    pub fn time_out_after(&self, n: usize) {
        self.unit.lock().switches.time_out_after = Some(n);
    }

    /// Makes the errors of these bits in GERROR active now.
    pub fn raise_error(&self, bits: u32) {
        self.unit.lock().global_error(bits);
    }

    /// Puts a record into the event queue; whether there was room.
    pub fn put_event(&self, raw: [u64; 4]) -> bool {
        self.unit.lock().put(raw)
    }

    /// Whether the unit has gone from the bus: registers read all ones, writes go nowhere.
    pub fn set_absent(&self, absent: bool) {
        self.unit.lock().switches.absent = absent;
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
