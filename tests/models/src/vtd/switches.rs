//! What a test turns on and off: everything that hardware may do late, otherwise, or never.

use super::dma::FetchHook;
use super::fault::status;
use super::model::{Hook, Model};
use super::queue::Execution;
use super::walk::Pieces;
use crate::memory::Ticker;
use crate::random::Random;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

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
    pub(super) absent: bool,
}

impl Model {
    /// From now on wide entries are fetched so.
    pub fn set_pieces(&self, pieces: Pieces) {
        self.lock().fetching.pieces = pieces;
    }

    /// Sets or removes what is called after each part of an entry that was fetched; see [`FetchHook`].
    pub fn on_fetch(&self, hook: Option<FetchHook>) {
        self.lock().fetching.hook = hook;
    }

    /// The commands of these GCMD bits are never answered; with 0 those that wait are, at the next read of GSTS.
    pub fn never_answer(&self, bits: u32) {
        self.lock().switches.never = bits;
    }

    /// From now on a command is answered only after this many reads of GSTS that still show the old state.
    pub fn answer_after(&self, polls: u32) {
        self.lock().switches.polls = polls;
    }

    /// How the queue treats descriptors from now on; what waits is executed at once where it can be.
    pub fn set_queue(&self, queue: Queue) {
        let mut unit = self.lock();
        unit.switches.queue = queue;
        unit.switches.stop_after = None;
        drop(unit);
        self.settle();
    }

    /// The queue executes `n` more descriptors and then stops until [`Model::set_queue`].
    pub fn stop_queue_after(&self, n: usize) {
        self.lock().switches.stop_after = Some(n);
    }

    /// `n` more descriptors are taken, the next is refused once with IQE, as an invalid type.
    pub fn fail_descriptor_after(&self, n: usize) {
        self.lock().switches.fail_after = Some(n);
    }

    /// `n` more device-TLB invalidations are answered, the next is not: ITE, and the waits behind it are aborted.
    pub fn time_out_after(&self, n: usize) {
        self.lock().switches.time_out_after = Some(n);
    }

    /// This function never answers an invalidation of its TLB, or does so again: each one is an ITE.
    pub fn set_unanswering(&self, source: u16, never: bool) {
        let silent = &mut self.lock().switches.silent;
        silent.retain(|other| *other != source);
        if never {
            silent.push(source);
        }
    }

    /// `n` more waits report, the next is lost once: neither its status nor its interrupt arrives.
    pub fn drop_completion_after(&self, n: usize) {
        self.lock().switches.drop_after = Some(n);
    }

    /// From now on a wait reports only after this many looks: at IQH, IQT, FSTS or ICS, or at the memory's clock, which
    /// stands for a look at the status in memory. What is behind the wait, and with [`Execution::Late`] what is before
    /// it, waits as well.
    pub fn report_after(&self, looks: u32) {
        self.lock().switches.wait_looks = looks;
        // Weak: the memory outlives its units, and belongs to them.
        let unit = Arc::downgrade(self.unit());
        let ticker: Ticker = Box::new(move || {
            if let Some(unit) = unit.upgrade() {
                let mut unit = unit.lock();
                if !unit.switches.absent {
                    unit.look_at_queue();
                    unit.run_queue();
                }
            }
        });
        self.memory().set_ticker((looks != 0).then_some(ticker));
    }

    /// When descriptors take effect from now on, and in which order.
    pub fn set_execution(&self, order: Execution) {
        let switches = &mut self.lock().switches;
        switches.execution = order;
        if let Execution::Shuffled(seed) = order {
            switches.random = Random::new(seed);
        }
    }

    /// Sets or removes what is called before each descriptor takes effect.
    ///
    /// Set while no other thread uses the unit: while it runs, descriptors of others take effect without it.
    pub fn on_descriptor(&self, hook: Option<Hook>) {
        self.set_hook(hook);
    }

    /// Whether errors of the queue come without IQEI, ITESID and ICESID, as in older hardware.
    pub fn hide_error_records(&self, hide: bool) {
        self.lock().switches.anonymous = hide;
    }

    /// Whether invalidations by registers are done more coarsely than asked for.
    pub fn invalidate_coarsely(&self, coarse: bool) {
        self.lock().switches.coarse = coarse;
    }

    /// Whether invalidations by registers are never answered.
    pub fn never_invalidate(&self, never: bool) {
        self.lock().switches.never_invalidate = never;
    }

    /// Whether PMEN.PRS never follows PMEN.EPM.
    pub fn never_protect(&self, never: bool) {
        self.lock().switches.never_protect = never;
    }

    /// From now on each cache loses an entry at every `one_in`th lookup or so, as `seed` has it. Zero: never.
    ///
    /// Eviction is what hardware may do at any moment; without it stale entries are held for ever.
    pub fn evict(&self, seed: u64, one_in: usize) {
        let switches = &mut self.lock().switches;
        switches.random = Random::new(seed);
        switches.evict = (one_in != 0).then_some(one_in);
    }

    /// Whether requests stay on their way to memory from now on, until an invalidation drains them. What is on its way
    /// is forgotten.
    pub fn linger(&self, lingers: bool) {
        let draining = &mut self.lock().draining;
        draining.clear();
        draining.lingers = lingers;
    }

    /// Sets FSTS.ITE now, with `source` as the device that did not answer.
    pub fn raise_time_out(&self, source: u16) {
        let mut unit = self.lock();
        if unit.status & status::TIME_OUT == 0 && !unit.switches.anonymous {
            unit.error_record = unit.error_record & !(0xffff << 32) | u64::from(source) << 32;
        }
        unit.set_status(status::TIME_OUT);
    }

    /// Sets FSTS.ICE now, with `source` as the device whose completion nobody expected.
    pub fn raise_unexpected_completion(&self, source: u16) {
        let mut unit = self.lock();
        if unit.status & status::COMPLETION == 0 && !unit.switches.anonymous {
            unit.error_record = unit.error_record & !(0xffff << 48) | u64::from(source) << 48;
        }
        unit.set_status(status::COMPLETION);
    }

    /// Whether the unit has gone from the bus: registers read all ones, writes go nowhere.
    pub fn set_absent(&self, absent: bool) {
        self.lock().switches.absent = absent;
    }
}
