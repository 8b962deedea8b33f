//! What can be wrong with a DMAR table.

use crate::bytes::OutOfBounds;
use crate::fallible::OutOfMemory;
use crate::table::TableError;
use core::fmt;

/// Why a DMAR table was refused. Offsets are in bytes from the start of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DmarError {
    /// Signature, length or checksum.
    Table(TableError),
    /// The host address width, less one, is more than 63.
    AddressWidth {
        /// Where the field lies.
        offset: usize,
        /// Its value.
        value: u8,
    },
    /// Fewer bytes are left at the end than a structure's header has.
    TrailingBytes {
        /// Where they begin.
        offset: usize,
        /// How many there are.
        count: usize,
    },
    /// A structure's length is zero.
    StructureZeroLength {
        /// Where it begins.
        offset: usize,
        /// Its type code.
        kind: u16,
    },
    /// A structure is shorter than its header, or than the fixed part of its type.
    StructureTooShort {
        /// Where it begins.
        offset: usize,
        /// Its type code.
        kind: u16,
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
        kind: u16,
        /// Its length, in bytes.
        length: usize,
        /// How many bytes there are.
        room: usize,
    },
    /// A device scope's length is less than the six bytes of its fixed part, or its structure ends within them.
    ScopeTooShort {
        /// Where the scope begins.
        offset: usize,
        /// Its length, in bytes, or how many bytes are left.
        length: usize,
    },
    /// A device scope goes on beyond its structure's end.
    ScopeOverlong {
        /// Where the scope begins.
        offset: usize,
        /// Its length, in bytes.
        length: usize,
        /// How many bytes there are.
        room: usize,
    },
    /// A device scope's path ends within a device and function pair.
    ScopeOddPath {
        /// Where the scope begins.
        offset: usize,
        /// The length of its path, in bytes.
        path_bytes: usize,
    },
    /// A device scope has no path.
    ScopeEmptyPath {
        /// Where the scope begins.
        offset: usize,
    },
    /// A path holds a device above 31 or a function above 7.
    ScopePathEntry {
        /// Where the pair lies.
        offset: usize,
        /// The device number.
        device: u8,
        /// The function number.
        function: u8,
    },
    /// A unit's register base is zero.
    RegisterBaseZero {
        /// Where the DRHD structure begins.
        offset: usize,
    },
    /// A unit's register base is not a multiple of 4 KiB.
    RegisterBaseMisaligned {
        /// Where the DRHD structure begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// A unit's registers go beyond 2^64.
    RegistersWrap {
        /// Where the DRHD structure begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// Two units have the same register base, in whichever segments: programmed twice, the second would undo the
    /// first.
    RegisterBaseTaken {
        /// Where the second DRHD structure begins.
        offset: usize,
        /// The base.
        base: u64,
    },
    /// A segment has a second unit with INCLUDE_PCI_ALL.
    SecondIncludeAll {
        /// Where the second DRHD structure begins.
        offset: usize,
        /// The segment.
        segment: u16,
    },
    /// A unit comes after its segment's unit with INCLUDE_PCI_ALL, which must be the last (VT-d section 8.3).
    AfterIncludeAll {
        /// Where the DRHD structure begins that comes after.
        offset: usize,
        /// The segment.
        segment: u16,
    },
    /// There are more than 1024 units.
    TooManyUnits {
        /// Where the first DRHD structure begins that is one too many.
        offset: usize,
    },
    /// A reserved region's base lies above its limit.
    ReservedReversed {
        /// Where the RMRR structure begins.
        offset: usize,
        /// The base.
        base: u64,
        /// The limit, inclusive.
        limit: u64,
    },
    /// A reserved region does not begin and end at a multiple of 4 KiB.
    ReservedMisaligned {
        /// Where the RMRR structure begins.
        offset: usize,
        /// The base.
        base: u64,
        /// The limit, inclusive.
        limit: u64,
    },
    /// The name of a name-space device does not end within its structure.
    NameUnterminated {
        /// Where the ANDD structure begins.
        offset: usize,
    },
    /// A name-space device has no name.
    NameEmpty {
        /// Where the ANDD structure begins.
        offset: usize,
    },
    /// The name of a name-space device holds a character that no ACPI path has.
    NameCharacter {
        /// Where the character lies.
        offset: usize,
        /// The character.
        byte: u8,
    },
    /// Two name-space devices have the same number.
    NumberTaken {
        /// Where the second ANDD structure begins.
        offset: usize,
        /// The number.
        number: u8,
    },
    /// No memory for the result.
    OutOfMemory,
}

impl fmt::Display for DmarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DMAR: ")?;
        match *self {
            Self::Table(ref error) => error.fmt(f),
            Self::AddressWidth { value, .. } => write!(f, "host address width field is {value}"),
            Self::TrailingBytes { offset, count } => write!(f, "{count} stray bytes at {offset:#x}"),
            Self::StructureZeroLength { offset, kind } => {
                write!(f, "zero-length structure (type {kind}) at {offset:#x}")
            }
            Self::StructureTooShort { offset, kind, length, least } => {
                write!(f, "structure (type {kind}) at {offset:#x} has {length} bytes, not {least}")
            }
            Self::StructureOverlong { offset, kind, length, room } => {
                write!(f, "structure (type {kind}) at {offset:#x} has {length} bytes where {room} are left")
            }
            Self::ScopeTooShort { offset, length } => write!(f, "scope at {offset:#x} has {length} bytes"),
            Self::ScopeOverlong { offset, length, room } => {
                write!(f, "scope at {offset:#x} has {length} bytes where {room} are left")
            }
            Self::ScopeOddPath { offset, path_bytes } => {
                write!(f, "scope at {offset:#x} has a path of {path_bytes} bytes")
            }
            Self::ScopeEmptyPath { offset } => write!(f, "scope at {offset:#x} has no path"),
            Self::ScopePathEntry { offset, device, function } => {
                write!(f, "path entry at {offset:#x} names device {device:#x} function {function:#x}")
            }
            Self::RegisterBaseZero { offset } => write!(f, "unit at {offset:#x} has register base 0"),
            Self::RegisterBaseMisaligned { offset, base } => {
                write!(f, "unit at {offset:#x} has misaligned register base {base:#x}")
            }
            Self::RegistersWrap { offset, base } => {
                write!(f, "registers of the unit at {offset:#x}, base {base:#x}, go beyond 2^64")
            }
            Self::RegisterBaseTaken { offset, base } => {
                write!(f, "unit at {offset:#x} repeats register base {base:#x}")
            }
            Self::SecondIncludeAll { offset, segment } => {
                write!(f, "unit at {offset:#x} is a second INCLUDE_PCI_ALL for segment {segment:#x}")
            }
            Self::AfterIncludeAll { offset, segment } => {
                write!(f, "unit at {offset:#x} comes after INCLUDE_PCI_ALL of segment {segment:#x}")
            }
            Self::TooManyUnits { offset } => write!(f, "unit at {offset:#x} is one too many"),
            Self::ReservedReversed { offset, base, limit } => {
                write!(f, "reserved region at {offset:#x}: base {base:#x} above limit {limit:#x}")
            }
            Self::ReservedMisaligned { offset, base, limit } => {
                write!(f, "reserved region at {offset:#x}: {base:#x}..={limit:#x} is not whole pages")
            }
            Self::NameUnterminated { offset } => write!(f, "name of the device at {offset:#x} does not end"),
            Self::NameEmpty { offset } => write!(f, "device at {offset:#x} has no name"),
            Self::NameCharacter { offset, byte } => write!(f, "byte {byte:#04x} at {offset:#x} is in no ACPI path"),
            Self::NumberTaken { offset, number } => write!(f, "device at {offset:#x} repeats number {number}"),
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for DmarError {}

impl From<TableError> for DmarError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<OutOfBounds> for DmarError {
    fn from(error: OutOfBounds) -> Self {
        Self::Table(error.into())
    }
}

impl From<OutOfMemory> for DmarError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
