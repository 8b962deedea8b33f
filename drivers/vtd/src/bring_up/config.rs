//! What an embedder tells a unit.

use core::time::Duration;

/// What an embedder tells a unit.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Width of host physical addresses in bits: the DMAR table's host address width.
    pub host_bits: u8,
    /// How long any single answer of the hardware is waited for.
    pub timeout: Duration,
}

impl Default for Config {
    /// 48 bits, one second.
    fn default() -> Self {
        Self { host_bits: 48, timeout: Duration::from_secs(1) }
    }
}
