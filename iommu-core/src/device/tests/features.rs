//! Features on and off.

use super::*;

#[test]
fn features_are_the_functions() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    assert_eq!(device.features(), FEATURES);
    for feature in [Feature::Pasid, Feature::Ats, Feature::Pri] {
        assert!(!device.is_enabled(feature));
        assert_eq!(
            (device.enable(feature), device.enable(feature), device.is_enabled(feature)),
            (Ok(()), Ok(()), true)
        );
        assert_eq!(world.mock.calls().last(), Some(&Call::Switch(0, feature, true)));
    }
    for feature in [Feature::Pri, Feature::Ats, Feature::Pasid] {
        assert_eq!((device.disable(feature), device.disable(feature)), (Ok(()), Ok(())));
        assert_eq!(world.mock.calls().first(), Some(&Call::Switch(0, feature, false)));
        assert!(!device.is_enabled(feature));
    }
}

#[test]
fn what_is_not_there_is_unsupported() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    *world.functions[0].features.lock().unwrap() = Features::default();
    for feature in [Feature::Pasid, Feature::Ats, Feature::Pri] {
        assert!(matches!(device.enable(feature), Err(Error::Unsupported(_))));
        assert_eq!(device.disable(feature), Ok(()));
    }
    // PASIDs take a unit, too.
    *world.functions[0].features.lock().unwrap() = Features { pasid_bits: 8, ..Features::default() };
    world.mock.capabilities.lock().unwrap().pasid_bits = 0;
    assert!(matches!(device.enable(Feature::Pasid), Err(Error::Unsupported(_))));
    assert_eq!(world.mock.calls(), []);
}

#[test]
fn switching_keeps_the_order_of_pcie() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    device.enable(Feature::Ats).unwrap();
    assert_eq!(device.enable(Feature::Pasid), Err(Error::Busy));
    device.disable(Feature::Ats).unwrap();
    for feature in [Feature::Pasid, Feature::Ats, Feature::Pri] {
        device.enable(feature).unwrap();
    }
    assert_eq!(device.disable(Feature::Pasid), Err(Error::Busy));
    assert_eq!(device.disable(Feature::Ats), Err(Error::Busy));
    assert_eq!((device.disable(Feature::Pri), device.disable(Feature::Ats)), (Ok(()), Ok(())));
    assert_eq!(device.disable(Feature::Pasid), Ok(()));
}

#[test]
fn pasids_in_use_stay_enabled() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    let hwpt = world.pasid_hwpt();
    device.enable(Feature::Pasid).unwrap();
    device.attach_pasid(pasid(5), AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!((device.disable(Feature::Pasid), device.is_enabled(Feature::Pasid)), (Err(Error::Busy), true));
    device.detach_pasid(pasid(5)).unwrap();
    assert_eq!(device.disable(Feature::Pasid), Ok(()));
}

#[test]
fn a_function_that_refuses_changes_nothing() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    for feature in [Feature::Pasid, Feature::Pri] {
        world.mock.fail(0, mock::REFUSED, false);
        assert_eq!(device.enable(feature), Err(Error::Hardware(mock::REFUSED)));
        assert!(!device.is_enabled(feature));
        device.enable(feature).unwrap();
        world.mock.fail(0, mock::REFUSED, false);
        assert_eq!(device.disable(feature), Err(Error::Hardware(mock::REFUSED)));
        assert!(device.is_enabled(feature));
    }
}
