//! The I/O remapping table, IORT (Arm DEN0049): SMMUv3 units, which root complexes and devices they serve, where interrupts
//! as messages go, and which memory firmware keeps for streams.
//!
//! [`Iort::parse`] copies out what is used and checks all of it; nothing of the table is trusted afterwards. Nodes of unknown
//! type are skipped, and so are SMMUv1, SMMUv2 and performance counters: what leads there is controlled by no unit of ours.
//! Which unit serves which function follows from several nodes: [`Streams::from_iort`](crate::streams::Streams::from_iort)
//! says it.
//!
//! # How ids travel
//!
//! A root complex's mappings turn requester ids into stream ids of an SMMU, whose mappings turn stream ids into device ids of
//! a group of interrupt translation services. Where a root complex leads to such a group at once, no unit sees its functions.
//! A node leads only to nodes of a later kind in this chain, so that no chain has a loop.
//!
//! # What is an error, and what is not
//!
//! | Rule of the specification | Broken |
//! |---|---|
//! | lengths hold what they must, nothing leaves what it is in | the table is refused |
//! | mappings lead to a node that there is, of a kind that comes after | refused |
//! | ids before and after a mapping have 32 bits; a root complex's segment 16 | refused |
//! | register bases are multiples of 64 KiB, not zero, no two units' overlap | refused |
//! | the mapping of a unit's own messages is there, for one id, and leads to an ITS group | refused where the node says that it has one |
//! | reserved memory is not empty, in whole 64 KiB, and does not go beyond 2^64 | refused |
//! | names of components are ACPI paths that end | refused |
//! | an id goes into one mapping of a node; a requester into one of its segment; a stream is one requester's | refused, except for the next row ([`Streams`](crate::streams::Streams)) |
//! | a mapping holds its number of ids less one | some firmware stores the number itself: where the last id of a range is the first of another, going in or coming out, the first loses it |
//! | identifiers of nodes are unique | not checked, and of no use |
//! | streams of named components are theirs alone | not checked |
//! | reserved memory lies apart | allowed: what overlaps is joined |
//! | a value of a field is not reserved | HTTU override 3 counts as no updates, models are kept by number |
//! | reserved bits are zero | ignored |

mod error;
mod its_group;
mod mapping;
mod named_component;
mod node;
mod rmr;
mod root_complex;
mod smmu_v3;
mod streams;

pub use error::IortError;
pub use its_group::ItsGroup;
pub use mapping::{IdMapping, MappingTarget};
pub use named_component::NamedComponent;
pub use rmr::{Rmr, RmrDescriptor};
pub use root_complex::RootComplex;
pub use smmu_v3::SmmuV3;

use crate::bytes::Bytes;
use crate::fallible::try_push;
use crate::table;
use alloc::vec::Vec;
use node::{Directory, Node};

/// Length of header, node count, node offset and reserved bytes.
const FIXED_LEN: usize = 48;
const COUNT_AT: usize = 36;
const NODES_AT: usize = 40;

/// Most units of a table: each is compared with all before it. No machine has nearly as many.
const MAX_UNITS: usize = 1024;

/// The known nodes, with their type codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NodeKind {
    /// A group of interrupt translation services (GICv3 ITS).
    ItsGroup = 0,
    /// A device of the ACPI name space.
    NamedComponent = 1,
    /// A PCI root complex.
    RootComplex = 2,
    /// An SMMUv1 or SMMUv2: counted, not read.
    SmmuV1V2 = 3,
    /// An SMMUv3.
    SmmuV3 = 4,
    /// A group of performance counters: counted, not read.
    Pmcg = 5,
    /// A reserved memory range.
    Rmr = 6,
}

impl NodeKind {
    const ALL: [Self; 7] =
        [Self::ItsGroup, Self::NamedComponent, Self::RootComplex, Self::SmmuV1V2, Self::SmmuV3, Self::Pmcg, Self::Rmr];

    fn new(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == raw)
    }

    /// Length of the part that every revision of the node has, in bytes; fields that came later are looked for.
    const fn least(self) -> usize {
        match self {
            Self::ItsGroup => its_group::FIXED_LEN,
            Self::NamedComponent => named_component::FIXED_LEN,
            Self::RootComplex => root_complex::FIXED_LEN,
            Self::SmmuV3 => smmu_v3::FIXED_LEN,
            Self::Rmr => rmr::FIXED_LEN,
            Self::SmmuV1V2 | Self::Pmcg => node::HEADER_LEN,
        }
    }
}

