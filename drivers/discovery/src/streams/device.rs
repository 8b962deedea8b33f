//! Devices that are no PCI functions, and memory that firmware keeps for streams.

use alloc::string::String;
use alloc::vec::Vec;
use iommu_core::hw::StreamId;
use iommu_core::region::ReservedRegion;

/// Neighbouring streams of one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamRange {
    /// The unit: an index into [`super::Streams::units`].
    pub unit: usize,
    /// First stream.
    pub first: StreamId,
    /// Last stream, inclusive; not below `first`.
    pub last: StreamId,
}

impl StreamRange {
    /// Whether `stream` of `unit` is one of them.
    pub fn has(&self, unit: usize, stream: StreamId) -> bool {
        self.unit == unit && (self.first..=self.last).contains(&stream)
    }

    /// Whether the two have a stream in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.unit == other.unit && self.first <= other.last && other.first <= self.last
    }
}

/// A device that is no PCI function: a named component of the IORT, or a node of a devicetree with `iommus`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlatformDevice {
    /// The path of its ACPI object, or the name of its node.
    pub name: String,
    /// Its streams. Not compared with those of other devices: one stream may be several devices'.
    pub streams: Vec<StreamRange>,
    /// Whether its accesses may be stalled until software has answered a fault.
    pub can_stall: bool,
    /// Width of its PASIDs, in bits (0 to 20): 0 where it has none.
    pub pasid_bits: u8,
}

/// Memory that firmware keeps for streams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservedMemory {
    /// Where, and whether it must be mapped to itself or kept free. May overlap with each other.
    pub regions: Vec<ReservedRegion>,
    /// Whose.
    pub users: Vec<StreamRange>,
}
