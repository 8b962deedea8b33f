//! What a driver provides: an IOMMU [`Unit`] and the translation [`Domain`]s it makes.
//!
//! Both traits are object-safe and take a *range* a call, never a page, so that one virtual call and one flush serve
//! any amount of memory. A [`Stream`] is a requester with or without a PASID: whole functions and assignable device
//! interfaces take the same path.
//!
//! # What every implementation owes its caller
//!
//! * A stream that was never attached is **blocked**. One that could not be attached is blocked as well, or, where nothing
//!   was begun, still where it was; never anywhere else.
//! * An operation that returns an error has changed nothing, except where the error is [`HwError::TimedOut`] or
//!   [`HwError::Queue`]: then hardware did not confirm, the memory concerned must not be reused, and what was mapped
//!   counts as still reachable.
//! * After [`Domain::flush`] returns `Ok`, no device can reach what the gather's unmaps took away.

mod device_tlb;
mod error;
mod fault;
mod gather;
mod nested;
mod page_request;
mod stream;

pub use device_tlb::DeviceTlb;
pub use error::{Capability, HwError, Wait};
pub use fault::{AccessKind, Fault, FaultKind, FaultReport};
pub use gather::{Gather, LevelSet, Touched};
pub use nested::{Invalidation, Nested, NestedConfig};
pub use page_request::{PageRequest, PageResponse, ResponseCode};
pub use stream::{Pasid, RequesterId, Stream, StreamId};

use crate::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use alloc::boxed::Box;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// What a device may do through a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prot {
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
}

impl Prot {
    /// Reads only.
    pub const READ: Self = Self { read: true, write: false };
    /// Writes only.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Reads and writes.
    pub const READ_WRITE: Self = Self { read: true, write: true };

    /// Whether neither is allowed, which no mapping may be.
    pub const fn is_none(self) -> bool {
        !self.read && !self.write
    }
}

impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.read, self.write) {
            (true, true) => "rw",
            (true, false) => "r-",
            (false, true) => "-w",
            (false, false) => "--",
        })
    }
}

/// A stage of translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// First stage (VT-d) or stage 1 (SMMUv3).
    First,
    /// Second stage (VT-d) or stage 2 (SMMUv3).
    Second,
}

/// The page sizes a domain maps, as a mask: bit n stands for 2^n bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSizes(u64);

impl PageSizes {
    /// The sizes whose bits are set in `mask`: bit n stands for 2^n bytes.
    pub const fn new(mask: u64) -> Self {
        Self(mask)
    }

    /// The mask: bit n stands for 2^n bytes.
    pub const fn mask(self) -> u64 {
        self.0
    }

    /// The smallest size in bytes; `None` where there is none.
    pub const fn smallest(self) -> Option<u64> {
        if self.0 == 0 { None } else { Some(1 << self.0.trailing_zeros()) }
    }

    /// Whether pages of `size` bytes can be mapped.
    pub const fn contains(self, size: u64) -> bool {
        size.is_power_of_two() && self.0 & size != 0
    }
}

impl fmt::Debug for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSizes({:#x})", self.0)
    }
}

/// The addresses a domain takes and gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The I/O virtual addresses that can be mapped.
    pub aperture: IovaRange,
    /// The page sizes in use.
    pub page_sizes: PageSizes,
    /// Physical addresses must be below 2^`output_bits`.
    pub output_bits: u8,
}

/// What a unit can do, in the terms of this crate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnitCapabilities {
    /// First-stage domains can be created.
    pub first_stage: bool,
    /// Second-stage domains can be created.
    pub second_stage: bool,
    /// Streams can be passed through untranslated.
    pub identity: bool,
    /// Width of PASIDs in bits; 0 where requests with PASID are not supported.
    pub pasid_bits: u8,
    /// Domains can record which memory was written through them.
    pub dirty_tracking: bool,
    /// Domains can have a guest's own first stage on top of them.
    pub nesting: bool,
    /// Domains can make DMA coherent that asks not to be (VT-d: snoop control, ECAP.SC).
    pub enforce_coherency: bool,
    /// It can be told of [device TLBs](DeviceTlb), and invalidates them (VT-d: ECAP.DT; SMMUv3: IDR0.ATS).
    pub device_tlbs: bool,
    /// Accesses that fault can [wait for an answer](DomainConfig::stall) (SMMUv3: IDR0.STALL_MODEL; VT-d has no such thing).
    pub stalls: bool,
}

