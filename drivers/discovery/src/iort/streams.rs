//! Which unit sees which function, under which stream id: nodes put together.

use super::{IdMapping, Iort, IortError, MappingTarget, RmrDescriptor, RootComplex, SmmuV3};
use crate::fallible::{try_collect, try_push};
use crate::madt::Madt;
use crate::name::copied;
use crate::streams::{
    Host, IdMap, IdRange, Msi, PlatformDevice, ReservedMemory, Smmu, StreamRange, Streams, shared_requester,
};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::{Prot, StreamId};
use iommu_core::region::{RegionKind, ReservedRegion};

/// The last requester id there is.
const LAST_REQUESTER: u32 = 0xffff;

/// Widest PASIDs there are, in bits.
const PASID_BITS: u8 = 20;

impl Streams {
    /// Puts the nodes of an IORT together, and checks that they fit. `madt` says where interrupt translation services are;
    /// without it they have no [doorbells](Streams::doorbells).
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: [`IortError::OverlappingIds`], [`IortError::SameRequesters`],
    /// [`IortError::SharedStreams`], [`IortError::UnknownService`], [`IortError::OutOfMemory`].
    pub fn from_iort(iort: &Iort, madt: Option<&Madt>) -> Result<Self, IortError> {
        let mut units = Vec::new();
        let mut unit_msis = Vec::new();
        for smmu in &iort.smmus {
            try_push(&mut units, unit(smmu))?;
            try_push(&mut unit_msis, device_ids(smmu)?)?;
        }
        Ok(Self {
            units,
            unit_msis,
            hosts: hosts(iort)?,
            devices: devices(iort)?,
            reserved: reserved(iort)?,
            doorbells: doorbells(iort, madt)?,
        })
    }
}

fn unit(smmu: &SmmuV3) -> Smmu {
    let mapping = smmu.msi_mapping.and_then(|index| smmu.mappings.get(index));
    let msi = mapping.and_then(|mapping| match mapping.target {
        MappingTarget::ItsGroup(group) => Some(Msi { group, device_id: mapping.output }),
        MappingTarget::Smmu(_) | MappingTarget::Other => None,
    });
    Smmu {
        registers: smmu.registers,
        coherent: smmu.coherent,
        updates: Some(smmu.updates),
        model: smmu.model,
        interrupts: smmu.interrupts,
        msi,
        proximity_domain: smmu.proximity_domain,
    }
}

/// Stream to device id. Mappings for a single id are of the unit itself, and of no stream.
fn device_ids(smmu: &SmmuV3) -> Result<IdMap, IortError> {
    let ranges = smmu.mappings.iter().filter(|mapping| !mapping.single).map(|mapping| range(mapping, u32::MAX));
    let ranges = apart(try_collect(ranges)?, smmu.offset)?;
    map(only(&ranges, |target| matches!(target, MappingTarget::ItsGroup(_)))?, smmu.offset)
}

/// The root complexes, with no stream of two requesters.
fn hosts(iort: &Iort) -> Result<Vec<Host>, IortError> {
    // Each with its ranges, which leave what they share before they become maps.
    let mut complexes: Vec<(&RootComplex, Vec<Ranged>)> = Vec::new();
    for complex in &iort.root_complexes {
        // Of ids beyond a requester's nothing comes.
        let below = complex.mappings.iter().filter(|mapping| mapping.single || mapping.first <= LAST_REQUESTER);
        let ranges = try_collect(below.map(|mapping| range(mapping, LAST_REQUESTER)))?;
        try_push(&mut complexes, (complex, apart(ranges, complex.offset)?))?;
    }
    unshare(&mut complexes, iort)?;
    let mut hosts: Vec<Host> = Vec::new();
    for (complex, ranges) in &complexes {
        let offset = complex.offset;
        let host = Host {
            segment: complex.segment,
            first_bus: 0,
            last_bus: u8::MAX,
            ats: complex.ats,
            page_requests: complex.page_requests,
            pasid_bits: Some(complex.pasid_bits.min(PASID_BITS)),
            streams: map(only(ranges, |target| matches!(target, MappingTarget::Smmu(_)))?, offset)?,
            msis: map(only(ranges, |target| matches!(target, MappingTarget::ItsGroup(_)))?, offset)?,
        };
        try_push(&mut hosts, host)?;
    }
    if let Some(shared) = shared_requester(&hosts)? {
        let (offset, segment) = iort.root_complexes.get(shared.host).map_or((0, 0), |it| (it.offset, it.segment));
        return Err(IortError::SameRequesters { offset, segment, requester: shared.requester });
    }
    Ok(hosts)
}

/// A range and whose ids come out.
#[derive(Clone, Copy)]
struct Ranged {
    range: IdRange,
    target: MappingTarget,
}

/// What `mapping` does to ids up to `limit`, of which it has one.
fn range(mapping: &IdMapping, limit: u32) -> Ranged {
    let (first, last) = if mapping.single { (0, limit) } else { (mapping.first, mapping.last.min(limit)) };
    let target = match mapping.target {
        MappingTarget::ItsGroup(index) | MappingTarget::Smmu(index) => index,
        MappingTarget::Other => 0,
    };
    let range = IdRange { first, last, output: mapping.output, single: mapping.single, target };
    Ranged { range, target: mapping.target }
}

