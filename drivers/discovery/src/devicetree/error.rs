//! What can be wrong with a devicetree.

use crate::fallible::OutOfMemory;
use core::fmt;
use dtoolkit::error::FdtParseError;
use iommu_core::hw::RequesterId;

/// Why a devicetree, or what a part of it says, was refused. A node is named by its unit address, the number behind the
/// `@` in its name; 0 where it has none.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeviceTreeError {
    /// The blob itself: header, tokens, names, lengths.
    Structure(StructureError),
    /// Nodes are nested deeper than any tree of hardware.
    TooDeep,
    /// A property's length is not that of whole records.
    ShortProperty {
        /// The node.
        unit_address: u64,
        /// The property.
        property: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The length of one record in bytes.
        record: usize,
    },
    /// A property that is needed is absent.
    Missing {
        /// The node.
        unit_address: u64,
        /// The property.
        property: &'static str,
    },
    /// A property is not a text that ends with a zero.
    NotText {
        /// The property.
        property: &'static str,
    },
    /// Addresses or lengths of more cells than any bus has.
    TooManyCells {
        /// The node.
        unit_address: u64,
        /// `#address-cells` or `#size-cells`.
        property: &'static str,
        /// The value.
        cells: u32,
    },
    /// A number that needs more than 64 bits.
    TooWide {
        /// The node.
        unit_address: u64,
        /// The property.
        property: &'static str,
    },
    /// A region is empty or goes beyond 2^64.
    BadRegion {
        /// The node.
        unit_address: u64,
        /// First byte.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A register window that no bus on the way to the root passes on.
    Untranslatable {
        /// The node.
        unit_address: u64,
        /// Where the window begins on the bus that does not pass it on.
        start: u64,
    },
    /// A host bridge's buses are reversed or do not fit its configuration space.
    BadBusRange {
        /// The host bridge.
        unit_address: u64,
        /// First bus.
        first: u32,
        /// Last bus.
        last: u32,
    },
    /// A host bridge's PCI domain is no segment number of 16 bits.
    BadSegment {
        /// The host bridge.
        unit_address: u64,
        /// The value.
        segment: u32,
    },
    /// Two host bridges cover the same bus.
    SameBuses {
        /// The second host bridge.
        unit_address: u64,
        /// The segment.
        segment: u16,
    },
    /// There is no enabled SMMUv3.
    NoSmmu,
    /// An entry of `iommu-map` is empty or covers more than the 16 bits of a requester id.
    BadRequesters {
        /// The host bridge.
        unit_address: u64,
        /// First requester id.
        first: u32,
        /// How many.
        len: u32,
    },
    /// An entry of `iommu-map` leads beyond the 32 bits of a stream id.
    BadStreams {
        /// The host bridge.
        unit_address: u64,
        /// First stream id.
        first: u32,
        /// How many.
        len: u32,
    },
    /// Two entries, of one `iommu-map` or of two, give different requesters the same stream of a unit: whoever attaches
    /// one would attach the other.
    SharedStreams {
        /// The phandle of the unit.
        phandle: u32,
        /// The first stream id that both give.
        stream: u32,
    },
    /// The registers of a unit, or of an interrupt translation service, begin at 0 or not on a page of 64 KiB (IHI 0070,
    /// section 6.1), or overlap another unit's.
    BadRegisters {
        /// The node.
        unit_address: u64,
        /// Where its registers begin.
        start: u64,
    },
    /// Two entries of `iommu-map` cover the same requester.
    OverlappingRequesters {
        /// The host bridge.
        unit_address: u64,
        /// The first requester id that both cover.
        requester: RequesterId,
    },
    /// A phandle names no enabled SMMUv3.
    UnknownPhandle {
        /// The host bridge that has it in its `iommu-map`.
        unit_address: u64,
        /// The phandle.
        phandle: u32,
    },
    /// Two units have the same phandle.
    SamePhandle {
        /// The second unit.
        unit_address: u64,
        /// The phandle.
        phandle: u32,
    },
    /// A unit names streams by more or fewer cells than the one that SMMUv3 has.
    BadIommuCells {
        /// The unit.
        unit_address: u64,
        /// Its `#iommu-cells`.
        cells: u32,
    },
    /// There are more than 1024 units.
    TooManyUnits {
        /// The first that is one too many.
        unit_address: u64,
    },
    /// All reserved memory together is for more than 2^20 streams.
    TooManyUsers {
        /// The reserved memory that is one too many.
        unit_address: u64,
    },
    /// Reserved memory is for a device that no enabled node is.
    UnknownDevice {
        /// The reserved memory.
        unit_address: u64,
        /// The phandle.
        phandle: u32,
    },
    /// No memory for the result.
    OutOfMemory,
}

