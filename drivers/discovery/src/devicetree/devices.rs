//! Devices that are no PCI functions and name their streams by `iommus`.

use super::cells::{Cells, one};
use super::index::HOST;
use super::node::{self, is_compatible};
use super::smmu::Unit;
use super::streams::unit_named;
use super::{DeviceTree, DeviceTreeError};
use crate::fallible::{try_collect, try_push};
use crate::name::copied;
use crate::streams::{PlatformDevice, StreamRange};
use alloc::vec::Vec;
use dtoolkit::Node;
use iommu_core::hw::StreamId;

/// Widest PASIDs there are, in bits.
const PASID_BITS: u32 = 20;

/// The devices, and by which phandles other nodes name them.
pub(super) struct Devices {
    /// In tree order.
    pub(super) found: Vec<PlatformDevice>,
    /// Phandle and index, sorted by phandle.
    named: Vec<(u32, usize)>,
}

impl Devices {
    /// The streams of the device that `phandle` means; none where it means another node.
    pub(super) fn streams_of(&self, phandle: u32) -> Result<Vec<StreamRange>, DeviceTreeError> {
        let found = self.named.binary_search_by_key(&phandle, |named| named.0).ok();
        let device = found.and_then(|found| self.found.get(self.named.get(found)?.1));
        Ok(try_collect(device.into_iter().flat_map(|device| device.streams.iter().copied()))?)
    }
}

/// The enabled devices with streams of `units`, in tree order. Those behind other IOMMUs are left out.
pub(super) fn all(tree: &DeviceTree<'_>, units: &[Unit]) -> Result<Devices, DeviceTreeError> {
    let mut devices = Devices { found: Vec::new(), named: Vec::new() };
    node::for_each(tree.root(), &mut |place| {
        let node = &place.node;
        // A host bridge says it by a map.
        if is_compatible(node, HOST) {
            return Ok(());
        }
        let Some(mut cells) = Cells::of(node, "iommus", 1)? else { return Ok(()) };
        let mut streams = Vec::new();
        while cells.left() >= 2 {
            // How many cells follow the phandle of another IOMMU is not known here, so that nothing behind it is either.
            let Some(unit) = unit_named(units, cells.cell()) else { break };
            let stream = StreamId::new(cells.cell());
            try_push(&mut streams, StreamRange { unit, first: stream, last: stream })?;
        }
        if streams.is_empty() {
            return Ok(());
        }
        let device = PlatformDevice {
            name: copied(node.name())?,
            streams,
            can_stall: node.property("dma-can-stall").is_some(),
            pasid_bits: one(node, "pasid-num-bits")?.unwrap_or(0).min(PASID_BITS) as u8,
        };
        if let Some(phandle) = one(node, "phandle")? {
            try_push(&mut devices.named, (phandle, devices.found.len()))?;
        }
        Ok(try_push(&mut devices.found, device)?)
    })?;
    devices.named.sort_unstable();
    Ok(devices)
}