/// What a new domain is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainConfig {
    /// The stage its tables are walked as.
    pub stage: Stage,
    /// A guest's own first stage is to go on top of it: second stage only.
    pub nest_parent: bool,
    /// It is to be able to record which memory was written through it.
    pub dirty_tracking: bool,
    /// All DMA through it is coherent, whatever the device asks for.
    pub enforce_coherency: bool,
    /// An access through it that faults waits for an answer by [`Unit::respond`], where the unit [can](UnitCapabilities::stalls)
    /// have it wait; elsewhere, and where this is not set, it is refused at once. The devices must bear that an access takes
    /// as long as the answer.
    pub stall: bool,
}

impl DomainConfig {
    /// A domain of `stage` without anything special.
    pub const fn new(stage: Stage) -> Self {
        Self { stage, nest_parent: false, dirty_tracking: false, enforce_coherency: false, stall: false }
    }
}

/// Where a stream is to lead.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Target<'a> {
    /// Nowhere: every access is refused.
    Blocked,
    /// To memory untranslated. Gives the stream all of it: for trusted functions only.
    Identity,
    /// Through a domain made by the same unit.
    Paging(&'a dyn Domain),
    /// Through a guest's first stage on top of a domain, made by the same unit.
    Nested(&'a dyn Nested),
}

/// What DMA saw while a stream moved from one target to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// Each access saw the old or the new target; none was refused by the change itself.
    Hitless,
    /// Accesses in between may have been refused; none saw a mixture.
    ThroughBlocked,
}

/// One translation, as [`Domain::translate`] gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the address leads.
    pub phys: PhysAddr,
    /// What is allowed there.
    pub prot: Prot,
    /// Size in bytes of the leaf that maps it.
    pub page_size: u64,
}

/// An IOMMU unit: one set of registers, the streams behind it and the domains made for it.
pub trait Unit: Send + Sync {
    /// What the unit can do.
    fn capabilities(&self) -> UnitCapabilities;

    /// Makes an empty domain.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the capability that the unit lacks; [`HwError::OutOfMemory`];
    /// [`HwError::OutOfDomainIds`].
    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn Domain>, HwError>;

    /// Moves `stream` to `target`, whatever it was attached to before, and returns what DMA saw meanwhile.
    ///
    /// Other streams stay where they are, also those of the same function: its requests without PASID and those with each
    /// PASID are streams of their own. Once this returns `Ok`, nothing that the stream began before reaches the old target,
    /// and none of its page requests from before is handed over any more.
    ///
    /// # Errors
    ///
    /// On any error the stream is blocked or, where nothing was begun, still where it was; never anywhere else.
    /// [`HwError::ForeignDomain`] where another unit made the domain; [`HwError::Unsupported`] for a PASID that the unit
    /// itself uses for requests without one; [`HwError::Missing`]; [`HwError::OutOfMemory`]; [`HwError::TimedOut`] and
    /// [`HwError::Queue`] where hardware did not confirm.
    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError>;

    /// Blocks `stream`. The same as attaching it to [`Target::Blocked`].
    ///
    /// # Errors
    ///
    /// As for [`Unit::attach`].
    fn detach(&self, stream: Stream) -> Result<Transition, HwError> {
        self.attach(stream, Target::Blocked)
    }

