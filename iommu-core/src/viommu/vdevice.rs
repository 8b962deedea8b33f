//! A device under the number that the guest knows it by.

use super::{OBJECT, Viommu, ViommuInner};
use crate::device::{Device, DeviceInner, same_unit};
use crate::error::Error;
use crate::hw::{Invalidation, StreamId, unique_number};
use crate::sync;
use core::sync::atomic::Ordering;
use iommu_alloc::Shared;

/// One device of a virtual IOMMU.
pub(super) struct Entry {
    pub(super) virt_id: u64,
    device: Shared<DeviceInner>,
    /// The time from bind to unbind in which it was made: outside of it the entry is a tombstone.
    binding: u64,
    /// Unlike any other's: what the device knows it by.
    number: u64,
}

impl Entry {
    /// The device, unless it went away.
    fn device(&self) -> Option<&Shared<DeviceInner>> {
        (self.device.binding.load(Ordering::Acquire) == self.binding).then_some(&self.device)
    }

    /// Whether `stream` is one of its.
    pub(super) fn has_stream(&self, stream: StreamId) -> bool {
        self.device().is_some_and(|device| device.has_stream(stream))
    }
}

/// A device of a guest's, under the guest's number. Dropped, the number is free again.
///
/// Once the device is unbound or dropped this is a tombstone: it answers [`Error::NoSuchObject`], and keeps the number,
/// so that the guest never reaches another device by it before the embedder took notice.
pub struct Vdevice {
    viommu: Shared<ViommuInner>,
    virt_id: u64,
}

impl Viommu {
    /// Gives `device` the number `virt_id`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the device is not bound, or behind another unit than the parent; [`Error::Exists`] where
    /// the number is taken, by a tombstone too, or the device has a number; [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn vdevice(&self, device: &Device, virt_id: u64) -> Result<Vdevice, Error> {
        let viommu = &self.0;
        let device = &device.0;
        if !same_unit(&device.unit, &viommu.parent.unit) {
            return Err(Error::Invalid("the device is behind another unit"));
        }
        let binding = device.binding.load(Ordering::Acquire);
        if binding == 0 {
            return Err(Error::Invalid("the device is not bound"));
        }
        viommu.ledger.charge(OBJECT)?;
        let number = unique_number();
        let entered = viommu.enter(Entry { virt_id, device: device.clone(), binding, number });
        if let Err(error) = entered {
            viommu.ledger.release(OBJECT);
            return Err(error);
        }
        // From here on dropping it undoes all.
        let vdevice = Vdevice { viommu: viommu.clone(), virt_id };
        let taken = device.vdevice.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
        taken.map_err(|_| Error::Exists)?;
        if device.binding.load(Ordering::Acquire) != binding {
            return Err(Error::Invalid("the device is not bound"));
        }
        Ok(vdevice)
    }
}

impl Vdevice {
    /// The guest's number.
    pub fn virt_id(&self) -> u64 {
        self.virt_id
    }

    /// Whether the device went away.
    pub fn is_tombstone(&self) -> bool {
        self.viommu.device(self.virt_id).is_err()
    }

    /// Carries out one request on every stream of the device.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchObject`] where the device went away; [`Error::Hardware`].
    pub fn invalidate(&self, request: &Invalidation) -> Result<(), Error> {
        self.viommu.invalidate(self.virt_id, request)
    }
}

impl Drop for Vdevice {
    fn drop(&mut self) {
        // What the entry holds may be the last of the device: dropped without the lock.
        sync::assert_none_held();
        let taken = {
            let mut state = self.viommu.state.lock();
            let at = state.vdevices.binary_search_by_key(&self.virt_id, |entry| entry.virt_id);
            at.ok().map(|at| state.vdevices.remove(at))
        };
        if let Some(entry) = taken {
            let vdevice = &entry.device.vdevice;
            let _ = vdevice.compare_exchange(entry.number, 0, Ordering::AcqRel, Ordering::Relaxed);
            self.viommu.ledger.release(OBJECT);
        }
    }
}

impl ViommuInner {
    /// Adds an entry; where that fails, it is dropped after the lock.
    fn enter(&self, entry: Entry) -> Result<(), Error> {
        let mut state = self.state.lock();
        let Err(at) = state.vdevices.binary_search_by_key(&entry.virt_id, |entry| entry.virt_id) else {
            return Err(Error::Exists);
        };
        state.vdevices.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        state.vdevices.insert(at, entry);
        Ok(())
    }

    /// The device of this number.
    fn device(&self, virt_id: u64) -> Result<Shared<DeviceInner>, Error> {
        let state = self.state.lock();
        let at = state.vdevices.binary_search_by_key(&virt_id, |entry| entry.virt_id);
        let entry = at.ok().and_then(|at| state.vdevices.get(at)).ok_or(Error::NoSuchObject)?;
        entry.device().cloned().ok_or(Error::NoSuchObject)
    }

    /// Carries out one request on every stream of the device of this number.
    pub(super) fn invalidate(&self, virt_id: u64, request: &Invalidation) -> Result<(), Error> {
        let device = self.device(virt_id)?;
        for &stream in &device.streams {
            device.unit.invalidate_device(stream, request)?;
        }
        Ok(())
    }
}
