//! A function of the machine as the core sees it: whether it may do DMA at all.

use crate::pci::{Ecam, PciFunction};
use alloc::sync::Arc;
use iommu_core::device::{Feature, Features, Function};
use iommu_core::hw::HwError;

/// The configuration space of one function.
pub struct ConfigSpace {
    ecam: Arc<Ecam>,
    function: PciFunction,
}

impl ConfigSpace {
    /// That of `function`, which lies in `ecam`.
    pub fn new(ecam: Arc<Ecam>, function: PciFunction) -> Self {
        Self { ecam, function }
    }

    /// Lets the function do DMA although it is attached to nothing, so that what a check sees refused is refused by the
    /// IOMMU.
    ///
    /// # Safety
    ///
    /// As for [`PciFunction::set_bus_master`].
    pub unsafe fn let_loose(&self) {
        // SAFETY: as the caller promises.
        unsafe { self.function.set_bus_master(&*self.ecam, true) };
    }
}

impl Function for ConfigSpace {
    /// None of those of the demo has any.
    fn features(&self) -> Features {
        Features::default()
    }

    fn set_feature(&self, _: Feature, _: bool) -> Result<(), HwError> {
        Err(HwError::Unsupported("features of functions"))
    }

    fn set_bus_master(&self, on: bool) -> Result<(), HwError> {
        // SAFETY: translation is on, so that the function's DMA reaches what it is attached to and nothing else.
        unsafe { self.function.set_bus_master(&*self.ecam, on) };
        Ok(())
    }
}
