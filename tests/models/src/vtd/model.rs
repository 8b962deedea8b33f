//! The unit as drivers and tests see it.

use super::config::Config;
use super::descriptor::{Descriptor, Executed};
use super::dma::{Blocked, Completion, FetchHook};
use super::drain::InFlight;
use super::endpoint::Endpoint;
use super::fault::{FaultRecord, status};
use super::queue::Execution;
use super::random::Random;
use super::unit::Unit;
use super::violation::Violation;
use super::walk::{FaultCode, Pieces, Request, Translation, translate};
use crate::memory::{TestMemory, Ticker};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysExtent};
use iommu_hal::regs::Registers;
use spin::{Mutex, MutexGuard};

/// What the invalidation queue does with descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Queue {
    /// Executes them at once.
    #[default]
    Running,
    /// Executes them, but no wait ever reports.
    Mute,
    /// Fetches none: the head stands still.
    Stopped,
}

/// A message-signalled interrupt of the unit itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

#[derive(Default)]
pub(super) struct Switches {
    /// GCMD bits that are never answered.
    pub(super) never: u32,
    /// Reads of GSTS before a command is answered.
    pub(super) polls: u32,
    pub(super) queue: Queue,
    pub(super) stop_after: Option<usize>,
    pub(super) fail_after: Option<usize>,
    pub(super) time_out_after: Option<usize>,
    pub(super) drop_after: Option<usize>,
    /// Functions that never answer an invalidation of their TLB.
    pub(super) silent: Vec<u16>,
    pub(super) execution: Execution,
    pub(super) random: Random,
    /// Looks at registers before a wait is answered.
    pub(super) wait_looks: u32,
    /// Errors of the queue come without a record.
    pub(super) anonymous: bool,
    /// Invalidations by registers are done more coarsely than asked for, or never.
    pub(super) coarse: bool,
    pub(super) never_invalidate: bool,
    pub(super) never_protect: bool,
    /// One lookup in so many loses entries of every cache.
    pub(super) evict: Option<usize>,
    /// Nobody answers on the bus.
    absent: bool,
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

    // Switches.

    /// From now on wide entries are fetched so.
    pub fn set_pieces(&self, pieces: Pieces) {
        self.unit.lock().fetching.pieces = pieces;
    }

    /// Sets or removes what is called after each part of an entry that was fetched; see [`FetchHook`].
    pub fn on_fetch(&self, hook: Option<FetchHook>) {
        self.unit.lock().fetching.hook = hook;
    }

    /// The commands of these GCMD bits are never answered; with 0 those that wait are, at the next read of GSTS.
    pub fn never_answer(&self, bits: u32) {
        self.unit.lock().switches.never = bits;
    }

    /// From now on a command is answered only after this many reads of GSTS that still show the old state.
    pub fn answer_after(&self, polls: u32) {
        self.unit.lock().switches.polls = polls;
    }

    /// How the queue treats descriptors from now on; what waits is executed at once where it can be.
    pub fn set_queue(&self, queue: Queue) {
        let mut unit = self.unit.lock();
        unit.switches.queue = queue;
        unit.switches.stop_after = None;
        drop(unit);
        self.settle();
    }

    /// The queue executes `n` more descriptors and then stops until [`Model::set_queue`].
    pub fn stop_queue_after(&self, n: usize) {
        self.unit.lock().switches.stop_after = Some(n);
    }

    /// `n` more descriptors are taken, the next is refused once with IQE, as an invalid type.
    pub fn fail_descriptor_after(&self, n: usize) {
        self.unit.lock().switches.fail_after = Some(n);
    }

    /// `n` more device-TLB invalidations are answered, the next is not: ITE, and the waits behind it are aborted.
    pub fn time_out_after(&self, n: usize) {
        self.unit.lock().switches.time_out_after = Some(n);
    }

    /// This function never answers an invalidation of its TLB, or does so again: each one is an ITE.
    pub fn set_unanswering(&self, source: u16, never: bool) {
        let silent = &mut self.unit.lock().switches.silent;
        silent.retain(|other| *other != source);
        if never {
            silent.push(source);
        }
    }

