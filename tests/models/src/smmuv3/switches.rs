//! What a test turns on and off: everything that hardware may do late, otherwise, or never.

use super::model::Model;
use alloc::vec::Vec;

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
    /// Streams whose device TLBs never answer.
    pub(super) silent: Vec<u32>,
    /// How often a CMD_SYNC that failed for a device TLB fails once more.
    pub(super) time_outs_again: u32,
    /// Fetches of commands that are aborted.
    pub(super) aborts: usize,
    /// Messages of CMD_SYNCs do not arrive.
    pub(super) lose_messages: bool,
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
        unit.run_queue();
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

    /// `n` more CMD_ATC_INV are answered, the next is not: CERROR_ATC_INV_SYNC at the CMD_SYNC.
    pub fn time_out_after(&self, n: usize) {
        self.lock().switches.time_out_after = Some(n);
    }

    /// This stream never answers an invalidation of its device TLB, or does so again.
    pub fn set_unanswering(&self, sid: u32, never: bool) {
        let silent = &mut self.lock().switches.silent;
        silent.retain(|other| *other != sid);
        if never {
            silent.push(sid);
        }
    }

    /// The next CMD_SYNC that fails for a device TLB fails `n` more times after it was acknowledged: each device TLB is given
    /// up at its own time.
    pub fn time_out_again(&self, n: u32) {
        self.lock().switches.time_outs_again = n;
    }

    /// The next `n` fetches of a command are aborted: CERROR_ABT.
    pub fn abort_fetches(&self, n: usize) {
        self.lock().switches.aborts = n;
    }

    /// Whether messages of CMD_SYNCs do not arrive from now on: GERROR.MSI_CMDQ_ABT_ERR.
    pub fn lose_messages(&self, lose: bool) {
        self.lock().switches.lose_messages = lose;
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
