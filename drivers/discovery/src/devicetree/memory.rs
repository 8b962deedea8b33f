//! Where RAM is, which of it is taken, and which of that devices go on using.

use super::cells::{Cells, Widths};
use super::devices::Devices;
use super::index::Index;
use super::node::{self, is_enabled, unit_address};
use super::{DeviceTree, DeviceTreeError, extent};
use crate::fallible::{try_collect, try_push};
use crate::streams::{Host, ReservedMemory};
use alloc::vec::Vec;
use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::Prot;
use iommu_core::region::{RegionKind, ReservedRegion};

/// Most streams, of all that memory is kept for: each entry says whose it is anew.
const MAX_USERS: usize = 1 << 20;

type Region = Result<PhysExtent, DeviceTreeError>;

/// The regions of the root's `memory` nodes (Devicetree Specification section 3.4).
pub(super) fn regions<'a>(root: FdtNode<'a>) -> impl Iterator<Item = Region> + use<'a> {
    let is_memory = |node: &FdtNode<'_>| node::bytes(node, "device_type") == Some(b"memory\0") && is_enabled(node);
    root.children().filter(is_memory).flat_map(move |node| Regions::new(&root, node))
}

/// The tree's own reservations (section 5.3) and those of `/reserved-memory` that have an address (section 3.5).
pub(super) fn reserved<'a>(fdt: Fdt<'a>) -> impl Iterator<Item = Region> + use<'a> {
    let table = fdt.memory_reservations().filter_map(|entry| {
        // Nothing lies at the very end of 2^64, so cutting a reservation off there loses nothing.
        let len = entry.size().min(u64::MAX - entry.address());
        (len != 0).then(|| Ok(PhysExtent::new(PhysAddr::new(entry.address()), len)))
    });
    let parent = fdt.root().child("reserved-memory");
    let nodes = parent
        .into_iter()
        .flat_map(|parent| parent.children().filter(is_enabled).flat_map(move |node| Regions::new(&parent, node)));
    table.chain(nodes)
}

/// The regions of one node's `reg`, those of no length left out. Ends with the first error.
struct Regions<'a> {
    node: FdtNode<'a>,
    rest: Result<Option<(Cells<'a>, Widths)>, DeviceTreeError>,
}

impl<'a> Regions<'a> {
    fn new(parent: &FdtNode<'a>, node: FdtNode<'a>) -> Self {
        let rest = Widths::below(parent).and_then(|widths| {
            let cells = Cells::of(&node, "reg", widths.address + widths.size)?;
            Ok(cells.map(|cells| (cells, widths)))
        });
        Self { node, rest }
    }

    fn next_of(&mut self) -> Result<Option<PhysExtent>, DeviceTreeError> {
        let Some((cells, widths)) = core::mem::replace(&mut self.rest, Ok(None))? else { return Ok(None) };
        let mut cells = cells;
        while !cells.is_empty() {
            let (start, len) = (cells.number(widths.address), cells.number(widths.size));
            let too_wide = DeviceTreeError::TooWide { unit_address: node::unit_address(&self.node), property: "reg" };
            let (Some(start), Some(len)) = (start, len) else { return Err(too_wide) };
            if len != 0 {
                let region = extent(start, len, &self.node)?;
                self.rest = Ok(Some((cells, widths)));
                return Ok(Some(region));
            }
        }
        Ok(None)
    }
}

impl Iterator for Regions<'_> {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        self.next_of().transpose()
    }
}

/// What `iommu-addresses` of `/reserved-memory` keeps for devices (Linux's binding `reserved-memory`): each entry names a
/// device and addresses as the device uses them. Where the node has the memory behind them, at the same addresses, devices
/// go on using it; else the addresses are only to be kept free.
pub(super) fn kept(
    tree: &DeviceTree<'_>,
    index: &Index,
    hosts: &[Host],
    devices: &Devices,
) -> Result<Vec<ReservedMemory>, DeviceTreeError> {
    const PROPERTY: &str = "iommu-addresses";
    let (mut kept, mut total) = (Vec::new(), 0usize);
    let Some(parent) = tree.root().child("reserved-memory") else { return Ok(kept) };
    for node in parent.children().filter(is_enabled) {
        let unit_address = unit_address(&node);
        let Some(mut cells) = Cells::of(&node, PROPERTY, 1)? else { continue };
        let own = Regions::new(&parent, node).next().transpose()?;
        while !cells.is_empty() {
            let phandle = cells.cell();
            let named = index.get(phandle).ok_or(DeviceTreeError::UnknownDevice { unit_address, phandle })?;
            let record = named.widths.address + named.widths.size;
            if record == 0 || cells.left() < record {
                let (len, record) = (4 * cells.left(), 4 * record);
                return Err(DeviceTreeError::ShortProperty { unit_address, property: PROPERTY, len, record });
            }
            let (start, len) = (cells.number(named.widths.address), cells.number(named.widths.size));
            let too_wide = DeviceTreeError::TooWide { unit_address, property: PROPERTY };
            let (Some(start), Some(len)) = (start, len) else { return Err(too_wide) };
            let bad = DeviceTreeError::BadRegion { unit_address, start, len };
            let range = IovaRange::from_len(Iova::new(start), len).ok_or(bad)?;
            let same = own.is_some_and(|own| own.start.get() == start && own.len == len);
            let kind = if same { RegionKind::Direct { prot: Prot::READ_WRITE } } else { RegionKind::Reserved };
            let mut users = devices.streams_of(phandle)?;
            if let Some(host) = named.host.and_then(|host| hosts.get(host)) {
                // Of a function below it nothing is known but the bridge: whatever is there keeps it.
                for range in host.stream_ranges() {
                    try_push(&mut users, range)?;
                }
            }
            total = total.saturating_add(users.len().max(1));
            if total > MAX_USERS {
                return Err(DeviceTreeError::TooManyUsers { unit_address });
            }
            let regions = try_collect([ReservedRegion { range, kind }])?;
            try_push(&mut kept, ReservedMemory { regions, users })?;
        }
    }
    Ok(kept)
}
