//! What must be done in every address space that a function is attached to: firmware's reserved regions mapped to
//! themselves, and the addresses of interrupts kept free: the interrupt range of x86, the doorbells of Arm.
//!
//! [`required_regions`] (VT-d) and [`required_regions_smmu`] give all as the core wants them: an embedder hands the result
//! to [`DeviceConfig::regions`](iommu_core::device::DeviceConfig::regions).
//!
//! # Doorbells on Arm
//!
//! A message of a device behind an SMMU is translated like every other write, so the doorbell's page must be mapped for it to
//! arrive, and the address is software's choice: a [`RegionKind::SoftwareMsi`], here at the doorbell's own address, so that a
//! mapping to itself is always possible. On a unit that lets messages of PCI functions pass untranslated
//! ([`Model::HiSiliconHi161x`]) it is a [`RegionKind::Msi`].

use crate::dmar::Dmar;
use crate::fallible::{OutOfMemory, try_collect, try_push};
use crate::sbdf::Sbdf;
use crate::scope::reserved_regions;
use crate::streams::{Model, PlatformDevice, StreamRange, Streams, Uncontrolled};
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
    /// A reserved region lies where nothing may be mapped: at a doorbell, or at addresses that are to be kept free.
    Conflict {
        /// The region, joined with those that it touches.
        region: IovaRange,
    },
    /// No unit sees the DMA of a function, which therefore reaches all memory.
    Uncontrolled {
        /// The function, or what it is seen as.
        function: Sbdf,
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
            Self::Conflict { region } => write!(f, "reserved region {region} lies where nothing may be mapped"),
            Self::Uncontrolled { function } => Uncontrolled(*function).fmt(f),
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
    let direct = RegionKind::Direct { prot: Prot::READ_WRITE };
    let regions = reserved_regions(dmar, topology, function)
        .filter_map(|rmrr| IovaRange::new(Iova::new(rmrr.start.get()), Iova::new(rmrr.last.get())))
        .map(|range| ReservedRegion { range, kind: direct });
    let mut regions = joined(try_collect(regions)?)?;
    let interrupts = IovaRange::new(Iova::new(INTERRUPTS.0), Iova::new(INTERRUPTS.1));
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

/// All that the surroundings of `function` ask of an address space, on a machine with SMMUv3: memory that firmware keeps for
/// any stream that it has, the doorbells of its messages, and what must be kept free. In rising order; what overlaps is
/// joined, so that no two share an address, and where memory may be remapped only in part it may not at all.
///
/// # Errors
///
/// [`RegionError`]: the function must not be given away.
pub fn required_regions_smmu(
    streams: &Streams,
    topology: &Topology,
    function: Sbdf,
) -> Result<Vec<ReservedRegion>, RegionError> {
    let mut all = Vec::new();
    for id in topology.aliases(function) {
        let seen_as = Sbdf::new(function.segment, id);
        let (unit, stream) =
            streams.of(seen_as).map_err(|Uncontrolled(function)| RegionError::Uncontrolled { function })?;
        for region in streams.reserved_for(unit, stream) {
            try_push(&mut all, region)?;
        }
        let Some(msi) = streams.msi_of(seen_as) else { continue };
        let passes = streams.units().get(unit).is_some_and(|unit| unit.model == Model::HiSiliconHi161x);
        let kind = if passes { RegionKind::Msi } else { RegionKind::SoftwareMsi };
        for page in streams.doorbells(msi.group) {
            if let Some(range) = IovaRange::from_len(Iova::new(page.start.get()), page.len) {
                try_push(&mut all, ReservedRegion { range, kind })?;
            }
        }
    }
    joined(all)
}

/// All that the surroundings of a device that is no PCI function ask of an address space: as for [`required_regions_smmu`],
/// without doorbells.
///
/// # Errors
///
/// [`RegionError`]: the device must not be given away.
pub fn required_regions_of_device(
    streams: &Streams,
    device: &PlatformDevice,
) -> Result<Vec<ReservedRegion>, RegionError> {
    let mut all = Vec::new();
    for memory in streams.reserved() {
        let used = |own: &StreamRange| memory.users.iter().any(|range| range.overlaps(own));
        if device.streams.iter().any(used) {
            for region in &memory.regions {
                try_push(&mut all, *region)?;
            }
        }
    }
    joined(all)
}

/// `regions` in rising order, no two of which have an address in common, nor of one kind touch.
fn joined(mut regions: Vec<ReservedRegion>) -> Result<Vec<ReservedRegion>, RegionError> {
    regions.sort_unstable_by_key(|region| region.range.start());
    let mut apart: Vec<ReservedRegion> = Vec::new();
    for region in regions {
        match apart.last_mut() {
            Some(last) if last.range.overlaps(region.range) => {
                let range = last.range.union(region.range);
                let kind = both(last.kind, region.kind).ok_or(RegionError::Conflict { region: range })?;
                *last = ReservedRegion { range, kind };
            }
            Some(last) if last.range.is_followed_by(region.range) && last.kind == region.kind => {
                last.range = last.range.union(region.range);
            }
            _ => try_push(&mut apart, region)?,
        }
    }
    Ok(apart)
}

/// What holds of addresses of which both is said; `None` where that cannot be.
fn both(one: RegionKind, other: RegionKind) -> Option<RegionKind> {
    use RegionKind::{Direct, DirectRelaxable, Msi, Reserved, SoftwareMsi};
    match (one, other) {
        (Direct { prot: a } | DirectRelaxable { prot: a }, Direct { prot: b } | DirectRelaxable { prot: b }) => {
            let prot = Prot { read: a.read || b.read, write: a.write || b.write };
            let relaxable = matches!((one, other), (DirectRelaxable { .. }, DirectRelaxable { .. }));
            Some(if relaxable { DirectRelaxable { prot } } else { Direct { prot } })
        }
        (Reserved | Msi | SoftwareMsi, Reserved | Msi | SoftwareMsi) => Some(if one == other {
            one
        } else if matches!((one, other), (Msi, _) | (_, Msi)) {
            Msi
        } else {
            Reserved
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
