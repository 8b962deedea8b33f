//! Who pays, who owns, and objects that go while others look at them.

use crate::explore::{Work, explore, quietly, side_by_side};
use crate::serial::{Op, real};
use crate::world::{AT, PAGE, RW, World};
use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::context::{Context, ContextConfig};
use iommu_core::hw::Pasid;
use iommu_core::ioas::{Ioas, Placement};
use iommu_core::pasid::{PasidSpace, PasidState};
use iommu_core::quota::Amounts;
use std::sync::atomic::{AtomicUsize, Ordering};

fn at(page: u64) -> Placement {
    Placement::Fixed(Iova::new(AT + page * PAGE))
}

/// Two address spaces map and unmap the same memory, which is pinned once whoever comes first.
#[test]
fn the_same_memory_pinned_by_several() {
    explore("the same memory pinned by several", 1500, || {
        let world = quietly(World::new);
        let maps = |ioas: usize, page: u64| -> Work<'_, ()> {
            let world = &world;
            Box::new(move || {
                world.ioas[ioas].map(&world.pages[0], 0, 4 * PAGE, at(page), RW).unwrap();
                assert!(world.memories[0].is_pinned());
                world.ioas[ioas].unmap_all().unwrap();
            })
        };
        let registers: Work<'_, ()> = Box::new(|| {
            let pin = world.pages[0].register().unwrap();
            assert!(world.memories[0].is_pinned());
            drop(pin);
        });
        side_by_side(vec![maps(0, 0), maps(1, 0), registers]);
        quietly(|| {
            assert!(!world.memories[0].is_pinned());
            world.finish();
        });
    });
}

#[test]
fn costs_that_change_hands() {
    explore("costs that change hands", 1500, || {
        let world = quietly(|| {
            let world = World::new();
            world.ioas[1].map(&world.pages[0], 0, PAGE, at(0), RW).unwrap();
            world
        });
        let moves = |ioas: usize, to: usize| -> Work<'_, ()> {
            let world = &world;
            Box::new(move || match world.ioas[ioas].change_owner(Some(&world.accounts[to])) {
                Ok(()) | Err(Error::Busy) => {}
                Err(error) => panic!("{error:?}"),
            })
        };
        let maps: Work<'_, ()> = Box::new(|| {
            world.ioas[1].map(&world.pages[1], 0, 3 * PAGE, at(8), RW).unwrap();
            world.ioas[1].unmap(iommu_tests::mock::range(AT, PAGE)).unwrap();
        });
        let pages: Work<'_, ()> = Box::new(|| world.pages[1].change_owner(Some(&world.accounts[1])).unwrap());
        side_by_side(vec![moves(1, 1), maps, pages, moves(1, 0)]);
        quietly(|| {
            // The area of the address space that pays for areas, and the memory of the owner who pays for it.
            let used: u64 = world.accounts.iter().map(|account| account.usage().pinned).sum();
            assert_eq!(used, 3 * PAGE + 3 * PAGE);
            let objects: u64 = world.accounts.iter().map(|account| account.usage().objects).sum();
            assert_eq!(objects, 2);
            world.finish();
        });
    });
}

/// A quota that is enough for one of two.
#[test]
fn a_quota_is_never_overdrawn() {
    explore("a quota is never overdrawn", 800, || {
        let world = quietly(|| {
            let world = World::new();
            world.accounts[0].set_limits(Amounts { pinned: 3 * PAGE, ..Amounts::UNLIMITED });
            world
        });
        let done = AtomicUsize::new(0);
        let maps = |page: u64| -> Work<'_, ()> {
            let (world, done) = (&world, &done);
            Box::new(move || {
                let run = [iommu_core::addr::PhysExtent::new(crate::serial::RUN.start, 2 * PAGE)];
                match world.ioas[1].map_extents(&run, at(page), RW) {
                    Ok(_) => _ = done.fetch_add(1, Ordering::Relaxed),
                    Err(error) => assert!(matches!(error, Error::Quota(_)), "{error:?}"),
                }
                assert!(world.accounts[0].usage().pinned <= 3 * PAGE);
            })
        };
        side_by_side(vec![maps(0), maps(4), maps(8)]);
        quietly(|| {
            assert_eq!(done.load(Ordering::Relaxed), 1, "one of them has enough");
            world.finish();
        });
    });
}