    /// Puts a guest's own first stage, described by `config`, on top of `parent`, which this unit made as a nest parent.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`], also where the driver does not know this kind; [`HwError::ForeignDomain`];
    /// [`HwError::Hardware`] names what is wrong with the guest's values; [`HwError::OutOfMemory`].
    fn create_nested(&self, parent: &dyn Domain, config: &NestedConfig<'_>) -> Result<Box<dyn Nested>, HwError> {
        let _ = (parent, config);
        Err(HwError::Unsupported("nested translation"))
    }

    /// Answers a group of page requests, or the access that is [stalled](Fault::stalled) under this number: with
    /// [`ResponseCode::Success`] it tries again, with any other it is refused. An answer to what does not wait any more does
    /// nothing.
    ///
    /// May be called in interrupt context, where a request is refused at once: takes no lock that a map, unmap or attach
    /// path holds.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`]; [`HwError::TimedOut`] and [`HwError::Queue`] where hardware did not confirm.
    fn respond(&self, response: &PageResponse) -> Result<(), HwError> {
        let _ = response;
        Err(HwError::Unsupported("page requests"))
    }

    /// Carries out one request of a guest to forget what the device behind `stream` has cached of its translations, and
    /// waits for hardware to confirm.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] for a kind that the driver does not know; [`HwError::Hardware`] names what is wrong with
    /// the request; [`HwError::TimedOut`], [`HwError::Queue`].
    fn invalidate_device(&self, stream: StreamId, request: &Invalidation) -> Result<(), HwError> {
        let _ = (stream, request);
        Err(HwError::Unsupported("requests to device caches"))
    }

    /// From now on the function behind `stream` has a device TLB, or has none any more. `Some` comes before ATS goes on in
    /// the function, `None` after it went off and its translated requests are done. To tell it what it knows already is no
    /// error; a second `Some` replaces the first.
    ///
    /// A stream that is attached meanwhile stays where it is: with `Some` its translated requests are let through from now
    /// on, where its target allows them, and with `None` refused, and the function is not asked to invalidate anything any
    /// more.
    ///
    /// # Errors
    ///
    /// Nothing has changed: [`HwError::Unsupported`] for `Some` where the driver knows no device TLBs,
    /// [`HwError::Missing`] where the unit has none, [`HwError::NoSuchStream`], [`HwError::Hardware`] for a queue depth
    /// beyond 1 to 32, [`HwError::OutOfMemory`]. [`HwError::TimedOut`], [`HwError::Queue`]: hardware did not confirm, and
    /// the device TLB counts as there until a later `None` succeeds.
    fn set_device_tlb(&self, stream: StreamId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        let _ = stream;
        tlb.map_or(Ok(()), |_| Err(HwError::Unsupported("device TLBs")))
    }

    /// Hands every fault that hardware recorded to `sink`, oldest first, and clears the records. What is told as
    /// [stalled](Fault::stalled) waits until it is [answered](Unit::respond), or its stream is led elsewhere.
    ///
    /// May be called in interrupt context: takes no lock that a map, unmap or attach path holds, and one call handles
    /// a bounded number of faults.
    fn report_faults(&self, sink: &mut dyn FnMut(&Fault)) -> FaultReport;
}

/// A translation domain: tables that one or more streams of one unit are translated through.
///
/// Dropping an attached domain [retires](Domain::retire) it first; where hardware does not confirm that, the driver keeps
/// the tables for ever. Whoever must know calls [`Domain::retire`] before, as the memory behind is the caller's.
pub trait Domain: Any + Send + Sync {
    /// The addresses the domain takes and gives.
    fn geometry(&self) -> Geometry;

    /// Ranges inside of the aperture that hardware treats specially and that can never be mapped.
    fn reserved_ranges(&self) -> &[IovaRange] {
        &[]
    }

    /// Maps `extents`, one after the other, from `iova` on. An empty slice maps nothing and is no error.
    ///
    /// Once this returns `Ok` the mapping can be used by every attached stream. Addresses that were unmapped before are
    /// mapped again only once the [flush](Domain::flush) of that was confirmed.
    ///
    /// # Errors
    ///
    /// [`HwError::Misaligned`], [`HwError::OutOfRange`], [`HwError::OutputTooWide`], [`HwError::Reserved`],
    /// [`HwError::AlreadyMapped`], [`HwError::Protection`], [`HwError::OutOfMemory`]: nothing has changed.
    /// [`HwError::TimedOut`], [`HwError::Queue`]: the mapping may stand, and counts as reachable until an unmap of it is
    /// confirmed, or finds [nothing there](HwError::NotMapped) and everything was invalidated.
    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError>;

