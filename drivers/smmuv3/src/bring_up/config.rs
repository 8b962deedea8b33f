//! What an embedder tells a unit.

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
    /// Width in bits of the stream ids to serve. The unit's own width is used where that is less. Streams beyond are
    /// blocked for ever.
    pub stream_bits: u8,
    /// How the driver learns that commands are done.
    pub completion: Completion,
}

impl Default for Config {
    /// 48 bits of address, one second, coherency as the unit says, 16 bits of stream id: one PCI segment; completions are polled for.
    fn default() -> Self {
        Self {
            host_bits: 48,
            timeout: Duration::from_secs(1),
            coherent: None,
            stream_bits: 16,
            completion: Completion::Poll,
        }
    }
}
