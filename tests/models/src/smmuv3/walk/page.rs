//! Armv8 translation tables, 4 KiB granule.

use super::{FaultCode, Policy};

/// One half of the addresses of stage 1.
#[derive(Clone, Copy)]
pub(super) struct Half {
    pub(super) table: u64,
    pub(super) input_bits: u32,
    /// The level of the top table.
    pub(super) level: u8,
    /// HAD: permissions in table descriptors are ignored.
    pub(super) flat: bool,
}

/// Stage 1, as a CD describes it.
#[derive(Clone, Copy)]
pub(super) struct Stage1 {
    /// TTB0; `None` with EPD0.
    pub(super) low: Option<Half>,
    /// TTB1; `None` with EPD1.
    pub(super) high: Option<Half>,
    pub(super) output_bits: u32,
    pub(super) asid: u16,
    pub(super) el2: bool,
    /// Requests are privileged.
    pub(super) privileged: bool,
    /// Access flags are not looked at.
    pub(super) no_access_flag: bool,
    pub(super) policy: Policy,
}

/// Stage 2, as an STE describes it.
#[derive(Clone, Copy)]
pub(super) struct Stage2 {
    pub(super) table: u64,
    pub(super) level: u8,
    pub(super) input_bits: u32,
    pub(super) output_bits: u32,
    pub(super) vmid: u16,
    pub(super) no_access_flag: bool,
    pub(super) policy: Policy,
}

/// A leaf that was found.
#[derive(Clone, Copy)]
pub(super) struct Leaf {
    pub(super) descriptor: u64,
    /// Where it leads.
    pub(super) output: u64,
    pub(super) level: u8,
    /// What table descriptors on the way forbid: bits 62:59.
    pub(super) forbidden: u64,
}

impl Leaf {
    pub(super) const fn size(&self) -> u64 {
        size(self.level)
    }
}

/// Bytes below an entry of `level`.
pub(super) const fn size(level: u8) -> u64 {
    1 << (39 - 9 * level as u32)
}

impl Stage1 {
    /// The tables for `iova`; `None` where there are none.
    pub(super) fn half(&self, iova: u64) -> Option<Half> {
        let low = self.low.filter(|half| iova >> half.input_bits == 0);
        let high = self.high.filter(|half| iova >> half.input_bits == u64::MAX >> half.input_bits);
        low.or(high)
    }
}

/// Walks from `table` of `level` down to the leaf for `input`. `entry` reads the descriptor at an address.
pub(super) fn walk<E: From<FaultCode>>(
    table: u64,
    level: u8,
    input_bits: u32,
    output_bits: u32,
    input: u64,
    mut entry: impl FnMut(u8, u64) -> Result<u64, E>,
) -> Result<Leaf, E> {
    let (mut table, mut forbidden) = (table, 0);
    // The top table may hold fewer entries, or be several side by side.
    let mut index = (input & u64::MAX >> (64 - input_bits)) / size(level);
    for level in level..=3 {
        let descriptor = entry(level, table + index * 8)?;
        let valid = descriptor & 1 != 0;
        let is_table = level < 3 && descriptor & 2 != 0;
        // At level 0 there are no blocks, at level 3 only pages.
        let is_leaf = if level == 3 { descriptor & 2 != 0 } else { level != 0 && descriptor & 2 == 0 };
        if !valid || !is_table && !is_leaf {
            return Err(FaultCode::F_TRANSLATION.into());
        }
        let address = descriptor & 0x000f_ffff_ffff_f000;
        // Bits 51:48 are reserved without 52-bit addresses.
        if address >> output_bits.min(48) != 0 {
            return Err(FaultCode::F_ADDR_SIZE.into());
        }
        if is_leaf {
            return Ok(Leaf { descriptor, output: address & !(size(level) - 1), level, forbidden });
        }
        forbidden |= descriptor & 0xf << 59;
        table = address;
        index = (input / size(level + 1)) & 0x1ff;
    }
    unreachable!("level 3 is a leaf or refused")
}
