//! The state of a unit, behind the model's lock.

use super::cache::Caches;
use super::command::{Command, Executed};
use super::config::Config;
use super::control::Acknowledged;
use super::dma::Fetching;
use super::event::Event;
use super::interrupt::{Interrupt, MessageConfig};
use super::queue::Ring;
use super::switches::Switches;
use super::violation::Violation;
use super::walk::Tables;
use crate::memory::TestMemory;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Registers, caches and log. Its methods live with their subjects: control, queue, event, dma, registers.
pub(super) struct Unit {
    pub(super) config: Config,
    pub(super) memory: Arc<TestMemory>,
    pub(super) switches: Switches,

    /// CR0 and CR0ACK.
    pub(super) cr0: Acknowledged,
    pub(super) cr1: u32,
    pub(super) cr2: u32,
    /// GBPA without UPDATE, as it is in force.
    pub(super) gbpa: u32,
    /// What an update that is under way brings, and looks at GBPA before it does.
    pub(super) gbpa_next: Option<(u32, u32)>,
    /// IRQ_CTRL and IRQ_CTRLACK.
    pub(super) irq: Acknowledged,
    pub(super) gerror: u32,
    pub(super) gerrorn: u32,
    /// GERROR, EVENTQ and PRIQ _IRQ_CFG0..2.
    pub(super) messages: [MessageConfig; 3],

    /// STRTAB_BASE and STRTAB_BASE_CFG.
    pub(super) tables: Tables,
    pub(super) commands: Ring,
    pub(super) events: Ring,
    pub(super) requests: Ring,
    /// CMDQ_CONS.ERR as it was set last.
    pub(super) command_error: u32,
    /// Looks at CMDQ_CONS before commands are executed.
    pub(super) lag: u32,
    /// A command that was refused on demand, and is until it is another.
    pub(super) refused: Option<(u32, [u64; 2])>,
    /// Invalidations that were executed and take effect at the next CMD_SYNC.
    pub(super) deferred: Vec<Command>,
    /// An ATC_INV that was not answered.
    pub(super) timing_out: bool,
    /// What caches may hold from before reset: configuration, translations, those of EL2.
    pub(super) unknown: [bool; 3],

    pub(super) caches: Caches,
    pub(super) fetching: Fetching,
    pub(super) log: Vec<Executed>,
    pub(super) recorded: Vec<Event>,
    pub(super) interrupts: Vec<Interrupt>,
    pub(super) violations: Vec<Violation>,
}

impl Unit {
    pub(super) fn new(config: Config, memory: Arc<TestMemory>) -> Self {
        Self {
            config,
            memory,
            switches: Switches::default(),
            cr0: Acknowledged::default(),
            cr1: 0,
            cr2: 0,
            gbpa: config.gbpa,
            gbpa_next: None,
            irq: Acknowledged::default(),
            gerror: 0,
            gerrorn: 0,
            messages: [MessageConfig::default(); 3],
            tables: Tables { base: 0, config: 0 },
            commands: Ring::default(),
            events: Ring::default(),
            requests: Ring::default(),
            command_error: 0,
            lag: 0,
            refused: None,
            deferred: Vec::new(),
            timing_out: false,
            unknown: [true, true, config.has(Config::HYP)],
            caches: Caches::default(),
            fetching: Fetching::default(),
            log: Vec::new(),
            recorded: Vec::new(),
            interrupts: Vec::new(),
            violations: Vec::new(),
        }
    }
}
