//! One device as a whole: order of the steps, streams, automatic domains.

use super::*;
use crate::hw::{DomainConfig, HwError, UnitCapabilities};

#[test]
fn steps_are_in_order() {
    let world = World::with(&[&[8, 4, 8]]);
    let hwpt = world.hwpt();
    world.mock.calls();
    let device = &world.devices[0];
    assert_eq!(device.attach(AttachTo::Hwpt(&hwpt)), Ok(Transition::Hitless));
    let there = At::Paging(1);
    let up = [Call::Move(whole(4), there), Call::Move(whole(8), there), Call::BusMaster(0, true)];
    assert_eq!(world.mock.calls(), up);
    assert!(device.is_attached() && hwpt.is_used());
    assert_eq!(device.attach(AttachTo::Hwpt(&hwpt)), Err(Error::Busy));
    assert_eq!(device.unbind(), Err(Error::Busy));
    assert_eq!(world.mock.calls(), []);

    assert_eq!(device.detach(), Ok(()));
    let down = [Call::BusMaster(0, false), Call::Move(whole(4), At::Blocked), Call::Move(whole(8), At::Blocked)];
    assert_eq!(world.mock.calls(), down);
    assert!(!device.is_attached() && !hwpt.is_used());
    // Again: nothing to do.
    assert_eq!(device.detach(), Ok(()));
    assert_eq!(world.mock.calls(), []);
    assert_eq!(hwpt.destroy().map_err(|(_, error)| error), Ok(()));
}

#[test]
fn only_what_is_bound_is_attached() {
    let mut world = World::new();
    world.add(&[1], &[]);
    let hwpt = world.hwpt();
    assert!(is_invalid(world.devices[0].attach(AttachTo::Hwpt(&hwpt))));
    world.devices[0].bind(OWNER, false).unwrap();
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
}

#[test]
fn a_domain_of_another_unit_is_refused() {
    let (world, other) = (World::with(&[&[1]]), World::new());
    let hwpt = other.hwpt_of(&world.ioas, HwptConfig::new(Stage::Second));
    let before = world.snapshot();
    assert!(is_invalid(world.devices[0].attach(AttachTo::Hwpt(&hwpt))));
    assert_eq!((world.mock.calls(), world.snapshot()), (std::vec![], before));
}

#[test]
fn a_device_without_streams_is_none() {
    let mut world = World::new();
    world.add(&[1], &[]);
    let config = DeviceConfig {
        unit: world.unit.clone(),
        streams: &[],
        function: None,
        regions: &[],
        coherent: true,
        isolated_msi: true,
        router: None,
        account: None,
    };
    assert_eq!(Device::new(&world.group, &config).err(), Some(Error::Empty));
}

#[test]
fn a_dropped_device_is_blocked_and_unbound() {
    let mut world = World::with(&[&[1, 2]]);
    let hwpt = world.hwpt();
    let usage = world.account.usage();
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    world.devices[0].enable(Feature::Pri).unwrap();
    world.mock.calls();
    world.devices.clear();
    let expected = [
        Call::BusMaster(0, false),
        Call::Move(whole(1), At::Blocked),
        Call::Move(whole(2), At::Blocked),
        Call::Switch(0, Feature::Pri, false),
    ];
    assert_eq!(world.mock.calls(), expected);
    assert_eq!((hwpt.is_used(), world.group.owner()), (false, None));
    assert_eq!(world.account.usage().objects, usage.objects - 1);
    // Its function is given back.
    assert_eq!(Arc::strong_count(&world.functions[0]), 1);
}

#[test]
fn an_automatic_domain_goes_with_its_last_attachment() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    // One that the owner made is not taken: it stays the owner's to destroy.
    let hwpt = world.hwpt();
    world.mock.calls();
    device.attach(AttachTo::Auto(&world.ioas)).unwrap();
    let calls = world.mock.calls();
    let made = DomainConfig { enforce_coherency: true, ..DomainConfig::new(Stage::Second) };
    assert_eq!(calls[0], Call::CreateDomain(made));
    assert_eq!((world.mock.at(whole(1)), hwpt.is_used()), (At::Paging(2), false));
    device.detach().unwrap();
    assert!(world.mock.calls().contains(&Call::Retire(2)));
    assert_eq!(world.account.usage().objects, World::with(&[&[1]]).account.usage().objects + 1);
}

#[test]
fn an_automatic_domain_is_shared_by_what_it_suits() {
    let mut world = World::with(&[&[1]]);
    world.devices[0].attach(AttachTo::Auto(&world.ioas)).unwrap();
    // Another group's device on the same unit.
    world.group = Group::new(None).unwrap();
    world.add(&[2], &[]).bind(OWNER, false).unwrap();
    world.devices[1].attach(AttachTo::Auto(&world.ioas)).unwrap();
    assert_eq!(world.mock.at(whole(2)), At::Paging(1));
    // One with PASIDs on needs a domain that takes them: a first stage where there is one.
    world.group = Group::new(None).unwrap();
    world.add(&[3], &[]).bind(OWNER, false).unwrap();
    world.devices[2].enable(Feature::Pasid).unwrap();
    world.mock.calls();
    world.devices[2].attach(AttachTo::Auto(&world.ioas)).unwrap();
    let made = DomainConfig { enforce_coherency: true, ..DomainConfig::new(Stage::First) };
    assert_eq!(world.mock.calls()[0], Call::CreateDomain(made));
    assert_eq!(world.mock.at(whole(3)), At::Paging(2));
    // The first domain goes with the last of the two.
    world.devices[0].detach().unwrap();
    assert!(!world.mock.calls().contains(&Call::Retire(1)));
    world.devices[1].detach().unwrap();
    assert!(world.mock.calls().contains(&Call::Retire(1)));
}

#[test]
fn the_stage_is_what_the_unit_has() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    world.mock.capabilities.lock().unwrap().second_stage = false;
    device.attach(AttachTo::Auto(&world.ioas)).unwrap();
    assert!(matches!(world.mock.calls()[0], Call::CreateDomain(DomainConfig { stage: Stage::First, .. })));
    device.detach().unwrap();
    world.mock.capabilities.lock().unwrap().first_stage = false;
    assert!(matches!(device.attach(AttachTo::Auto(&world.ioas)), Err(Error::Unsupported(_))));
    // The driver lacks what the unit would have: the other stage.
    *world.mock.capabilities.lock().unwrap() =
        UnitCapabilities { first_stage: true, second_stage: true, ..UnitCapabilities::default() };
    world.mock.calls();
    world.mock.fail(0, HwError::Unsupported("second stages"), false);
    device.attach(AttachTo::Auto(&world.ioas)).unwrap();
    assert!(matches!(world.mock.calls()[1], Call::CreateDomain(DomainConfig { stage: Stage::First, .. })));
}

#[test]
fn an_account_that_is_used_up_refuses() {
    let world = World::with(&[&[1]]);
    let hwpt = world.hwpt();
    let before = world.snapshot();
    let used = world.account.usage();
    world.account.set_limits(used);
    assert!(matches!(world.devices[0].attach(AttachTo::Hwpt(&hwpt)), Err(Error::Quota(_))));
    assert_eq!(world.snapshot(), before);
    world.account.set_limits(Amounts::UNLIMITED);
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    world.devices[0].detach().unwrap();
    assert_eq!(world.account.usage(), used);
}
