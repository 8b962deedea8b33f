//! Leading elsewhere.

use super::*;
use crate::hw::NestedConfig;

#[test]
fn a_replacement_moves_the_whole_group() {
    let world = World::with(&[&[1, 5], &[2, 5], &[3]]);
    let (hwpt, other) = (world.hwpt(), world.hwpt_of(&world.other, HwptConfig::new(Stage::Second)));
    let [one, two, three] = &world.devices[..] else { unreachable!() };
    one.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    two.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    world.mock.calls();
    // Stream 2 cannot be moved without a gap; the worst counts.
    assert_eq!(two.replace(AttachTo::Hwpt(&other)), Ok(Transition::ThroughBlocked));
    let moves = [1, 2, 5].map(|id| Call::Move(whole(id), At::Paging(2)));
    assert_eq!(world.mock.calls(), moves);
    assert!(!hwpt.is_used() && other.is_used());
    assert!(is_invalid(three.attach(AttachTo::Hwpt(&hwpt))));
    one.detach().unwrap();
    two.detach().unwrap();
    assert!(!other.is_used());
}

#[test]
fn one_word_is_hitless() {
    let world = World::with(&[&[1, 3]]);
    let (hwpt, other) = (world.hwpt(), world.hwpt());
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(world.devices[0].replace(AttachTo::Hwpt(&other)), Ok(Transition::Hitless));
}

#[test]
fn the_same_is_nothing_to_do() {
    let world = World::with(&[&[2]]);
    let hwpt = world.hwpt();
    let device = &world.devices[0];
    assert!(is_invalid(device.replace(AttachTo::Hwpt(&hwpt))), "not attached");
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    world.mock.calls();
    assert_eq!(device.replace(AttachTo::Hwpt(&hwpt)), Ok(Transition::Hitless));
    assert_eq!(world.mock.calls(), []);
    device.replace(AttachTo::Auto(&world.ioas)).unwrap();
    assert_eq!(world.mock.at(whole(2)), At::Paging(2));
    world.mock.calls();
    // The automatic one suits, and is where the device leads.
    assert_eq!(device.replace(AttachTo::Auto(&world.ioas)), Ok(Transition::Hitless));
    assert_eq!(world.mock.calls(), []);
    assert_eq!(hwpt.destroy().map_err(|(_, error)| error), Ok(()));
}

#[test]
fn a_device_that_is_not_attached_replaces_nothing() {
    let world = World::with(&[&[1], &[2]]);
    let (hwpt, other) = (world.hwpt(), world.hwpt());
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert!(is_invalid(world.devices[1].replace(AttachTo::Hwpt(&other))));
    assert_eq!(world.mock.at(whole(1)), At::Paging(1));
}

#[test]
fn a_replacement_by_another_units_domain_is_refused() {
    let (world, foreign) = (World::with(&[&[1]]), World::new());
    let hwpt = world.hwpt();
    let other = foreign.hwpt_of(&world.other, HwptConfig::new(Stage::Second));
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert!(is_invalid(world.devices[0].replace(AttachTo::Hwpt(&other))));
}

#[test]
fn a_first_stage_keeps_its_parent() {
    let world = World::with(&[&[1]]);
    let device = &world.devices[0];
    let parent = world.hwpt_of(&world.ioas, HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) });
    let nested = NestedHwpt::new(&parent, &NestedConfig { kind: 0, words: &[] }).unwrap();
    device.attach(AttachTo::Hwpt(&parent)).unwrap();
    device.replace(AttachTo::Nested(&nested)).unwrap();
    assert_eq!(world.mock.at(whole(1)), At::Nested(2));
    assert_eq!(device.replace(AttachTo::Nested(&nested)), Ok(Transition::Hitless));
    let (nested, error) = nested.destroy().unwrap_err();
    assert_eq!(error, Error::Busy);
    // The handles go; what is attached stays.
    drop(nested);
    drop(parent);
    assert_eq!(world.mock.at(whole(1)), At::Nested(2));
    assert!(!world.mock.calls().contains(&Call::Retire(1)));
    device.detach().unwrap();
    assert!(world.mock.calls().contains(&Call::Retire(1)));
}
