//! What can be wrong with a MADT.

use crate::bytes::OutOfBounds;
use crate::fallible::OutOfMemory;
use crate::table::TableError;
use core::fmt;

/// Why a MADT was refused. Offsets are in bytes from the start of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MadtError {
    /// Signature, length or checksum.
    Table(TableError),
    /// Fewer bytes are left at the end than a structure's header has.
    TrailingBytes {
        /// Where they begin.
        offset: usize,
        /// How many there are.
        count: usize,
    },
    /// A structure is shorter than its header, or than its type is.
    StructureTooShort {
        /// Where it begins.
        offset: usize,
        /// Its type code.
        kind: u8,
        /// Its length, in bytes.
        length: usize,
        /// The least that length can be.
        least: usize,
    },
    /// A structure goes on beyond the table's end.
    StructureOverlong {
        /// Where it begins.
        offset: usize,
        /// Its type code.
        kind: u8,
        /// Its length, in bytes.
        length: usize,
        /// How many bytes there are.
        room: usize,
    },
    /// The registers of a service begin at zero, not at a multiple of 64 KiB, or go beyond 2^64.
    BadBase {
        /// Where the structure begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// Two services have the same number.
    NumberTaken {
        /// Where the second structure begins.
        offset: usize,
        /// The number.
        id: u32,
    },
    /// There are more than 1024 services.
    TooManyServices {
        /// Where the first structure begins that is one too many.
        offset: usize,
    },
    /// No memory for the result.
    OutOfMemory,
}

impl fmt::Display for MadtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MADT: ")?;
        match *self {
            Self::Table(ref error) => error.fmt(f),
            Self::TrailingBytes { offset, count } => write!(f, "{count} stray bytes at {offset:#x}"),
            Self::StructureTooShort { offset, kind, length, least } => {
                write!(f, "structure (type {kind}) at {offset:#x} has {length} bytes, not {least}")
            }
            Self::StructureOverlong { offset, kind, length, room } => {
                write!(f, "structure (type {kind}) at {offset:#x} has {length} bytes where {room} are left")
            }
            Self::BadBase { offset, base } => write!(f, "ITS at {offset:#x} has register base {base:#x}"),
            Self::NumberTaken { offset, id } => write!(f, "ITS at {offset:#x} repeats number {id:#x}"),
            Self::TooManyServices { offset } => write!(f, "ITS at {offset:#x} is one too many"),
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for MadtError {}

impl From<TableError> for MadtError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<OutOfBounds> for MadtError {
    fn from(error: OutOfBounds) -> Self {
        Self::Table(error.into())
    }
}

impl From<OutOfMemory> for MadtError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
