//! Devices of the ACPI name space that do DMA (VT-d section 8.7).

use super::DmarError;
use crate::bytes::Bytes;
use crate::fallible::OutOfMemory;
use alloc::string::String;

/// Length of the structure before the name, in bytes.
pub(super) const FIXED_LEN: usize = 8;

/// A device of the ACPI name space. Scopes of kind [`super::ScopeKind::Namespace`] with its number as enumeration id say
/// under which requester id it does DMA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Andd {
    /// Its number, which no other has.
    pub number: u8,
    /// The path of its object, such as `\_SB.PCI0.I2C0`: not empty, of characters that such paths have.
    pub name: String,
}

impl Andd {
    /// Reads a structure of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(structure: Bytes<'_>) -> Result<Self, DmarError> {
        let offset = structure.start();
        let field = structure.from(FIXED_LEN)?;
        let bytes = field.as_slice();
        let end = bytes.iter().position(|byte| *byte == 0).ok_or(DmarError::NameUnterminated { offset })?;
        let name = bytes.get(..end).unwrap_or_default();
        if name.is_empty() {
            return Err(DmarError::NameEmpty { offset });
        }
        if let Some(at) = name.iter().position(|byte| !is_of_a_path(*byte)) {
            let byte = name.get(at).copied().unwrap_or_default();
            return Err(DmarError::NameCharacter { offset: field.start().saturating_add(at), byte });
        }
        let name = core::str::from_utf8(name).map_err(|_| DmarError::NameEmpty { offset })?;
        let mut copy = String::new();
        copy.try_reserve_exact(name.len()).map_err(|_| OutOfMemory)?;
        copy.push_str(name);
        Ok(Self { number: structure.u8(7)?, name: copy })
    }

    /// Whether this device, whose structure begins at `offset`, may come after those `before` it.
    pub(super) fn check_against(&self, before: &[Self], offset: usize) -> Result<(), DmarError> {
        if before.iter().any(|other| other.number == self.number) {
            return Err(DmarError::NumberTaken { offset, number: self.number });
        }
        Ok(())
    }
}

/// Whether ACPI object paths have this character (ACPI 5.3): segments of capital letters, digits and underscores, the root,
/// parents, and the separator. Small letters are no part of it, but some firmware writes them.
const fn is_of_a_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'\\' | b'^' | b'.')
}
