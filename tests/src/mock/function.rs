//! The configuration space of a function.

use super::{Call, Event, Outside, Script, World, lock};
use iommu_core::device::{Feature, Features, Function};
use iommu_core::hw::{HwError, unique_number};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// A function that remembers what was switched on.
pub struct MockFunction {
    world: World,
    number: u64,
    features: Features,
    on: Mutex<(HashSet<Feature>, bool)>,
    script: Script,
}

impl MockFunction {
    /// A function of `world` that has `features`. Nothing is on; it may not do DMA.
    pub fn new(world: &World, features: Features) -> Arc<Self> {
        let on = Mutex::default();
        Arc::new(Self { world: world.clone(), number: unique_number(), features, on, script: Script::default() })
    }

    /// A function that has everything.
    pub fn capable(world: &World) -> Arc<Self> {
        Self::new(
            world,
            Features {
                pasid_bits: super::PASID_BITS,
                ats: true,
                ats_queue_depth: 0,
                ats_global_invalidate: true,
                physical: None,
                pri: true,
            },
        )
    }

    /// What names it in [`Event`]s.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Which of its calls fail.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Whether `feature` is on.
    pub fn is_on(&self, feature: Feature) -> bool {
        lock(&self.on).0.contains(&feature)
    }

    /// Whether it may do DMA.
    pub fn is_bus_master(&self) -> bool {
        lock(&self.on).1
    }
}

impl Function for MockFunction {
    fn features(&self) -> Features {
        self.features
    }

    fn set_feature(&self, feature: Feature, on: bool) -> Result<(), HwError> {
        let _outside = Outside::enter();
        self.script.next(Call::SetFeature).map_err(|(error, _)| error)?;
        self.world.note(Event::Feature { function: self.number, feature, on });
        let features = &mut lock(&self.on).0;
        if on {
            features.insert(feature);
        } else {
            features.remove(&feature);
        }
        Ok(())
    }

    fn set_bus_master(&self, on: bool) -> Result<(), HwError> {
        let _outside = Outside::enter();
        self.script.next(Call::BusMaster).map_err(|(error, _)| error)?;
        self.world.note(Event::BusMaster { function: self.number, on });
        lock(&self.on).1 = on;
        Ok(())
    }
}
