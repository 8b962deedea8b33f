//! What can be wrong with an IORT.

use crate::bytes::OutOfBounds;
use crate::fallible::OutOfMemory;
use crate::table::TableError;
use core::fmt;
use iommu_core::hw::RequesterId;

/// Why an IORT, or what its nodes say together, was refused. Offsets are in bytes from the start of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IortError {
    /// Signature, length or checksum.
    Table(TableError),
    /// The first node would not begin behind the table's fixed part, or not within the table.
    NodesOutside {
        /// Where the field lies.
        offset: usize,
        /// Its value.
        value: u32,
    },
    /// The table ends before all of its nodes.
    NodesMissing {
        /// How many there are to be.
        expected: u32,
        /// How many there are.
        found: u32,
    },
    /// Fewer bytes are left for a node than its header has.
    TrailingBytes {
        /// Where they begin.
        offset: usize,
        /// How many there are.
        count: usize,
    },
    /// A node is shorter than its header, or than the fixed part of its type.
    NodeTooShort {
        /// Where it begins.
        offset: usize,
        /// Its type code.
        kind: u8,
        /// Its length, in bytes.
        length: usize,
        /// The least that length can be.
        least: usize,
    },
    /// A node goes on beyond the table's end.
    NodeOverlong {
        /// Where it begins.
        offset: usize,
        /// Its type code.
        kind: u8,
        /// Its length, in bytes.
        length: usize,
        /// How many bytes there are.
        room: usize,
    },
    /// A node's mappings begin in its fixed part, or do not lie within it.
    MappingsOutside {
        /// Where the node begins.
        offset: usize,
        /// Where the mappings are to begin, in bytes from there.
        at: u32,
        /// How many there are to be.
        count: u32,
    },
    /// A mapping leads to where no node begins.
    UnknownReference {
        /// Where the mapping lies.
        offset: usize,
        /// Where it leads.
        reference: u32,
    },
    /// A mapping leads to a node of a kind that it must not lead to.
    BadReference {
        /// Where the mapping lies.
        offset: usize,
        /// Where it leads.
        reference: u32,
        /// The type code of the node there.
        kind: u8,
    },
    /// The ids of a mapping, before or after, go beyond 32 bits.
    IdsWrap {
        /// Where the mapping lies.
        offset: usize,
        /// First id that goes in.
        first: u32,
        /// What it becomes.
        output: u32,
        /// How many follow.
        more: u32,
    },
    /// Two mappings of a node have an id in common.
    OverlappingIds {
        /// Where the node begins.
        offset: usize,
        /// The first id that both have.
        id: u32,
    },
    /// Two root complexes of a segment have a requester in common.
    SameRequesters {
        /// Where the second node begins.
        offset: usize,
        /// The segment.
        segment: u16,
        /// The first requester that both have.
        requester: RequesterId,
    },
    /// Two mappings, of one root complex or of two, give different requesters the same stream of a unit: whoever
    /// attaches one would attach the other.
    SharedStreams {
        /// Where the unit's node begins.
        offset: usize,
        /// The first stream that both give.
        stream: u32,
    },
    /// A root complex's segment has more than 16 bits.
    BadSegment {
        /// Where the node begins.
        offset: usize,
        /// The value.
        segment: u32,
    },
    /// A unit's register base is zero, or not a multiple of 64 KiB (IHI 0070, section 6.1).
    BadRegisterBase {
        /// Where the node begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// A unit's registers go beyond 2^64.
    RegistersWrap {
        /// Where the node begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// The registers of two units overlap: two drivers would each take the other's completions for their own.
    RegistersTaken {
        /// Where the second node begins.
        offset: usize,
        /// Its base.
        base: u64,
    },
    /// There are more than 1024 units.
    TooManyUnits {
        /// Where the first node begins that is one too many.
        offset: usize,
    },
    /// The mapping of a unit's own messages is not there, is for more than one id, or leads to no ITS group.
    BadMsiMapping {
        /// Where the node begins.
        offset: usize,
        /// Which mapping it is to be.
        index: u32,
    },
    /// The list of a group of interrupt translation services does not lie within its node.
    ServicesOutside {
        /// Where the node begins.
        offset: usize,
        /// How many services there are to be.
        count: u32,
    },
    /// The MADT has no interrupt translation service of this number.
    UnknownService {
        /// Where the group's node begins.
        offset: usize,
        /// The service's number.
        id: u32,
    },
    /// The name of a component does not end within its node.
    NameUnterminated {
        /// Where the node begins.
        offset: usize,
    },
    /// A component has no name.
    NameEmpty {
        /// Where the node begins.
        offset: usize,
    },
    /// The name of a component holds a character that no ACPI path has.
    NameCharacter {
        /// Where the character lies.
        offset: usize,
        /// The character.
        byte: u8,
    },
    /// The descriptors of a reserved memory range begin in its node's fixed part, or do not lie within it.
    DescriptorsOutside {
        /// Where the node begins.
        offset: usize,
        /// Where the descriptors are to begin, in bytes from there.
        at: u32,
        /// How many there are to be.
        count: u32,
    },
    /// Reserved memory is empty, not in whole 64 KiB, or goes beyond 2^64.
    BadReservation {
        /// Where the descriptor lies.
        offset: usize,
        /// The base.
        base: u64,
        /// The length, in bytes.
        length: u64,
    },
    /// No memory for the result.
    OutOfMemory,
}

impl fmt::Display for IortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IORT: ")?;
        match *self {
            Self::Table(ref error) => error.fmt(f),
            Self::NodesOutside { value, .. } => write!(f, "nodes begin at {value:#x}"),
            Self::NodesMissing { expected, found } => write!(f, "{found} nodes where there are to be {expected}"),
            Self::TrailingBytes { offset, count } => write!(f, "{count} stray bytes at {offset:#x}"),
            Self::NodeTooShort { offset, kind, length, least } => {
                write!(f, "node (type {kind}) at {offset:#x} has {length} bytes, not {least}")
            }
            Self::NodeOverlong { offset, kind, length, room } => {
                write!(f, "node (type {kind}) at {offset:#x} has {length} bytes where {room} are left")
            }
            Self::MappingsOutside { offset, at, count } => {
                write!(f, "node at {offset:#x}: {count} mappings at {at:#x} in it")
            }
            Self::UnknownReference { offset, reference } => {
                write!(f, "mapping at {offset:#x} leads to {reference:#x}, where no node begins")
            }
            Self::BadReference { offset, reference, kind } => {
                write!(f, "mapping at {offset:#x} leads to {reference:#x}, a node of type {kind}")
            }
            Self::IdsWrap { offset, first, output, more } => {
                write!(f, "mapping at {offset:#x}: {more:#x} ids after {first:#x}, which becomes {output:#x}")
            }
            Self::OverlappingIds { offset, id } => write!(f, "node at {offset:#x}: two mappings for id {id:#x}"),
            Self::SameRequesters { offset, segment, requester } => {
                write!(f, "root complex at {offset:#x}: {segment:#x} {requester} is another's as well")
            }
            Self::SharedStreams { offset, stream } => {
                write!(f, "two requesters are stream {stream:#x} of the unit at {offset:#x}")
            }
            Self::BadSegment { offset, segment } => write!(f, "root complex at {offset:#x}: segment {segment:#x}"),
            Self::BadRegisterBase { offset, base } => write!(f, "unit at {offset:#x} has register base {base:#x}"),
            Self::RegistersWrap { offset, base } => {
                write!(f, "registers of the unit at {offset:#x}, base {base:#x}, go beyond 2^64")
            }
            Self::RegistersTaken { offset, base } => {
                write!(f, "registers of the unit at {offset:#x}, base {base:#x}, are another's as well")
            }
            Self::TooManyUnits { offset } => write!(f, "unit at {offset:#x} is one too many"),
            Self::BadMsiMapping { offset, index } => {
                write!(f, "unit at {offset:#x}: mapping {index} is none of its messages")
            }
            Self::ServicesOutside { offset, count } => write!(f, "ITS group at {offset:#x} has no room for {count}"),
            Self::UnknownService { offset, id } => {
                write!(f, "ITS group at {offset:#x} names {id:#x}, which the MADT does not have")
            }
            Self::NameUnterminated { offset } => write!(f, "name of the component at {offset:#x} does not end"),
            Self::NameEmpty { offset } => write!(f, "component at {offset:#x} has no name"),
            Self::NameCharacter { offset, byte } => write!(f, "byte {byte:#04x} at {offset:#x} is in no ACPI path"),
            Self::DescriptorsOutside { offset, at, count } => {
                write!(f, "reserved memory at {offset:#x}: {count} descriptors at {at:#x} in it")
            }
            Self::BadReservation { offset, base, length } => {
                write!(f, "reserved memory at {offset:#x}: {length:#x} bytes from {base:#x}")
            }
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for IortError {}

impl From<TableError> for IortError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<OutOfBounds> for IortError {
    fn from(error: OutOfBounds) -> Self {
        Self::Table(error.into())
    }
}

impl From<OutOfMemory> for IortError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
