//! Who has a device: binding, and what is left of it in the end.

use super::{Device, DeviceInner};
use crate::error::Error;
use crate::group::{Change, Group, OwnerId, Records};
use crate::hw::{Pasid, unique_number};
use crate::sync;
use core::sync::atomic::Ordering;
use iommu_alloc::Shared;

impl Device {
    /// Claims the group's DMA for `owner`: no other owner can bind a device of the group until all are unbound.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the device's DMA is not coherent. [`Error::NotIsolated`] where its interrupts are not
    /// isolated, unless `allow_unsafe_interrupts`. [`Error::NotOwner`] where the group is another's. [`Error::Busy`] where
    /// the device is bound, or the group is being changed.
    pub fn bind(&self, owner: OwnerId, allow_unsafe_interrupts: bool) -> Result<(), Error> {
        let device = &*self.0;
        if !device.coherent {
            return Err(Error::Invalid("the device's DMA is not coherent"));
        }
        if !device.isolated_msi && !allow_unsafe_interrupts {
            return Err(Error::NotIsolated("the device can forge interrupts"));
        }
        let change = device.group.change()?;
        change.state(|state| {
            if state.owner.is_some_and(|other| other != owner) {
                return Err(Error::NotOwner);
            }
            if device.is_bound() {
                return Err(Error::Busy);
            }
            state.bound = state.bound.checked_add(1).ok_or(Error::Busy)?;
            state.owner = Some(owner);
            device.binding.store(unique_number(), Ordering::Release);
            Ok(())
        })
    }

    /// Gives the group's DMA up; with the last device of it, anybody can have it. What virtual IOMMUs know the device as
    /// is [gone](crate::viommu::Vdevice). What features are on go off, page requests first, PASIDs last: the next owner
    /// begins without. Nothing to do where it is not bound.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while it is attached, or the group is being changed. [`Error::Hardware`] where the function does not
    /// switch a feature off, or the unit does not confirm that it forgot the device TLB: it is still bound, with what is
    /// still on.
    pub fn unbind(&self) -> Result<(), Error> {
        let change = self.0.group.change()?;
        if self.0.attached() != 0 {
            return Err(Error::Busy);
        }
        if self.0.is_bound() {
            self.0.features_off(&change)?;
        }
        self.0.release_group(&change);
        Ok(())
    }

    /// Whether it is bound.
    pub fn is_bound(&self) -> bool {
        self.0.is_bound()
    }

    /// Detaches it everywhere and unbinds it, as dropping does, but tells of errors.
    pub(crate) fn leave(&self) -> Result<(), Error> {
        let mut from = Pasid::new(0);
        while let Some(first) = from {
            // Not from the lowest each time: other devices of the group may have many there.
            let next =
                self.0.group.look(|state| state.records.pasids(self.0.number, first).next().map(|(pasid, _)| pasid));
            let Some(pasid) = next else { break };
            self.detach_pasid(pasid)?;
            from = pasid.get().checked_add(1).and_then(Pasid::new);
        }
        self.detach()?;
        self.unbind()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let device = &self.0;
        let change = device.group.change_when_free();
        device.stop_mastering_anyway();
        device.detach_everything(&change);
        // A function that keeps its own is blocked by its unit all the same.
        let _ = device.features_off(&change);
        device.forget_vdevice();
        // Attachments that are left keep the device, its domains and its place in the group.
        if device.attached() == 0 {
            device.release_group(&change);
        } else {
            // Still bound, but not as what virtual IOMMUs know: to them it is gone.
            device.binding.store(unique_number(), Ordering::Release);
        }
        device.dropped.store(true, Ordering::Relaxed);
    }
}

impl Group {
    /// Tries once more to block what devices that were dropped left behind because hardware did not confirm, and to switch
    /// off what is on, and gives their part of the group up.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] where the group is being changed; [`Error::Hardware`] where hardware still does not confirm.
    pub fn reclaim(&self) -> Result<(), Error> {
        sync::assert_none_held();
        let change = self.change()?;
        let mut result = Ok(());
        let is_left = |device: &Shared<DeviceInner>| device.dropped.load(Ordering::Relaxed);
        // The device that was told last to be quiet.
        let mut quiet = 0;
        // Each once: hardware that does not answer costs a deadline each time.
        for (first, last) in Records::PASIDS_FIRST {
            let mut from = Some(first);
            while let Some(key) = from {
                let next = change.state(|state| state.records.next_device(key, last, &is_left));
                let Some((key, pasid, device)) = next else { break };
                if quiet != device.number {
                    quiet = device.number;
                    device.stop_mastering_anyway();
                }
                result = result.and(device.take_down(&change, pasid));
                if device.attached() == 0 {
                    let _ = device.features_off(&change);
                    device.release_group(&change);
                }
                from = key.checked_add(1).filter(|key| *key <= last);
            }
        }
        Ok(result?)
    }
}

impl DeviceInner {
    /// Not bound any more, if it was.
    fn release_group(&self, change: &Change<'_>) {
        let bound = self.binding.swap(0, Ordering::AcqRel) != 0;
        self.forget_vdevice();
        if bound {
            change.state(|state| {
                state.bound = state.bound.saturating_sub(1);
                if state.bound == 0 {
                    state.owner = None;
                }
            });
        }
    }

    /// Its virtual device, if any, is a tombstone from now on.
    fn forget_vdevice(&self) {
        self.vdevice.store(0, Ordering::Release);
    }
}
