//! Each step failing, for each operation.

use super::mock::{REFUSED, TIMEOUT};
use super::*;
use crate::hw::HwError;

type Operation = fn(&World, &[Hwpt]) -> Result<(), Error>;

/// Two devices that share a stream, of which the first has regions; three domains in two address spaces.
fn world() -> (World, [Hwpt; 3]) {
    let mut world = World::new();
    let regions = [
        region(0xfee0_0000, 0x1000, RegionKind::Msi),
        region(0x8000, 0x1000, RegionKind::Direct { prot: Prot::READ }),
        region(0x4000, 0x1000, RegionKind::Reserved),
    ];
    world.add(&[1, 9, 2], &regions).bind(OWNER, false).unwrap();
    world.add(&[3, 9], &regions[..1]).bind(OWNER, false).unwrap();
    for ioas in [&world.ioas, &world.other] {
        map(ioas, 0x8000, 0x8000, 0x1000, Prot::READ);
    }
    world.devices.iter().for_each(|device| device.enable(Feature::Pasid).unwrap());
    let config = HwptConfig { pasid: true, ..HwptConfig::new(Stage::First) };
    let hwpts = [&world.ioas, &world.ioas, &world.other].map(|ioas| world.hwpt_of(ioas, config.clone()));
    (world, hwpts)
}

/// Runs `operation` after `before` with the call after `good` ones failing, for each. What failed alone leaves no trace,
/// and works the next time.
fn one_by_one(before: Operation, operation: Operation, error: HwError) -> u32 {
    for good in 0.. {
        let (world, hwpts) = world();
        before(&world, &hwpts).unwrap();
        let then = world.snapshot();
        world.mock.fail(good, error, false);
        let result = operation(&world, &hwpts);
        if !world.mock.mend() {
            result.unwrap();
            return good;
        }
        assert_eq!(result, Err(Error::Hardware(error)), "after {good}");
        assert_eq!(world.snapshot(), then, "after {good}");
        operation(&world, &hwpts).unwrap();
    }
    unreachable!()
}

const NOTHING: Operation = |_, _| Ok(());
const ATTACH: Operation = |world, hwpts| world.devices[0].attach(AttachTo::Hwpt(&hwpts[0])).map(drop);
const ATTACH_BOTH: Operation = |world, hwpts| {
    ATTACH(world, hwpts)?;
    world.devices[1].attach(AttachTo::Hwpt(&hwpts[0])).map(drop)
};
const SECOND: Operation = |world, hwpts| world.devices[1].attach(AttachTo::Hwpt(&hwpts[0])).map(drop);
const AUTO: Operation = |world, _| world.devices[0].attach(AttachTo::Auto(&world.other)).map(drop);
const REPLACE: Operation = |world, hwpts| world.devices[0].replace(AttachTo::Hwpt(&hwpts[1])).map(drop);
const REPLACE_SPACE: Operation = |world, hwpts| world.devices[0].replace(AttachTo::Hwpt(&hwpts[2])).map(drop);
const ATTACH_PASID: Operation =
    |world, hwpts| world.devices[0].attach_pasid(pasid(3), AttachTo::Hwpt(&hwpts[1])).map(drop);
const REPLACE_PASID: Operation =
    |world, hwpts| world.devices[0].replace_pasid(pasid(3), AttachTo::Hwpt(&hwpts[2])).map(drop);

#[test]
fn a_step_that_is_refused_leaves_no_trace() {
    // Streams, and bus mastering.
    assert_eq!(one_by_one(NOTHING, ATTACH, REFUSED), 4);
    assert_eq!(one_by_one(ATTACH, SECOND, REFUSED), 2);
    // The domain first.
    assert_eq!(one_by_one(NOTHING, AUTO, REFUSED), 5);
    assert_eq!(one_by_one(ATTACH, REPLACE, REFUSED), 3);
    assert_eq!(one_by_one(ATTACH_BOTH, REPLACE, REFUSED), 4);
    assert_eq!(one_by_one(ATTACH_BOTH, REPLACE_SPACE, REFUSED), 4);
    assert_eq!(one_by_one(NOTHING, ATTACH_PASID, REFUSED), 4);
    assert_eq!(one_by_one(ATTACH, ATTACH_PASID, REFUSED), 3);
    assert_eq!(one_by_one(ATTACH_PASID, REPLACE_PASID, REFUSED), 3);
}