/// The ranges of the node at `offset`, sorted and without an id in common: where the last of one is the first of the next,
/// the table gives numbers of ids where it should give one less.
fn apart(mut ranges: Vec<Ranged>, offset: usize) -> Result<Vec<Ranged>, IortError> {
    ranges.sort_unstable_by_key(|ranged| (ranged.range.first, ranged.range.last));
    let mut firsts = try_collect(ranges.iter().skip(1).map(|next| next.range.first))?.into_iter();
    for ranged in &mut ranges {
        let Some(next) = firsts.next() else { break };
        let range = &mut ranged.range;
        if next == range.last && range.last > range.first && !range.single {
            range.last -= 1;
        } else if next <= range.last {
            return Err(IortError::OverlappingIds { offset, id: next });
        }
    }
    Ok(ranges)
}

/// Takes the last requester away from ranges whose last stream is the first of another range, for the same reason.
fn unshare(complexes: &mut [(&RootComplex, Vec<Ranged>)], iort: &Iort) -> Result<(), IortError> {
    let mut all = Vec::new();
    for ranged in complexes.iter_mut().flat_map(|(_, ranges)| ranges) {
        if let MappingTarget::Smmu(unit) = ranged.target {
            try_push(&mut all, (unit, &mut ranged.range))?;
        }
    }
    all.sort_unstable_by_key(|(unit, range)| (*unit, range.output, range.last_output()));
    let mut rest = all.as_mut_slice();
    while let [(unit, range), tail @ ..] = rest {
        if let Some((_, next)) = tail.first().filter(|(other, _)| other == unit) {
            let last = range.last_output();
            if next.output == last && range.last > range.first && !range.single {
                range.last -= 1;
            } else if next.output <= last {
                let offset = iort.smmus.get(*unit).map_or(0, |smmu| smmu.offset);
                return Err(IortError::SharedStreams { offset, stream: next.output });
            }
        }
        rest = tail;
    }
    Ok(())
}

/// Those of `ranges` that lead to what `is` says.
fn only(ranges: &[Ranged], is: impl Fn(MappingTarget) -> bool) -> Result<Vec<IdRange>, IortError> {
    Ok(try_collect(ranges.iter().filter(|ranged| is(ranged.target)).map(|ranged| ranged.range))?)
}

/// The map of ranges of the node at `offset`.
fn map(ranges: Vec<IdRange>, offset: usize) -> Result<IdMap, IortError> {
    IdMap::new(u32::MAX, ranges).map_err(|id| IortError::OverlappingIds { offset, id })
}

/// What comes out of those of `mappings` that lead to units.
fn streams_of(mappings: &[IdMapping]) -> Result<Vec<StreamRange>, IortError> {
    let ranges = mappings.iter().filter_map(|mapping| {
        let MappingTarget::Smmu(unit) = mapping.target else { return None };
        let more = if mapping.single { 0 } else { mapping.last.saturating_sub(mapping.first) };
        let last = StreamId::new(mapping.output.wrapping_add(more));
        Some(StreamRange { unit, first: StreamId::new(mapping.output), last })
    });
    Ok(try_collect(ranges)?)
}

fn devices(iort: &Iort) -> Result<Vec<PlatformDevice>, IortError> {
    let mut devices = Vec::new();
    for component in &iort.named_components {
        let device = PlatformDevice {
            name: copied(&component.name)?,
            streams: streams_of(&component.mappings)?,
            can_stall: component.can_stall,
            pasid_bits: component.pasid_bits.min(PASID_BITS),
        };
        try_push(&mut devices, device)?;
    }
    Ok(devices)
}

fn reserved(iort: &Iort) -> Result<Vec<ReservedMemory>, IortError> {
    let mut reserved = Vec::new();
    for rmr in &iort.rmrs {
        let prot = Prot::READ_WRITE;
        let kind = if rmr.relaxable { RegionKind::DirectRelaxable { prot } } else { RegionKind::Direct { prot } };
        // Never backwards: that was checked.
        let range =
            |memory: &RmrDescriptor| IovaRange::new(Iova::new(memory.start.get()), Iova::new(memory.last.get()));
        let regions = rmr.descriptors.iter().filter_map(range).map(|range| ReservedRegion { range, kind });
        let memory = ReservedMemory { regions: try_collect(regions)?, users: streams_of(&rmr.mappings)? };
        try_push(&mut reserved, memory)?;
    }
    Ok(reserved)
}

fn doorbells(iort: &Iort, madt: Option<&Madt>) -> Result<Vec<Vec<PhysExtent>>, IortError> {
    let mut doorbells = Vec::new();
    for group in &iort.its_groups {
        let mut pages = Vec::new();
        if let Some(madt) = madt {
            for &id in &group.ids {
                let service = madt.its(id).ok_or(IortError::UnknownService { offset: group.offset, id })?;
                try_push(&mut pages, service.doorbell())?;
            }
        }
        try_push(&mut doorbells, pages)?;
    }
    Ok(doorbells)
}
