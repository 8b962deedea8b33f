//! What a test turns on and off: everything that hardware may do late, otherwise, or never.

use super::interrupt::Source;
use super::model::{Hook, Model};
use super::queue::Execution;
use crate::memory::Ticker;
use crate::random::Random;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What the command queue does with commands.
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
    pub(super) execution: Execution,
    pub(super) random: Random,
    /// Looks before a CMD_SYNC is consumed.
    pub(super) sync_looks: u32,
    pub(super) stop_after: Option<usize>,
    pub(super) fail_after: Option<usize>,
    pub(super) time_out_after: Option<usize>,
    pub(super) drop_after: Option<usize>,
    /// Streams whose device TLB never answers.
    pub(super) silent: Vec<u32>,
    /// How often a CMD_SYNC that failed for a device TLB fails once more.
    pub(super) time_outs_again: u32,
    /// Fetches of commands that are aborted.
    pub(super) aborts: usize,
    /// Messages of these are aborted.
    pub(super) aborted_messages: Vec<Source>,
    pub(super) fail_event_after: Option<usize>,
    /// Like events are merged where they may be.
    pub(super) merge: bool,
    /// What a record leaves UNKNOWN is not zero.
    pub(super) unknown: bool,
    /// A second request that stalls for the same reason gets no record.
    pub(super) suppress: bool,
    /// Nobody answers on the bus.
    pub(super) absent: bool,
}

impl Model {
    /// Changes of these CR0 bits are never acknowledged; with 0 those that wait are, at the next read of CR0ACK.
    pub fn never_acknowledge(&self, bits: u32) {
        self.lock().switches.never = bits;
    }

    /// As [`Model::never_acknowledge`], of IRQ_CTRL.
    pub fn never_acknowledge_irq(&self, bits: u32) {
        self.lock().switches.never_irq = bits;
    }

    /// Whether updates of GBPA never complete.
    pub fn never_update_gbpa(&self, never: bool) {
        self.lock().switches.never_gbpa = never;
    }

    /// From now on CR0, IRQ_CTRL and GBPA are acknowledged only after this many looks that still show the old state.
    pub fn acknowledge_after(&self, polls: u32) {
        self.lock().switches.polls = polls;
    }

    /// From now on commands are executed only after this many reads of CMDQ_CONS that show nothing new.
    pub fn execute_after(&self, polls: u32) {
        self.lock().switches.lag = polls;
    }

    /// From now on, of the invalidations between two CMD_SYNCs those of translations take effect first, and before those
    /// of the configuration do every stream whose STE is cached asks again for whatever was cached: commands between two
    /// CMD_SYNCs have no order, and devices do not wait.
    pub fn translations_first(&self, first: bool) {
        self.lock().switches.translations_first = first;
    }

    /// How the queue treats commands from now on; what waits is executed at once where it can be.
    pub fn set_queue(&self, queue: Queue) {
        let mut unit = self.lock();
        unit.switches.queue = queue;
        unit.switches.stop_after = None;
        drop(unit);
        self.settle();
    }

    /// The queue executes `n` more commands and then stops until [`Model::set_queue`].
    pub fn stop_queue_after(&self, n: usize) {
        self.lock().switches.stop_after = Some(n);
    }

    /// `n` more commands are taken, the next is refused with CERROR_ILL, for as long as it stands in its place; a
    /// CMD_SYNC only once.
    pub fn fail_command_after(&self, n: usize) {
        self.lock().switches.fail_after = Some(n);
    }

    /// `n` more CMD_ATC_INV are answered, the next is not: CERROR_ATC_INV_SYNC at the CMD_SYNC, and of the others before
    /// it nothing is sure.
    pub fn time_out_after(&self, n: usize) {
        self.lock().switches.time_out_after = Some(n);
    }

    /// This stream never answers an invalidation of its TLB, or does so again.
    pub fn set_unanswering(&self, sid: u32, never: bool) {
        let silent = &mut self.lock().switches.silent;
        silent.retain(|other| *other != sid);
        if never {
            silent.push(sid);
        }
    }

    /// The next CMD_SYNC that fails for a device TLB fails `n` more times after it was acknowledged: each device TLB is
    /// given up at its own time.
    pub fn time_out_again(&self, n: u32) {
        self.lock().switches.time_outs_again = n;
    }

