//! Devices of the ACPI name space that do DMA.

use super::node::Node;
use super::{IdMapping, IortError};
use crate::name::{self, NameError};
use alloc::string::String;
use alloc::vec::Vec;

/// Length of the node before the name, in bytes.
pub(super) const FIXED_LEN: usize = 29;

/// A device of the ACPI name space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedComponent {
    /// The path of its object, such as `\_SB.SATA`: not empty, of characters that such paths have.
    pub name: String,
    /// Whether its accesses may be stalled (node flags bit 0).
    pub can_stall: bool,
    /// Width of its substream ids, in bits (node flags bits 5:1).
    pub pasid_bits: u8,
    /// Whether its accesses snoop the CPUs' caches (cache coherency attribute).
    pub coherent: bool,
    /// Width of the addresses that it can make, in bits; 0 where firmware does not say.
    pub address_bits: u8,
    /// Its streams and device ids, in table order.
    pub mappings: Vec<IdMapping>,
}

impl NamedComponent {
    /// Reads a node of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(node: Node<'_>) -> Result<Self, IortError> {
        let offset = node.offset();
        let name = name::read(node.body_from(FIXED_LEN)?).map_err(|error| match error {
            NameError::Unterminated => IortError::NameUnterminated { offset },
            NameError::Empty => IortError::NameEmpty { offset },
            NameError::Character { offset, byte } => IortError::NameCharacter { offset, byte },
            NameError::OutOfMemory => IortError::OutOfMemory,
        })?;
        let flags = node.bytes.u32(16)?;
        Ok(Self {
            name,
            can_stall: flags & 1 != 0,
            pasid_bits: (flags >> 1 & 0x1f) as u8,
            coherent: node.bytes.u32(20)? == 1,
            address_bits: node.bytes.u8(28)?,
            mappings: node.mappings,
        })
    }
}
