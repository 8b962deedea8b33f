//! Memory of the guest's that hardware reads as a queue.

use super::{OBJECT, Viommu, ViommuInner};
use crate::addr::{Iova, IovaRange, PhysAddr};
use crate::error::Error;
use crate::ioas::RangeLock;
use iommu_alloc::Shared;

/// Memory that hardware uses as a queue, by its physical address. It stays mapped and where it is: unmaps of it are
/// [`Error::Busy`] until this is dropped, which is done once hardware has stopped to use it.
pub struct HwQueue {
    viommu: Shared<ViommuInner>,
    index: u32,
    base: PhysAddr,
    lock: RangeLock,
}

impl Viommu {
    /// The `len` bytes from `iova` on, in the parent's address space, as the queue with the number `index`.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] where `len` is 0; [`Error::Overflow`]; [`Error::NotFound`] where not all is mapped;
    /// [`Error::BadMemory`] where it is not one physically contiguous run; [`Error::Exists`] where there is a queue of the
    /// number; [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn hw_queue(&self, index: u32, iova: Iova, len: u64) -> Result<HwQueue, Error> {
        if len == 0 {
            return Err(Error::Empty);
        }
        let range = IovaRange::from_len(iova, len).ok_or(Error::Overflow { iova })?;
        let lock = RangeLock::new(&self.0.parent.ioas, range, true)?;
        let base = lock.extent().ok_or(Error::BadMemory)?.start;
        self.0.charge(OBJECT)?;
        if let Err(error) = self.0.enter_queue(index) {
            self.0.release(OBJECT);
            return Err(error);
        }
        Ok(HwQueue { viommu: self.0.clone(), index, base, lock })
    }
}

impl HwQueue {
    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Where it lies in the address space.
    pub fn range(&self) -> IovaRange {
        self.lock.range()
    }

    /// Where it lies for hardware.
    pub fn base(&self) -> PhysAddr {
        self.base
    }
}

impl Drop for HwQueue {
    fn drop(&mut self) {
        self.viommu.state.lock().hw_queues.retain(|&index| index != self.index);
        self.viommu.release(OBJECT);
    }
}

impl ViommuInner {
    fn enter_queue(&self, index: u32) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.hw_queues.contains(&index) {
            return Err(Error::Exists);
        }
        state.hw_queues.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        state.hw_queues.push(index);
        Ok(())
    }
}