    /// The next `n` fetches of a command are aborted: CERROR_ABT.
    pub fn abort_fetches(&self, n: usize) {
        self.lock().switches.aborts = n;
    }

    /// `n` more CMD_SYNCs report as they were asked to, the next is consumed and reports nothing, once: no message, no
    /// wire, no event for those who wait.
    pub fn drop_completion_after(&self, n: usize) {
        self.lock().switches.drop_after = Some(n);
    }

    /// When invalidations take effect from now on, and in which order.
    pub fn set_execution(&self, order: Execution) {
        let switches = &mut self.lock().switches;
        switches.execution = order;
        if let Execution::Shuffled(seed) = order {
            switches.random = Random::new(seed);
        }
    }

    /// Sets or removes what is called before each command takes effect, a CMD_SYNC when it is consumed.
    ///
    /// Set while no other thread uses the unit: while it runs, commands of others take effect without it.
    pub fn on_command(&self, hook: Option<Hook>) {
        self.set_hook(hook);
    }

    /// From now on a CMD_SYNC is consumed only after this many looks: at CMDQ_CONS, or at the memory's clock, which
    /// stands for a look at its message. What is before it takes effect no sooner, but with [`Execution::Queued`].
    pub fn report_after(&self, looks: u32) {
        self.lock().switches.sync_looks = looks;
        // Weak: the memory outlives its units, and belongs to them.
        let unit = Arc::downgrade(self.unit());
        let ticker: Ticker = Box::new(move || {
            if let Some(unit) = unit.upgrade() {
                let mut unit = unit.lock();
                if !unit.switches.absent {
                    unit.look_at_sync();
                    unit.run_queue();
                }
            }
        });
        self.memory().set_ticker((looks != 0).then_some(ticker));
    }

    /// Whether the messages of this source are aborted: GERROR says so. That of a global error raises no interrupt.
    pub fn abort_messages(&self, source: Source, abort: bool) {
        let aborted = &mut self.lock().switches.aborted_messages;
        aborted.retain(|other| *other != source);
        if abort {
            aborted.push(source);
        }
    }

    /// Whether messages of CMD_SYNCs do not arrive from now on: GERROR.MSI_CMDQ_ABT_ERR.
    pub fn lose_messages(&self, lose: bool) {
        self.abort_messages(Source::Sync, lose);
    }

    /// `n` more records are written into the event queue, the write of the next is aborted, once: it is lost, and none
    /// follows until EVENTQ_ABT_ERR is acknowledged.
    pub fn fail_event_after(&self, n: usize) {
        self.lock().switches.fail_event_after = Some(n);
    }

    /// Whether events that differ in bits 11:0 of the address only are merged, as long as nobody consumed the first:
    /// those of streams with STE.MEV, and those that no STE was found for.
    pub fn merge_events(&self, merge: bool) {
        self.lock().switches.merge = merge;
    }

    /// Whether fields that a record leaves UNKNOWN hold something: SubstreamID with SSV clear, IPA with S2 clear.
    pub fn fill_unknown(&self, fill: bool) {
        self.lock().switches.unknown = fill;
    }

    /// Whether a request that stalls in the same page for the same reason as one that waits already gets no record: it is
    /// tried again when the first is answered.
    pub fn suppress_stalls(&self, suppress: bool) {
        self.lock().switches.suppress = suppress;
    }

    /// The unit enters Service Failure Mode for good: SFM_ERR, every request is aborted, no command is consumed and no
    /// event recorded.
    pub fn enter_failure_mode(&self) {
        let mut unit = self.lock();
        unit.failed = true;
        unit.global_error(1 << 8);
    }

    /// Makes the errors of these bits in GERROR active now.
    pub fn raise_error(&self, bits: u32) {
        self.lock().global_error(bits);
    }

    /// Puts a record into the event queue; whether there was room.
    pub fn put_event(&self, raw: [u64; 4]) -> bool {
        self.lock().put(raw)
    }

    /// Whether the unit has gone from the bus: registers read all ones, writes go nowhere.
    pub fn set_absent(&self, absent: bool) {
        self.lock().switches.absent = absent;
    }
}
