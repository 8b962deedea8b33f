//! SMMUv3 units and who reaches memory through which, whichever kind of firmware says it: [`Streams`].
//!
//! [`Streams::read`] makes it of a devicetree, [`Streams::from_iort`] of ACPI's tables. The answers are the same: the units
//! with what firmware says of their hardware, the unit and the stream id of a function's DMA, the device id of its
//! interrupts, which memory firmware keeps for a stream, devices that are no PCI functions. Which ids a function has is for
//! [`crate::topology`], what an address space must have for [`crate::regions`].

mod device;
mod map;
mod unit;

pub use device::{PlatformDevice, ReservedMemory, StreamRange};
pub use unit::{HardwareUpdates, Interrupts, Model, Smmu};

pub(crate) use map::{IdMap, IdRange};
pub(crate) use unit::{REGISTER_PAGE, overlap};

use crate::Sbdf;
use crate::fallible::{OutOfMemory, try_push};
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::PhysExtent;
use iommu_core::hw::{RequesterId, StreamId};
use iommu_core::region::ReservedRegion;

/// A function whose DMA no unit sees: nothing can be kept from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uncontrolled(pub Sbdf);

impl fmt::Display for Uncontrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no SMMUv3 sees {}: its DMA is not controlled", self.0)
    }
}

impl core::error::Error for Uncontrolled {}

/// Where messages of a device lead to: interrupt translation services (GICv3 ITS) and the id that they know it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// The group of services; an argument of [`Streams::doorbells`].
    pub group: usize,
    /// The device id.
    pub device_id: u32,
}

/// What a host bridge (root complex) makes of its functions' requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus, inclusive.
    pub last_bus: u8,
    /// Whether translation services pass: whether functions may cache translations. See [`crate::ats`].
    pub ats: bool,
    /// Whether page requests pass.
    pub page_requests: bool,
    /// Width of the PASIDs that pass, in bits (0 to 20): 0 for none. `None` where firmware does not say.
    pub pasid_bits: Option<u8>,
    /// Requester to stream of a unit.
    pub(crate) streams: IdMap,
    /// Requester to device id of a group of interrupt services, where that does not go by way of the stream.
    pub(crate) msis: IdMap,
}

impl Host {
    /// Whether the bus of `function` is one of its.
    pub fn has(&self, function: Sbdf) -> bool {
        self.segment == function.segment && (self.first_bus..=self.last_bus).contains(&function.id.bus())
    }

    /// The streams that its functions can have.
    pub(crate) fn stream_ranges(&self) -> impl Iterator<Item = StreamRange> + '_ {
        self.streams.ranges().iter().map(|range| StreamRange {
            unit: range.target,
            first: StreamId::new(range.output),
            last: StreamId::new(range.last_output()),
        })
    }
}

/// The units of a machine and whom they serve. Checked: no two host bridges have a requester in common, and no two of their
/// ranges a stream. (One range may still fold requesters into one stream: compare what [`Streams::of`] gives before two
/// functions get different owners.)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Streams {
    pub(crate) units: Vec<Smmu>,
    /// For each unit: stream to device id of a group of interrupt services.
    pub(crate) unit_msis: Vec<IdMap>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) devices: Vec<PlatformDevice>,
    pub(crate) reserved: Vec<ReservedMemory>,
    /// The pages of each group of interrupt services that messages are written to.
    pub(crate) doorbells: Vec<Vec<PhysExtent>>,
}

impl Streams {
    /// The units, in the order of firmware: [`Streams::of`] returns an index into this.
    pub fn units(&self) -> &[Smmu] {
        &self.units
    }

    /// The host bridges, in the order of firmware.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The devices that are no PCI functions, in the order of firmware.
    pub fn devices(&self) -> &[PlatformDevice] {
        &self.devices
    }

    /// The memory that firmware keeps for streams, in the order of firmware: it must be mapped before translation goes on for
    /// a stream that was using it.
    pub fn reserved(&self) -> &[ReservedMemory] {
        &self.reserved
    }

    /// The pages that messages to a group of interrupt services are written to, each the one with GITS_TRANSLATER (GIC
    /// section 12.19); empty where firmware does not say where they are.
    pub fn doorbells(&self, group: usize) -> &[PhysExtent] {
        self.doorbells.get(group).map_or(&[], Vec::as_slice)
    }

    /// The unit that sees the DMA of `function`, and under which stream id. Give it the id that the DMA arrives with:
    /// see [`crate::topology::Topology::dma_id`].
    ///
    /// # Errors
    ///
    /// [`Uncontrolled`] where no unit does.
    pub fn of(&self, function: Sbdf) -> Result<(usize, StreamId), Uncontrolled> {
        let found = self.hosts_with(function).find_map(|host| host.streams.lookup(function.id.get().into()));
        found.map(|(unit, stream)| (unit, StreamId::new(stream))).ok_or(Uncontrolled(function))
    }

    /// The host bridge that `function` is behind: the one that has a stream or a device id for it, else the first with its
    /// bus; `None` where there is none.
    pub fn host_of(&self, function: Sbdf) -> Option<&Host> {
        let id = function.id.get().into();
        let knows = |host: &&Host| host.streams.lookup(id).or_else(|| host.msis.lookup(id)).is_some();
        self.hosts_with(function).find(knows).or_else(|| self.hosts_with(function).next())
    }

    /// Where the messages of `function` lead; give it the id that they arrive with. `None` where firmware does not say.
    pub fn msi_of(&self, function: Sbdf) -> Option<Msi> {
        let direct = self.hosts_with(function).find_map(|host| host.msis.lookup(function.id.get().into()));
        if let Some((group, device_id)) = direct {
            return Some(Msi { group, device_id });
        }
        let (unit, stream) = self.of(function).ok()?;
        self.msi_of_stream(unit, stream)
    }

    /// Where messages of a stream lead; `None` where firmware does not say it by stream.
    pub fn msi_of_stream(&self, unit: usize, stream: StreamId) -> Option<Msi> {
        let (group, device_id) = self.unit_msis.get(unit)?.lookup(stream.get())?;
        Some(Msi { group, device_id })
    }

    /// The memory that firmware keeps for one stream of a unit, in the order of firmware.
    pub fn reserved_for(&self, unit: usize, stream: StreamId) -> impl Iterator<Item = ReservedRegion> {
        let of = move |memory: &&ReservedMemory| memory.users.iter().any(|range| range.has(unit, stream));
        self.reserved.iter().filter(of).flat_map(|memory| memory.regions.iter().copied())
    }

    fn hosts_with(&self, function: Sbdf) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| host.has(function))
    }
}

/// Two host bridges of one segment that have a requester in common.
pub(crate) struct Shared {
    /// The second one: an index.
    pub(crate) host: usize,
    /// The first requester.
    pub(crate) requester: RequesterId,
}

/// The first requester that two of `hosts` have, by stream or device id; those of one have none in common.
pub(crate) fn shared_requester(hosts: &[Host]) -> Result<Option<Shared>, OutOfMemory> {
    let mut all = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        // What a host bridge says of functions that are not its own counts nothing.
        for range in host.streams.ranges().iter().chain(host.msis.ranges()) {
            try_push(&mut all, (host.segment, range.first, range.last, index))?;
        }
    }
    all.sort_unstable();
    let pairs = all.iter().zip(all.iter().skip(1));
    let mut meeting = pairs.filter(|(one, next)| one.0 == next.0 && next.1 <= one.2 && one.3 != next.3);
    Ok(meeting.next().map(|(_, next)| Shared { host: next.3, requester: RequesterId::new(next.1 as u16) }))
}

#[cfg(test)]
mod tests;
