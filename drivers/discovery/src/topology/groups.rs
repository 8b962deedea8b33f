//! Isolation groups: which functions must share a target, because nothing below the IOMMU keeps them apart.
//!
//! Two functions are in one group where one could reach the other, or take its name, without the IOMMU's say:
//!
//! * A **device** is what traffic may cross without leaving: the functions of one device number on a root bus, and
//!   everything on one bus below a PCI Express port (the functions of one endpoint, ARI or not; the downstream ports
//!   of one switch). Where one of several functions lacks access control, all of the device are together: the one
//!   without can reach the others, whatever theirs say.
//! * A function below a bridge is together with that bridge, unless the bridge and every bridge above it enforce
//!   source validation, request and completion redirect and upstream forwarding. Bridges from or to conventional PCI
//!   never do, so that functions which share an alias are always together.
//! * Functions of different devices on a root bus are apart (root-complex integrated endpoints).
//!
//! The first rule is stricter than Linux, which lets a function with access control stay alone beside one without.
//! Quirks of particular devices (phantom functions, access control under another name) are not known here.

use super::{Node, Topology};
use crate::fallible::{OutOfMemory, try_collect, try_push};
use crate::sbdf::Sbdf;
use alloc::vec::Vec;
use core::fmt;

/// The number of a group in its [`Groups`]: from zero, in the order of the groups' lowest addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(usize);

impl GroupId {
    /// The number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Functions that must share a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// Its functions, ordered by address; bridges among them.
    pub members: Vec<Sbdf>,
}

/// All groups of a topology: each function is in exactly one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    groups: Vec<Group>,
}

impl Groups {
    pub(super) fn new(topology: &Topology) -> Result<Self, OutOfMemory> {
        let mut sets = Sets::new(topology.nodes.len())?;
        let isolating = join_devices(topology, &mut sets)?;
        join_to_bridges(topology, isolating, &mut sets);
        // A set is named after its lowest node, so that each group is met first at its lowest member.
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = try_collect(topology.nodes.iter().map(|_| 0usize))?;
        for (index, node) in topology.nodes.iter().enumerate() {
            let lowest = sets.find(index);
            if lowest == index {
                let id = GroupId(groups.len());
                if let Some(entry) = group_of.get_mut(index) {
                    *entry = id.0;
                }
                try_push(&mut groups, Group { id, members: Vec::new() })?;
            }
            let group = group_of.get(lowest).and_then(|id| groups.get_mut(*id));
            if let Some(group) = group {
                try_push(&mut group.members, node.function.sbdf)?;
            }
        }
        Ok(Self { groups })
    }

    /// The groups, by number.
    pub fn iter(&self) -> core::slice::Iter<'_, Group> {
        self.groups.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group with number `id`.
    pub fn get(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.0)
    }

    /// The group that `sbdf` is in; `None` where the topology has no such function.
    pub fn of(&self, sbdf: Sbdf) -> Option<&Group> {
        self.groups.iter().find(|group| group.members.binary_search(&sbdf).is_ok())
    }
}

impl<'a> IntoIterator for &'a Groups {
    type Item = &'a Group;
    type IntoIter = core::slice::Iter<'a, Group>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Joins the functions of each device that lacks access control; returns for each node whether it is of a device
/// that has it.
fn join_devices(topology: &Topology, sets: &mut Sets) -> Result<Vec<bool>, OutOfMemory> {
    let mut isolating = Vec::new();
    // Nodes are in order of address, so that those of a device lie side by side.
    for device in topology.nodes.chunk_by(|a, b| topology.device_of(a) == topology.device_of(b)) {
        let first = isolating.len();
        let shared = device.len() > 1 || device.iter().any(|node| node.function.multifunction);
        let isolated = device.iter().all(|node| node.function.is_isolating(shared));
        for index in first..first + device.len() {
            try_push(&mut isolating, isolated)?;
            if !isolated {
                sets.join(first, index);
            }
        }
    }
    Ok(isolating)
}

/// Joins each function to the bridge above it, unless that bridge and all above it are `isolating`.
fn join_to_bridges(topology: &Topology, mut isolating: Vec<bool>, sets: &mut Sets) {
    // From here on: whether the whole way from a bridge to the root isolates. Bridges come in order from the root.
    for range in &topology.buses {
        let parent = topology.nodes.get(range.bridge).and_then(|node| node.parent);
        let above = parent.is_none_or(|parent| isolating.get(parent).copied().unwrap_or(false));
        if let Some(way) = isolating.get_mut(range.bridge) {
            *way &= above;
        }
    }
    for (index, node) in topology.nodes.iter().enumerate() {
        if let Some(parent) = node.parent
            && !isolating.get(parent).copied().unwrap_or(false)
        {
            sets.join(parent, index);
        }
    }
}

impl Topology {
    /// What tells the device of `node` from others: its bus, and its device number unless the whole bus is one device.
    fn device_of(&self, node: &Node) -> (u16, u8, Option<u8>) {
        let Sbdf { segment, id } = node.function.sbdf;
        let above = node.parent.and_then(|parent| self.function_at(parent)).and_then(|bridge| bridge.port);
        let whole_bus = above.is_some_and(|port| port.is_port());
        (segment, id.bus(), if whole_bus { None } else { Some(id.device()) })
    }
}

/// Disjoint sets of node indices, each named after its lowest.
struct Sets(Vec<usize>);

impl Sets {
    /// Each of `len` nodes alone.
    fn new(len: usize) -> Result<Self, OutOfMemory> {
        try_collect(0..len).map(Self)
    }

    /// The lowest of the set that `index` is in.
    fn find(&mut self, mut index: usize) -> usize {
        // Links lead to lower indices only, so that this ends.
        while let Some(next) = self.0.get(index).copied().filter(|next| *next != index) {
            let further = self.0.get(next).copied().unwrap_or(next);
            // Halves the way for the next search.
            if let Some(link) = self.0.get_mut(index) {
                *link = further;
            }
            index = further;
        }
        index
    }

    /// Unites the sets of `a` and `b`.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        if let Some(link) = self.0.get_mut(a.max(b)) {
            *link = a.min(b);
        }
    }
}

#[cfg(test)]
mod tests;
