//! The MCFG table (PCI Firmware Specification section 4.1.2): where the configuration space of each segment lies.
//!
//! Only reads the table; access to configuration space is the embedder's.

mod error;

pub use error::McfgError;

use crate::bytes::Bytes;
use crate::fallible::try_push;
use crate::table;
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::RequesterId;

/// Length of header and reserved bytes, before the first entry.
const FIXED_LEN: usize = 44;
const ENTRY_LEN: usize = 16;

/// Configuration space of one bus, in bytes.
const BUS_BYTES: u64 = 1 << 20;
/// Configuration space of one function, in bytes.
const FUNCTION_BYTES: u64 = 1 << 12;

/// The memory-mapped configuration space of a range of buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EcamRegion {
    /// PCI segment group.
    pub segment: u16,
    /// Where the configuration space of *bus 0* would begin, even where `start_bus` is higher; a multiple of 1 MiB.
    pub base: PhysAddr,
    /// First bus.
    pub start_bus: u8,
    /// Last bus, inclusive; not below `start_bus`.
    pub end_bus: u8,
}

impl EcamRegion {
    /// First byte of the region that is there.
    pub const fn start(&self) -> PhysAddr {
        self.base.wrapping_add(self.start_bus as u64 * BUS_BYTES)
    }

    /// Length of the region that is there, in bytes.
    pub const fn len_bytes(&self) -> u64 {
        // Checked when parsed; saturating, because the fields are public.
        ((self.end_bus as u64 + 1) * BUS_BYTES).saturating_sub(self.start_bus as u64 * BUS_BYTES)
    }

    /// Where the 4 KiB of configuration space of `id` lie; `None` where its bus is not in this region.
    pub fn config_space(&self, id: RequesterId) -> Option<PhysAddr> {
        let here = (self.start_bus..=self.end_bus).contains(&id.bus());
        // Bus in bits 27:20, device in 19:15, function in 14:12: the requester id times 4 KiB.
        if here { self.base.checked_add(u64::from(id.get()) * FUNCTION_BYTES) } else { None }
    }
}

/// What the MCFG table says, checked and owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mcfg {
    regions: Vec<EcamRegion>,
}

impl Mcfg {
    /// Reads the table that `bytes` begins with; `bytes` may go on after it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its offset: see [`McfgError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, McfgError> {
        let mut rest = table::checked(bytes, *b"MCFG", FIXED_LEN)?.from(FIXED_LEN)?;
        let mut regions = Vec::new();
        while rest.len() > 0 {
            let offset = rest.start();
            let entry = rest.part(0, ENTRY_LEN).map_err(|_| McfgError::TrailingBytes { offset, count: rest.len() })?;
            let region = parse_entry(entry)?;
            if let Some(other) = regions.iter().find(|other| overlap(other, &region)) {
                return Err(McfgError::Overlap {
                    offset,
                    segment: region.segment,
                    bus: other.start_bus.max(region.start_bus),
                });
            }
            try_push(&mut regions, region)?;
            rest = rest.from(ENTRY_LEN)?;
        }
        Ok(Self { regions })
    }

    /// The regions, in table order.
    pub fn regions(&self) -> &[EcamRegion] {
        &self.regions
    }
}

fn parse_entry(entry: Bytes<'_>) -> Result<EcamRegion, McfgError> {
    let offset = entry.start();
    let (base, start_bus, end_bus) = (entry.u64(0)?, entry.u8(10)?, entry.u8(11)?);
    if start_bus > end_bus {
        return Err(McfgError::BusesReversed { offset, start: start_bus, end: end_bus });
    }
    if base % BUS_BYTES != 0 {
        return Err(McfgError::BaseMisaligned { offset, base });
    }
    // Nothing decodes at address zero, and nothing beyond 2^64.
    let last = base.checked_add((u64::from(end_bus) + 1) * BUS_BYTES - 1);
    if base == 0 || last.is_none() {
        return Err(McfgError::BaseOutOfRange { offset, base });
    }
    Ok(EcamRegion { segment: entry.u16(8)?, base: PhysAddr::new(base), start_bus, end_bus })
}

fn overlap(a: &EcamRegion, b: &EcamRegion) -> bool {
    a.segment == b.segment && a.start_bus <= b.end_bus && b.start_bus <= a.end_bus
}

#[cfg(test)]
mod tests;
