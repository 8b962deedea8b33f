//! Uses of areas that keep them from being unmapped: by accesses, which let go when told to, and by locks, which do not.

use super::space::{Area, State};
use super::{AreaUse, Inner};
use crate::access::AccessInner;
use crate::addr::{Iova, IovaRange, PhysExtent};
use crate::error::Error;
use crate::hw::Prot;
use crate::quota::Amounts;
use alloc::vec::Vec;
use iommu_alloc::Shared;

impl Inner {
    /// Keeps the area that holds `at` mapped until [`Inner::unpin_area`]; an unmap tells the accesses to let go.
    pub(crate) fn pin_area(&self, at: Iova, prot: Prot) -> Result<AreaUse, Error> {
        self.use_area(at, |area| {
            if (prot.read && !area.prot.read) || (prot.write && !area.prot.write) {
                return Err(Error::ReadOnly);
            }
            area.pins = area.pins.checked_add(1).ok_or(Error::Busy)?;
            Ok(())
        })
    }

    /// Ends one [`Inner::pin_area`].
    pub(crate) fn unpin_area(&self, slot: u32) {
        if let Some(area) = self.space.lock().slots.get_mut(slot) {
            area.pins = area.pins.saturating_sub(1);
        }
    }

    /// Keeps the area that holds `at` mapped until [`Inner::unlock_area`]: unmaps of it fail.
    pub(crate) fn lock_area(&self, at: Iova) -> Result<AreaUse, Error> {
        self.use_area(at, |area| {
            // What may be taken back at any time cannot be kept.
            if area.pin.as_ref().is_some_and(|pin| pin.pages().is_revocable()) {
                return Err(Error::BadMemory);
            }
            area.locks = area.locks.checked_add(1).ok_or(Error::Busy)?;
            Ok(())
        })
    }

    /// Ends one [`Inner::lock_area`].
    pub(crate) fn unlock_area(&self, slot: u32) {
        if let Some(area) = self.space.lock().slots.get_mut(slot) {
            area.locks = area.locks.saturating_sub(1);
        }
    }

    fn use_area(&self, at: Iova, count: impl FnOnce(&mut Area) -> Result<(), Error>) -> Result<AreaUse, Error> {
        let mut space = self.space.lock();
        let (slot, area) = space.at(at)?;
        if area.revoked {
            return Err(Error::Revoked);
        }
        match area.state {
            State::Live if area.draining => return Err(Error::NotFound { iova: at }),
            State::Live => {}
            State::Placed | State::Gone => return Err(Error::NotFound { iova: at }),
            State::Asking | State::Leaving => return Err(Error::Busy),
        }
        let used = area.used(slot)?;
        // Where that fails the use is dropped, under the lock: the area's own pin is there still.
        space.slots.get_mut(slot).map_or(Err(Error::NotFound { iova: at }), count)?;
        Ok(used)
    }

    /// What areas must be multiples of, in bytes.
    pub(crate) fn alignment(&self) -> u64 {
        self.space.lock().alignment()
    }

    /// An access joins: areas keep to its alignment, and it is told of unmaps.
    pub(crate) fn add_access(&self, access: &Shared<AccessInner>) -> Result<(), Error> {
        let mut space = self.space.lock();
        let (shape, large_pages) = (space.shape, space.large_pages);
        space.check_change(&shape, large_pages, access.alignment())?;
        space.accesses.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        space.accesses.push(access.clone());
        Ok(())
    }

    /// An access leaves.
    pub(crate) fn remove_access(this: &Shared<Self>, access: &Shared<AccessInner>) {
        let mut space = this.space.lock();
        let at = space.accesses.iter().position(|held| Shared::same(held, access));
        let removed = at.map(|at| space.accesses.swap_remove(at));
        drop(space);
        // Not under the lock: it may be the last.
        drop(removed);
        Self::unmap_left(this);
    }
}

/// Keeps a range mapped: until it is dropped, unmaps of it fail with [`Error::Busy`].
pub struct RangeLock {
    space: Shared<Inner>,
    range: IovaRange,
    /// The first physical address, where the memory is contiguous.
    contiguous: Option<PhysExtent>,
    pub(crate) areas: Vec<AreaUse>,
    /// Entries that were charged.
    charged: u64,
}

/// What a lock costs for each area.
const ENTRY: Amounts = Amounts { metadata: size_of::<AreaUse>() as u64, ..Amounts::NONE };

impl RangeLock {
    pub(crate) fn new(space: &Shared<Inner>, range: IovaRange, contiguous: bool) -> Result<Self, Error> {
        // From here on whatever fails lets go of what it has.
        let mut lock = Self { space: space.clone(), range, contiguous: None, areas: Vec::new(), charged: 0 };
        let mut next = range.start();
        loop {
            lock.reserve()?;
            let area = space.lock_area(next)?;
            let last = area.range.last().min(range.last());
            let (offset, len) = (area.offset + (next.get() - area.range.start().get()), last.get() - next.get() + 1);
            let mut one = area.pin.extents(offset, len).try_fold(lock.contiguous, join);
            if !contiguous {
                one = Some(None);
            }
            // Held from here on, whatever comes next.
            lock.areas.push(area);
            lock.contiguous = one.ok_or(Error::BadMemory)?;
            match last.checked_add(1) {
                Some(after) if last < range.last() => next = after,
                _ => return Ok(lock),
            }
        }
    }

    /// Makes room for one area more, charged before: how many there are is up to whoever mapped them.
    fn reserve(&mut self) -> Result<(), Error> {
        self.space.ledger.charge(ENTRY)?;
        self.charged += 1;
        self.areas.try_reserve(1).map_err(|_| Error::OutOfMemory)
    }

    /// What it keeps mapped.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// The memory behind it, where one run was asked for.
    pub fn extent(&self) -> Option<PhysExtent> {
        self.contiguous
    }
}

/// One run of both, if they are one.
fn join(before: Option<PhysExtent>, next: PhysExtent) -> Option<Option<PhysExtent>> {
    match before {
        None => Some(Some(next)),
        Some(run) if run.start.checked_add(run.len) == Some(next.start) => {
            Some(Some(PhysExtent::new(run.start, run.len.checked_add(next.len)?)))
        }
        Some(_) => None,
    }
}

impl Drop for RangeLock {
    fn drop(&mut self) {
        while let Some(AreaUse { slot, pin, .. }) = self.areas.pop() {
            // Before the area can go: whoever unmaps it then finds nobody else that has its memory pinned.
            drop(pin);
            self.space.unlock_area(slot);
        }
        let metadata = ENTRY.metadata.saturating_mul(self.charged);
        self.space.ledger.release(Amounts { metadata, ..Amounts::NONE });
    }
}
