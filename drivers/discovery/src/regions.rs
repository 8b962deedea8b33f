//! What must be done in every address space that a function is attached to: firmware's reserved regions mapped to
//! themselves, and the interrupt range of x86 kept free.
//!
//! [`required_regions`] gives both as the core wants them: an embedder hands the result to
//! [`DeviceConfig::regions`](iommu_core::device::DeviceConfig::regions).

use crate::dmar::Dmar;
use crate::fallible::{OutOfMemory, try_collect, try_push};
use crate::sbdf::Sbdf;
use crate::scope::reserved_regions;
use crate::topology::Topology;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::Prot;
use iommu_core::region::{RegionKind, ReservedRegion};

/// First and last address of the range where every write of a device is an interrupt, on x86.
const INTERRUPTS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

/// Why a function cannot be given away: firmware wants of it what cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RegionError {
    /// A reserved region lies in the interrupt range, which is never translated.
    Interrupts {
        /// The region, joined with those that it touches.
        region: IovaRange,
    },
    /// A reserved region ends beyond the host's physical addresses.
    BeyondHost {
        /// The region, joined with those that it touches.
        region: IovaRange,
        /// Width of those addresses, in bits.
        bits: u8,
    },
    /// No memory for the result.
    OutOfMemory,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupts { region } => write!(f, "reserved region {region} lies in the interrupt range"),
            Self::BeyondHost { region, bits } => {
                write!(f, "reserved region {region} lies beyond the host's {bits} address bits")
            }
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for RegionError {}

impl From<OutOfMemory> for RegionError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// All that the surroundings of `function` ask of an address space: the interrupt range, and each of its
/// [reserved regions](reserved_regions) as one that must be mapped to itself for reading and writing. In rising order; what
/// overlaps or touches is joined, so that no two share an address.
///
/// # Errors
///
/// [`RegionError`]: the function must not be given away.
pub fn required_regions(dmar: &Dmar, topology: &Topology, function: Sbdf) -> Result<Vec<ReservedRegion>, RegionError> {
    let ranges = reserved_regions(dmar, topology, function)
        .filter_map(|rmrr| IovaRange::new(Iova::new(rmrr.start.get()), Iova::new(rmrr.last.get())));
    let mut ranges = try_collect(ranges)?;
    ranges.sort_unstable_by_key(|range| range.start());
    let interrupts = IovaRange::new(Iova::new(INTERRUPTS.0), Iova::new(INTERRUPTS.1));
    let direct = RegionKind::Direct { prot: Prot::READ_WRITE };
    let mut regions: Vec<ReservedRegion> = Vec::new();
    for range in ranges {
        match regions.last_mut() {
            Some(last) if last.range.overlaps(range) || last.range.is_followed_by(range) => {
                last.range = last.range.union(range);
            }
            _ => try_push(&mut regions, ReservedRegion { range, kind: direct })?,
        }
    }
    let bits = dmar.host_address_bits();
    for region in &regions {
        let range = region.range;
        if interrupts.is_some_and(|interrupts| interrupts.overlaps(range)) {
            return Err(RegionError::Interrupts { region: range });
        }
        if range.last().get().checked_shr(bits.into()).is_some_and(|above| above != 0) {
            return Err(RegionError::BeyondHost { region: range, bits });
        }
    }
    if let Some(range) = interrupts {
        try_push(&mut regions, ReservedRegion { range, kind: RegionKind::Msi })?;
        regions.sort_unstable_by_key(|region| region.range.start());
    }
    Ok(regions)
}

#[cfg(test)]
mod tests;