#[test]
fn objects_that_go_while_others_look() {
    explore("objects that go while others look", 1500, || {
        let (world, context, id) = quietly(|| {
            let world = World::new();
            let context = Context::new(Some(&world.accounts[0]), ContextConfig { patience: 8, ..Default::default() });
            let id = context.create(&[], || Ioas::new(context.ioas_config())).unwrap();
            (world, context, id)
        });
        let looks: Work<'_, ()> = Box::new(|| match context.get::<Ioas>(id) {
            Ok(ioas) => {
                ioas.map(&world.pages[0], 0, PAGE, at(0), RW).unwrap();
                ioas.unmap_all().unwrap();
            }
            Err(Error::NoSuchObject | Error::Busy) => {}
            Err(error) => panic!("{error:?}"),
        });
        let ended = AtomicUsize::new(0);
        let ends = || -> Work<'_, ()> {
            Box::new(|| match context.destroy(id) {
                Ok(()) => {
                    ended.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(context.get::<Ioas>(id).err(), Some(Error::NoSuchObject));
                }
                Err(Error::NoSuchObject | Error::Busy) => {}
                Err(error) => panic!("{error:?}"),
            })
        };
        let makes: Work<'_, ()> = Box::new(|| {
            let other = context.create(&[], || Ioas::new(context.ioas_config())).unwrap();
            assert_ne!(other, id);
            context.destroy(other).unwrap();
        });
        side_by_side(vec![looks, ends(), ends(), makes]);
        quietly(|| {
            assert!(ended.load(Ordering::Relaxed) <= 1, "ended once");
            assert_eq!(context.len(), 1 - ended.load(Ordering::Relaxed));
            assert_eq!(context.close(), Ok(()));
            drop(context);
            world.finish();
        });
    });
}

#[test]
fn pasids_that_several_want() {
    explore("PASIDs that several want", 1200, || {
        let (world, space) = quietly(|| (World::new(), PasidSpace::new(2, &[]).unwrap()));
        let number = |number| Pasid::new(number).unwrap();
        let sets: Vec<_> = quietly(|| (0..2).map(|_| space.set(3, Some(&world.accounts[0])).unwrap()).collect());
        let takes = |at: usize| -> Work<'_, ()> {
            let (space, sets) = (&space, &sets);
            Box::new(move || {
                let mut mine = Vec::new();
                for _ in 0..2 {
                    let pasid = sets[at].alloc(number(0), number(3), None).unwrap();
                    assert!(sets[at].owns(pasid) && !sets[1 - at].owns(pasid) && !mine.contains(&pasid));
                    mine.push(pasid);
                }
                let used = sets[at].acquire(mine[0], None).unwrap();
                sets[at].free(mine[0]).unwrap();
                assert_eq!(space.state(mine[0]), PasidState::Draining, "somebody uses it still");
                drop(used);
                sets[at].free(mine[1]).unwrap();
            })
        };
        side_by_side(vec![takes(0), takes(1)]);
        quietly(|| {
            assert_eq!(space.available(), 4);
            drop((sets, space));
            world.finish();
        });
    });
}

/// What the address space itself costs moves while it is being used.
#[test]
fn an_owner_changes_while_others_map() {
    explore("an owner changes while others map", 800, || {
        let world = quietly(World::new);
        let moves: Work<'_, ()> = Box::new(|| {
            world.ioas[0].change_owner(Some(&world.accounts[1])).unwrap();
            world.pages[0].change_owner(Some(&world.accounts[1])).unwrap();
        });
        let maps = |at: u64, memory: usize| -> Work<'_, ()> {
            let world = &world;
            Box::new(move || {
                real(world, AT, Op::Map { at, memory, pages: 2 }).unwrap();
                real(world, AT, Op::Unmap { at, pages: 2 }).unwrap();
            })
        };
        side_by_side(vec![moves, maps(0, 0), maps(4, 0), maps(8, 2)]);
        quietly(|| {
            assert_eq!(world.accounts[1].usage().objects, 1);
            assert_eq!((world.accounts[0].usage().pinned, world.accounts[1].usage().pinned), (0, 0));
            world.finish();
        });
    });
}
