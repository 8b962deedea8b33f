//! Devices of the ACPI name space that do DMA (VT-d section 8.7).

use super::DmarError;
use crate::bytes::Bytes;
use crate::name::{self, NameError};
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
        let name = name::read(structure.from(FIXED_LEN)?).map_err(|error| match error {
            NameError::Unterminated => DmarError::NameUnterminated { offset },
            NameError::Empty => DmarError::NameEmpty { offset },
            NameError::Character { offset, byte } => DmarError::NameCharacter { offset, byte },
            NameError::OutOfMemory => DmarError::OutOfMemory,
        })?;
        Ok(Self { number: structure.u8(7)?, name })
    }

    /// Whether this device, whose structure begins at `offset`, may come after those `before` it.
    pub(super) fn check_against(&self, before: &[Self], offset: usize) -> Result<(), DmarError> {
        if before.iter().any(|other| other.number == self.number) {
            return Err(DmarError::NumberTaken { offset, number: self.number });
        }
        Ok(())
    }
}
