//! The I/O address space: areas, kept alike in every domain that belongs to it.
//!
//! An area is a range of I/O virtual addresses and the memory behind it. A map never replaces anything, and an unmap takes
//! whole areas. Whatever fails leaves the address space as it was, with one exception that isolation demands: where
//! hardware did not confirm an invalidation, the areas concerned stay, *draining*. Their addresses stay taken, their
//! memory stays pinned, and the next unmap of them tries again.
//!
//! # Several CPUs
//!
//! Every operation takes `&self`. Maps and unmaps of different areas run at once: the lock on the areas is held for as long
//! as it takes to look at them and to mark them, and not while domains are filled or hardware is waited for. Only a domain
//! that joins or leaves keeps the others waiting. No lock is held while memory is pinned or unpinned, or while an access is
//! told to let go.
//!
//! # What it does not do
//!
//! It does not attach devices: see [`crate::device`]. It does not look at the memory: see [`crate::access`].
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
//! use iommu_core::hw::Prot;
//! use iommu_core::ioas::{Ioas, IoasConfig, Placement};
//! use iommu_core::Error;
//!
//! let ioas = Ioas::new(IoasConfig::default())?;
//! let frames = [PhysExtent::new(PhysAddr::new(0x8000), 0x1000), PhysExtent::new(PhysAddr::new(0x20_0000), 0x3000)];
//! let fixed = ioas.map_extents(&frames, Placement::Fixed(Iova::new(0x10_0000)), Prot::READ_WRITE)?;
//! let anywhere = ioas.map_extents(&frames, Placement::Anywhere, Prot::READ)?;
//! assert!(fixed != anywhere);
//!
//! // The memory of both is the same; an unmap gives back the addresses of one.
//! assert_eq!(ioas.translate(Iova::new(0x10_1800)), Some(PhysAddr::new(0x20_0800)));
//! let range = IovaRange::from_len(fixed, 0x4000).unwrap();
//! assert_eq!(ioas.unmap(range)?, 0x4000);
//! assert_eq!(ioas.unmap(range), Err(Error::NotFound { iova: fixed }));
//! # Ok::<(), Error>(())
//! ```

mod copy;
mod fill;
mod join;
mod map;
mod options;
mod reserved;
mod revoke;
mod space;
mod unmap;
mod uses;

pub use reserved::Owner;
pub use uses::RangeLock;

use crate::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use crate::error::Error;
use crate::hw::Prot;
use crate::hwpt::HwptInner;
use crate::pages::{Pages, PagesPin};
use crate::quota::{Account, Amounts, Ledger, transfer};
use crate::sync::{Mutex, Rank, RwLock};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu_alloc::Shared;
use space::Space;

/// Where an area is to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Exactly there.
    Fixed(Iova),
    /// In the lowest hole that is large enough, inside of the [allowed](Ioas::allow) ranges or, where none were given,
    /// between the lowest and the highest page; never at 0. It is aligned to the smallest of: its length rounded up to a
    /// power of two, the largest power of two that divides its physical address, and the largest page in use (1 GiB
    /// without domains); where there is no such hole, to the address space's [alignment](Ioas::alignment).
    Anywhere,
}

/// How memory that is pinned is charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accounting {
    /// Memory with a source once, to the account that its pages were made with, however many address spaces map it;
    /// memory without one to this address space's account, by the length of each area.
    #[default]
    PerOwner,
    /// All of it to this address space's account, by the length of each area. Pages that are mapped so are best made
    /// without an account, which would pay for them as well.
    PerAddressSpace,
}

/// What an address space is to be.
#[derive(Clone, Default)]
pub struct IoasConfig {
    /// Who pays for it and for what it maps; `None` where nobody counts.
    pub account: Option<Account>,
    /// What is charged for memory.
    pub accounting: Accounting,
}

/// What is known of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaInfo {
    /// Where it lies.
    pub range: IovaRange,
    /// What devices may do.
    pub prot: Prot,
    /// Offset of its first byte into its pages, in bytes.
    pub offset: u64,
    /// It was unmapped, and hardware has not confirmed that: its memory must not be reused.
    pub draining: bool,
    /// Its memory was taken back: no domain has it.
    pub revoked: bool,
    /// How many accesses' pins use it.
    pub pins: u32,
    /// How many locks keep it mapped.
    pub locks: u32,
}

