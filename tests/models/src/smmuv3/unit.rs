//! The state of a unit, behind the model's lock.

use super::cache::Caches;
use super::command::Executed;
use super::config::Config;
use super::control::Acknowledged;
use super::device_tlb::DeviceTlbs;
use super::dma::Fetching;
use super::event::Event;
use super::interrupt::{Interrupt, MessageConfig};
use super::queue::{QueueState, Ring};
use super::stall::{Held, Resumed};
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
    pub(super) queue: QueueState,
    /// Service Failure Mode.
    pub(super) failed: bool,
    /// What caches may hold from before reset: configuration, translations, those of EL2.
    pub(super) unknown: [bool; 3],

    pub(super) caches: Caches,
    pub(super) fetching: Fetching,
    pub(super) device_tlbs: DeviceTlbs,
    /// Requests that wait for an answer.
    pub(super) stalled: Vec<Held>,
    pub(super) resumed: Vec<Resumed>,
    /// Nothing is recorded of what is tried.
    pub(super) quiet: bool,
    /// The last record, but for the lowest bits of its address, where another like it may be merged with it.
    pub(super) last_event: Option<[u64; 4]>,
    /// Events sent to waiting CPUs.
    pub(super) wake_ups: usize,
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
            queue: QueueState::default(),
            failed: false,
            unknown: [true, true, config.has(Config::HYP)],
            caches: Caches::default(),
            fetching: Fetching::default(),
            device_tlbs: DeviceTlbs::default(),
            stalled: Vec::new(),
            resumed: Vec::new(),
            quiet: false,
            last_event: None,
            wake_ups: 0,
            log: Vec::new(),
            recorded: Vec::new(),
            interrupts: Vec::new(),
            violations: Vec::new(),
        }
    }
}
