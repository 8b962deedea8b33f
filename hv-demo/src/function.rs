//! A function of the machine as the core sees it: whether it may do DMA at all.

use crate::doorbell::Doorbell;
use crate::pci::{Ecam, PciFunction};
use alloc::sync::Arc;
use iommu_core::device::{Feature, Features, Function};
use iommu_core::hw::{HwError, Pasid};

/// The configuration space of one function.
pub struct ConfigSpace {
    /// `None` of a function in software: its doorbell asks nobody whether it is bus master.
    place: Option<(Arc<Ecam>, PciFunction)>,
    /// Where the function has one, in place of a PASID capability.
    doorbell: Option<Arc<Doorbell>>,
}

impl ConfigSpace {
    /// That of `function`, which lies in `ecam`.
    pub fn new(ecam: Arc<Ecam>, function: PciFunction) -> Self {
        Self { place: Some((ecam, function)), doorbell: None }
    }

    /// That of a function in software.
    #[cfg_attr(not(test), allow(dead_code, reason = "not every architecture needs one"))]
    pub fn in_software(doorbell: Doorbell) -> Self {
        Self { place: None, doorbell: Some(Arc::new(doorbell)) }
    }

    /// The same of a function with this doorbell.
    pub fn with_doorbell(self, doorbell: Option<Doorbell>) -> Self {
        Self { doorbell: doorbell.map(Arc::new), ..self }
    }

    /// The function's doorbell.
    pub fn doorbell(&self) -> Option<&Arc<Doorbell>> {
        self.doorbell.as_ref()
    }

    /// Lets the function do DMA although it is attached to nothing, so that what a check sees refused is refused by the
    /// IOMMU.
    ///
    /// # Safety
    ///
    /// As for [`PciFunction::set_bus_master`].
    pub unsafe fn let_loose(&self) {
        if let Some((ecam, function)) = &self.place {
            // SAFETY: as the caller promises.
            unsafe { function.set_bus_master(&**ecam, true) };
        }
    }
}

impl Function for ConfigSpace {
    /// PASIDs where there is a doorbell, all that the bus has; nothing else.
    fn features(&self) -> Features {
        let pasid_bits = if self.doorbell.is_some() { Pasid::BITS as u8 } else { 0 };
        Features { pasid_bits, ..Features::default() }
    }

    fn set_feature(&self, feature: Feature, on: bool) -> Result<(), HwError> {
        match (&self.doorbell, feature) {
            (Some(doorbell), Feature::Pasid) => {
                doorbell.set_pasids(on);
                Ok(())
            }
            _ => Err(HwError::Unsupported("this feature of the function")),
        }
    }

    fn set_bus_master(&self, on: bool) -> Result<(), HwError> {
        if let Some((ecam, function)) = &self.place {
            // SAFETY: translation is on, so that the function's DMA reaches what it is attached to and nothing else.
            unsafe { function.set_bus_master(&**ecam, on) };
        }
        Ok(())
    }
}
