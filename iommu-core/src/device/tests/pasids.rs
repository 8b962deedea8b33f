//! Parts of a function.

use super::*;
use crate::hw::NestedConfig;
use crate::pasid::{PasidSet, PasidSpace, PasidState};

fn ready(streams: &[&[u32]]) -> World {
    let world = World::with(streams);
    world.devices.iter().for_each(|device| device.enable(Feature::Pasid).unwrap());
    world.mock.calls();
    world
}

#[test]
fn one_domain_serves_a_function_and_a_pasid() {
    let world = ready(&[&[1], &[2]]);
    let hwpt = world.pasid_hwpt();
    world.mock.calls();
    let [one, two] = &world.devices[..] else { unreachable!() };
    one.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(two.attach_pasid(pasid(7), AttachTo::Hwpt(&hwpt)), Ok(Transition::Hitless));
    let there = At::Paging(1);
    let expected = [
        Call::Move(whole(1), there),
        Call::BusMaster(0, true),
        Call::Move(tagged(2, 7), there),
        Call::BusMaster(1, true),
    ];
    assert_eq!(world.mock.calls(), expected);
    // A function with parts of it attached masters the bus until the last is gone.
    two.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    two.detach_pasid(pasid(7)).unwrap();
    let expected = [Call::Move(whole(2), there), Call::Move(tagged(2, 7), At::Blocked)];
    assert_eq!(world.mock.calls(), expected);
    two.detach().unwrap();
    assert_eq!(world.mock.calls()[0], Call::BusMaster(1, false));
    assert_eq!((two.detach_pasid(pasid(7)), world.mock.calls()), (Ok(()), std::vec![]));
}

#[test]
fn what_a_pasid_needs() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    let (plain, hwpt) = (world.hwpt(), world.pasid_hwpt());
    let attach = |raw, hwpt| device.attach_pasid(pasid(raw), AttachTo::Hwpt(hwpt));
    assert!(is_invalid(attach(1, &hwpt)), "not enabled");
    device.enable(Feature::Pasid).unwrap();
    let before = world.snapshot();
    world.mock.calls();
    assert!(is_invalid(attach(0x1_0000, &hwpt)), "too wide for the function");
    assert!(is_invalid(attach(1, &plain)), "not made for PASIDs");
    assert!(is_invalid(device.attach_pasid(pasid(1), AttachTo::Auto(&world.ioas))));
    assert!(is_invalid(device.replace_pasid(pasid(1), AttachTo::Hwpt(&hwpt))), "nothing to replace");
    assert_eq!((world.mock.calls(), world.snapshot()), (std::vec![], before));

    device.attach(AttachTo::Hwpt(&plain)).unwrap();
    assert!(is_invalid(attach(1, &hwpt)), "the whole function leads to one that was not made for PASIDs");
    device.replace(AttachTo::Hwpt(&hwpt)).unwrap();
    attach(0xffff, &hwpt).unwrap();
    assert_eq!(attach(0xffff, &hwpt), Err(Error::Busy));
    assert!(is_invalid(device.replace(AttachTo::Hwpt(&plain))), "a PASID is attached");
    assert!(is_invalid(device.replace_pasid(pasid(0xffff), AttachTo::Hwpt(&plain))));
    device.detach().unwrap();
    assert!(is_invalid(device.attach(AttachTo::Hwpt(&plain))), "a PASID is attached");
    device.detach_pasid(pasid(0xffff)).unwrap();
    device.attach(AttachTo::Hwpt(&plain)).unwrap();
}

#[test]
fn the_unit_may_take_narrower_pasids() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    let hwpt = world.pasid_hwpt();
    world.mock.capabilities.lock().unwrap().pasid_bits = 4;
    device.enable(Feature::Pasid).unwrap();
    assert!(is_invalid(device.attach_pasid(pasid(16), AttachTo::Hwpt(&hwpt))));
    device.attach_pasid(pasid(15), AttachTo::Hwpt(&hwpt)).unwrap();
    device.attach_pasid(pasid(0), AttachTo::Hwpt(&hwpt)).unwrap();
}

#[test]
fn a_domain_is_found_by_its_lowest_pasid() {
    let world = ready(&[&[1], &[2]]);
    let (hwpt, other) = (world.pasid_hwpt(), world.pasid_hwpt());
    let parent =
        world.hwpt_of(&world.ioas, HwptConfig { pasid: true, nest_parent: true, ..HwptConfig::new(Stage::Second) });
    let nested = NestedHwpt::new(&parent, &NestedConfig { kind: 0, words: &[] }).unwrap();
    let [one, two] = &world.devices[..] else { unreachable!() };
    for (device, raw, hwpt) in [(one, 9, &hwpt), (one, 4, &hwpt), (two, 1, &hwpt), (one, 2, &other)] {
        device.attach_pasid(pasid(raw), AttachTo::Hwpt(hwpt)).unwrap();
    }
    one.attach_pasid(pasid(30), AttachTo::Nested(&nested)).unwrap();
    let pasids = |device: &Device| (device.pasid_of(&hwpt), device.pasid_of(&other), device.pasid_of_nested(&nested));
    assert_eq!(pasids(one), (Some(pasid(4)), Some(pasid(2)), Some(pasid(30))));
    assert_eq!(pasids(two), (Some(pasid(1)), None, None));
    assert_eq!(one.pasid_of(&parent), None);
    one.detach_pasid(pasid(4)).unwrap();
    assert_eq!(one.pasid_of(&hwpt), Some(pasid(9)));
    // As a whole is no PASID.
    two.detach_pasid(pasid(1)).unwrap();
    two.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(two.pasid_of(&hwpt), None);
}

