//! Parts of a function, told apart by PASID, lead where they are led, each on its own.

use crate::common::*;
use iommu_core::device::{AttachTo, Feature};
use iommu_core::hw::{HwError, NestedConfig, Pasid, Prot, Stage, Stream};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::Ioas;
use iommu_core::nested::NestedHwpt;
use iommu_tests::mock::*;
use std::sync::Arc;

const BASE: u64 = APERTURE_START;

fn pasid(raw: u32) -> Pasid {
    Pasid::new(raw).unwrap()
}

fn hwpt(ioas: &Ioas, unit: &Arc<MockUnit>, with_pasids: bool) -> Hwpt {
    let config = HwptConfig { pasid: with_pasids, nest_parent: true, ..HwptConfig::new(Stage::Second) };
    Hwpt::new(ioas, &dynamic(unit), config).unwrap()
}

#[test]
fn pasid_attach() {
    let rig = Rig::new(Case::NoDomain);
    let other = rig.another();
    let (first, second) = (rig.source(4 * PAGE), rig.source(4 * PAGE));
    rig.map_all(&first, BASE);
    other.map(&second.pages, 0, 4 * PAGE, at(BASE), Prot::READ).unwrap();
    let unit = MockUnit::new(&rig.world);
    let function = MockFunction::capable(&rig.world);
    let lead = Lead::configured(&unit, 0x77, |config| config.function = Some(function.clone()));
    let device = lead.dev();
    let plain = hwpt(&rig.ioas, &unit, false);
    let (one, two) = (hwpt(&rig.ioas, &unit, true), hwpt(&other, &unit, true));
    let (a, b) = (pasid(100), pasid(200));
    let stream = |pasid| Stream { pasid: Some(pasid), ..lead.stream };
    let leads = |pasid| unit.leads(stream(pasid));
    let to_one = Leads::Paging(MockDomain::of(one.domain()).number());
    let to_two = Leads::Paging(MockDomain::of(two.domain()).number());

    // Not before PASIDs are on; nor one that is wider than they are.
    assert_eq!(errno(device.attach_pasid(a, AttachTo::Hwpt(&one))), EINVAL);
    device.enable(Feature::Pasid).unwrap();
    assert!(function.is_on(Feature::Pasid));
    // Only domains made for it; not an address space.
    assert_eq!(errno(device.attach_pasid(a, AttachTo::Hwpt(&plain))), EINVAL);
    assert_eq!(errno(device.attach_pasid(a, AttachTo::Auto(&rig.ioas))), EINVAL);
    assert_eq!(leads(a), Leads::Blocked);

    // The function as a whole leads to a domain that is not made for PASIDs: no PASID leads anywhere, and the other way
    // round.
    device.attach(AttachTo::Hwpt(&plain)).unwrap();
    assert_eq!(errno(device.attach_pasid(a, AttachTo::Hwpt(&one))), EINVAL);
    device.detach().unwrap();
    device.attach_pasid(a, AttachTo::Hwpt(&one)).unwrap();
    assert_eq!((leads(a), unit.leads(lead.stream)), (to_one, Leads::Blocked));
    assert_eq!(errno(device.attach(AttachTo::Hwpt(&plain))), EINVAL);
    device.attach(AttachTo::Hwpt(&two)).unwrap();
    assert_eq!(errno(device.replace(AttachTo::Hwpt(&plain))), EINVAL);
    assert_eq!((leads(a), unit.leads(lead.stream)), (to_one, to_two));
    // One and the same domain serves the function whole and a part of it.
    device.replace(AttachTo::Hwpt(&one)).unwrap();
    assert_eq!((leads(a), unit.leads(lead.stream)), (to_one, to_one));
    assert_eq!(unit.ways(stream(a), BASE), [(first.memory.phys(0), Prot::READ_WRITE)]);

    // Taken; another is not.
    assert_eq!(errno(device.attach_pasid(a, AttachTo::Hwpt(&two))), EBUSY);
    assert_eq!(errno(device.attach_pasid(a, AttachTo::Hwpt(&one))), EBUSY);
    device.attach_pasid(b, AttachTo::Hwpt(&two)).unwrap();
    assert_eq!((leads(a), leads(b)), (to_one, to_two));
    assert_eq!(unit.ways(stream(b), BASE), [(second.memory.phys(0), Prot::READ)]);
    assert_eq!((device.pasid_of(&one), device.pasid_of(&two), device.pasid_of(&plain)), (Some(a), Some(b), None));
    // PASIDs stay on while any leads anywhere, and domains stay.
    assert_eq!(errno(device.disable(Feature::Pasid)), EBUSY);
    let (two, error) = two.destroy().unwrap_err();
    assert_eq!(error.errno(), EBUSY);

    // Replaced: what is there, by itself, by another; not what is not there, nor by what cannot be.
    assert_eq!(errno(device.replace_pasid(pasid(300), AttachTo::Hwpt(&one))), EINVAL);
    let calls = unit.counts();
    device.replace_pasid(a, AttachTo::Hwpt(&one)).unwrap();
    assert_eq!(unit.counts(), calls);
    device.replace_pasid(a, AttachTo::Hwpt(&two)).unwrap();
    assert_eq!((leads(a), leads(b), unit.leads(lead.stream)), (to_two, to_two, to_one));
    assert_eq!(device.pasid_of(&two), Some(a));
    for to in [AttachTo::Hwpt(&plain), AttachTo::Auto(&rig.ioas)] {
        assert_eq!(errno(device.replace_pasid(a, to)), EINVAL);
        assert_eq!(leads(a), to_two);
    }
    // A unit that refuses: it leads where it did.
    unit.script().fail(Call::Attach, 0, HwError::OutOfMemory, Effect::None);
    assert_eq!(errno(device.replace_pasid(a, AttachTo::Hwpt(&one))), ENOMEM);
    assert_eq!(leads(a), to_two);
    unit.script().fail(Call::Attach, 0, HwError::OutOfMemory, Effect::None);
    assert_eq!(errno(device.attach_pasid(pasid(300), AttachTo::Hwpt(&one))), ENOMEM);
    assert_eq!(leads(pasid(300)), Leads::Blocked);

    // Through a guest's first stage.
    let nested = NestedHwpt::new(&one, &NestedConfig { kind: NESTED_KIND, words: &[9] }).unwrap();
    device.replace_pasid(b, AttachTo::Nested(&nested)).unwrap();
    assert!(matches!(leads(b), Leads::Nested(..)));
    assert_eq!((unit.iotlb(stream(b)), unit.iotlb(stream(a))), (Some([9; 4]), None));
    assert_eq!(device.pasid_of_nested(&nested), Some(b));

    // Detached one by one; once more is no error.
    device.detach_pasid(a).unwrap();
    assert_eq!((leads(a), matches!(leads(b), Leads::Nested(..))), (Leads::Blocked, true));
    device.detach_pasid(a).unwrap();
    device.detach_pasid(b).unwrap();
    assert_eq!((leads(b), unit.leads(lead.stream)), (Leads::Blocked, to_one));
    device.attach_pasid(a, AttachTo::Hwpt(&one)).unwrap();
    device.detach().unwrap();
    assert_eq!((leads(a), unit.leads(lead.stream)), (to_one, Leads::Blocked));
    device.detach_pasid(a).unwrap();
    device.disable(Feature::Pasid).unwrap();
    assert!(!function.is_on(Feature::Pasid));
    drop((nested, lead, one, two, plain, other));
    wide(&rig);
    rig.close();
}

/// As wide as the function's PASIDs and the unit's.
fn wide(rig: &Rig) {
    let mut config = UnitConfig::default();
    config.capabilities.pasid_bits = 8;
    let unit = MockUnit::with(&rig.world, config);
    let lead = Lead::configured(&unit, 0x78, |config| config.function = Some(MockFunction::capable(&rig.world)));
    let hwpt = hwpt(&rig.ioas, &unit, true);
    lead.dev().enable(Feature::Pasid).unwrap();
    lead.dev().attach_pasid(pasid(255), AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(errno(lead.dev().attach_pasid(pasid(256), AttachTo::Hwpt(&hwpt))), EINVAL);
    assert_eq!(unit.attached(), 1);
}
