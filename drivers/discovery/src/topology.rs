//! The PCI tree as an enumerator found it: bridges and what is below them, requester-id aliases, isolation groups.
//!
//! Built from plain values ([`Function`]) and checked: after [`Topology::new`] every walk towards the root ends, since
//! each step leads to a lower bus number. Reads no configuration space itself, and does not follow changes: after
//! buses are renumbered or ACS is switched on, build it anew.

mod acs;
mod aliases;
mod error;
mod function;
mod groups;

pub use acs::{Acs, AcsFlags};
pub use aliases::Aliases;
pub use error::TopologyError;
pub use function::{Function, FunctionKind, PcieType};
pub use groups::{Group, GroupId, Groups};

use crate::fallible::{try_collect, try_push};
use crate::sbdf::Sbdf;
use alloc::vec::Vec;
use iommu_core::hw::RequesterId;

/// A function and the bridge above it.
#[derive(Clone, Debug)]
struct Node {
    function: Function,
    /// Index of the bridge whose bus this function is on; `None` on a root bus.
    parent: Option<usize>,
    /// The physical function that this is a virtual one of.
    physical: Option<Sbdf>,
    /// What is below can be plugged in by whoever has the machine in hand.
    external: bool,
}

impl Node {
    fn new(function: Function) -> Self {
        Self { function, parent: None, physical: None, external: false }
    }
}

/// The buses below a bridge.
#[derive(Clone, Copy, Debug)]
struct BusRange {
    segment: u16,
    secondary: u8,
    subordinate: u8,
    /// Index of the bridge.
    bridge: usize,
}

/// All functions of all segments.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// Ordered by address.
    nodes: Vec<Node>,
    /// Ordered by segment and secondary bus, so that a bridge comes before the bridges below it.
    buses: Vec<BusRange>,
}

impl Topology {
    /// Builds the tree of `functions`, given in any order.
    ///
    /// A bus that no bridge leads to is a root bus. A bus inside a bridge's range that no bridge below it leads to
    /// (as SR-IOV functions may be on) counts as that bridge's.
    ///
    /// # Errors
    ///
    /// Addresses that occur twice, and bridges whose bus ranges are no tree: see [`TopologyError`].
    pub fn new(functions: impl IntoIterator<Item = Function>) -> Result<Self, TopologyError> {
        let mut nodes = try_collect(functions.into_iter().map(Node::new))?;
        nodes.sort_unstable_by_key(|node| node.function.sbdf);
        let twice = nodes.iter().zip(nodes.iter().skip(1)).find(|(a, b)| a.function.sbdf == b.function.sbdf);
        if let Some((node, _)) = twice {
            return Err(TopologyError::Duplicate { sbdf: node.function.sbdf });
        }
        let buses = bus_ranges(&nodes)?;
        let mut topology = Self { nodes, buses };
        topology.check_nesting()?;
        topology.link();
        Ok(topology)
    }