/// What handles share.
pub(crate) struct Inner {
    /// The handle is gone: whoever kept an area from being unmapped sees to it that it goes.
    orphan: AtomicBool,
    accounting: Accounting,
    ledger: Ledger,
    members: RwLock<Members>,
    space: Mutex<Space>,
}

/// The domains, oldest first. Those without users are left over: hardware did not confirm that they are gone.
struct Members {
    list: Vec<Shared<HwptInner>>,
}

/// A use of an area: the memory stays pinned as long as this lives, and the area stays mapped until the use is given back
/// to [`Inner`]. Dropped without locks.
pub(crate) struct AreaUse {
    /// Names the area.
    pub(crate) slot: u32,
    /// Where it lies.
    pub(crate) range: IovaRange,
    /// Offset of its first byte into its pages.
    pub(crate) offset: u64,
    /// What is allowed there.
    pub(crate) prot: Prot,
    /// Its memory.
    pub(crate) pin: PagesPin,
}

/// An address space.
///
/// Dropped, it unmaps what it can, but only [`Ioas::unmap_all`] tells whether hardware has confirmed that, so an embedder
/// that reuses memory without a source calls it first. Only [`Ioas::reclaim`] gets at domains that hardware did not let go of,
/// so one that must have everything back keeps the address space until its domains are
/// [destroyed](crate::hwpt::Hwpt::destroy). Domains, accesses and locks keep what they need beyond that.
pub struct Ioas(Shared<Inner>);

impl Ioas {
    /// An empty address space without domains.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`] (an object), [`Error::OutOfMemory`].
    pub fn new(config: IoasConfig) -> Result<Self, Error> {
        let ledger = Ledger::new(config.account);
        ledger.charge(Amounts { objects: 1, metadata: size_of::<Inner>() as u64, ..Amounts::NONE })?;
        let members = RwLock::new(Rank::Members, Members { list: Vec::new() });
        let space = Mutex::new(Rank::Space, Space::new());
        let orphan = AtomicBool::new(false);
        Ok(Self(Shared::try_new(Inner { orphan, accounting: config.accounting, ledger, members, space })?))
    }

    pub(crate) fn inner(&self) -> &Shared<Inner> {
        &self.0
    }

    /// Maps the `len` bytes of `pages` from `offset` on, in every domain, and returns where. The memory stays pinned
    /// until it is unmapped.
    ///
    /// # Errors
    ///
    /// In the order in which they are looked for: [`Error::Protection`] and [`Error::ReadOnly`]; [`Error::Empty`];
    /// [`Error::Overflow`]; [`Error::Invalid`] where the pages are shorter; for a fixed place [`Error::Misaligned`],
    /// [`Error::Reserved`], [`Error::Overlap`]; [`Error::BadMemory`], [`Error::Revoked`]; [`Error::Quota`];
    /// [`Error::OutOfMemory`]; where any place would do [`Error::Misaligned`], [`Error::NoSpace`]. Nothing has changed.
    /// [`Error::Hardware`] with what a domain said: nothing has changed, or, where hardware did not confirm the undo, the
    /// area is draining.
    pub fn map(&self, pages: &Pages, offset: u64, len: u64, at: Placement, prot: Prot) -> Result<Iova, Error> {
        Inner::map(&self.0, pages, offset, len, at, prot)
    }

    /// Maps memory that its owner keeps where it is for as long as it is mapped, run after run, and returns where.
    ///
    /// # Errors
    ///
    /// As for [`Ioas::map`]; where there are several extents, [`Error::Quota`] for the records of them comes right after
    /// [`Error::Protection`].
    pub fn map_extents(&self, extents: &[PhysExtent], at: Placement, prot: Prot) -> Result<Iova, Error> {
        if prot.is_none() {
            return Err(Error::Protection(prot));
        }
        let [_] = extents else { return self.map_several(extents, at, prot) };
        let pages = Pages::from_extents(extents)?;
        Inner::map(&self.0, &pages, 0, pages.len(), at, prot)
    }

    #[inline(never)]
    fn map_several(&self, extents: &[PhysExtent], at: Placement, prot: Prot) -> Result<Iova, Error> {
        // Charged before it is taken, at two numbers an extent. The area pays for what is left of it.
        let metadata = (extents.len() as u64).saturating_mul(2 * size_of::<u64>() as u64);
        let most = Amounts { metadata, ..Amounts::NONE };
        self.0.ledger.charge(most)?;
        let pages = Pages::from_extents(extents);
        self.0.ledger.release(most);
        let pages = pages?;
        Inner::map(&self.0, &pages, 0, pages.len(), at, prot)
    }