    /// Takes `range` out of the tables and notes in `gather` what must be invalidated. Until [`Domain::flush`] of that
    /// gather succeeds a device may still reach the memory.
    ///
    /// # Errors
    ///
    /// [`HwError::Misaligned`], [`HwError::OutOfRange`], [`HwError::NotMapped`] where any page of the range is not
    /// mapped, [`HwError::SplitsLeaf`] where an end of the range lies inside a larger leaf,
    /// [`HwError::ForeignDomain`] where the gather holds work of another domain: nothing has changed.
    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError>;

    /// Invalidates what `gather` holds, waits for hardware to confirm, frees the tables it took out, and empties it.
    ///
    /// # Errors
    ///
    /// [`HwError::TimedOut`], [`HwError::Queue`]: the gather keeps its content, and the memory must not be reused.
    /// [`HwError::ForeignDomain`] as for [`Domain::unmap`].
    fn flush(&self, gather: &mut Gather) -> Result<(), HwError>;

    /// Blocks every stream that is attached, and waits until no device can reach anything through the domain.
    ///
    /// # Errors
    ///
    /// [`HwError::TimedOut`], [`HwError::Queue`]: no stream is attached any more as far as the tables say, but hardware
    /// did not confirm; what is mapped counts as reachable until a later call succeeds.
    fn retire(&self) -> Result<(), HwError>;

    /// Makes sure that no leaf reaches across `at`, an address of the smallest page size, so that what lies below can be
    /// unmapped without what lies above. Every address leads where it did. Nothing to do where no leaf does.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`], [`HwError::Misaligned`], [`HwError::OutOfRange`], [`HwError::OutOfMemory`]: nothing has
    /// changed. [`HwError::TimedOut`], [`HwError::Queue`]: the leaf may have been split.
    fn split(&self, at: Iova) -> Result<Transition, HwError> {
        let _ = at;
        Err(HwError::Unsupported("splitting leaves"))
    }

    /// Starts or stops recording which memory is written through the domain.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] where the domain was not made for it; [`HwError::TimedOut`], [`HwError::Queue`].
    fn set_dirty_tracking(&self, on: bool) -> Result<(), HwError> {
        let _ = on;
        Err(HwError::Unsupported("dirty tracking"))
    }

    /// Hands those parts of `range`, which the domain's smallest page divides, to `dirty` that were written through since
    /// the record was last cleared: in rising order, in whole leaves (cut to the range), joined where they touch. What is
    /// not mapped is clean.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`], [`HwError::Misaligned`], [`HwError::OutOfRange`].
    fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        let _ = (range, dirty);
        Err(HwError::Unsupported("dirty tracking"))
    }

    /// As [`Domain::read_dirty`], and clears the record of what it hands over. Writes are recorded anew once the
    /// [flush](Domain::flush) of `gather` was confirmed; those before it may be missed by the next read only if they were
    /// handed over by this one.
    ///
    /// # Errors
    ///
    /// As for [`Domain::read_dirty`], and [`HwError::ForeignDomain`].
    fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        let _ = (range, gather, dirty);
        Err(HwError::Unsupported("dirty tracking"))
    }

    /// Where the tables send `iova`, if anywhere. May wait for whoever changes that address, so it is not for interrupt
    /// handlers.
    fn translate(&self, iova: Iova) -> Option<Translation>;
}

/// A number that no earlier call returned: names a domain in its gathers, whichever driver made it.
pub fn unique_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // 2^64 domains are not reached in the lifetime of a machine.
    NEXT.fetch_add(1, Ordering::Relaxed)
}
