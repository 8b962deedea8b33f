//! Nodes by phandle: who is meant where a property names another node.

use super::cells::{Widths, one};
use super::node::{self, Place, is_compatible, unit_address};
use super::{DeviceTree, DeviceTreeError};
use crate::fallible::try_push;
use crate::madt::{doorbell_of, may_begin_at};
use alloc::vec::Vec;
use iommu_core::addr::PhysExtent;

/// What host bridges are compatible with.
pub(super) const HOST: &str = "pci-host-ecam-generic";

/// Interrupt controllers whose interrupts are named by kind and number.
const GICS: [&str; 3] = ["arm,gic-v3", "arm,gic-400", "arm,cortex-a15-gic"];
const ITS: &str = "arm,gic-v3-its";

/// A node with a phandle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    phandle: u32,
    /// Widths on the bus that it is on.
    pub(super) widths: Widths,
    /// The host bridge that it is, or is below: in tree order.
    pub(super) host: Option<usize>,
    /// How many cells an interrupt has, if it is an interrupt controller with numbers that are known.
    pub(super) interrupt_cells: Option<usize>,
    /// The service that it is: an index into [`Index::doorbells`].
    pub(super) its: Option<usize>,
}

/// All enabled nodes that have a phandle.
#[derive(Debug)]
pub(super) struct Index {
    /// Sorted by phandle.
    nodes: Vec<Named>,
    /// The page with GITS_TRANSLATER of each interrupt translation service, in tree order.
    pub(super) doorbells: Vec<PhysExtent>,
}

impl Index {
    pub(super) fn read(tree: &DeviceTree<'_>) -> Result<Self, DeviceTreeError> {
        let mut index = Self { nodes: Vec::new(), doorbells: Vec::new() };
        let mut hosts = 0usize;
        node::for_each(tree.root(), &mut |place| {
            // In tree order: the host bridge that was met last is the one above.
            if is_compatible(&place.node, HOST) {
                hosts = hosts.saturating_add(1);
            }
            let Some(phandle) = one(&place.node, "phandle")? else { return Ok(()) };
            let host = if place.is_below(HOST) { hosts.checked_sub(1) } else { None };
            let (its, interrupt_cells) = (index.service(place)?, interrupt_cells(place)?);
            let named = Named { phandle, widths: place.widths_above()?, host, interrupt_cells, its };
            Ok(try_push(&mut index.nodes, named)?)
        })?;
        index.nodes.sort_by_key(|named| named.phandle);
        Ok(index)
    }

    /// The node that `phandle` means.
    pub(super) fn get(&self, phandle: u32) -> Option<&Named> {
        let found = self.nodes.binary_search_by_key(&phandle, |named| named.phandle).ok()?;
        self.nodes.get(found)
    }

    /// The service that `phandle` means.
    pub(super) fn its(&self, phandle: u32) -> Option<usize> {
        self.get(phandle)?.its
    }

    fn service(&mut self, place: &Place<'_, '_>) -> Result<Option<usize>, DeviceTreeError> {
        if !is_compatible(&place.node, ITS) {
            return Ok(None);
        }
        let base = place.registers()?.start;
        if !may_begin_at(base.get()) {
            return Err(DeviceTreeError::BadRegisters { unit_address: unit_address(&place.node), start: base.get() });
        }
        try_push(&mut self.doorbells, doorbell_of(base))?;
        Ok(self.doorbells.len().checked_sub(1))
    }
}

fn interrupt_cells(place: &Place<'_, '_>) -> Result<Option<usize>, DeviceTreeError> {
    if !GICS.iter().any(|name| is_compatible(&place.node, name)) {
        return Ok(None);
    }
    // Kind, number, flags; a fourth says which CPUs.
    Ok(one(&place.node, "#interrupt-cells")?.map(|cells| cells as usize).filter(|cells| (3..=4).contains(cells)))
}
