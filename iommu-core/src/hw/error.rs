//! The one error of the driver seam.

use super::Prot;
use crate::addr::{Iova, PhysAddr};
use core::fmt;

/// A capability that hardware may lack, by the words for it and the field that reports it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Capability {
    /// What it is, in words.
    pub name: &'static str,
    /// The register field that reports it, by the specification's name, such as `ECAP.FSTS`.
    pub field: &'static str,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.field)
    }
}

/// Something a driver waited for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Wait {
    /// A command bit that a status register was to acknowledge, by the specification's name.
    Status(&'static str),
    /// The completion of queued invalidations or commands.
    Completion,
}

/// What can go wrong between the core and a driver. Values are the offending ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HwError {
    /// An address or length is not a multiple of the smallest page, in bytes.
    Misaligned {
        /// The address or length.
        value: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// The range leaves the domain's aperture, or wraps.
    OutOfRange {
        /// Where the range begins.
        iova: Iova,
        /// How long it is, in bytes (saturated).
        len: u64,
    },
    /// A physical address lies beyond what the tables or the unit can hold.
    OutputTooWide {
        /// The address.
        phys: PhysAddr,
        /// The width in bits that is supported.
        bits: u8,
    },
    /// Hardware treats this address, of either side, specially: it cannot be mapped.
    Reserved {
        /// The address.
        address: u64,
    },
    /// Something is mapped here already.
    AlreadyMapped {
        /// The first such address.
        iova: Iova,
    },
    /// Nothing is mapped here.
    NotMapped {
        /// The first such address.
        iova: Iova,
    },
    /// An end of the range lies inside a leaf.
    SplitsLeaf {
        /// Where that leaf begins.
        iova: Iova,
        /// Its size in bytes.
        size: u64,
    },
    /// The table format cannot express this protection.
    Protection(Prot),
    /// No memory for a table or an object.
    OutOfMemory,
    /// Every domain id of the unit is in use.
    OutOfDomainIds,
    /// The unit lacks a capability that was asked for.
    Missing(Capability),
    /// The driver does not do this, whatever the unit may be capable of.
    Unsupported(&'static str),
    /// The unit or this driver has no such stream.
    NoSuchStream {
        /// The id on the bus.
        stream: u32,
    },
    /// Another unit, or another driver, made this domain; or the gather holds another domain's work.
    ForeignDomain,
    /// The domain has streams attached.
    InUse,
    /// Hardware did not answer before the deadline.
    TimedOut(Wait),
    /// Hardware reported an error of its command or invalidation queue.
    Queue {
        /// The error's code in the driver's terms (see the driver's documentation).
        code: u8,
        /// First 64 bits of the offending entry, where known.
        entry: u64,
    },
    /// Hardware contradicts itself or its specification.
    Hardware(&'static str),
}

impl fmt::Display for HwError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Misaligned { value, align } => write!(f, "{value:#x} is not a multiple of {align:#x}"),
            Self::OutOfRange { iova, len } => write!(f, "{len:#x} bytes at {iova} leave the aperture"),
            Self::OutputTooWide { phys, bits } => write!(f, "physical address {phys} needs more than {bits} bits"),
            Self::Reserved { address } => write!(f, "{address:#x} is reserved by hardware"),
            Self::AlreadyMapped { iova } => write!(f, "{iova} is mapped already"),
            Self::NotMapped { iova } => write!(f, "{iova} is not mapped"),
            Self::SplitsLeaf { iova, size } => write!(f, "the range cuts the {size:#x}-byte leaf at {iova}"),
            Self::Protection(prot) => write!(f, "the format cannot express protection {prot}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::OutOfDomainIds => f.write_str("out of domain ids"),
            Self::Missing(capability) => write!(f, "the unit lacks {capability}"),
            Self::Unsupported(what) => write!(f, "the driver does not support {what}"),
            Self::NoSuchStream { stream } => write!(f, "no stream {stream:#x} here"),
            Self::ForeignDomain => f.write_str("the domain belongs to another unit, or the gather to another domain"),
            Self::InUse => f.write_str("streams are attached"),
            Self::TimedOut(Wait::Status(what)) => write!(f, "{what} was not acknowledged in time"),
            Self::TimedOut(Wait::Completion) => f.write_str("invalidation was not completed in time"),
            Self::Queue { code, entry } => write!(f, "queue error {code}, entry {entry:#018x}"),
            Self::Hardware(what) => write!(f, "hardware misbehaves: {what}"),
        }
    }
}

impl core::error::Error for HwError {}
