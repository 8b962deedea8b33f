//! Device TLBs, which the reference has no test of: they stand here for the stand-ins.

use crate::common::*;
use iommu_core::device::Feature;
use iommu_core::hw::{DeviceTlb, UnitCapabilities};
use iommu_tests::mock::*;

/// The unit knows of a device TLB as long as the function may have anything in it.
#[test]
fn known_while_it_may_hold_anything() {
    let rig = Rig::new(Case::NoDomain);
    let unit = MockUnit::new(&rig.world);
    let function = MockFunction::capable(&rig.world);
    let lead = Lead::configured(&unit, 0x78, |config| config.function = Some(function.clone()));
    let (device, stream) = (lead.dev(), lead.stream.id);
    let number = function.number();
    let switch = |on| Event::Feature { function: number, feature: Feature::Ats, on };
    let tlb = DeviceTlb { queue_depth: 32, physical: stream, global_invalidate: true };

    rig.world.record();
    device.enable(Feature::Ats).unwrap();
    assert_eq!(rig.world.events(), [Event::DeviceTlb { stream, tlb: Some(tlb) }, switch(true)]);
    assert_eq!(unit.device_tlb(stream), Some(tlb));
    device.disable(Feature::Ats).unwrap();
    assert_eq!(rig.world.events(), [switch(false), Event::DeviceTlb { stream, tlb: None }]);
    // A unit that did not confirm counts it as there, until asked once more.
    unit.script().fail_from(Call::SetDeviceTlb, 0, Script::TIMED_OUT, Effect::Done);
    device.enable(Feature::Ats).unwrap_err();
    assert!(unit.device_tlb(stream).is_some() && !function.is_on(Feature::Ats) && !device.is_enabled(Feature::Ats));
    unit.script().succeed();
    device.disable(Feature::Ats).unwrap();
    assert_eq!(unit.device_tlb(stream), None);
    // Without device TLBs, no ATS.
    let config = UnitConfig::default();
    let capabilities = UnitCapabilities { device_tlbs: false, ..config.capabilities };
    let unit = MockUnit::with(&rig.world, UnitConfig { capabilities, ..config });
    let lead = Lead::configured(&unit, 0x79, |config| config.function = Some(function.clone()));
    assert_eq!(errno(lead.dev().enable(Feature::Ats)), EOPNOTSUPP);
    assert!(!function.is_on(Feature::Ats));
}