#[test]
fn a_step_that_times_out_leaves_no_trace() {
    assert_eq!(one_by_one(NOTHING, ATTACH, TIMEOUT), 4);
    assert_eq!(one_by_one(ATTACH, SECOND, TIMEOUT), 2);
    assert_eq!(one_by_one(ATTACH, REPLACE, TIMEOUT), 3);
    assert_eq!(one_by_one(ATTACH_BOTH, REPLACE_SPACE, TIMEOUT), 4);
    assert_eq!(one_by_one(NOTHING, ATTACH_PASID, TIMEOUT), 4);
    assert_eq!(one_by_one(ATTACH_PASID, REPLACE_PASID, TIMEOUT), 3);
}

#[test]
fn what_moved_is_blocked_and_nothing_else() {
    let there = At::Paging(1);
    let moves = [1, 2, 9].map(|id| Call::Move(whole(id), there));
    let blocks = [1, 2, 9].map(|id| Call::Move(whole(id), At::Blocked));
    for (error, good, blocked) in [(REFUSED, 0, 0), (REFUSED, 1, 1), (REFUSED, 2, 2), (TIMEOUT, 0, 1), (TIMEOUT, 1, 2)]
    {
        let (world, hwpts) = world();
        world.mock.calls();
        world.mock.fail(good, error, false);
        ATTACH(&world, &hwpts).unwrap_err();
        let (tried, blocked) = (&moves[..good as usize + 1], &blocks[..blocked]);
        assert_eq!(world.mock.calls(), [tried, blocked].concat());
    }
}

/// Whether each stream is where `before` has it, or blocked.
fn no_worse(now: &Snapshot, before: &Snapshot) -> bool {
    now.streams.iter().all(|(stream, at)| before.streams.get(stream) == Some(at))
}

/// As [`one_by_one`], but hardware fails from some call on. Until it is mended nothing leads anywhere new, and the domains
/// stay; then detaching gets everything back.
fn from_then_on(before: Operation, operation: Operation, error: HwError) {
    for good in 0.. {
        let (world, hwpts) = world();
        let clean = world.snapshot();
        before(&world, &hwpts).unwrap();
        let then = world.snapshot();
        world.mock.fail(good, error, true);
        let result = operation(&world, &hwpts);
        let now = world.snapshot();
        if result.is_err() {
            assert_eq!(result, Err(Error::Hardware(error)), "after {good}");
            assert!(error != TIMEOUT || no_worse(&now, &then), "after {good}: {now:?}");
            if now != then {
                // Stuck: only detaching is left.
                assert_eq!(operation(&world, &hwpts), Err(Error::Busy), "after {good}");
                assert!(hwpts.iter().any(Hwpt::is_used));
            }
        }
        if !world.mock.mend() {
            return;
        }
        for device in &world.devices {
            device.detach_pasid(pasid(3)).unwrap();
            device.detach().unwrap();
        }
        assert_eq!(world.snapshot(), clean, "after {good}");
        assert!(!hwpts.iter().any(Hwpt::is_used));
    }
}

#[test]
fn hardware_that_stops_to_answer_leaves_blocked_and_detachable() {
    for error in [REFUSED, TIMEOUT] {
        for (before, operation) in [
            (NOTHING, ATTACH),
            (ATTACH, SECOND),
            (ATTACH, REPLACE),
            (ATTACH_BOTH, REPLACE),
            (ATTACH_BOTH, REPLACE_SPACE),
            (ATTACH, ATTACH_PASID),
            (ATTACH_PASID, REPLACE_PASID),
        ] {
            from_then_on(before, operation, error);
        }
    }
}

#[test]
fn what_does_not_go_back_is_blocked_and_keeps_both_domains() {
    let (world, [hwpt, other, _]) = world();
    let device = &world.devices[0];
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    let unconfirmed = || world.mock.unconfirmed().into_keys().collect::<Vec<_>>();
    let to = |id, at| Call::Move(whole(id), at);
    let (old, new) = (At::Paging(1), At::Paging(2));
    // The second move and the way back of the first fail, but blocking does not.
    for error in [REFUSED, TIMEOUT] {
        world.mock.calls();
        world.mock.fail_some(&[1, 2], error);
        assert_eq!(device.replace(AttachTo::Hwpt(&other)), Err(Error::Hardware(error)));
        let calls = [to(1, new), to(2, new), to(1, old), to(1, At::Blocked), to(2, old)];
        assert_eq!((world.mock.calls(), unconfirmed()), (calls.to_vec(), std::vec![]));
        assert_eq!((world.mock.at(whole(1)), world.mock.at(whole(2))), (At::Blocked, old));
        // Nothing can lead to the new domain.
        assert_eq!((hwpt.is_used(), other.is_used()), (true, false));
        assert_eq!(device.replace(AttachTo::Hwpt(&other)), Err(Error::Busy));
        device.detach().unwrap();
        device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    }
    // Blocking fails as well: both may be led to.
    world.mock.fail_some(&[1, 2, 3], TIMEOUT);
    assert_eq!(device.replace(AttachTo::Hwpt(&other)), Err(Error::Hardware(TIMEOUT)));
    assert_eq!(unconfirmed(), [whole(1)]);
    assert!(hwpt.is_used() && other.is_used());
    let (other, error) = other.destroy().err().unwrap();
    assert_eq!(error, Error::Busy);
    device.detach().unwrap();
    assert!(!hwpt.is_used() && !other.is_used() && unconfirmed().is_empty());
}

