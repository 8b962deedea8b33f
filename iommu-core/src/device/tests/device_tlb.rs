//! Device TLBs: the unit knows of one before it can hold anything, and until it cannot any more.

use super::mock::{REFUSED, TIMEOUT};
use super::*;
use crate::hw::DeviceTlb;

const STREAMS: [u32; 2] = [0x10, 0x11];

fn world() -> World {
    World::with(&[&STREAMS])
}

fn tell(id: u32, queue_depth: u8, physical: u32, global_invalidate: bool) -> Call {
    let tlb = DeviceTlb { queue_depth, physical: StreamId::new(physical), global_invalidate };
    Call::Tlb(StreamId::new(id), Some(tlb))
}

/// The calls by which it goes on, and by which it goes off.
fn on() -> [Call; 3] {
    let [one, other] = STREAMS.map(|id| tell(id, 4, id, false));
    [one, other, Call::Switch(0, Feature::Ats, true)]
}

fn off() -> [Call; 3] {
    let [one, other] = STREAMS.map(|id| Call::Tlb(StreamId::new(id), None));
    [Call::Switch(0, Feature::Ats, false), one, other]
}

/// Whether the function has ATS on, and whose device TLBs the unit counts as there.
fn state(world: &World) -> (bool, usize) {
    (world.functions[0].on.lock().unwrap().contains(&Feature::Ats), world.mock.tlbs().len())
}

#[test]
fn the_unit_is_told_first_and_forgets_last() {
    let world = world();
    let device = &world.devices[0];
    assert_eq!((device.enable(Feature::Ats), world.mock.calls()), (Ok(()), on().to_vec()));
    assert_eq!((device.enable(Feature::Ats), world.mock.calls()), (Ok(()), Vec::new()));
    assert_eq!((device.disable(Feature::Ats), world.mock.calls()), (Ok(()), off().to_vec()));
    assert_eq!((device.disable(Feature::Ats), world.mock.calls()), (Ok(()), Vec::new()));
}

#[test]
fn the_unit_is_told_what_the_function_says() {
    let world = world();
    let cases = [(0, 32), (1, 1), (31, 31), (32, 32)];
    for (says, means) in cases {
        let physical = Some(StreamId::new(0x20));
        let says = Features { ats_queue_depth: says, ats_global_invalidate: true, physical, ..FEATURES };
        *world.functions[0].features.lock().unwrap() = says;
        world.devices[0].enable(Feature::Ats).unwrap();
        assert_eq!(world.mock.calls()[..2], STREAMS.map(|id| tell(id, means, 0x20, true)));
        world.devices[0].disable(Feature::Ats).unwrap();
        world.mock.calls();
    }
    for depth in [33, 255] {
        *world.functions[0].features.lock().unwrap() = Features { ats_queue_depth: depth, ..FEATURES };
        assert!(is_invalid(world.devices[0].enable(Feature::Ats)));
    }
    assert_eq!(world.mock.calls(), []);
}

#[test]
fn a_unit_without_device_tlbs_gets_no_ats() {
    let world = world();
    world.mock.capabilities.lock().unwrap().device_tlbs = false;
    assert!(matches!(world.devices[0].enable(Feature::Ats), Err(Error::Unsupported(_))));
    assert_eq!((world.mock.calls(), world.devices[0].is_enabled(Feature::Ats)), (Vec::new(), false));
}

#[test]
fn enabling_that_fails_leaves_nothing_on() {
    for error in [REFUSED, TIMEOUT] {
        for good in 0..3 {
            let world = world();
            let device = &world.devices[0];
            let before = world.snapshot();
            world.mock.fail(good, error, false);
            assert_eq!(device.enable(Feature::Ats), Err(Error::Hardware(error)), "after {good}");
            assert!(world.mock.mend());
            assert_eq!((world.snapshot(), state(&world)), (before, (false, 0)), "after {good}");
            assert_eq!(device.enable(Feature::Ats), Ok(()));
            assert_eq!(state(&world), (true, 2));
        }
    }
}

