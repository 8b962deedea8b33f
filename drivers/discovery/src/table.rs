//! The header that every ACPI table begins with (ACPI 5.2.6): signature, length, checksum.
//!
//! Says whether the bytes are a whole, unharmed table of one kind; what follows the header is for the table's module.

use crate::bytes::{Bytes, OutOfBounds};
use core::fmt;

/// Length of the header, in bytes.
pub(crate) const HEADER_LEN: usize = 36;
const LENGTH_AT: usize = 4;

/// What is wrong with a table as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TableError {
    /// The four bytes at offset 0 are another table's.
    Signature {
        /// The bytes found.
        found: [u8; 4],
        /// The bytes this table begins with.
        expected: [u8; 4],
    },
    /// The length field (offset 4) says less than the table's fixed part needs.
    TooShort {
        /// The length field, in bytes.
        length: u32,
        /// The least it can be.
        least: usize,
    },
    /// The length field (offset 4) says more than the bytes that were given.
    TooLong {
        /// The length field, in bytes.
        length: u32,
        /// How many bytes were given.
        given: usize,
    },
    /// The bytes of the table do not sum to zero modulo 256.
    Checksum {
        /// The sum.
        sum: u8,
    },
    /// The bytes end before a field does.
    OutOfBounds(OutOfBounds),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature { found, expected } => {
                write!(f, "signature is {}, not {}", found.escape_ascii(), expected.escape_ascii())
            }
            Self::TooShort { length, least } => write!(f, "length {length:#x} is less than {least:#x}"),
            Self::TooLong { length, given } => write!(f, "length {length:#x} exceeds the {given:#x} bytes given"),
            Self::Checksum { sum } => write!(f, "bytes sum to {sum:#04x}, not to zero"),
            Self::OutOfBounds(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for TableError {}

impl From<OutOfBounds> for TableError {
    fn from(error: OutOfBounds) -> Self {
        Self::OutOfBounds(error)
    }
}

/// The bytes of the table that `given` begins with, once signature, length and checksum hold. `given` may go on after
/// the table; `least` is the length of its fixed part, header included.
pub(crate) fn checked<'a>(given: &'a [u8], expected: [u8; 4], least: usize) -> Result<Bytes<'a>, TableError> {
    let bytes = Bytes::new(given);
    let found = bytes.array(0)?;
    if found != expected {
        return Err(TableError::Signature { found, expected });
    }
    let length = bytes.u32(LENGTH_AT)?;
    // A length that does not fit usize certainly exceeds what was given.
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    if wanted < least.max(HEADER_LEN) {
        return Err(TableError::TooShort { length, least: least.max(HEADER_LEN) });
    }
    let table = bytes.part(0, wanted).map_err(|_| TableError::TooLong { length, given: given.len() })?;
    match table.as_slice().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(table),
        sum => Err(TableError::Checksum { sum }),
    }
}