    /// Takes every area inside of `range` away from every domain, waits until no device can reach the memory, and returns
    /// the number of bytes unmapped. Gaps are allowed. Accesses that use the memory are told to let go first.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where nothing is mapped; [`Error::CutsArea`] where an area lies only partly inside;
    /// [`Error::Busy`] where an area is locked, or somebody else is making, unmapping or splitting it;
    /// [`Error::Deadlock`] where an access does not let go, however often it is told: nothing has changed.
    /// [`Error::Hardware`] where hardware did not confirm: the areas are draining.
    pub fn unmap(&self, range: IovaRange) -> Result<u64, Error> {
        Inner::unmap(&self.0, range)
    }

    /// Takes everything away. Succeeds on an empty address space.
    ///
    /// # Errors
    ///
    /// As for [`Ioas::unmap`].
    pub fn unmap_all(&self) -> Result<u64, Error> {
        match self.unmap(IovaRange::FULL) {
            Err(Error::NotFound { .. }) => Ok(0),
            other => other,
        }
    }

    /// Maps here what `from`, which may be this very address space, has at `range`; areas there must cover it without
    /// gaps. The memory is shared: nothing is pinned again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where `range` is not covered, [`Error::Revoked`] where memory was taken back,
    /// [`Error::ReadOnly`] where it may not be written, [`Error::Busy`] where somebody else is unmapping or splitting an
    /// area, and otherwise as for [`Ioas::map`].
    pub fn copy(&self, from: &Self, range: IovaRange, at: Placement, prot: Prot) -> Result<Iova, Error> {
        Inner::copy(&self.0, &from.0, range, at, prot)
    }

    /// Replaces the list of allowed ranges: automatic placement stays inside of them, and no device or domain that comes
    /// later may reserve any of them. An empty list allows everything. Fixed maps may go elsewhere too.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the ranges overlap each other; [`Error::AddressInUse`] where one is reserved or not
    /// translated by every domain; [`Error::OutOfMemory`]. The list is as before.
    pub fn allow(&self, ranges: &[IovaRange]) -> Result<(), Error> {
        self.0.allow(ranges)
    }

    /// Keeps `range` free for `owner`. Ranges of several owners, or of one, may overlap.
    ///
    /// # Errors
    ///
    /// [`Error::AddressInUse`] where an area or an allowed range is in the way; [`Error::OutOfMemory`]; [`Error::Invalid`] for
    /// an owner that is no embedder.
    pub fn reserve(&self, range: IovaRange, owner: Owner) -> Result<(), Error> {
        match owner {
            Owner::Embedder(_) => self.0.reserve(range, owner),
            Owner::Object(_) => Err(Error::Invalid("domains and devices reserve for themselves")),
        }
    }

    /// Frees every range of `owner`. Those of domains and devices stay.
    pub fn release(&self, owner: Owner) {
        if let Owner::Embedder(_) = owner {
            self.0.release(owner);
        }
    }

    /// Writes the ranges that areas may lie in, what every domain translates and nobody reserves, to `ranges`, lowest
    /// first, as far as they fit. Returns how many there are.
    pub fn iova_ranges(&self, ranges: &mut [IovaRange]) -> usize {
        let space = self.0.space.lock();
        let mut count = 0;
        for gap in space.shape.aperture.into_iter().flat_map(|aperture| space.reserved.gaps(aperture)) {
            if let Some(range) = ranges.get_mut(count) {
                *range = gap;
            }
            count += 1;
        }
        count
    }

    /// What every area's address, length and offset into its pages must be a multiple of, in bytes: 1 where neither a
    /// domain nor an access asks for more.
    pub fn alignment(&self) -> u64 {
        self.0.space.lock().alignment()
    }

    /// Whether domains may use pages larger than the smallest, as they do unless told otherwise. Without them each area
    /// can be [split](Ioas::split) at any page, at the price of a call to the driver for every page.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where it is switched off and there are both areas and domains; [`Error::AddressInUse`] where an
    /// area is not a multiple of [`PAGE_SIZE`](crate::addr::PAGE_SIZE), which all must be from then on.
    pub fn set_large_pages(&self, on: bool) -> Result<(), Error> {
        self.0.set_large_pages(on)
    }

    /// Whether domains may use pages larger than the smallest.
    pub fn large_pages(&self) -> bool {
        self.0.space.lock().large_pages
    }

