//! The one error of the crate, and its numbers.

use crate::addr::{Iova, IovaRange};
use crate::hw::{HwError, Pasid, Prot};
use crate::quota::Resource;
use core::fmt;
use iommu_alloc::OutOfMemory;

/// Why an operation was refused. Values are the offending ones. Each has an error number ([`Error::errno`]), the one by
/// which a system with the iommufd interface reports the same condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Neither reading nor writing would be allowed.
    Protection(Prot),
    /// Writing was asked for, and the memory is read-only; or an access does not have the right that it needs.
    ReadOnly,
    /// The length, or the range it makes, does not fit in 64 bits.
    Overflow {
        /// Where the range would begin.
        iova: Iova,
    },
    /// A length of zero, or an empty list, where there must be something.
    Empty,
    /// An address, offset or length is not a multiple of what it must be.
    Misaligned {
        /// The address, offset or length.
        value: u64,
        /// The alignment in bytes.
        align: u64,
    },
    /// The range touches a reserved one, or lies outside of what every domain translates.
    Reserved {
        /// The reserved range.
        reserved: IovaRange,
    },
    /// The range touches an area.
    Overlap {
        /// The area.
        area: IovaRange,
    },
    /// What is to be reserved, allowed or translated from now on is at odds with what stands there already.
    AddressInUse {
        /// The range in the way.
        range: IovaRange,
    },
    /// No hole of the size is left.
    NoSpace {
        /// The size, in bytes.
        len: u64,
    },
    /// The memory could not be pinned, or is not what it must be (contiguous, of a kind that can be read).
    BadMemory,
    /// The memory was revoked by whoever lent it.
    Revoked,
    /// Nothing is mapped there.
    NotFound {
        /// The first such address.
        iova: Iova,
    },
    /// An area lies only partly in the range.
    CutsArea {
        /// The area.
        area: IovaRange,
    },
    /// Somebody else is changing or using it.
    Busy,
    /// A user of pinned memory did not let go of it, however often it was told to.
    Deadlock,
    /// The owner's quota does not allow it.
    Quota(Resource),
    /// No memory.
    OutOfMemory,
    /// No object has this id, or none of the kind asked for where `kind` would be known.
    NoSuchObject,
    /// The object is of another kind than the operation needs.
    WrongKind,
    /// It exists already.
    Exists,
    /// What was asked for contradicts itself or the state of things, in words.
    Invalid(&'static str),
    /// The unit, the function or the driver can not do it, in words.
    Unsupported(&'static str),
    /// It belongs to another owner.
    NotOwner,
    /// Isolation would not hold: in words.
    NotIsolated(&'static str),
    /// The PASID is not the caller's, or not in a state for this.
    NoSuchPasid(Pasid),
    /// The answer needs more room.
    TooSmall {
        /// How many entries there are.
        needed: usize,
    },
    /// A domain refused, or its hardware did not confirm.
    Hardware(HwError),
}

impl Error {
    /// The error number (Linux's generic ones), as a positive value.
    pub const fn errno(self) -> i32 {
        match self {
            Self::ReadOnly | Self::NotOwner | Self::NotIsolated(_) => EPERM,
            Self::NotFound { .. } | Self::CutsArea { .. } | Self::NoSuchObject | Self::NoSuchPasid(_) => ENOENT,
            Self::Quota(_) | Self::OutOfMemory => ENOMEM,
            Self::BadMemory => EFAULT,
            Self::Busy => EBUSY,
            Self::Overlap { .. } | Self::Exists => EEXIST,
            Self::Revoked => ENODEV,
            Self::Protection(_)
            | Self::Empty
            | Self::Misaligned { .. }
            | Self::Reserved { .. }
            | Self::WrongKind
            | Self::Invalid(_) => EINVAL,
            Self::NoSpace { .. } => ENOSPC,
            Self::Deadlock => EDEADLOCK,
            Self::Overflow { .. } => EOVERFLOW,
            Self::TooSmall { .. } => EMSGSIZE,
            Self::Unsupported(_) => EOPNOTSUPP,
            Self::AddressInUse { .. } => EADDRINUSE,
            Self::Hardware(error) => hardware_errno(error),
        }
    }
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EDEADLOCK: i32 = 35;
const EOVERFLOW: i32 = 75;
const EMSGSIZE: i32 = 90;
const EOPNOTSUPP: i32 = 95;
const EADDRINUSE: i32 = 98;
const ETIMEDOUT: i32 = 110;

const fn hardware_errno(error: HwError) -> i32 {
    match error {
        HwError::OutOfMemory => ENOMEM,
        HwError::OutOfDomainIds => ENOSPC,
        HwError::Missing(_) | HwError::Unsupported(_) => EOPNOTSUPP,
        HwError::NoSuchStream { .. } => ENODEV,
        HwError::InUse => EBUSY,
        HwError::AlreadyMapped { .. } => EADDRINUSE,
        HwError::NotMapped { .. } => ENOENT,
        HwError::TimedOut(_) => ETIMEDOUT,
        HwError::Queue { .. } | HwError::Hardware(_) => EIO,
        _ => EINVAL,
    }
}

impl From<HwError> for Error {
    fn from(error: HwError) -> Self {
        match error {
            HwError::OutOfMemory => Self::OutOfMemory,
            other => Self::Hardware(other),
        }
    }
}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Protection(prot) => write!(f, "protection {prot} allows nothing"),
            Self::ReadOnly => f.write_str("writing is not allowed there"),
            Self::Overflow { iova } => write!(f, "the range at {iova} does not fit in 64 bits"),
            Self::Empty => f.write_str("nothing was asked for"),
            Self::Misaligned { value, align } => write!(f, "{value:#x} is not a multiple of {align:#x}"),
            Self::Reserved { reserved } => write!(f, "{reserved} is reserved"),
            Self::Overlap { area } => write!(f, "an area stands at {area}"),
            Self::AddressInUse { range } => write!(f, "{range} is in use"),
            Self::NoSpace { len } => write!(f, "no hole of {len:#x} bytes is left"),
            Self::BadMemory => f.write_str("the memory cannot be used for this"),
            Self::Revoked => f.write_str("the memory was revoked"),
            Self::NotFound { iova } => write!(f, "nothing is mapped at {iova}"),
            Self::CutsArea { area } => write!(f, "the range cuts the area at {area}"),
            Self::Busy => f.write_str("it is in use or being changed"),
            Self::Deadlock => f.write_str("a user of the memory does not let go of it"),
            Self::Quota(resource) => write!(f, "the quota of {resource} is used up"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::NoSuchObject => f.write_str("there is no such object"),
            Self::WrongKind => f.write_str("the object is of another kind"),
            Self::Exists => f.write_str("it exists already"),
            Self::Invalid(what) | Self::NotIsolated(what) => f.write_str(what),
            Self::Unsupported(what) => write!(f, "{what} is not supported"),
            Self::NotOwner => f.write_str("it belongs to another owner"),
            Self::NoSuchPasid(pasid) => write!(f, "PASID {:#x} is not in use here", pasid.get()),
            Self::TooSmall { needed } => write!(f, "there are {needed} entries"),
            Self::Hardware(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;
    use crate::hw::Wait;

    #[test]
    fn each_condition_has_its_number() {
        let iova = Iova::new(0);
        let range = IovaRange::FULL;
        // Numbers as iommufd gives them for the same condition.
        let expected = [
            (Error::Protection(Prot { read: false, write: false }), 22),
            (Error::ReadOnly, 1),
            (Error::Overflow { iova }, 75),
            (Error::Empty, 22),
            (Error::Misaligned { value: 1, align: 2 }, 22),
            (Error::Reserved { reserved: range }, 22),
            (Error::Overlap { area: range }, 17),
            (Error::AddressInUse { range }, 98),
            (Error::NoSpace { len: 1 }, 28),
            (Error::BadMemory, 14),
            (Error::NotFound { iova }, 2),
            (Error::CutsArea { area: range }, 2),
            (Error::Busy, 16),
            (Error::Deadlock, 35),
            (Error::Quota(Resource::Pinned), 12),
            (Error::OutOfMemory, 12),
            (Error::NoSuchObject, 2),
            (Error::WrongKind, 22),
            (Error::Exists, 17),
            (Error::Unsupported(""), 95),
            (Error::NotIsolated(""), 1),
            (Error::TooSmall { needed: 2 }, 90),
            (HwError::OutOfMemory.into(), 12),
            (HwError::OutputTooWide { phys: PhysAddr::new(0), bits: 1 }.into(), 22),
            (HwError::TimedOut(Wait::Completion).into(), 110),
        ];
        for (error, errno) in expected {
            assert_eq!(error.errno(), errno, "{error:?}");
        }
    }
}