    /// `n` more waits report, the next is lost once: neither its status nor its interrupt arrives.
    pub fn drop_completion_after(&self, n: usize) {
        self.unit.lock().switches.drop_after = Some(n);
    }

    /// From now on a wait reports only after this many looks: at IQH, IQT, FSTS or ICS, or at the memory's clock, which
    /// stands for a look at the status in memory. What is behind the wait, and with [`Execution::Late`] what is before
    /// it, waits as well.
    pub fn report_after(&self, looks: u32) {
        self.unit.lock().switches.wait_looks = looks;
        // Weak: the memory outlives its units, and belongs to them.
        let unit = Arc::downgrade(&self.unit);
        let ticker: Ticker = Box::new(move || {
            if let Some(unit) = unit.upgrade() {
                let mut unit = unit.lock();
                if !unit.switches.absent {
                    unit.look_at_queue();
                    unit.run_queue();
                }
            }
        });
        self.memory.set_ticker((looks != 0).then_some(ticker));
    }

    /// When descriptors take effect from now on, and in which order.
    pub fn set_execution(&self, order: Execution) {
        let switches = &mut self.unit.lock().switches;
        switches.execution = order;
        if let Execution::Shuffled(seed) = order {
            switches.random = Random::new(seed);
        }
    }

    /// Sets or removes what is called before each descriptor takes effect.
    ///
    /// Set while no other thread uses the unit: while it runs, descriptors of others take effect without it.
    pub fn on_descriptor(&self, hook: Option<Hook>) {
        *self.hook.lock() = hook;
    }

    /// Whether errors of the queue come without IQEI, ITESID and ICESID, as in older hardware.
    pub fn hide_error_records(&self, hide: bool) {
        self.unit.lock().switches.anonymous = hide;
    }

    /// Whether invalidations by registers are done more coarsely than asked for.
    pub fn invalidate_coarsely(&self, coarse: bool) {
        self.unit.lock().switches.coarse = coarse;
    }

    /// Whether invalidations by registers are never answered.
    pub fn never_invalidate(&self, never: bool) {
        self.unit.lock().switches.never_invalidate = never;
    }

    /// Whether PMEN.PRS never follows PMEN.EPM.
    pub fn never_protect(&self, never: bool) {
        self.unit.lock().switches.never_protect = never;
    }

    /// From now on each cache loses an entry at every `one_in`th lookup or so, as `seed` has it. Zero: never.
    ///
    /// Eviction is what hardware may do at any moment; without it stale entries are held for ever.
    pub fn evict(&self, seed: u64, one_in: usize) {
        let switches = &mut self.unit.lock().switches;
        switches.random = Random::new(seed);
        switches.evict = (one_in != 0).then_some(one_in);
    }

    /// Whether requests stay on their way to memory from now on, until an invalidation drains them. What is on its way
    /// is forgotten.
    pub fn linger(&self, lingers: bool) {
        let draining = &mut self.unit.lock().draining;
        draining.clear();
        draining.lingers = lingers;
    }

    /// Sets FSTS.ITE now, with `source` as the device that did not answer.
    pub fn raise_time_out(&self, source: u16) {
        let mut unit = self.unit.lock();
        if unit.status & status::TIME_OUT == 0 && !unit.switches.anonymous {
            unit.error_record = unit.error_record & !(0xffff << 32) | u64::from(source) << 32;
        }
        unit.set_status(status::TIME_OUT);
    }

    /// Sets FSTS.ICE now, with `source` as the device whose completion nobody expected.
    pub fn raise_unexpected_completion(&self, source: u16) {
        let mut unit = self.unit.lock();
        if unit.status & status::COMPLETION == 0 && !unit.switches.anonymous {
            unit.error_record = unit.error_record & !(0xffff << 48) | u64::from(source) << 48;
        }
        unit.set_status(status::COMPLETION);
    }

    /// Whether the unit has gone from the bus: registers read all ones, writes go nowhere.
    pub fn set_absent(&self, absent: bool) {
        self.unit.lock().switches.absent = absent;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Unit> {
        self.unit.lock()
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
    fn settle(&self) {
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