    /// Cuts the area that holds `at` in two there; every address leads where it did. Nothing to do where an area begins
    /// at `at`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Misaligned`]; [`Error::Invalid`] where accesses use the area; [`Error::Busy`] where
    /// it is locked, draining or being changed; [`Error::Revoked`]; [`Error::Quota`]; [`Error::OutOfMemory`];
    /// [`Error::Hardware`] where a domain has a large page across `at` and cannot split it. The areas are as before.
    pub fn split(&self, at: Iova) -> Result<(), Error> {
        Inner::split(&self.0, at)
    }

    /// The lowest area that touches `range`: who wants the next goes on behind it.
    pub fn area(&self, range: IovaRange) -> Option<AreaInfo> {
        let space = self.0.space.lock();
        let (_, area) = space.first(range)?;
        Some(AreaInfo {
            range: area.range,
            prot: area.prot,
            offset: area.offset,
            draining: area.draining,
            revoked: area.revoked,
            pins: area.pins,
            locks: area.locks,
        })
    }

    /// The physical address behind `iova`, as this address space has it, whatever its domains do.
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        let space = self.0.space.lock();
        let (_, area) = space.at(iova).ok()?;
        let into = iova.get() - area.range.start().get();
        area.pin.as_ref().filter(|_| !area.revoked)?.phys(area.offset.checked_add(into)?)
    }

    /// Keeps what is mapped at `range` from being unmapped, until the lock is dropped. It must be mapped without gaps;
    /// where `contiguous` is set, by one physical run.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::BadMemory`] where the memory is not contiguous, or of a source that may take it
    /// back; [`Error::Revoked`] where it was; [`Error::Busy`]; [`Error::Quota`]; [`Error::OutOfMemory`].
    pub fn lock(&self, range: IovaRange, contiguous: bool) -> Result<RangeLock, Error> {
        RangeLock::new(&self.0, range, contiguous)
    }

    /// Moves the cost of this address space, and of all that it will map, to another account: whole or not at all. What
    /// pages with a source cost their owner is [theirs](Pages::change_owner).
    ///
    /// # Errors
    ///
    /// [`Error::Quota`]; [`Error::Busy`] where another CPU is at moving it; [`Error::Invalid`] where it was made without an
    /// account.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        transfer(&[&self.0.ledger], to)
    }

    /// What moves its costs together with those of others.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Tries once more to be rid of domains that hardware did not let go of when they left.
    ///
    /// # Errors
    ///
    /// [`Error::Hardware`]: some are still there.
    pub fn reclaim(&self) -> Result<(), Error> {
        self.0.leave_again()
    }

    /// Bytes that its own records take: areas, their places in the tree, and lists.
    pub fn metadata(&self) -> u64 {
        let space = self.0.space.lock();
        (size_of::<Inner>() + space.areas.bytes() + space.slots.bytes()) as u64
    }
}

impl Inner {
    /// As [`Ioas::reserve`].
    pub(crate) fn reserve(&self, range: IovaRange, owner: Owner) -> Result<(), Error> {
        self.space.lock().reserve(range, owner)
    }

    /// Where what belongs to it is charged.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Who pays for what belongs to it.
    pub(crate) fn account(&self) -> Option<Account> {
        self.ledger.account()
    }

    /// As [`Ioas::release`].
    pub(crate) fn release(&self, owner: Owner) {
        self.space.lock().reserved.release(owner);
    }

    /// Unmaps what it can of an address space that has no handle any more: whenever something goes that may have kept an
    /// area. Memory that may be taken back knows who maps it, so that the two would keep each other for ever. No lock is
    /// held.
    pub(crate) fn unmap_left(this: &Shared<Self>) {
        if !this.orphan.load(Ordering::Acquire) || Self::unmap(this, IovaRange::FULL).is_ok() {
            return;
        }
        // One that cannot be unmapped does not keep the others.
        let mut from = Some(Iova::new(0));
        while let Some(rest) = from.and_then(|from| IovaRange::new(from, IovaRange::FULL.last())) {
            let Some(range) = this.space.lock().first(rest).map(|(_, area)| area.range) else { break };
            let _ = Self::unmap(this, range);
            from = range.last().checked_add(1);
        }
    }
}

impl Drop for Ioas {
    fn drop(&mut self) {
        // Domains that are left over keep it, and it keeps them: nobody could be rid of them later.
        let _ = self.reclaim();
        self.0.orphan.store(true, Ordering::Release);
        Inner::unmap_left(&self.0);
    }
}

#[cfg(test)]
pub(crate) mod tests;
