//! What an address space holds, under its lock: areas and where more may go. Nothing here calls anybody.

use super::reserved::{Allowed, Owner, Reserved, common, outside};
use super::{AreaUse, Placement};
use crate::access::AccessInner;
use crate::addr::{Iova, IovaRange, PAGE_SIZE};
use crate::error::Error;
use crate::hw::Prot;
use crate::pages::PagesPin;
use crate::slab::Slab;
use crate::tree::{InsertError, Tree};
use alloc::vec::Vec;
use iommu_alloc::Shared;

/// What automatic placement aligns to at most, where no domain says what its largest page is.
const LARGEST_ALIGNMENT: u64 = 1 << 30;

/// What is going on with an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Its addresses are taken; domains are being filled, by whoever made it, who holds the domain list.
    Placed,
    /// In use.
    Live,
    /// Being unmapped or revoked by whoever set this, who has accesses let go of it: nobody waits for that, as what those
    /// do is the embedder's. Still in every domain.
    Asking,
    /// Being unmapped, revoked or split by whoever set this, who waits for nothing but hardware. Still in every domain.
    Leaving,
    /// In no domain any more; about to be removed by whoever set this.
    Gone,
}

/// Names an operation that is at work on areas. Never reused; those that begin later are larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Operation(u64);

/// One area.
pub(super) struct Area {
    pub(super) range: IovaRange,
    /// Keeps its memory where it is. `None` while placed: then whoever made the area has it.
    pub(super) pin: Option<PagesPin>,
    /// Offset of its first byte into its pages.
    pub(super) offset: u64,
    pub(super) prot: Prot,
    pub(super) state: State,
    /// Which operation set the state, where that is not `Live`: several may be at work in one range.
    pub(super) operation: Operation,
    /// Unmapped, but some hardware has not confirmed it.
    pub(super) draining: bool,
    /// Its memory was taken back: in no domain.
    pub(super) revoked: bool,
    /// Domains were filled with leaves of all sizes when it was made: what was left half-way is in pieces as it went in.
    pub(super) large_pages: bool,
    /// Accesses that use it.
    pub(super) pins: u32,
    /// Locks that keep it mapped.
    pub(super) locks: u32,
}

impl Area {
    /// Its length in bytes, at most 2^64 - 1: an area of pages is never longer.
    pub(super) fn len(&self) -> u64 {
        self.range.len().unwrap_or(u64::MAX)
    }

    /// A use of its memory, for whoever found it usable.
    pub(super) fn used(&self, slot: u32) -> Result<AreaUse, Error> {
        let pin = self.pin.as_ref().ok_or(Error::NotFound { iova: self.range.start() })?.another();
        Ok(AreaUse { slot, range: self.range, offset: self.offset, prot: self.prot, pin })
    }

    /// Whether `operation` is at work on it.
    pub(super) fn is_of(&self, operation: Operation) -> bool {
        self.state != State::Live && self.operation == operation
    }

    /// Whether it stands in every domain.
    pub(super) fn is_filled(&self) -> bool {
        matches!(self.state, State::Live | State::Asking | State::Leaving) && !self.draining && !self.revoked
    }
}

/// What the domains of an address space have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    /// How many there are.
    pub(super) domains: usize,
    /// What all translate; `None` where that is nothing.
    pub(super) aperture: Option<IovaRange>,
    /// The largest of their smallest pages, in bytes; 1 without domains.
    pub(super) alignment: u64,
    /// The largest of their pages, in bytes.
    pub(super) largest: u64,
}

impl Shape {
    pub(super) const EMPTY: Self =
        Self { domains: 0, aperture: Some(IovaRange::FULL), alignment: 1, largest: LARGEST_ALIGNMENT };

