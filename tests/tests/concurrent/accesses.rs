//! Accesses that pin and copy what others unmap, split or take back; that move and go meanwhile.

use crate::explore::{Work, explore, quietly, side_by_side};
use crate::serial::{Op, real};
use crate::world::{AT, PAGE, RW, World};
use iommu_core::Error;
use iommu_core::access::{Access, AccessConfig};
use iommu_core::addr::Iova;
use iommu_core::hw::Prot;
use iommu_tests::mock::{MockUser, range};
use shuttle::rand::{Rng, thread_rng};
use std::sync::Arc;

/// Two areas, an access that is attached, and its user.
fn start() -> (World, Access, Arc<MockUser>) {
    quietly(|| {
        let world = World::new();
        world.memories.iter().for_each(|memory| memory.fill());
        for op in [Op::Map { at: 0, memory: 0, pages: 2 }, Op::Map { at: 2, memory: 1, pages: 2 }] {
            real(&world, AT, op).unwrap();
        }
        let user = MockUser::new();
        let config = AccessConfig { user: Some(user.clone()), alignment: 2048, ..AccessConfig::default() };
        let access = Access::new(config).unwrap();
        access.attach(&world.ioas[0]).unwrap();
        (world, access, user)
    })
}

/// What may come of using what somebody else may be taking away.
fn gone(error: Error) {
    let expected = matches!(error, Error::NotFound { .. } | Error::Busy | Error::Revoked | Error::Invalid(_));
    assert!(expected, "{error:?}");
}

/// Pins both areas and has the user hold that.
fn pin(access: &Access, user: &MockUser) {
    match access.pin(range(AT + PAGE, 2 * PAGE), RW) {
        Ok(pin) => {
            assert_eq!(pin.extents().map(|extent| extent.len).sum::<u64>(), 2 * PAGE);
            let mut bytes = [0; 64];
            pin.read(PAGE - 32, &mut bytes).unwrap();
            user.hold(pin);
        }
        Err(error) => gone(error),
    }
}

/// Unmaps, as often as it takes a user to come round to holding its pin where it can be told to let go of it.
fn unmap(world: &World, at: u64, pages: u64) {
    for _ in 0..8 {
        match world.ioas[0].unmap(range(AT + at * PAGE, pages * PAGE)) {
            Err(Error::Busy | Error::Deadlock) => shuttle::thread::yield_now(),
            found => {
                assert_eq!(found, Ok(pages * PAGE));
                return;
            }
        }
    }
}

#[test]
fn pins_of_what_goes() {
    explore("pins of what goes", 1500, || {
        let (world, access, user) = start();
        let pins = || -> Work<'_, ()> { Box::new(|| pin(&access, &user)) };
        let unmaps = |at| -> Work<'_, ()> {
            let world = &world;
            Box::new(move || unmap(world, at, 2))
        };
        side_by_side(vec![pins(), unmaps(0), pins(), unmaps(2)]);
        quietly(|| {
            user.let_go();
            assert!(world.areas(0).iter().all(|area| area.pins == 0));
            access.detach().unwrap();
            world.finish();
        });
    });
}

#[test]
fn copies_of_bytes_of_what_goes() {
    explore("copies of bytes of what goes", 1500, || {
        let (world, access, _user) = start();
        let before = quietly(|| world.memories[0].peek(PAGE, PAGE).into_iter().chain(world.memories[1].peek(0, PAGE)));
        let before: Vec<_> = before.collect();
        let reads: Work<'_, ()> = Box::new(|| {
            let mut bytes = [0; 200];
            match access.read(Iova::new(AT + 2 * PAGE - 100), &mut bytes) {
                Ok(()) => assert_eq!(bytes[..], before[PAGE as usize - 100..][..200]),
                Err(error) => gone(error),
            }
        });
        let writes: Work<'_, ()> = Box::new(|| {
            match access.write(Iova::new(AT + 4 * PAGE - 8), &[1; 8]) {
                // What came in its place may only be read.
                Ok(()) | Err(Error::ReadOnly) => {}
                Err(error) => gone(error),
            }
        });
        let unmaps: Work<'_, ()> = Box::new(|| unmap(&world, 2, 2));
        let maps: Work<'_, ()> = Box::new(|| {
            // The old or the new: never anything else.
            let found = real(&world, AT, Op::Copy { from: 0, pages: 2, to: 2 });
            assert!(found.is_ok() || found == Err("Overlap".into()), "{found:?}");
        });
        // Not both: what is read would be what was there or what came in its place.
        let (third, other) = if thread_rng().gen_bool(0.5) { (reads, maps) } else { (maps, reads) };
        drop(other);
        side_by_side(vec![unmaps, writes, third]);
        quietly(|| {
            access.detach().unwrap();
            world.finish();
        });
    });
}