#[test]
fn pasids_go_with_the_device() {
    let mut world = ready(&[&[1], &[2]]);
    let hwpt = world.pasid_hwpt();
    for raw in [3, 0xffff, 0] {
        world.devices[1].attach_pasid(pasid(raw), AttachTo::Hwpt(&hwpt)).unwrap();
    }
    world.devices[0].attach_pasid(pasid(3), AttachTo::Hwpt(&hwpt)).unwrap();
    world.mock.calls();
    let usage = world.account.usage();
    world.devices.pop();
    let expected = [
        Call::BusMaster(1, false),
        Call::Move(tagged(2, 0), At::Blocked),
        Call::Move(tagged(2, 3), At::Blocked),
        Call::Move(tagged(2, 0xffff), At::Blocked),
        Call::Switch(1, Feature::Pasid, false),
    ];
    assert_eq!(world.mock.calls(), expected);
    assert_eq!(world.mock.streams(), BTreeMap::from([(tagged(1, 3), At::Paging(1))]));
    assert!(world.account.usage().metadata < usage.metadata && hwpt.is_used());
}

#[test]
fn a_group_leads_each_pasid_to_one_domain() {
    let world = ready(&[&[1], &[2]]);
    let (hwpt, other) = (world.pasid_hwpt(), world.pasid_hwpt());
    let [one, two] = &world.devices[..] else { unreachable!() };
    one.attach_pasid(pasid(1), AttachTo::Hwpt(&hwpt)).unwrap();
    assert!(is_invalid(two.attach_pasid(pasid(1), AttachTo::Hwpt(&other))));
    two.attach_pasid(pasid(2), AttachTo::Hwpt(&other)).unwrap();
    two.attach_pasid(pasid(1), AttachTo::Hwpt(&hwpt)).unwrap();
    // A replacement moves both, and no other PASID.
    one.replace_pasid(pasid(1), AttachTo::Hwpt(&other)).unwrap();
    let expected = [(tagged(1, 1), At::Paging(2)), (tagged(2, 1), At::Paging(2)), (tagged(2, 2), At::Paging(2))];
    assert_eq!(world.mock.streams(), BTreeMap::from(expected));
    assert!(!hwpt.is_used());
}

#[test]
fn an_automatic_domain_takes_pasids_where_the_group_has_some() {
    let world = World::with(&[&[1], &[2]]);
    let hwpt = world.pasid_hwpt();
    let [one, two] = &world.devices[..] else { unreachable!() };
    one.enable(Feature::Pasid).unwrap();
    one.attach_pasid(pasid(1), AttachTo::Hwpt(&hwpt)).unwrap();
    two.attach(AttachTo::Auto(&world.ioas)).unwrap();
    // And goes on to do so.
    one.attach_pasid(pasid(2), AttachTo::Hwpt(&hwpt)).unwrap();
}

#[test]
fn a_pasid_of_a_set_is_not_reused_while_it_is_attached() {
    let world = ready(&[&[1]]);
    let (device, hwpt) = (&world.devices[0], world.pasid_hwpt());
    let space = PasidSpace::new(4, &[]).unwrap();
    let (mine, other) = (space.set(4, None).unwrap(), space.set(4, None).unwrap());
    let any = |set: &PasidSet| set.alloc(pasid(0), pasid(15), None).unwrap();
    let (own, foreign) = (any(&mine), any(&other));
    world.mock.calls();
    let attach = |pasid| device.attach_pasid_of(&mine, pasid, AttachTo::Hwpt(&hwpt));
    assert_eq!(attach(foreign), Err(Error::NoSuchPasid(foreign)));
    assert_eq!(world.mock.calls(), std::vec![]);
    attach(own).unwrap();
    assert_eq!(attach(own), Err(Error::Busy));
    mine.free(own).unwrap();
    assert_eq!((space.state(own), attach(own)), (PasidState::Draining, Err(Error::NoSuchPasid(own))));
    device.replace_pasid(own, AttachTo::Hwpt(&world.pasid_hwpt())).unwrap();
    assert_eq!(space.state(own), PasidState::Draining);
    device.detach_pasid(own).unwrap();
    assert_eq!(space.state(own), PasidState::Free);
}
