//! What a function can do beside plain DMA, and switching it on and off.

use super::{Device, DeviceInner};
use crate::error::Error;
use crate::group::Change;
use crate::hw::{HwError, Pasid, StreamId};
use crate::sync;
use core::sync::atomic::Ordering;

/// Something that a function can do and that is switched on and off.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Feature {
    /// Requests tagged with a PASID.
    Pasid,
    /// Address translation services: the function asks for translations and caches them.
    Ats,
    /// Page requests: the function asks for pages that it has no translation of.
    Pri,
}

impl Feature {
    const fn bit(self) -> u8 {
        match self {
            Self::Pasid => 1,
            Self::Ats => 2,
            Self::Pri => 4,
        }
    }
}

/// Features of a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features {
    /// Width of PASIDs in bits, at most 20; 0 without.
    pub pasid_bits: u8,
    /// Address translation services.
    pub ats: bool,
    /// Invalidations of its address translation cache that it takes at once: 1 to 32; 0 stands for 32, as in the ATS
    /// capability (Invalidate Queue Depth).
    pub ats_queue_depth: u8,
    /// It takes invalidations of all PASIDs at once (ATS capability, Global Invalidate Supported).
    pub ats_global_invalidate: bool,
    /// The physical function that it is a virtual one of, as the unit sees it; `None` where it is none.
    pub physical: Option<StreamId>,
    /// Page requests.
    pub pri: bool,
}

/// The embedder's side of a function: its configuration space. Called without any lock of this crate held, and for one
/// change of its group at a time.
///
/// A call that fails has changed nothing.
pub trait Function: Send + Sync {
    /// What it can do.
    fn features(&self) -> Features;

    /// Switches a feature that it has. One that is off, switched off once more, is no error.
    ///
    /// Address translation services are off only once no translated request of the function is on its way any more: the
    /// unit is told next that there are none.
    ///
    /// # Errors
    ///
    /// Whatever kept the function from it.
    fn set_feature(&self, feature: Feature, on: bool) -> Result<(), HwError>;

    /// Switches bus mastering: on once it is attached, off before translation is taken away.
    ///
    /// # Errors
    ///
    /// Whatever kept the function from it.
    fn set_bus_master(&self, on: bool) -> Result<(), HwError>;
}

impl Device {
    /// What the function can do, on or off; nothing where the embedder gave none.
    pub fn features(&self) -> Features {
        sync::assert_none_held();
        self.0.function.as_ref().map_or(Features::default(), |function| function.features())
    }

    /// Whether `feature` is on, as far as this device switched it.
    pub fn is_enabled(&self, feature: Feature) -> bool {
        self.0.is_enabled(feature)
    }

    /// Switches `feature` on. Nothing to do where it is.
    ///
    /// For address translation services the unit is [told of the device TLB](crate::hw::Unit::set_device_tlb) of each
    /// stream first. A function that has them is seen under its own requester id only: what lies between it and an alias
    /// does not carry them.
    ///
    /// # Errors
    ///
    /// Nothing has changed. [`Error::Unsupported`] where the function does not have it, or the unit takes no PASIDs or
    /// device TLBs. [`Error::Busy`] for PASIDs while address translation services are on, which PCIe forbids, or where the
    /// group is being changed. [`Error::Invalid`] where the function's invalidate queue is deeper than PCIe has them.
    /// [`Error::Hardware`] where the function or the unit refused; where the unit does not confirm that it forgot the
    /// device TLB again, [`Device::disable`] asks it once more, and so do unbinding and dropping.
    pub fn enable(&self, feature: Feature) -> Result<(), Error> {
        let device = &*self.0;
        let _change = device.group.change()?;
        if device.is_enabled(feature) {
            return Ok(());
        }
        sync::assert_none_held();
        let function = device.function.as_ref().ok_or(Error::Unsupported("the function has no features: this one"))?;
        let has = function.features();
        match feature {
            Feature::Pasid => {
                let bits = has.pasid_bits.min(device.unit.capabilities().pasid_bits).min(Pasid::BITS as u8);
                if bits == 0 {
                    return Err(Error::Unsupported("PASID"));
                }
                if device.is_enabled(Feature::Ats) {
                    return Err(Error::Busy);
                }
                function.set_feature(feature, true)?;
                device.pasid_bits.store(bits, Ordering::Relaxed);
            }
            Feature::Ats => device.ats_on(&**function, &has)?,
            Feature::Pri if !has.pri => return Err(Error::Unsupported("PRI")),
            Feature::Pri => function.set_feature(feature, true)?,
        }
        device.features.fetch_or(feature.bit(), Ordering::Relaxed);
        Ok(())
    }