#[test]
fn a_detach_that_fails_can_be_tried_again() {
    for error in [REFUSED, TIMEOUT] {
        for good in 0..4 {
            let (world, hwpts) = world();
            let clean = world.snapshot();
            ATTACH(&world, &hwpts).unwrap();
            let before = world.snapshot();
            world.mock.calls();
            world.mock.fail(good, error, false);
            let device = &world.devices[0];
            assert_eq!(device.detach(), Err(Error::Hardware(error)));
            assert!(device.is_attached() && hwpts[0].is_used() && device.unbind() == Err(Error::Busy));
            if good == 0 {
                // The function did not stop: it goes on as it did.
                assert_eq!(world.snapshot(), before);
            } else {
                // What could be blocked is.
                assert!(world.mock.streams().len() <= 1);
                assert_eq!(REPLACE(&world, &hwpts), Err(Error::Busy));
                assert_eq!(SECOND(&world, &hwpts), Err(Error::Busy));
                assert_eq!(world.ioas.unmap(range(0x8000, 0x1000)), Err(Error::Busy));
            }
            assert_eq!(device.detach(), Ok(()));
            assert_eq!(world.snapshot(), clean);
        }
    }
}

#[test]
fn a_stream_in_common_is_blocked_with_the_last_even_behind_one_that_is_stuck() {
    let (world, hwpts) = world();
    ATTACH_BOTH(&world, &hwpts).unwrap();
    let [one, two] = &world.devices[..] else { unreachable!() };
    // Of the streams 1, 2 and 9 the last is the other's as well.
    world.mock.fail(1, TIMEOUT, false);
    assert_eq!(one.detach(), Err(Error::Hardware(TIMEOUT)));
    assert_eq!(world.mock.at(whole(9)), At::Paging(1));
    two.detach().unwrap();
    assert_eq!(world.mock.at(whole(9)), At::Blocked);
    one.detach().unwrap();
    assert!(!hwpts[0].is_used());
}

#[test]
fn a_drop_without_confirmation_keeps_what_is_reachable() {
    let (mut world, hwpts) = world();
    ATTACH_BOTH(&world, &hwpts).unwrap();
    ATTACH_PASID(&world, &hwpts).unwrap();
    world.devices[1].detach().unwrap();
    let stays = world.devices.pop().unwrap();
    world.mock.fail(0, TIMEOUT, true);
    world.mock.calls();
    drop(world.devices.pop());
    // Everything was tried: the bus, the PASID, the streams.
    let tried = world.mock.calls();
    assert_eq!(tried[0], Call::BusMaster(0, false));
    assert_eq!(tried.iter().filter(|call| matches!(call, Call::Move(_, At::Blocked))).count(), 6);
    world.mock.mend();
    assert!(hwpts[0].is_used() && hwpts[1].is_used());
    assert_eq!(world.ioas.unmap(range(0x8000, 0x1000)), Err(Error::Busy));
    // Nobody else gets the group, not even when the other device goes.
    stays.unbind().unwrap();
    assert_eq!((world.group.owner(), stays.bind(OwnerId(8), false)), (Some(OWNER), Err(Error::NotOwner)));
    assert!(Arc::strong_count(&world.functions[0]) > 1);
    // Until hardware answers again.
    world.mock.fail(2, TIMEOUT, true);
    assert_eq!(world.group.reclaim(), Err(Error::Hardware(TIMEOUT)));
    world.mock.mend();
    assert!(hwpts[0].is_used() && world.group.owner().is_some());
    assert_eq!((world.group.reclaim(), world.group.owner()), (Ok(()), None));
    assert!(!hwpts[0].is_used() && !hwpts[1].is_used() && Arc::strong_count(&world.functions[0]) == 1);
    assert_eq!(world.ioas.unmap(range(0x8000, 0x1000)), Ok(0x1000));
    stays.bind(OwnerId(8), false).unwrap();
}
