//! First stages: what they need, and requests in order.

extern crate std;

use super::*;
use crate::device::tests::World;
use crate::device::tests::mock::{At, Call, REFUSED, TIMEOUT};
use crate::hw::Stage;
use crate::hwpt::HwptConfig;
use crate::quota::Amounts;
use std::vec;
use std::vec::Vec;

const CONFIG: NestedConfig<'_> = NestedConfig { kind: 1, words: &[2, 3] };

fn parent(world: &World) -> Hwpt {
    world.hwpt_of(&world.ioas, HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) })
}

fn requests(count: u64) -> Vec<Invalidation> {
    (0..count).map(|word| Invalidation { kind: 9, words: [word, 0] }).collect()
}

#[test]
fn a_parent_is_made_for_it() {
    let world = World::new();
    let (plain, parent) = (world.hwpt(), parent(&world));
    world.mock.calls();
    assert!(matches!(NestedHwpt::new(&plain, &CONFIG), Err(Error::Invalid(_))));
    assert_eq!(world.mock.calls(), []);
    let nested = NestedHwpt::new(&parent, &CONFIG).unwrap();
    assert_eq!((world.mock.calls(), parent.is_used(), plain.is_used()), (vec![Call::CreateNested], true, false));
    let (parent, error) = parent.destroy().err().unwrap();
    assert_eq!(error, Error::Busy);
    nested.destroy().map_err(drop).unwrap();
    assert!(!parent.is_used());
}

#[test]
fn a_refusal_leaves_no_trace() {
    let world = World::new();
    let parent = parent(&world);
    let usage = world.account.usage();
    world.mock.fail(0, REFUSED, false);
    assert_eq!(NestedHwpt::new(&parent, &CONFIG).err(), Some(Error::Hardware(REFUSED)));
    assert_eq!((parent.is_used(), world.account.usage()), (false, usage));
    let nested = NestedHwpt::new(&parent, &CONFIG).unwrap();
    assert_eq!(world.account.usage().objects, usage.objects + 1);
    drop(nested);
    assert_eq!(world.account.usage(), usage);
    world.account.set_limits(Amounts { objects: usage.objects, ..Amounts::UNLIMITED });
    world.mock.calls();
    assert!(matches!(NestedHwpt::new(&parent, &CONFIG), Err(Error::Quota(_))));
    assert_eq!(world.mock.calls(), []);
}

#[test]
fn requests_are_carried_out_in_order() {
    let world = World::new();
    let nested = NestedHwpt::new(&parent(&world), &CONFIG).unwrap();
    world.mock.calls();
    assert_eq!(nested.invalidate(&[]), (0, Ok(())));
    assert_eq!(nested.invalidate(&requests(3)), (3, Ok(())));
    let done = |count| (0..count).map(|word| Call::Invalidate(At::Nested(2), word)).collect::<Vec<_>>();
    assert_eq!(world.mock.calls(), done(3));
    // The third fails: two are done, and those behind are not begun.
    world.mock.fail(2, TIMEOUT, false);
    assert_eq!(nested.invalidate(&requests(5)), (2, Err(Error::Hardware(TIMEOUT))));
    assert_eq!(world.mock.calls(), done(3));
    world.mock.fail(0, REFUSED, false);
    assert_eq!(nested.invalidate(&requests(1)), (0, Err(Error::Hardware(REFUSED))));
}

#[test]
fn one_call_is_bounded() {
    let world = World::new();
    let nested = NestedHwpt::new(&parent(&world), &CONFIG).unwrap();
    for (count, done) in [(255, 255), (256, 256), (257, 256), (100_000, 256)] {
        world.mock.calls();
        assert_eq!(nested.invalidate(&requests(count)), (done, Ok(())));
        assert_eq!(world.mock.calls().len(), done);
    }
}