    /// All functions, ordered by address.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = &Function> + '_ {
        self.nodes.iter().map(|node| &node.function)
    }

    /// The function at `sbdf`; `None` where there is none.
    pub fn get(&self, sbdf: Sbdf) -> Option<&Function> {
        self.index_of(sbdf).and_then(|index| self.function_at(index))
    }

    /// The bridge whose bus `sbdf` is on; `None` on a root bus. There need not be a function at `sbdf`.
    pub fn parent(&self, sbdf: Sbdf) -> Option<&Function> {
        self.bridge_above(sbdf.segment, sbdf.id.bus()).and_then(|index| self.function_at(index))
    }

    /// The requester ids under which an IOMMU may see `sbdf`, its own first, the one of its DMA last. Bridges from or
    /// to conventional PCI make requests from below in their own name (see [`Function::alias_for_below`]).
    pub fn aliases(&self, sbdf: Sbdf) -> Aliases<'_> {
        Aliases::new(self, sbdf)
    }

    /// The requester id that an IOMMU sees DMA of `sbdf` under: the last of its aliases.
    pub fn dma_id(&self, sbdf: Sbdf) -> RequesterId {
        self.aliases(sbdf).last().unwrap_or(sbdf.id)
    }

    /// The isolation groups: functions that nothing below the IOMMU keeps apart.
    ///
    /// # Errors
    ///
    /// [`TopologyError::OutOfMemory`] only.
    pub fn groups(&self) -> Result<Groups, TopologyError> {
        Ok(Groups::new(self)?)
    }

    /// Notes that `virtual_function` is a virtual function of `physical` (SR-IOV). An enumerator knows by the SR-IOV
    /// capability: see [`crate::pci::Sriov::virtual_functions`]. Whether both are in the topology, apart, of one segment,
    /// and `physical` is no virtual one itself; where not, nothing is noted.
    pub fn set_physical(&mut self, virtual_function: Sbdf, physical: Sbdf) -> bool {
        let is_physical = self.index_of(physical).and_then(|index| self.nodes.get(index));
        let fits = virtual_function != physical
            && virtual_function.segment == physical.segment
            && is_physical.is_some_and(|node| node.physical.is_none())
            // Nor has it virtual functions itself.
            && !self.nodes.iter().any(|node| node.physical == Some(virtual_function));
        match self.index_of(virtual_function).and_then(|index| self.nodes.get_mut(index)) {
            Some(node) if fits => {
                node.physical = Some(physical);
                true
            }
            _ => false,
        }
    }

    /// The physical function of `sbdf`; `None` where it is not [known](Topology::set_physical) as a virtual one.
    pub fn physical(&self, sbdf: Sbdf) -> Option<Sbdf> {
        self.index_of(sbdf).and_then(|index| self.nodes.get(index)).and_then(|node| node.physical)
    }

    /// Notes that whoever has the machine in hand can plug devices in below `port`: what is there is not trusted. Firmware
    /// says so of a port by the property `ExternalFacingPort` (ACPI) or `external-facing` (devicetree). Whether there is
    /// such a function.
    pub fn set_external(&mut self, port: Sbdf) -> bool {
        let node = self.index_of(port).and_then(|index| self.nodes.get_mut(index));
        node.map(|node| node.external = true).is_some()
    }

    /// Whether `sbdf` is below a port that is [known](Topology::set_external) to lead outside.
    pub fn is_external(&self, sbdf: Sbdf) -> bool {
        self.bridges_above(sbdf).any(|node| node.external)
    }

    /// The bridges that requests of `sbdf` pass on their way to the root, in that order.
    pub fn way_up(&self, sbdf: Sbdf) -> impl Iterator<Item = &Function> + '_ {
        self.bridges_above(sbdf).map(|node| &node.function)
    }

    /// The bridges above `sbdf`, the nearest first.
    fn bridges_above(&self, sbdf: Sbdf) -> impl Iterator<Item = &Node> + '_ {
        let node = |index: usize| self.nodes.get(index);
        let nearest = self.bridge_above(sbdf.segment, sbdf.id.bus()).and_then(node);
        // Each step leads to a lower bus number: at most 255 of them.
        core::iter::successors(nearest, move |below| below.parent.and_then(node))
    }

    /// The function that the scopes of firmware mean when they mean `sbdf` (VT-d section 8.3.1): of a virtual function its
    /// physical one; of a device that takes a whole bus (ARI), and is not on a root bus, function 0 for those above 7.
    pub(crate) fn named_for(&self, sbdf: Sbdf) -> Sbdf {
        let named = self.physical(sbdf).unwrap_or(sbdf);
        let on_a_link = self.parent(named).and_then(|bridge| bridge.port).is_some_and(PcieType::is_port);
        let inside_a_switch = self.parent(named).is_some_and(|bridge| bridge.port == Some(PcieType::UpstreamPort));
        match Sbdf::from_parts(named.segment, named.id.bus(), 0, 0) {
            Some(first) if on_a_link && !inside_a_switch && named.id.device() != 0 => first,
            _ => named,
        }
    }

    fn index_of(&self, sbdf: Sbdf) -> Option<usize> {
        self.nodes.binary_search_by_key(&sbdf, |node| node.function.sbdf).ok()
    }

    fn function_at(&self, index: usize) -> Option<&Function> {
        self.nodes.get(index).map(|node| &node.function)
    }

    /// Index of the innermost bridge that leads to `bus`.
    fn bridge_above(&self, segment: u16, bus: u8) -> Option<usize> {
        innermost(&self.buses, segment, bus).map(|range| range.bridge)
    }

    /// Whether the bus ranges are a tree whose shape is that of the bridges themselves.
    fn check_nesting(&self) -> Result<(), TopologyError> {
        for (at, range) in self.buses.iter().enumerate() {
            // Ranges before this one are a tree already; none after it can hold this bridge or its secondary bus.
            let before = self.buses.get(..at).unwrap_or_default();
            let Some(bridge) = self.function_at(range.bridge).map(|function| function.sbdf) else { continue };
            let above = innermost(before, range.segment, bridge.id.bus());
            let holder = innermost(before, range.segment, range.secondary);
            if let Some(above) = above.filter(|above| above.subordinate < range.subordinate)
                && let Some(parent) = self.function_at(above.bridge)
            {
                let subordinate = range.subordinate;
                return Err(TopologyError::LeavesParent { bridge, parent: parent.sbdf, subordinate });
            }
            if let Some(holder) = holder.filter(|holder| above.is_none_or(|above| above.bridge != holder.bridge))
                && let Some(other) = self.function_at(holder.bridge)
            {
                return Err(TopologyError::Overlap { bridge, other: other.sbdf, bus: range.secondary });
            }
        }
        Ok(())
    }

    /// Notes each function's bridge.
    fn link(&mut self) {
        for node in &mut self.nodes {
            let Sbdf { segment, id } = node.function.sbdf;
            node.parent = innermost(&self.buses, segment, id.bus()).map(|range| range.bridge);
        }
    }
}

/// The bus ranges of the bridges among `nodes`, each checked for itself, in the order of [`Topology::buses`].
fn bus_ranges(nodes: &[Node]) -> Result<Vec<BusRange>, TopologyError> {
    let mut buses = Vec::new();
    for (index, Node { function, .. }) in nodes.iter().enumerate() {
        let FunctionKind::Bridge { secondary, subordinate } = function.kind else { continue };
        let bridge = function.sbdf;
        if secondary <= bridge.id.bus() {
            return Err(TopologyError::Cycle { bridge, secondary });
        }
        if subordinate < secondary {
            return Err(TopologyError::BusesReversed { bridge, secondary, subordinate });
        }
        try_push(&mut buses, BusRange { segment: bridge.segment, secondary, subordinate, bridge: index })?;
    }
    buses.sort_unstable_by_key(|range| (range.segment, range.secondary, range.bridge));
    Ok(buses)
}

/// The innermost of `buses`, a tree in order, that holds `bus`.
fn innermost(buses: &[BusRange], segment: u16, bus: u8) -> Option<&BusRange> {
    let after = buses.partition_point(|range| (range.segment, range.secondary) <= (segment, bus));
    let candidates = buses.get(..after).unwrap_or_default().iter().rev();
    // Of ranges that are nested or disjoint, the one that begins last is the innermost.
    candidates.take_while(|range| range.segment == segment).find(|range| range.subordinate >= bus)
}

#[cfg(test)]
mod tests;
