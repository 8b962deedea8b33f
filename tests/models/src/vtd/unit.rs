//! The state of a unit, behind the model's lock.

use super::cache::Caches;
use super::command::Pending;
use super::config::Config;
use super::descriptor::Executed;
use super::device_tlb::DeviceTlbs;
use super::dma::Fetching;
use super::drain::Draining;
use super::fault::Event;
use super::model::Message;
use super::protection::Protection;
use super::queue::QueueState;
use super::register_invalidation::RegisterInvalidation;
use super::switches::Switches;
use super::violation::Violation;
use crate::memory::TestMemory;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Registers, caches and log. Its methods live with their subjects: command, queue, fault, dma, registers.
pub(super) struct Unit {
    pub(super) config: Config,
    pub(super) memory: Arc<TestMemory>,
    pub(super) switches: Switches,

    /// Levels of GCMD as last written.
    pub(super) commanded: u32,
    pub(super) pending: Pending,
    /// GSTS.
    pub(super) status_bits: u32,
    /// RTADDR as written, which does nothing.
    pub(super) rtaddr: u64,
    /// RTADDR as latched by SRTP.
    pub(super) root: u64,
    /// IRTA as written.
    pub(super) irta: u64,

    /// IQA as written.
    pub(super) iqa: u64,
    pub(super) queue: QueueState,
    /// IQERCD.
    pub(super) error_record: u64,
    /// Source id of a device whose TLB does not answer.
    pub(super) timing_out: Option<u16>,
    /// ICS.IWC.
    pub(super) wait_done: bool,
    pub(super) completion_event: Event,

    /// FSTS but for PPF and FRI.
    pub(super) status: u32,
    /// FSTS.FRI.
    pub(super) first_record: u8,
    /// FRCD.
    pub(super) records: Vec<[u64; 2]>,
    /// Where the next fault goes.
    pub(super) next_record: usize,
    pub(super) fault_event: Event,
    /// Page requests are not modelled, so that it never occurs.
    pub(super) page_request_event: Event,

    pub(super) fetching: Fetching,
    pub(super) by_register: RegisterInvalidation,
    pub(super) protection: Protection,

    pub(super) caches: Caches,
    pub(super) device_tlbs: DeviceTlbs,
    pub(super) draining: Draining,
    pub(super) log: Vec<Executed>,
    pub(super) messages: Vec<Message>,
    pub(super) violations: Vec<Violation>,
}

impl Unit {
    pub(super) fn new(config: Config, memory: Arc<TestMemory>) -> Self {
        let masked = || Event { masked: true, ..Event::default() };
        Self {
            config,
            memory,
            switches: Switches::default(),
            commanded: 0,
            pending: Pending::default(),
            status_bits: 0,
            rtaddr: 0,
            root: 0,
            irta: 0,
            iqa: 0,
            queue: QueueState::default(),
            error_record: 0,
            timing_out: None,
            wait_done: false,
            completion_event: masked(),
            status: 0,
            first_record: 0,
            records: alloc::vec![[0; 2]; config.fault_records()],
            next_record: 0,
            fault_event: masked(),
            page_request_event: masked(),
            fetching: Fetching::default(),
            by_register: RegisterInvalidation::default(),
            protection: Protection::default(),
            caches: Caches::default(),
            device_tlbs: DeviceTlbs::default(),
            draining: Draining::default(),
            log: Vec::new(),
            messages: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Where a switch asks for it, now and then an entry of each cache is lost.
    pub(super) fn lose_entries(&mut self) {
        if let Some(one_in) = self.switches.evict
            && self.switches.random.below(one_in) == 0
        {
            self.caches.evict(&mut self.switches.random);
        }
    }
}
