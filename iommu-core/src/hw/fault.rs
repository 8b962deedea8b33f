//! Faults as hardware reported them, in terms common to all drivers.

use super::{PageRequest, Prot, Stream};
use crate::addr::Iova;
use core::fmt;

/// What the device tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AccessKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A read of instructions.
    Execute,
    /// A read-modify-write.
    Atomic,
}

impl fmt::Display for AccessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Execute => "execute",
            Self::Atomic => "atomic",
        })
    }
}

/// Why an access was refused, as far as all drivers agree on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultKind {
    /// The stream is attached to nothing.
    Blocked,
    /// Nothing is mapped at the address.
    NotMapped,
    /// The mapping forbids this access.
    Permission,
    /// The address is outside of what the domain, or the unit, translates.
    Address,
    /// A table or entry is malformed or could not be read.
    Structure,
    /// The request is of a kind that the stream may not make.
    Request,
    /// An interrupt request was refused.
    Interrupt,
    /// A reason that the driver does not know.
    Unknown,
}

/// One refused access, or one that is stalled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Who made it.
    pub stream: Stream,
    /// The address, as exactly as hardware records it: see [`Fault::granule`]. For [`FaultKind::Interrupt`] the index of
    /// the interrupt.
    pub iova: Iova,
    /// The record's granularity in bytes: 4096 where hardware keeps only the page, 0 where it keeps no address.
    pub granule: u64,
    /// What was tried.
    pub access: AccessKind,
    /// Why it was refused.
    pub kind: FaultKind,
    /// The hardware's own reason code.
    pub code: u32,
    /// The reason in words.
    pub text: &'static str,
    /// The access was not refused yet: it waits for [`Unit::respond`](super::Unit::respond) with this as its
    /// [group](super::PageResponse::group). Only where its domain [is made so](super::DomainConfig::stall).
    pub stalled: Option<u16>,
}

impl Fault {
    /// Page requests are of whole pages of this many bytes.
    const PAGE: u64 = 4096;

    /// What a stalled access waits for, as a group of one page request; `None` where nothing is stalled.
    pub(crate) fn request(&self) -> Option<PageRequest> {
        let group = self.stalled?;
        let prot = match self.access {
            AccessKind::Read | AccessKind::Execute => Prot::READ,
            AccessKind::Write => Prot::WRITE,
            AccessKind::Atomic => Prot::READ_WRITE,
        };
        let iova = Iova::new(self.iova.get() & !(Self::PAGE - 1));
        Some(PageRequest { stream: self.stream, iova, prot, group, last: true })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}: {:#x}, {}", self.stream, self.access, self.iova, self.code, self.text)?;
        self.stalled.map_or(Ok(()), |tag| write!(f, ", stalled as {tag:#x}"))
    }
}

/// The outcome of one call of [`super::Unit::report_faults`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultReport {
    /// Faults handed to the sink.
    pub reported: usize,
    /// Hardware dropped faults because its records were full.
    pub lost: bool,
    /// The bound was reached with records left: call again.
    pub more: bool,
}
