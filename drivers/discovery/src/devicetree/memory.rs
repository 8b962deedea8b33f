//! Where RAM is, and which of it is taken.

use super::cells::{Cells, Widths};
use super::node::{self, is_enabled};
use super::{DeviceTreeError, extent};
use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use iommu_core::addr::{PhysAddr, PhysExtent};

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