    /// This and one domain more.
    pub(super) fn with(self, geometry: crate::hw::Geometry) -> Self {
        let largest = 1u64.checked_shl(63 - geometry.page_sizes.mask().leading_zeros().min(63)).unwrap_or(1);
        Self {
            domains: self.domains + 1,
            aperture: self.aperture.and_then(|aperture| common(aperture, geometry.aperture)),
            alignment: self.alignment.max(geometry.page_sizes.smallest().unwrap_or(PAGE_SIZE)),
            largest: if self.domains == 0 { largest } else { self.largest.max(largest) },
        }
    }
}

/// What an address space holds.
pub(super) struct Space {
    pub(super) areas: Tree<u32>,
    pub(super) slots: Slab<Area>,
    pub(super) reserved: Reserved,
    pub(super) allowed: Allowed,
    pub(super) accesses: Vec<Shared<AccessInner>>,
    pub(super) shape: Shape,
    pub(super) large_pages: bool,
    operations: u64,
}

impl Space {
    pub(super) const fn new() -> Self {
        Self {
            areas: Tree::new(),
            slots: Slab::new(),
            reserved: Reserved::new(),
            allowed: Allowed::new(),
            accesses: Vec::new(),
            shape: Shape::EMPTY,
            large_pages: true,
            operations: 0,
        }
    }

    /// A name for an operation that begins.
    pub(super) fn operation(&mut self) -> Operation {
        // 2^64 of them are not reached in the lifetime of a machine.
        self.operations = self.operations.wrapping_add(1);
        Operation(self.operations)
    }

    /// What areas must be multiples of, with this shape and setting.
    fn alignment_with(&self, shape: &Shape, large_pages: bool) -> u64 {
        let least = if large_pages { 1 } else { PAGE_SIZE };
        let accesses = self.accesses.iter().map(|access| access.alignment());
        accesses.fold(least.max(shape.alignment), u64::max)
    }

    /// What areas must be multiples of, in bytes.
    pub(super) fn alignment(&self) -> u64 {
        if self.accesses.is_empty() && self.large_pages {
            return self.shape.alignment;
        }
        self.alignment_with(&self.shape, self.large_pages)
    }

    /// The lowest area that touches `range`.
    pub(super) fn first(&self, range: IovaRange) -> Option<(u32, &Area)> {
        let (_, _, slot) = self.areas.first_overlap(range.start().get(), range.last().get())?;
        Some((slot, self.slots.get(slot)?))
    }

    /// The area that holds `at`.
    pub(super) fn at(&self, at: Iova) -> Result<(u32, &Area), Error> {
        let one = IovaRange::new(at, at);
        one.and_then(|one| self.first(one)).ok_or(Error::NotFound { iova: at })
    }

    /// Whether an area with these numbers may stand here, but for other areas.
    pub(super) fn check_range(&self, range: IovaRange) -> Result<(), Error> {
        if let Some(reserved) = outside(range, self.shape.aperture) {
            return Err(Error::Reserved { reserved });
        }
        match self.reserved.overlapping(range) {
            Some(reserved) => Err(Error::Reserved { reserved }),
            None => Ok(()),
        }
    }

    pub(super) fn check_free(&self, range: IovaRange) -> Result<(), Error> {
        match self.areas.first_overlap(range.start().get(), range.last().get()) {
            Some((start, last, _)) => Err(Error::Overlap { area: span(start, last) }),
            None => Ok(()),
        }
    }

    /// Where `len` bytes go. `hint` is the physical address of the first: an area that begins as evenly as its memory
    /// can use large pages.
    pub(super) fn place(&self, at: Placement, len: u64, hint: u64) -> Result<IovaRange, Error> {
        let align = self.alignment();
        match at {
            Placement::Fixed(iova) => {
                let range = IovaRange::from_len(iova, len).ok_or(Error::Overflow { iova })?;
                aligned(iova.get(), align)?;
                self.check_range(range)?;
                Ok(range)
            }
            Placement::Anywhere => {
                let most = if self.large_pages { self.shape.largest } else { PAGE_SIZE };
                let even = len.checked_next_power_of_two().unwrap_or(most);
                let source = if hint == 0 { most } else { 1 << hint.trailing_zeros() };
                let preferred = even.min(source).min(most).max(align);
                let found = self.hole(len, preferred);
                // Rather unevenly than not at all.
                let found = if found.is_none() && preferred > align { self.hole(len, align) } else { found };
                found.ok_or(Error::NoSpace { len })
            }
        }
    }

