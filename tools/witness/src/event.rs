//! What a trace says, in terms that hold for every IOMMU.
//!
//! "Stream cache" stands for VT-d's context cache and SMMUv3's cached stream table entries, "PASID cache" for PASID
//! table entries and context descriptors, "TLB" for IOTLB and TLB.

use std::fmt;

/// First and last of a range of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first address.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

impl Span {
    /// `len` bytes from `first`; `None` where there are none, or none so high.
    pub fn from_len(first: u64, len: u64) -> Option<Self> {
        Some(Self { first, last: first.checked_add(len.checked_sub(1)?)? })
    }

    /// The aligned block around `address` whose offset bits are those of `mask`.
    pub fn block(address: u64, mask: u64) -> Self {
        Self { first: address & !mask, last: address | mask }
    }

    /// Its length in bytes.
    pub fn len(self) -> u128 {
        u128::from(self.last - self.first) + 1
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.first, self.last)
    }
}

/// Whose requests: of a function, with a PASID or without.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stream {
    /// Its id, as the unit sees it.
    pub id: u32,
    /// The PASID of its requests; `None` for those without.
    pub pasid: Option<u32>,
}

impl Stream {
    /// The requests without PASID of `id`.
    pub const fn whole(id: u32) -> Self {
        Self { id, pasid: None }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.id)?;
        self.pasid.map_or(Ok(()), |pasid| write!(f, " PASID {pasid:#x}"))
    }
}

/// What a device does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// It reads memory.
    Read,
    /// It writes memory.
    Write,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Read { "read" } else { "write" })
    }
}

/// An access that was refused and said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Whose.
    pub source: u32,
    /// Where.
    pub address: u64,
    /// The reason, as the architecture numbers them.
    pub code: u32,
    /// What it was.
    pub direction: Direction,
    /// The PASID of the request, as far as it is told.
    pub pasid: Option<u32>,
}

impl Fault {
    /// Whose, as far as it is told.
    pub const fn stream(&self) -> Stream {
        Stream { id: self.source, pasid: self.pasid }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, code, direction, .. } = self;
        write!(f, "a fault of {}: {direction} at {address:#x}, reason {code:#x}", self.stream())
    }
}

/// An access that was refused, as far as the trace shows it where it does not show all of a [`Fault`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Whose.
    pub source: u32,
    /// Where; `None` for a reason that is not about an address.
    pub address: Option<u64>,
    /// The reason, as the architecture numbers them; `None` where it was refused in silence.
    pub code: Option<u32>,
    /// What it was, where only one of the two can have been refused.
    pub direction: Option<Direction>,
    /// The domain in which it was looked up, where it came to that.
    pub domain: Option<u16>,
    /// It was the unit's own access to what leads to a guest's tables that was refused; whose address is not told.
    pub fetch: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} refused", self.source)?;
        self.address.map_or(Ok(()), |address| write!(f, " at {address:#x}"))?;
        self.domain.map_or(Ok(()), |domain| write!(f, " in domain {domain:#x}"))?;
        self.direction.map_or(Ok(()), |direction| write!(f, " a {direction}"))?;
        match self.code {
            Some(code) if self.fetch => write!(f, ", reason {code:#x} for what leads to its tables"),
            Some(code) => write!(f, ", reason {code:#x}"),
            None => f.write_str(" in silence"),
        }
    }
}

/// An access that found a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Whose.
    pub source: u32,
    /// The address that was looked up.
    pub iova: u64,
    /// The block of addresses that the entry used covers.
    pub block: Span,
    /// Where the block lies in memory.
    pub phys: u64,
    /// The domain whose entry it is.
    pub domain: u16,
    /// Whether the entry lets reads through.
    pub readable: bool,
    /// Whether the entry lets writes through.
    pub writable: bool,
    /// Whether the entry was cached.
    pub cached: bool,
}

impl Translation {
    /// Where `iova`, in its block, leads.
    pub fn leads_to(&self, iova: u64) -> u64 {
        self.phys.wrapping_add(iova.wrapping_sub(self.block.first))
    }

    /// Whether the entry lets such an access through.
    pub fn permits(&self, direction: Direction) -> bool {
        if direction == Direction::Read { self.readable } else { self.writable }
    }
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.iova, self.leads_to(self.iova));
        write!(f, "{:#x} translated from {from:#x} to {to:#x} in domain {:#x}", self.source, self.domain)
    }
}

/// Something that a device's access came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It found an entry. Without the permission needed it is then dropped in silence.
    Translated(Translation),
    /// It was refused.
    Fault(Fault),
    /// It was refused, and the trace shows less of it than of a fault.
    Refused(Refusal),
    /// It went around translation, or around fault reporting.
    Odd(&'static str),
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Translated(translation) => translation.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Odd(what) => f.write_str(what),
        }
    }
}

/// Which domains an invalidation reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domains {
    /// All of them.
    All,
    /// One.
    One(u16),
    /// The trace does not say.
    Unseen,
}

impl Domains {
    /// Whether `domain` is among them as far as can be told; `None` stands for one that is not known.
    pub fn reach(self, domain: Option<u16>) -> bool {
        match (self, domain) {
            (Self::One(one), Some(domain)) => one == domain,
            _ => true,
        }
    }
}

/// The stage of translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Something that the IOMMU was told to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// Stream cache: of all streams whose id is `id` in the bits that are not in `ignored`, and of these domains.
    StreamCache {
        /// The id.
        id: u32,
        /// The bits that do not matter.
        ignored: u32,
        /// The domains: all of them where entries have none.
        domains: Domains,
    },
    /// PASID cache: entries of these domains.
    PasidCache {
        /// The domains.
        domains: Domains,
        /// Only the entry of this PASID.
        pasid: Option<u32>,
    },
    /// PASID cache: the entry of requests without PASID, of the streams whose id is `id` in the bits that are not in
    /// `ignored`.
    PasidCacheOf {
        /// The id.
        id: u32,
        /// The bits that do not matter.
        ignored: u32,
    },
    /// TLB: entries of these domains.
    Tlb {
        /// The domains.
        domains: Domains,
        /// Only entries of this stage.
        stage: Option<Stage>,
        /// Only entries in this range.
        range: Option<Span>,
        /// Only entries of this PASID.
        pasid: Option<u32>,
    },
}

/// What the unit as a whole did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    /// It was given a queue of commands.
    Queue,
    /// It was given a place for faults.
    Faults,
    /// It was given its topmost table.
    Tables,
    /// Translation was turned on or off.
    Translation(bool),
    /// From here on a stream's DMA goes around the unit (`false`) or through it.
    Routed(u32, bool),
    /// Something that must not happen.
    Trouble(&'static str),
}

/// What a line of the trace says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A wait was reached: everything told before is done, and this status data was written.
    Wait(u32),
    /// A device's access.
    Access(Access),
    /// A fault was put where the guest can read it, its address rounded as it is there.
    Recorded(Fault),
    /// The guest has taken so many faults from where they were put.
    Taken(u32),
    /// An invalidation was carried out.
    Invalidation(Invalidation),
    /// Something about the unit as a whole.
    Setup(Setup),
}

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The line of the trace, from 1.
    pub line: usize,
    /// What it says.
    pub what: What,
}

/// A trace.
#[derive(Default, Debug)]
pub struct Trace {
    /// Everything that matters to any check, in order.
    pub events: Vec<Event>,
    /// Lines that should make sense and do not.
    pub problems: Vec<String>,
}
