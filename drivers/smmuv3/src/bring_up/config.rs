//! What an embedder tells a unit.

use crate::capabilities::Granule;
use crate::fault::Interrupts;
use crate::queue::Completion;
use core::time::Duration;

/// What an embedder tells a unit.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Width of host physical addresses in bits. The unit's own width is used where that is less.
    pub host_bits: u8,
    /// How long any single answer of the hardware is waited for.
    pub timeout: Duration,
    /// Whether the unit snoops the CPUs' caches when it reads and writes its structures: what firmware says (the
    /// `dma-coherent` property, or the IORT node's COHACC override); `None` for what SMMU_IDR0.COHACC says.
    pub coherent: Option<bool>,
    /// Whether the unit writes access flags (1) and what was written (2) into page tables, or neither (0): what firmware says
    /// (the IORT node's HTTU override); `None` for what SMMU_IDR0.HTTU says.
    pub httu: Option<u8>,
    /// Width in bits of the stream ids to serve. The unit's own width is used where that is less. Streams beyond are
    /// blocked for ever.
    pub stream_bits: u8,
    /// Width in bits of the PASIDs to serve. The unit's own width is used where that is less.
    pub pasid_bits: u8,
    /// Granule of all page tables; `None` for the smallest that the unit has.
    pub granule: Option<Granule>,
    /// How the driver learns that commands are done.
    pub completion: Completion,
    /// Events that the event queue has room for, as a power of two. The unit's own limit, and 1024 events, are the most.
    pub event_queue_log2: u8,
    /// How the unit tells of events and errors, from the first one on.
    pub interrupts: Interrupts,
    /// The registers of page 1 are in page 0, as on Cavium's CN99xx (erratum 74): what firmware says (IORT's model, or the
    /// `cavium,cn9900-broken-page1-regspace` property).
    pub one_page: bool,
}

impl Default for Config {
    /// 48 bits of address, one second, coherency and updates of page tables as the unit says, 16 bits of stream id: one PCI
    /// segment; 20 bits of PASID; the smallest granule; completions are polled for, and so are up to 1024 events.
    fn default() -> Self {
        Self {
            host_bits: 48,
            timeout: Duration::from_secs(1),
            coherent: None,
            httu: None,
            stream_bits: 16,
            pasid_bits: 20,
            granule: None,
            completion: Completion::Poll,
            event_queue_log2: 10,
            interrupts: Interrupts::Polled,
            one_page: false,
        }
    }
}