/// What the IORT says, checked and owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Iort {
    its_groups: Vec<ItsGroup>,
    named_components: Vec<NamedComponent>,
    root_complexes: Vec<RootComplex>,
    smmus: Vec<SmmuV3>,
    rmrs: Vec<Rmr>,
    counts: [u32; NodeKind::ALL.len()],
    unknown: u32,
}

impl Iort {
    /// Reads the table that `bytes` begins with; `bytes` may go on after it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its offset: see [`IortError`]. The work is linear in the table's length but for
    /// the search of the node that a mapping leads to, which is a binary one, and one comparison a pair of units, of which
    /// there are at most 1024.
    pub fn parse(bytes: &[u8]) -> Result<Self, IortError> {
        let table = table::checked(bytes, *b"IORT", FIXED_LEN)?;
        let directory = Directory::read(table, table.u32(COUNT_AT)?, table.u32(NODES_AT)?)?;
        let mut iort = Self {
            its_groups: Vec::new(),
            named_components: Vec::new(),
            root_complexes: Vec::new(),
            smmus: Vec::new(),
            rmrs: Vec::new(),
            counts: directory.counts(),
            unknown: directory.unknown(),
        };
        for (kind, bytes) in directory.nodes(table) {
            iort.add(kind, bytes?, &directory)?;
        }
        Ok(iort)
    }

    fn add(&mut self, kind: NodeKind, bytes: Bytes<'_>, directory: &Directory) -> Result<(), IortError> {
        let (offset, length, least) = (bytes.start(), bytes.len(), kind.least());
        if length < least {
            return Err(IortError::NodeTooShort { offset, kind: kind as u8, length, least });
        }
        // Of those that are not read nothing needs to be right.
        if matches!(kind, NodeKind::SmmuV1V2 | NodeKind::Pmcg) {
            return Ok(());
        }
        let node = Node::read(kind, bytes, directory)?;
        match kind {
            NodeKind::ItsGroup => try_push(&mut self.its_groups, ItsGroup::parse(node)?)?,
            NodeKind::NamedComponent => try_push(&mut self.named_components, NamedComponent::parse(node)?)?,
            NodeKind::RootComplex => try_push(&mut self.root_complexes, RootComplex::parse(node)?)?,
            NodeKind::SmmuV3 => {
                if self.smmus.len() >= MAX_UNITS {
                    return Err(IortError::TooManyUnits { offset });
                }
                let smmu = SmmuV3::parse(node)?;
                smmu.check_against(&self.smmus)?;
                try_push(&mut self.smmus, smmu)?;
            }
            NodeKind::Rmr => try_push(&mut self.rmrs, Rmr::parse(node)?)?,
            NodeKind::SmmuV1V2 | NodeKind::Pmcg => {}
        }
        Ok(())
    }

    /// The groups of interrupt translation services, in table order: [`MappingTarget::ItsGroup`] is an index into this.
    pub fn its_groups(&self) -> &[ItsGroup] {
        &self.its_groups
    }

    /// The devices of the ACPI name space, in table order.
    pub fn named_components(&self) -> &[NamedComponent] {
        &self.named_components
    }

    /// The PCI root complexes, in table order.
    pub fn root_complexes(&self) -> &[RootComplex] {
        &self.root_complexes
    }

    /// The SMMUv3 units, in table order: [`MappingTarget::Smmu`] is an index into this.
    pub fn smmus(&self) -> &[SmmuV3] {
        &self.smmus
    }

    /// The reserved memory ranges, in table order.
    pub fn rmrs(&self) -> &[Rmr] {
        &self.rmrs
    }

    /// How many nodes of `kind` the table has.
    pub fn count(&self, kind: NodeKind) -> u32 {
        self.counts.get(kind as usize).copied().unwrap_or(0)
    }

    /// How many nodes of unknown type were skipped.
    pub const fn unknown(&self) -> u32 {
        self.unknown
    }
}

#[cfg(test)]
mod tests;
