//! Ranges that an access keeps pinned.

use super::{Access, AccessInner, Operation};
use crate::addr::{Iova, IovaRange, PhysExtent};
use crate::error::Error;
use crate::hw::Prot;
use crate::ioas::{self, AreaUse};
use crate::pages::MemoryKind;
use crate::quota::Amounts;
use alloc::vec::Vec;
use core::fmt;
use core::mem::size_of;
use iommu_alloc::Shared;

impl Access {
    /// Pins `range`: nothing of it is unmapped until the result is dropped. Both ends are multiples of the access's
    /// alignment. All of it, or nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an access without a user to tell of unmaps, and for device memory;
    /// [`Error::Protection`] where neither reading nor writing is asked for; [`Error::Misaligned`];
    /// [`Error::NotFound`] where nothing is mapped, or the access is not attached; [`Error::ReadOnly`] where an area does
    /// not allow what is asked for; [`Error::Revoked`]; [`Error::Busy`] where an area is being unmapped, and while the
    /// access is being moved or detached; [`Error::Quota`] and [`Error::OutOfMemory`] for ranges of several areas.
    pub fn pin(&self, range: IovaRange, prot: Prot) -> Result<Pin, Error> {
        let access = &self.0;
        if access.user.is_none() {
            return Err(Error::Invalid("nobody would be told to unpin"));
        }
        if prot.is_none() {
            return Err(Error::Protection(prot));
        }
        let align = access.alignment;
        for value in [range.start(), range.last().wrapping_add(1)] {
            if !value.is_aligned(align) {
                return Err(Error::Misaligned { value: value.get(), align });
            }
        }
        let operation = access.enter(range.start())?;
        let held = Held { space: operation.space.clone(), first: None, more: Vec::new(), charged: 0 };
        // Counted while the operation is under way, so that whoever waits for that one finds the pin.
        access.state.lock().pins += 1;
        let mut pin = Pin { access: access.clone(), range, prot, held };
        let mut at = range.start();
        loop {
            let area = operation.area(at, prot, |_| true)?;
            let last = area.range.last();
            pin.hold(area)?;
            match last.checked_add(1) {
                Some(next) if last < range.last() => at = next,
                _ => return Ok(pin),
            }
        }
    }
}

impl Operation<'_> {
    /// The area that holds `at`, kept from being unmapped. `suits`: whether it will do.
    pub(super) fn area(&self, at: Iova, prot: Prot, suits: impl FnOnce(&AreaUse) -> bool) -> Result<AreaUse, Error> {
        let area = self.space.pin_area(at, prot)?;
        let pages = area.pin.pages();
        let error = if pages.kind() == MemoryKind::Mmio {
            Error::Invalid("device memory is not for software accesses")
        } else if prot.write && !pages.writable() {
            Error::ReadOnly
        } else if !suits(&area) {
            Error::BadMemory
        } else {
            return Ok(area);
        };
        let_go(&self.space, area);
        Err(error)
    }
}

/// Lets an area go. The area itself keeps its pages pinned until it is unmapped, which cannot be before the last line.
pub(super) fn let_go(space: &ioas::Inner, area: AreaUse) {
    let AreaUse { slot, pin, .. } = area;
    drop(pin);
    space.unpin_area(slot);
}

/// Pinned memory of an address space. Dropped, it is unpinned: without locks of this crate held, as its memory may go
/// with it.
pub struct Pin {
    pub(super) access: Shared<AccessInner>,
    range: IovaRange,
    pub(super) prot: Prot,
    held: Held,
}

/// Areas, in order.
struct Held {
    space: Shared<ioas::Inner>,
    /// Most pins are of one area, and take no memory.
    first: Option<AreaUse>,
    more: Vec<AreaUse>,
    /// Bytes that `more` has cost.
    charged: u64,
}

impl Pin {
    /// What is pinned.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// The physically contiguous runs behind it, in order.
    pub fn extents(&self) -> impl Iterator<Item = PhysExtent> + '_ {
        self.areas().flat_map(|area| {
            // Each area touches the range, so that this is inside of the area.
            let start = area.range.start().max(self.range.start());
            let last = area.range.last().min(self.range.last());
            let into = start.get().saturating_sub(area.range.start().get());
            let len = last.get().saturating_sub(start.get()).saturating_add(1);
            area.pin.extents(area.offset.saturating_add(into), len)
        })
    }

    pub(super) fn areas(&self) -> impl Iterator<Item = &AreaUse> + '_ {
        self.held.first.iter().chain(&self.held.more)
    }

    /// The area that holds `at`.
    pub(super) fn area(&self, at: Iova) -> Option<&AreaUse> {
        match &self.held.first {
            Some(first) if first.range.contains(at) => Some(first),
            _ => {
                let index = self.held.more.partition_point(|area| area.range.last() < at);
                self.held.more.get(index).filter(|area| area.range.contains(at))
            }
        }
    }

    /// Adds an area behind the others, or lets go of it.
    fn hold(&mut self, area: AreaUse) -> Result<(), Error> {
        if self.held.first.is_none() {
            self.held.first = Some(area);
            return Ok(());
        }
        if let Err(error) = self.make_room() {
            let_go(&self.held.space, area);
            return Err(error);
        }
        self.held.more.push(area);
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), Error> {
        let more = &mut self.held.more;
        if more.len() < more.capacity() {
            return Ok(());
        }
        let count = more.len().max(4);
        let metadata = (count as u64).saturating_mul(size_of::<AreaUse>() as u64);
        self.access.ledger.charge(Amounts { metadata, ..Amounts::NONE })?;
        self.held.charged = self.held.charged.saturating_add(metadata);
        more.try_reserve_exact(count).map_err(|_| Error::OutOfMemory)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let areas = self.areas().count();
        f.debug_struct("Pin").field("range", &self.range).field("prot", &self.prot).field("areas", &areas).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let held = &mut self.held;
        for area in held.first.take().into_iter().chain(core::mem::take(&mut held.more)) {
            let_go(&held.space, area);
        }
        self.access.ledger.release(Amounts { metadata: held.charged, ..Amounts::NONE });
        AccessInner::unpinned(&self.access);
    }
}