#[test]
fn an_access_that_goes() {
    explore("an access that goes", 1500, || {
        let (world, access, user) = start();
        let pins: Work<'_, ()> = Box::new(|| pin(&access, &user));
        let unmaps: Work<'_, ()> = Box::new(|| unmap(&world, 0, 2));
        let detaches: Work<'_, ()> = Box::new(|| match access.detach() {
            Ok(()) | Err(Error::Deadlock | Error::Busy) => {}
            Err(error) => panic!("{error:?}"),
        });
        let moves: Work<'_, ()> = Box::new(|| match access.replace(&world.ioas[1]) {
            Ok(()) | Err(Error::Deadlock | Error::Busy | Error::NoSuchObject) => {}
            Err(error) => panic!("{error:?}"),
        });
        side_by_side(vec![pins, unmaps, detaches, moves]);
        quietly(|| {
            user.let_go();
            drop(access);
            assert_eq!(
                (world.ioas[0].alignment(), world.ioas[1].alignment()),
                (1, 1),
                "it is told of no unmap any more"
            );
            world.finish();
        });
    });
}

#[test]
fn pins_and_splits() {
    explore("pins and splits", 1000, || {
        let (world, access, user) = start();
        let pins: Work<'_, ()> = Box::new(|| pin(&access, &user));
        let splits = |at| -> Work<'_, ()> {
            let world = &world;
            Box::new(move || match world.ioas[0].split(Iova::new(AT + at * PAGE)) {
                Ok(()) | Err(Error::Invalid(_) | Error::Busy) => {}
                Err(error) => panic!("{error:?}"),
            })
        };
        let locks: Work<'_, ()> = Box::new(|| match world.ioas[0].lock(range(AT, 2 * PAGE), true) {
            Ok(lock) => {
                assert_eq!(world.ioas[0].unmap(range(AT, PAGE * 4)), Err(Error::Busy));
                drop(lock);
            }
            Err(error) => gone(error),
        });
        side_by_side(vec![pins, splits(1), splits(3), locks]);
        quietly(|| {
            user.let_go();
            assert!(world.areas(0).iter().all(|area| (area.pins, area.locks) == (0, 0)));
            access.detach().unwrap();
            world.finish();
        });
    });
}

#[test]
fn memory_that_is_taken_back() {
    explore("memory that is taken back", 1500, || {
        let (world, access, user) = start();
        let hwpt = quietly(|| world.domain(0, 0));
        let revokes: Work<'_, ()> = Box::new(|| {
            for _ in 0..8 {
                match world.pages[1].revoke() {
                    Ok(()) => return,
                    Err(Error::Deadlock) => shuttle::thread::yield_now(),
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let maps: Work<'_, ()> = Box::new(|| {
            let found = real(&world, AT, Op::Map { at: 8, memory: 1, pages: 3 });
            assert!(found.is_ok() || found == Err("Revoked".into()), "{found:?}");
        });
        let copies: Work<'_, ()> = Box::new(|| {
            if let Err(error) = world.ioas[1].copy(
                &world.ioas[0],
                range(AT + 2 * PAGE, PAGE),
                iommu_core::ioas::Placement::Anywhere,
                Prot::READ,
            ) {
                gone(error);
            }
        });
        let pins: Work<'_, ()> = Box::new(|| pin(&access, &user));
        side_by_side(vec![revokes, maps, copies, pins]);
        quietly(|| {
            user.let_go();
            assert_eq!(world.pages[1].revoke(), Ok(()));
            assert!(!world.memories[1].is_pinned() && world.memories[0].is_pinned());
            for ioas in 0..2 {
                for area in world.areas(ioas) {
                    let of_it = area.range.start().get() != AT;
                    assert_eq!((area.revoked, area.draining), (of_it, false), "{area:?}");
                }
            }
            world.check_domain(0, &hwpt);
            access.detach().unwrap();
            drop(hwpt);
            world.finish();
        });
    });
}