impl fmt::Display for DeviceTreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("devicetree: ")?;
        match self {
            Self::Structure(error) => error.fmt(f),
            Self::TooDeep => f.write_str("nodes are nested too deep"),
            Self::ShortProperty { unit_address, property, len, record } => {
                write!(f, "@{unit_address:x}: {property} of {len} bytes is no whole number of {record} bytes")
            }
            Self::Missing { unit_address, property } => write!(f, "@{unit_address:x}: {property} is missing"),
            Self::NotText { property } => write!(f, "{property} is not text"),
            Self::TooManyCells { unit_address, property, cells } => {
                write!(f, "@{unit_address:x}: {property} of {cells}")
            }
            Self::TooWide { unit_address, property } => {
                write!(f, "@{unit_address:x}: a number in {property} needs more than 64 bits")
            }
            Self::BadRegion { unit_address, start, len } => {
                write!(f, "@{unit_address:x}: impossible region of {len:#x} bytes at {start:#x}")
            }
            Self::Untranslatable { unit_address, start } => {
                write!(f, "@{unit_address:x}: no bus passes {start:#x} on")
            }
            Self::BadBusRange { unit_address, first, last } => {
                write!(f, "@{unit_address:x}: impossible buses {first:#x} to {last:#x}")
            }
            Self::BadSegment { unit_address, segment } => {
                write!(f, "@{unit_address:x}: segment {segment:#x} needs more than 16 bits")
            }
            Self::SameBuses { unit_address, segment } => {
                write!(f, "@{unit_address:x}: another host bridge has the same buses of segment {segment:#x}")
            }
            Self::NoSmmu => f.write_str("there is no SMMUv3"),
            Self::BadRequesters { unit_address, first, len } => {
                write!(f, "@{unit_address:x}: iommu-map of {len:#x} requesters from {first:#x}")
            }
            Self::BadStreams { unit_address, first, len } => {
                write!(f, "@{unit_address:x}: iommu-map to {len:#x} streams from {first:#x}")
            }
            Self::SharedStreams { phandle, stream } => {
                write!(f, "iommu-map: two requesters are stream {stream:#x} of {phandle:#x}")
            }
            Self::BadRegisters { unit_address, start } => {
                write!(f, "@{unit_address:x}: registers at {start:#x} are misaligned, or another unit's as well")
            }
            Self::OverlappingRequesters { unit_address, requester } => {
                write!(f, "@{unit_address:x}: iommu-map has {requester} twice")
            }
            Self::UnknownPhandle { unit_address, phandle } => {
                write!(f, "@{unit_address:x}: iommu-map names {phandle:#x}, which is no SMMUv3")
            }
            Self::SamePhandle { unit_address, phandle } => {
                write!(f, "@{unit_address:x}: phandle {phandle:#x} is another unit's as well")
            }
            Self::BadIommuCells { unit_address, cells } => {
                write!(f, "@{unit_address:x}: #iommu-cells is {cells}, not 1")
            }
            Self::TooManyUnits { unit_address } => write!(f, "@{unit_address:x}: one SMMUv3 too many"),
            Self::TooManyUsers { unit_address } => write!(f, "@{unit_address:x}: memory is kept for too many streams"),
            Self::UnknownDevice { unit_address, phandle } => {
                write!(f, "@{unit_address:x}: iommu-addresses for {phandle:#x}, which is no device")
            }
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for DeviceTreeError {}

impl From<OutOfMemory> for DeviceTreeError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// What is wrong with the structure of a blob, and where, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StructureError(pub(super) FdtParseError);

impl fmt::Display for StructureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for StructureError {}
