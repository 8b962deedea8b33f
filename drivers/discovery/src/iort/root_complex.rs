//! PCI root complexes.

use super::node::Node;
use super::{IdMapping, IortError};
use alloc::vec::Vec;

/// Length of the node in its first revision, in bytes.
pub(super) const FIXED_LEN: usize = 32;
const ADDRESS_BITS_AT: usize = 32;
/// Where the width of PASIDs lies: a later revision put it into bytes that were reserved.
const PASIDS_AT: usize = 33;

/// One root complex.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RootComplex {
    /// The PCI segment.
    pub segment: u16,
    /// Whether address translation services pass (ATS attribute bit 0).
    pub ats: bool,
    /// Whether page requests pass (ATS attribute bit 1).
    pub page_requests: bool,
    /// Width of the PASIDs that pass, in bits: 0 where none do (ATS attribute bit 2, PASID capabilities bits 4:0).
    pub pasid_bits: u8,
    /// Whether DMA snoops the CPUs' caches (cache coherency attribute).
    pub coherent: bool,
    /// Width of the addresses that pass, in bits; 0 where firmware does not say.
    pub address_bits: u8,
    /// Its streams, and device ids of functions that no unit sees, in table order.
    pub mappings: Vec<IdMapping>,
    pub(super) offset: usize,
}

impl RootComplex {
    /// Reads a node of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(node: Node<'_>) -> Result<Self, IortError> {
        let offset = node.offset();
        let (attributes, segment) = (node.bytes.u32(24)?, node.bytes.u32(28)?);
        let segment = u16::try_from(segment).map_err(|_| IortError::BadSegment { offset, segment })?;
        let has_pasids = attributes & 1 << 2 != 0 && node.has(PASIDS_AT + 2);
        Ok(Self {
            segment,
            ats: attributes & 1 != 0,
            page_requests: attributes & 1 << 1 != 0,
            pasid_bits: if has_pasids { (node.bytes.u16(PASIDS_AT)? & 0x1f) as u8 } else { 0 },
            coherent: node.bytes.u32(16)? == 1,
            address_bits: if node.has(ADDRESS_BITS_AT + 1) { node.bytes.u8(ADDRESS_BITS_AT)? } else { 0 },
            mappings: node.mappings,
            offset,
        })
    }
}
