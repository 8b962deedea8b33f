//! Which unit sees which function, under which stream id: host bridges, units, devices and reserved memory put together.

use super::index::Index;
use super::smmu::Unit;
use super::{DeviceTree, DeviceTreeError, IommuMap, PciHost, devices, memory, pci_host, smmu};
use crate::fallible::{try_collect, try_push};
use crate::streams::{Host, IdMap, IdRange, Streams};
use alloc::vec::Vec;

impl Streams {
    /// Reads the units of a devicetree and whom they serve, and checks that they fit together.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong. [`DeviceTreeError::NoSmmu`] where there is no unit at all;
    /// [`DeviceTreeError::UnknownPhandle`] where a host bridge names another; [`DeviceTreeError::SharedStreams`] where
    /// two entries lead to the same stream.
    pub fn read(tree: &DeviceTree<'_>) -> Result<Self, DeviceTreeError> {
        let index = Index::read(tree)?;
        let units = smmu::all(tree, &index)?;
        if units.is_empty() {
            return Err(DeviceTreeError::NoSmmu);
        }
        let bridges = pci_host::all(tree)?;
        let mut hosts = Vec::new();
        for bridge in &bridges {
            try_push(&mut hosts, host(bridge, &units, &index)?)?;
        }
        unshared(&bridges)?;
        let devices = devices::all(tree, &units)?;
        let reserved = memory::kept(tree, &index, &hosts, &devices)?;
        let mut doorbells = Vec::new();
        for page in &index.doorbells {
            try_push(&mut doorbells, try_collect([*page])?)?;
        }
        let (devices, units) = (devices.found, try_collect(units.into_iter().map(|unit| unit.0))?);
        let unit_msis = try_collect(units.iter().map(|_| IdMap::EMPTY))?;
        Ok(Self { units, unit_msis, hosts, devices, reserved, doorbells })
    }

    /// The host bridges of a devicetree alone, in tree order, whether there is a unit or not.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them.
    pub fn hosts_of(tree: &DeviceTree<'_>) -> Result<Vec<PciHost>, DeviceTreeError> {
        pci_host::all(tree)
    }
}

/// The unit that `phandle` means.
pub(super) fn unit_named(units: &[Unit], phandle: u32) -> Option<usize> {
    units.iter().position(|unit| unit.1 == Some(phandle))
}

fn host(bridge: &PciHost, units: &[Unit], index: &Index) -> Result<Host, DeviceTreeError> {
    let unit_address = bridge.unit_address;
    for entry in bridge.iommu_map.entries() {
        if unit_named(units, entry.phandle).is_none() {
            return Err(DeviceTreeError::UnknownPhandle { unit_address, phandle: entry.phandle });
        }
    }
    let mut msis = map(&bridge.msi_map, |phandle| index.its(phandle))?;
    // Without a map the ids go on as they are.
    if let (true, Some(target)) = (bridge.msi_map.entries().is_empty(), bridge.msi_parent.and_then(|it| index.its(it)))
    {
        let all = IdRange { first: 0, last: u16::MAX.into(), output: 0, single: false, target };
        msis = IdMap::new(u32::MAX, try_collect([all])?).unwrap_or(IdMap::EMPTY);
    }
    Ok(Host {
        segment: bridge.ecam.segment,
        first_bus: bridge.ecam.start_bus,
        last_bus: bridge.ecam.end_bus,
        ats: bridge.ats_supported,
        page_requests: bridge.ats_supported,
        pasid_bits: None,
        streams: map(&bridge.iommu_map, |phandle| unit_named(units, phandle))?,
        msis,
    })
}

/// The entries whose phandle means something to `target`.
fn map(from: &IommuMap, target: impl Fn(u32) -> Option<usize>) -> Result<IdMap, DeviceTreeError> {
    let mut ranges = Vec::new();
    for entry in from.entries() {
        let (first, last) = (u32::from(entry.first), u32::from(entry.first) + (entry.count - 1));
        if let Some(target) = target(entry.phandle) {
            try_push(&mut ranges, IdRange { first, last, output: entry.stream, single: false, target })?;
        }
    }
    // Apart from each other, as the property was checked for.
    Ok(IdMap::new(from.mask().into(), ranges).unwrap_or(IdMap::EMPTY))
}

/// That no two entries of any host bridges lead to the same stream.
fn unshared(bridges: &[PciHost]) -> Result<(), DeviceTreeError> {
    let mut all = try_collect(bridges.iter().flat_map(|bridge| bridge.iommu_map.entries()))?;
    all.sort_unstable_by_key(|entry| (entry.phandle, entry.stream));
    for (entry, next) in all.iter().zip(all.iter().skip(1)) {
        if let Some(stream) = entry.shared_with(next) {
            return Err(DeviceTreeError::SharedStreams { phandle: entry.phandle, stream });
        }
    }
    Ok(())
}
