//! Address translation services: the unit knows of the function's device TLB before there is anything in it, and forgets it
//! only once nothing can be in it any more.

use super::{DeviceInner, Feature, Features, Function};
use crate::error::Error;
use crate::hw::{DeviceTlb, HwError, StreamId};
use core::sync::atomic::Ordering;

/// What stands in [`DeviceInner::features`] while the unit knows of the device TLB, or may.
const TOLD: u8 = 1 << 7;

impl DeviceInner {
    /// Whether the unit knows of a device TLB of this device, or may, because it did not confirm that it forgot.
    fn is_told(&self) -> bool {
        self.features.load(Ordering::Relaxed) & TOLD != 0
    }

    /// Tells the unit for each stream, then switches the function. What fails is undone.
    pub(super) fn ats_on(&self, function: &dyn Function, has: &Features) -> Result<(), Error> {
        if !has.ats {
            return Err(Error::Unsupported("ATS"));
        }
        if !self.unit.capabilities().device_tlbs {
            return Err(Error::Unsupported("ATS: the unit takes no device TLBs"));
        }
        let queue_depth = match has.ats_queue_depth {
            0 => DeviceTlb::MAX_QUEUE_DEPTH,
            depth if depth <= DeviceTlb::MAX_QUEUE_DEPTH => depth,
            _ => return Err(Error::Invalid("the invalidate queue of the function is deeper than there are")),
        };
        // From here on the unit may know, whatever it answers.
        self.features.fetch_or(TOLD, Ordering::Relaxed);
        let tell = |stream: &StreamId| {
            let physical = has.physical.unwrap_or(*stream);
            let tlb = DeviceTlb { queue_depth, physical, global_invalidate: has.ats_global_invalidate };
            self.unit.set_device_tlb(*stream, Some(tlb))
        };
        let told = self.streams.iter().try_for_each(tell);
        let switched = told.and_then(|()| function.set_feature(Feature::Ats, true));
        if let Err(error) = switched {
            // A unit that does not confirm this either is asked again by `disable`, and in the end.
            let _ = self.untell();
            return Err(error.into());
        }
        Ok(())
    }

    /// Has the unit forget the device TLB, which is empty and stays so: the function is off. Nothing to do where it does
    /// not know.
    pub(super) fn untell(&self) -> Result<(), HwError> {
        if !self.is_told() {
            return Ok(());
        }
        let mut result = Ok(());
        for stream in &self.streams {
            // All that can be: what is left is asked of hardware in vain with each invalidation.
            result = result.and(self.unit.set_device_tlb(*stream, None));
        }
        if result.is_ok() {
            self.features.fetch_and(!TOLD, Ordering::Relaxed);
        }
        result
    }
}