#[test]
fn what_the_unit_does_not_forget_is_asked_again() {
    type Again = fn(&World) -> Result<(), Error>;
    let ways: [Again; 3] = [
        |world| world.devices[0].disable(Feature::Ats),
        |world| world.devices[0].unbind(),
        |world| {
            world.devices[0].enable(Feature::Ats)?;
            world.devices[0].disable(Feature::Ats)
        },
    ];
    for again in ways {
        for good in 0..3 {
            let world = world();
            let device = &world.devices[0];
            // From some step on everything times out, also the way back.
            world.mock.fail(good, TIMEOUT, true);
            assert_eq!(device.enable(Feature::Ats), Err(Error::Hardware(TIMEOUT)));
            assert!(!device.is_enabled(Feature::Ats));
            assert_eq!(state(&world), (false, (good as usize + 1).min(2)), "after {good}");
            assert_eq!(device.disable(Feature::Ats), Err(Error::Hardware(TIMEOUT)));
            world.mock.mend();
            assert_eq!((again(&world), state(&world)), (Ok(()), (false, 0)), "after {good}");
            world.mock.calls();
            assert_eq!((device.disable(Feature::Ats), world.mock.calls()), (Ok(()), Vec::new()));
        }
    }
}

#[test]
fn disabling_that_fails_says_what_is_left() {
    for error in [REFUSED, TIMEOUT] {
        let world = world();
        let device = &world.devices[0];
        device.enable(Feature::Ats).unwrap();
        // The function stays on: so the unit must go on invalidating.
        world.mock.fail(0, error, false);
        assert_eq!(device.disable(Feature::Ats), Err(Error::Hardware(error)));
        assert_eq!((device.is_enabled(Feature::Ats), state(&world)), (true, (true, 2)));
        for bad in 1..3 {
            world.mock.fail(bad, error, false);
            assert_eq!(device.disable(Feature::Ats), Err(Error::Hardware(error)));
            // The other stream was tried all the same.
            assert_eq!((device.is_enabled(Feature::Ats), state(&world)), (false, (false, 1)));
            world.mock.calls();
            assert_eq!((device.disable(Feature::Ats), state(&world)), (Ok(()), (false, 0)));
            assert_eq!(world.mock.calls(), off()[1..], "the function is not asked twice");
            device.enable(Feature::Ats).unwrap();
        }
    }
}

/// All that a function has is on.
fn full() -> World {
    let world = world();
    for feature in [Feature::Pasid, Feature::Ats, Feature::Pri] {
        world.devices[0].enable(feature).unwrap();
    }
    world.mock.calls();
    world
}

#[test]
fn who_gives_a_device_up_leaves_nothing_on() {
    let [function, one, other] = off();
    let [pri, pasid] = [Feature::Pri, Feature::Pasid].map(|feature| Call::Switch(0, feature, false));
    let all = [pri, function, one, other, pasid];
    let mut world = full();
    assert_eq!((world.devices[0].unbind(), world.mock.calls()), (Ok(()), all.to_vec()));
    let again = full();
    world.devices = again.devices;
    world.devices.clear();
    assert_eq!(again.mock.calls(), all);
    // What refuses keeps the owner, and what must not change before it.
    for (bad, on_then) in [(0, 3), (1, 2), (2, 0), (3, 0), (4, 1)] {
        let world = full();
        world.mock.fail(bad, REFUSED, false);
        assert_eq!(world.devices[0].unbind(), Err(Error::Hardware(REFUSED)));
        assert_eq!((world.functions[0].on.lock().unwrap().len(), world.devices[0].is_bound()), (on_then, true));
        assert_eq!((world.devices[0].unbind(), state(&world)), (Ok(()), (false, 0)));
        assert_eq!((world.functions[0].on.lock().unwrap().len(), world.devices[0].is_bound()), (0, false));
    }
}

#[test]
fn dropping_keeps_the_order_whatever_fails() {
    for (bad, error) in (0..5).flat_map(|bad| [(bad, REFUSED), (bad, TIMEOUT)]) {
        let mut world = full();
        world.mock.fail(bad, error, false);
        world.devices.clear();
        let (calls, on) = (world.mock.calls(), world.functions[0].on.lock().unwrap().clone());
        // What is on in the function, the unit knows of; what needs it is on as well.
        assert_eq!(on.contains(&Feature::Ats), world.mock.tlbs().len() == 2, "{bad}: {calls:?}");
        assert!(!on.contains(&Feature::Ats) || on.contains(&Feature::Pasid), "{bad}: {calls:?}");
        assert!(!on.contains(&Feature::Pri) || on.contains(&Feature::Ats), "{bad}: {calls:?}");
        assert_eq!(world.group.owner(), None);
    }
}
