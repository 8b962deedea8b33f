//! A device as `iommu-core` has it, on a unit of any kind, and a function that notes when it was a bus master.

use iommu_core::device::{Device, DeviceConfig, Feature, Features, Function};
use iommu_core::group::{Group, OwnerId};
use iommu_core::hw::{HwError, Stream, Unit};
use iommu_core::region::ReservedRegion;
use std::sync::{Arc, Mutex};

/// A function that notes whether its unit let it through whenever bus mastering was switched.
pub struct Watched {
    translated: Box<dyn Fn() -> bool + Send + Sync>,
    log: Mutex<Vec<(bool, bool)>>,
}

impl Watched {
    /// `translated` tells whether an access that is mapped goes through right now.
    pub fn new(translated: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { translated: Box::new(translated), log: Mutex::default() }
    }

    /// Every switch so far: what bus mastering became, and whether accesses went through just before.
    pub fn log(&self) -> Vec<(bool, bool)> {
        self.log.lock().expect("no test failed with it").clone()
    }
}

impl Function for Watched {
    fn features(&self) -> Features {
        Features::default()
    }

    fn set_feature(&self, _: Feature, _: bool) -> Result<(), HwError> {
        Err(HwError::Unsupported("features"))
    }

    fn set_bus_master(&self, on: bool) -> Result<(), HwError> {
        let translated = (self.translated)();
        self.log.lock().expect("no test failed with it").push((on, translated));
        Ok(())
    }
}

/// A device alone in its group, bound to an owner.
///
/// # Panics
///
/// Where the core refuses it.
pub fn device(
    unit: &Arc<dyn Unit>,
    stream: Stream,
    function: Option<Arc<dyn Function>>,
    regions: &[ReservedRegion],
) -> Device {
    let group = Group::new(None).unwrap();
    let streams = [stream.id];
    let config = DeviceConfig {
        unit: unit.clone(),
        streams: &streams,
        function,
        regions,
        coherent: true,
        isolated_msi: true,
        router: None,
        account: None,
    };
    let device = Device::new(&group, &config).unwrap();
    device.bind(OwnerId(1), false).unwrap();
    device
}