    /// The lowest hole.
    fn hole(&self, len: u64, align: u64) -> Option<IovaRange> {
        let aperture = self.shape.aperture?;
        let windows = self.allowed.windows().filter_map(|window| common(window, aperture));
        let mut gaps = windows.flat_map(|window| self.reserved.gaps(window));
        gaps.find_map(|gap| {
            let start = self.areas.first_gap(gap.start().get(), gap.last().get(), len, align)?;
            IovaRange::from_len(Iova::new(start), len)
        })
    }

    /// Puts an area in that has no pin yet: its addresses are taken from now on.
    pub(super) fn insert(&mut self, area: Area) -> Result<u32, Error> {
        let range = area.range;
        let slot = self.slots.insert(area)?;
        self.areas.insert(range.start().get(), range.last().get(), slot).map_err(|error| {
            self.slots.remove(slot);
            match error {
                InsertError::Overlap { start, last, .. } => Error::Overlap { area: span(start, last) },
                InsertError::OutOfMemory => Error::OutOfMemory,
            }
        })?;
        Ok(slot)
    }

    /// Takes an area out.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Area> {
        let area = self.slots.remove(slot)?;
        self.areas.remove(area.range.start().get());
        Some(area)
    }

    /// Whether everything that stands here could stand with another shape or setting too: nothing is changed.
    pub(super) fn check_change(&self, shape: &Shape, large_pages: bool, least: u64) -> Result<(), Error> {
        if let Some((_, area)) = outside(IovaRange::FULL, shape.aperture).and_then(|below| self.first(below)) {
            return Err(Error::AddressInUse { range: area.range });
        }
        let above = shape.aperture.and_then(|aperture| aperture.last().checked_add(1));
        let above = above.and_then(|above| IovaRange::new(above, IovaRange::FULL.last()));
        if let Some((_, area)) = above.and_then(|above| self.first(above)) {
            return Err(Error::AddressInUse { range: area.range });
        }
        if let Some(range) = self.allowed.iter().find(|range| outside(*range, shape.aperture).is_some()) {
            return Err(Error::AddressInUse { range });
        }
        let align = self.alignment_with(shape, large_pages).max(least);
        if align <= self.alignment() {
            return Ok(());
        }
        let uneven = |area: &Area| (area.range.start().get() | area.len() | area.offset) & (align - 1) != 0;
        match self.slots.iter().find(|(_, area)| uneven(area)) {
            Some((_, area)) => Err(Error::AddressInUse { range: area.range }),
            None => Ok(()),
        }
    }

    pub(super) fn reserve(&mut self, range: IovaRange, owner: Owner) -> Result<(), Error> {
        if let Some((_, area)) = self.first(range) {
            return Err(Error::AddressInUse { range: area.range });
        }
        if let Some(allowed) = self.allowed.overlapping(range) {
            return Err(Error::AddressInUse { range: allowed });
        }
        self.reserved.insert(range, owner)
    }
}

/// Whether `value` is a multiple of `align`.
pub(super) fn aligned(value: u64, align: u64) -> Result<(), Error> {
    if value & (align - 1) == 0 { Ok(()) } else { Err(Error::Misaligned { value, align }) }
}

/// A range as the tree has it.
pub(super) fn span(start: u64, last: u64) -> IovaRange {
    // The tree holds only what was put in, whose first address does not lie above its last.
    IovaRange::new(Iova::new(start), Iova::new(last)).unwrap_or(IovaRange::FULL)
}
