//! What is enforced in an address space for a device that is attached to it.

use crate::addr::IovaRange;
use crate::error::Error;
use crate::hw::{Prot, unique_number};
use crate::ioas::{AreaUse, Inner, Owner, RangeLock};
use crate::region::{RegionKind, ReservedRegion};
use alloc::vec::Vec;
use iommu_alloc::Shared;

/// What is enforced for one device in one address space, until dropped (without locks held).
pub(crate) struct Held {
    /// Direct regions.
    direct: Vec<RangeLock>,
    ioas: Shared<Inner>,
    /// Keeps the other regions free.
    owner: Owner,
}

impl Held {
    /// Enforces `regions` in `ioas`.
    ///
    /// # Errors
    ///
    /// [`Error::AddressInUse`], [`Error::OutOfMemory`], [`Error::Invalid`] where a direct region is not mapped 1:1:
    /// nothing has changed.
    pub(crate) fn new(ioas: &Shared<Inner>, regions: &[ReservedRegion]) -> Result<Self, Error> {
        // A number for each time, not for the device: a replacement by another domain of the same space holds twice for
        // a moment.
        let owner = Owner::Object(unique_number());
        // From here on dropping it undoes all.
        let mut held = Self { direct: Vec::new(), ioas: ioas.clone(), owner };
        for region in regions {
            match region.kind {
                RegionKind::Direct { prot } => held.lock_direct(region.range, prot)?,
                RegionKind::DirectRelaxable { .. }
                | RegionKind::Reserved
                | RegionKind::Msi
                | RegionKind::SoftwareMsi => ioas.reserve(region.range, owner)?,
            }
        }
        Ok(held)
    }

    fn lock_direct(&mut self, range: IovaRange, prot: Prot) -> Result<(), Error> {
        const BROKEN: Error = Error::Invalid("a region that the device needs is not mapped 1:1");
        self.direct.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        let not_there = |error| if matches!(error, Error::NotFound { .. }) { BROKEN } else { error };
        let lock = RangeLock::new(&self.ioas, range, false).map_err(not_there)?;
        let allows = |area: &AreaUse| (area.prot.read || !prot.read) && (area.prot.write || !prot.write);
        if !lock.areas.iter().all(|area| allows(area) && is_identity(area, range)) {
            return Err(BROKEN);
        }
        self.direct.push(lock);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ioas.release(self.owner);
    }
}

/// Whether each address of `range` in `area` leads to the physical address of the same number.
fn is_identity(area: &AreaUse, range: IovaRange) -> bool {
    let first = area.range.start().max(range.start());
    let part = IovaRange::new(first, area.range.last().min(range.last()));
    let before = first.get().checked_sub(area.range.start().get());
    let offset = before.and_then(|before| area.offset.checked_add(before));
    let (Some(offset), Some(len)) = (offset, part.and_then(IovaRange::len)) else { return false };
    let mut at = first.get();
    for run in area.pin.extents(offset, len) {
        if at != run.start.get() {
            return false;
        }
        // Past the last run this may wrap, and nothing is compared with it.
        at = at.wrapping_add(run.len);
    }
    true
}
