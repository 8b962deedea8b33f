//! What can be wrong with an MCFG table.

use crate::bytes::OutOfBounds;
use crate::fallible::OutOfMemory;
use crate::table::TableError;
use core::fmt;

/// Why an MCFG table was refused. Offsets are in bytes from the start of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum McfgError {
    /// Signature, length or checksum.
    Table(TableError),
    /// Fewer bytes are left at the end than an entry has.
    TrailingBytes {
        /// Where they begin.
        offset: usize,
        /// How many there are.
        count: usize,
    },
    /// An entry's first bus lies above its last.
    BusesReversed {
        /// Where the entry begins.
        offset: usize,
        /// First bus.
        start: u8,
        /// Last bus.
        end: u8,
    },
    /// An entry's base is not a multiple of the 1 MiB that one bus takes.
    BaseMisaligned {
        /// Where the entry begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// An entry's base is zero, or its region goes beyond 2^64.
    BaseOutOfRange {
        /// Where the entry begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// Two entries cover the same bus.
    Overlap {
        /// Where the second entry begins.
        offset: usize,
        /// The segment.
        segment: u16,
        /// The first bus that both cover.
        bus: u8,
    },
    /// No memory for the result.
    OutOfMemory,
}

impl fmt::Display for McfgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MCFG: ")?;
        match *self {
            Self::Table(ref error) => error.fmt(f),
            Self::TrailingBytes { offset, count } => write!(f, "{count} stray bytes at {offset:#x}"),
            Self::BusesReversed { offset, start, end } => {
                write!(f, "entry at {offset:#x}: first bus {start:#x} above last bus {end:#x}")
            }
            Self::BaseMisaligned { offset, base } => write!(f, "entry at {offset:#x}: misaligned base {base:#x}"),
            Self::BaseOutOfRange { offset, base } => write!(f, "entry at {offset:#x}: impossible base {base:#x}"),
            Self::Overlap { offset, segment, bus } => {
                write!(f, "entry at {offset:#x} repeats bus {bus:#x} of segment {segment:#x}")
            }
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for McfgError {}

impl From<TableError> for McfgError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<OutOfBounds> for McfgError {
    fn from(error: OutOfBounds) -> Self {
        Self::Table(error.into())
    }
}

impl From<OutOfMemory> for McfgError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
