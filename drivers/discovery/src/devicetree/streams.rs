//! Which unit sees which function, under which stream id: host bridges and units put together.

use super::{DeviceTree, DeviceTreeError, PciHost, Smmu, pci_host, smmu};
use crate::Sbdf;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::hw::StreamId;

/// A function whose DMA no unit sees: nothing can be kept from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uncontrolled(pub Sbdf);

impl fmt::Display for Uncontrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "devicetree: no iommu-map has {}: its DMA is not controlled", self.0)
    }
}

impl core::error::Error for Uncontrolled {}

/// The units of a devicetree and the host bridges that they serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Streams {
    units: Vec<Smmu>,
    hosts: Vec<PciHost>,
}

impl Streams {
    /// Reads units and host bridges, and checks that they fit together.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong. [`DeviceTreeError::NoSmmu`] where there is no unit at all;
    /// [`DeviceTreeError::UnknownPhandle`] where a host bridge names another; [`DeviceTreeError::SharedStreams`] where
    /// two entries lead to the same stream. (A mask may still fold requesters into one: compare what
    /// [`Streams::of`] gives before two functions get different owners.)
    pub fn read(tree: &DeviceTree<'_>) -> Result<Self, DeviceTreeError> {
        let streams = Self { units: smmu::all(tree)?, hosts: pci_host::all(tree)? };
        if streams.units.is_empty() {
            return Err(DeviceTreeError::NoSmmu);
        }
        for host in &streams.hosts {
            for entry in host.iommu_map.entries() {
                if streams.index_of(entry.phandle).is_none() {
                    let (unit_address, phandle) = (host.unit_address, entry.phandle);
                    return Err(DeviceTreeError::UnknownPhandle { unit_address, phandle });
                }
            }
        }
        let entries = || streams.hosts.iter().flat_map(|host| host.iommu_map.entries());
        for (index, entry) in entries().enumerate() {
            if let Some(stream) = entries().skip(index + 1).find_map(|other| entry.shared_with(other)) {
                return Err(DeviceTreeError::SharedStreams { phandle: entry.phandle, stream });
            }
        }
        Ok(streams)
    }

    /// The host bridges alone, in tree order, whether there is a unit or not.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them.
    pub fn hosts_of(tree: &DeviceTree<'_>) -> Result<Vec<PciHost>, DeviceTreeError> {
        pci_host::all(tree)
    }

    /// The units, in tree order: [`Streams::of`] returns an index into this.
    pub fn units(&self) -> &[Smmu] {
        &self.units
    }

    /// The host bridges, in tree order.
    pub fn hosts(&self) -> &[PciHost] {
        &self.hosts
    }

    /// The unit that sees the DMA of `function`, and under which stream id. Give it the id that the DMA arrives with:
    /// see [`crate::topology::Topology::dma_id`].
    ///
    /// # Errors
    ///
    /// [`Uncontrolled`] where no unit does.
    pub fn of(&self, function: Sbdf) -> Result<(usize, StreamId), Uncontrolled> {
        let host = self.hosts.iter().find(|host| {
            let ecam = &host.ecam;
            ecam.segment == function.segment && (ecam.start_bus..=ecam.end_bus).contains(&function.id.bus())
        });
        let found = host.and_then(|host| host.iommu_map.lookup(function.id));
        let unit = found.and_then(|(phandle, stream)| Some((self.index_of(phandle)?, stream)));
        unit.ok_or(Uncontrolled(function))
    }

    fn index_of(&self, phandle: u32) -> Option<usize> {
        self.units.iter().position(|unit| unit.phandle == Some(phandle))
    }
}
