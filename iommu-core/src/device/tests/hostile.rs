//! What somebody tries who wants to reach memory that is not theirs.

use super::mock::{REFUSED, TIMEOUT};
use super::*;
use crate::hw::NestedConfig;
use crate::ioas::Owner;
use crate::nested::NestedHwpt;

const FIRST_STAGE: NestedConfig<'static> = NestedConfig { kind: 1, words: &[] };

fn parent(world: &World) -> Hwpt {
    world.hwpt_of(&world.ioas, HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) })
}

#[test]
fn all_that_moved_keep_what_hardware_may_lead_to() {
    let world = World::with(&[&[1], &[3]]);
    let hwpt = world.hwpt();
    let first_stage = NestedHwpt::new(&parent(&world), &FIRST_STAGE).unwrap();
    let [one, two] = &world.devices[..] else { unreachable!() };
    one.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    two.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    // The second stream neither gets there, nor back, nor is it blocked.
    world.mock.fail_some(&[1, 3, 4], TIMEOUT);
    assert_eq!(one.replace(AttachTo::Nested(&first_stage)), Err(Error::Hardware(TIMEOUT)));
    world.mock.mend();
    assert_eq!(world.mock.unconfirmed().into_keys().collect::<Vec<_>>(), [whole(3)]);
    one.detach().unwrap();
    // The other device may be led there still.
    let (first_stage, error) = first_stage.destroy().err().unwrap();
    assert_eq!(error, Error::Busy);
    two.detach().unwrap();
    first_stage.destroy().ok().unwrap();
}

#[test]
fn what_is_stuck_only_detaches() {
    for error in [REFUSED, TIMEOUT] {
        let world = World::with(&[&[1]]);
        let hwpt = world.pasid_hwpt();
        let device = &world.devices[0];
        device.enable(Feature::Pasid).unwrap();
        device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
        world.mock.fail(1, error, false);
        assert_eq!(device.detach(), Err(Error::Hardware(error)));
        world.mock.mend();
        assert!(!*world.functions[0].mastering.lock().unwrap());
        // Bus mastering stays off as long as the streams may lead somewhere that was given up.
        assert_eq!(device.attach_pasid(pasid(1), AttachTo::Hwpt(&hwpt)), Err(Error::Busy));
        assert!(!*world.functions[0].mastering.lock().unwrap());
        device.detach().unwrap();
        device.attach_pasid(pasid(1), AttachTo::Hwpt(&hwpt)).unwrap();
    }
}

#[test]
fn a_guest_does_not_decide_where_a_direct_region_leads() {
    let mut world = World::new();
    let direct = region(0x8000, 0x1000, RegionKind::Direct { prot: Prot::READ });
    world.add(&[1], &[direct]).bind(OWNER, false).unwrap();
    map(&world.ioas, 0x8000, 0x8000, 0x1000, Prot::READ);
    let (hwpt, device) = (parent(&world), &world.devices[0]);
    let first_stage = NestedHwpt::new(&hwpt, &FIRST_STAGE).unwrap();
    assert!(is_invalid(device.attach(AttachTo::Nested(&first_stage))));
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert!(is_invalid(device.replace(AttachTo::Nested(&first_stage))));
    assert_eq!(world.mock.at(whole(1)), At::Paging(1));
}

#[test]
fn faults_of_another_unit_are_not_the_devices() {
    let world = World::new();
    let other: Arc<dyn Unit> = Arc::new(MockUnit(Mock::new()));
    let router = |unit: &Arc<dyn Unit>| Some(FaultRouter::new(unit.clone()).unwrap());
    let config = DeviceConfig {
        unit: world.unit.clone(),
        streams: &[StreamId::new(2)],
        function: None,
        regions: &[],
        coherent: true,
        isolated_msi: true,
        router: router(&other),
        account: None,
    };
    assert!(is_invalid(Device::new(&world.group, &config)));
    Device::new(&world.group, &DeviceConfig { router: router(&world.unit), ..config }).unwrap();
}

#[test]
fn routes_of_faults_are_paid_for() {
    let costs = [false, true].map(|with_router| {
        let mut world = World::new();
        world.router = with_router.then(|| FaultRouter::new(world.unit.clone()).unwrap());
        world.add(&[1, 2], &[]).bind(OWNER, false).unwrap();
        let (device, hwpt, before) = (&world.devices[0], world.pasid_hwpt(), world.account.usage());
        device.enable(Feature::Pasid).unwrap();
        device.attach_pasid(pasid(1), AttachTo::Hwpt(&hwpt)).unwrap();
        let cost = world.account.usage().metadata - before.metadata;
        device.detach_pasid(pasid(1)).unwrap();
        assert_eq!(world.account.usage(), before);
        cost
    });
    // Two ports for each stream, whether the domain wants faults now or is replaced by one that does.
    assert_eq!(costs[1] - costs[0], 2 * FaultRouter::route_cost());
    assert!(FaultRouter::route_cost() > 2 * 256);
}

#[test]
fn hardware_that_does_not_answer_is_asked_once_for_each_place() {
    let mut world = World::with(&[&[1]]);
    let hwpt = world.pasid_hwpt();
    let device = world.devices.pop().unwrap();
    device.enable(Feature::Pasid).unwrap();
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    for number in 0..20 {
        device.attach_pasid(pasid(number), AttachTo::Hwpt(&hwpt)).unwrap();
    }
    world.mock.fail(0, TIMEOUT, true);
    drop(device);
    world.mock.calls();
    assert_eq!(world.group.reclaim(), Err(Error::Hardware(TIMEOUT)));
    let mut asked = std::vec![Call::BusMaster(0, false)];
    asked.extend((0..20).map(|number| Call::Move(tagged(1, number), At::Blocked)));
    asked.push(Call::Move(whole(1), At::Blocked));
    assert_eq!(world.mock.calls(), asked);
    world.mock.mend();
    world.group.reclaim().unwrap();
    assert_eq!((world.group.owner(), hwpt.is_used()), (None, false));
    // Nothing is left on for the next owner.
    assert!(!*world.functions[0].mastering.lock().unwrap());
    assert_eq!(world.mock.calls().last(), Some(&Call::Switch(0, Feature::Pasid, false)));
}

#[test]
fn what_a_device_reserves_is_nobody_elses_to_free() {
    let mut world = World::new();
    let window = region(0xfee0_0000, 0x1000, RegionKind::Msi);
    world.add(&[1], &[window]).bind(OWNER, false).unwrap();
    let hwpt = world.hwpt();
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    // The device's number is below.
    (0..unique_number()).for_each(|number| world.ioas.release(Owner::Object(number)));
    assert!(is_invalid(world.ioas.reserve(range(0x1000, 0x1000), Owner::Object(1))));
    let run = [PhysExtent::new(PhysAddr::new(0x1000), 0x1000)];
    let refused = world.ioas.map_extents(&run, Placement::Fixed(window.range.start()), Prot::READ);
    assert_eq!(refused, Err(Error::Reserved { reserved: window.range }));
}
