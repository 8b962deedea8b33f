//! What can go wrong in an address space.

use crate::addr::{Iova, IovaRange};
use crate::hw::{HwError, Prot};
use core::fmt;

/// Why an operation on an address space was refused. Values are the offending ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IoasError {
    /// Neither reading nor writing would be allowed.
    Protection(Prot),
    /// The length, or the range it makes, does not fit in 64 bits.
    Overflow {
        /// Where the range would begin.
        iova: Iova,
    },
    /// Nothing to map.
    Empty,
    /// An address or length is not a multiple of the address space's alignment.
    Misaligned {
        /// The address or length.
        value: u64,
        /// The alignment in bytes.
        align: u64,
    },
    /// The range touches a reserved one.
    Reserved {
        /// The reserved range.
        reserved: IovaRange,
    },
    /// The range touches an area.
    Overlap {
        /// The area.
        area: IovaRange,
    },
    /// Nothing is mapped there.
    NotFound {
        /// Where the range begins.
        iova: Iova,
    },
    /// An area lies only partly in the range.
    CutsArea {
        /// The area.
        area: IovaRange,
    },
    /// No such domain in this address space.
    NoDomain,
    /// No memory.
    OutOfMemory,
    /// A domain refused, or its hardware did not confirm.
    Domain(HwError),
}

impl From<HwError> for IoasError {
    fn from(error: HwError) -> Self {
        Self::Domain(error)
    }
}

impl fmt::Display for IoasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Protection(prot) => write!(f, "protection {prot} allows nothing"),
            Self::Overflow { iova } => write!(f, "the range at {iova} does not fit in 64 bits"),
            Self::Empty => f.write_str("nothing to map"),
            Self::Misaligned { value, align } => write!(f, "{value:#x} is not a multiple of {align:#x}"),
            Self::Reserved { reserved } => write!(f, "{reserved} is reserved"),
            Self::Overlap { area } => write!(f, "an area stands at {area}"),
            Self::NotFound { iova } => write!(f, "nothing is mapped at {iova}"),
            Self::CutsArea { area } => write!(f, "the range cuts the area at {area}"),
            Self::NoDomain => f.write_str("no such domain"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Domain(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for IoasError {}
