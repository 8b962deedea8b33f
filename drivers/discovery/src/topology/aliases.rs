//! The requester ids under which an IOMMU may see one function.

use super::Topology;
use crate::sbdf::Sbdf;
use iommu_core::hw::RequesterId;

/// The requester ids of one function, from its own towards the root. The **last** is the one that an IOMMU sees DMA
/// under; each of the others may occur for some transactions, so that all need the same target. Never empty; holds no
/// id twice. See [`Topology::aliases`].
#[derive(Clone, Debug)]
pub struct Aliases<'t> {
    topology: &'t Topology,
    /// The id to yield next.
    next: Option<RequesterId>,
    /// The bridge to look at after that.
    bridge: Option<usize>,
}

impl<'t> Aliases<'t> {
    pub(super) fn new(topology: &'t Topology, sbdf: Sbdf) -> Self {
        let bridge = topology.bridge_above(sbdf.segment, sbdf.id.bus());
        Self { topology, next: Some(sbdf.id), bridge }
    }
}

impl Iterator for Aliases<'_> {
    type Item = RequesterId;

    fn next(&mut self) -> Option<RequesterId> {
        let id = self.next.take()?;
        // Each step leads to a lower bus number: at most 255 of them.
        while let Some(node) = self.bridge.and_then(|index| self.topology.nodes.get(index)) {
            self.bridge = node.parent;
            // Behind a PCIe-to-PCI bridge the function 00.0 has the alias as its own id already.
            self.next = node.function.alias_for_below().filter(|alias| *alias != id);
            if self.next.is_some() {
                break;
            }
        }
        Some(id)
    }
}

impl core::iter::FusedIterator for Aliases<'_> {}