    /// Switches `feature` off. Nothing to do where it is. For address translation services the function goes first, then
    /// the unit.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] for PASIDs while any is attached or address translation services are on, for address translation
    /// services while page requests are on, or where the group is being changed. [`Error::Hardware`] where the function
    /// refused: it is still on; or where the unit did not confirm that there is no device TLB any more: the feature is off,
    /// and this can be tried again.
    pub fn disable(&self, feature: Feature) -> Result<(), Error> {
        let device = &*self.0;
        let _change = device.group.change()?;
        let in_use = match feature {
            Feature::Pasid => device.pasids.load(Ordering::Relaxed) != 0 || device.is_enabled(Feature::Ats),
            Feature::Ats => device.is_enabled(Feature::Pri),
            Feature::Pri => false,
        };
        if device.is_enabled(feature) && in_use {
            return Err(Error::Busy);
        }
        device.switch_off(feature)
    }
}

impl DeviceInner {
    pub(super) fn is_enabled(&self, feature: Feature) -> bool {
        self.features.load(Ordering::Relaxed) & feature.bit() != 0
    }

    /// Whether PASIDs are on and wide enough for `pasid`.
    pub(super) fn takes_pasid(&self, pasid: Pasid) -> Result<(), Error> {
        if !self.is_enabled(Feature::Pasid) {
            return Err(Error::Invalid("PASIDs are not enabled"));
        }
        let bits = u32::from(self.pasid_bits.load(Ordering::Relaxed));
        if pasid.get().checked_shr(bits).is_some_and(|above| above != 0) {
            return Err(Error::Invalid("the PASID is wider than the function or its unit takes"));
        }
        Ok(())
    }

    /// Nothing to do where it is off and the unit knows of nothing.
    fn switch_off(&self, feature: Feature) -> Result<(), Error> {
        sync::assert_none_held();
        if self.is_enabled(feature) {
            if let Some(function) = &self.function {
                function.set_feature(feature, false)?;
            }
            self.features.fetch_and(!feature.bit(), Ordering::Relaxed);
        }
        if feature == Feature::Ats {
            self.untell()?;
        }
        Ok(())
    }

    /// Switches off what is on, in the order that PCIe asks for, up to what stays on: what comes after that must not change
    /// any more. Returns the first error.
    pub(super) fn features_off(&self, _: &Change<'_>) -> Result<(), Error> {
        let mut result = Ok(());
        for feature in [Feature::Pri, Feature::Ats, Feature::Pasid] {
            result = result.and(self.switch_off(feature));
            if self.is_enabled(feature) {
                break;
            }
        }
        result
    }

    /// Switches bus mastering on where this crate has not.
    pub(super) fn start_mastering(&self) -> Result<(), HwError> {
        self.set_mastering(true)
    }

    /// Switches bus mastering off where this crate switched it on.
    pub(super) fn stop_mastering(&self) -> Result<(), HwError> {
        self.set_mastering(false)
    }

    /// As [`DeviceInner::stop_mastering`]; a function that refuses is blocked by its unit all the same.
    pub(super) fn stop_mastering_anyway(&self) {
        let _ = self.stop_mastering();
    }

    fn set_mastering(&self, on: bool) -> Result<(), HwError> {
        let Some(function) = &self.function else { return Ok(()) };
        if self.mastering.load(Ordering::Relaxed) != on {
            sync::assert_none_held();
            function.set_bus_master(on)?;
            self.mastering.store(on, Ordering::Relaxed);
        }
        Ok(())
    }
}
