//! Domains that join and leave an address space, while things are mapped and unmapped there.

use crate::explore::{Work, explore, quietly, side_by_side};
use crate::serial::{Op, real};
use crate::world::{AT, PAGE, RW, World};
use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::hw::Stage;
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::Placement;
use iommu_tests::mock::range;
use std::sync::Mutex;

/// Two areas are there.
fn start() -> World {
    quietly(|| {
        let world = World::new();
        for op in [Op::Map { at: 0, memory: 0, pages: 2 }, Op::Map { at: 4, memory: 2, pages: 2 }] {
            real(&world, AT, op).unwrap();
        }
        world
    })
}

/// Maps, unmaps and copies a little. Nobody else changes areas, so that all of it succeeds, but for areas in the way.
fn maps(world: &World, at: u64, memory: usize) {
    real(world, AT, Op::Map { at, memory, pages: 2 }).unwrap();
    real(world, AT, Op::Copy { from: at, pages: 2, to: at + 2 }).unwrap();
    real(world, AT, Op::Unmap { at, pages: 2 }).unwrap();
}

#[test]
fn domains_join_while_others_map() {
    explore("domains join while others map", 1200, || {
        let world = start();
        let joined = Mutex::new(Vec::new());
        let join = |unit: usize| -> Work<'_, ()> {
            let (world, joined) = (&world, &joined);
            Box::new(move || {
                let hwpt = world.domain(0, unit);
                joined.lock().unwrap().push(hwpt);
            })
        };
        let maps = |at, memory| -> Work<'_, ()> {
            let world = &world;
            Box::new(move || maps(world, at, memory))
        };
        side_by_side(vec![join(0), maps(8, 0), maps(16, 1), join(1)]);
        quietly(|| {
            assert_eq!(world.areas(0).len(), 4);
            let joined = joined.into_inner().unwrap();
            joined.iter().for_each(|hwpt| world.check_domain(0, hwpt));
            drop(joined);
            world.finish();
        });
    });
}

#[test]
fn domains_leave_while_others_map() {
    explore("domains leave while others map", 1200, || {
        let (world, hwpts) = quietly(|| {
            let world = start();
            let hwpts = vec![world.domain(0, 0), world.domain(0, 1), world.domain(0, 0)];
            (world, hwpts)
        });
        let mut hwpts = hwpts.into_iter();
        let (stays, first, second) = (hwpts.next().unwrap(), hwpts.next().unwrap(), hwpts.next().unwrap());
        let leave = |hwpt: Hwpt| -> Work<'_, ()> { Box::new(move || drop(hwpt)) };
        let destroy = |hwpt: Hwpt| -> Work<'_, ()> { Box::new(move || assert!(hwpt.destroy().is_ok())) };
        let maps = |at, memory| -> Work<'_, ()> {
            let world = &world;
            Box::new(move || maps(world, at, memory))
        };
        side_by_side(vec![leave(first), maps(8, 0), maps(16, 1), destroy(second)]);
        quietly(|| {
            world.check_domain(0, &stays);
            assert_eq!(world.ioas[0].iova_ranges(&mut []), 1);
            drop(stays);
            assert_eq!(world.ioas[0].alignment(), 1);
            world.finish();
        });
    });
}

/// A domain that can not join, as somebody maps where it does not translate, or who maps there can not: one of them.
#[test]
fn a_domain_and_an_area_in_its_way() {
    explore("a domain and an area in its way", 1000, || {
        let world = start();
        let odd = 0x5000;
        let join = Box::new(|| {
            let config = HwptConfig::new(Stage::Second);
            Hwpt::new(&world.ioas[0], &world.unit(0), config)
        });
        let mapped = Mutex::new(None);
        let other: Work<'_, ()> = Box::new(|| {
            let pages = &world.pages[0];
            let found = world.ioas[0].map(pages, 0, PAGE, Placement::Fixed(Iova::new(odd)), RW);
            *mapped.lock().unwrap() = Some(found);
        });
        let joined = Mutex::new(None);
        let join: Work<'_, ()> = Box::new(|| {
            let found = join();
            *joined.lock().unwrap() = Some(found);
        });
        side_by_side(vec![join, other]);
        quietly(|| {
            let (joined, mapped) = (joined.into_inner().unwrap().unwrap(), mapped.into_inner().unwrap().unwrap());
            match (joined, mapped) {
                (Ok(hwpt), Err(Error::Reserved { .. })) => world.check_domain(0, &hwpt),
                (Err(Error::AddressInUse { .. }), Ok(_)) => assert_eq!(world.areas(0).len(), 3),
                (joined, mapped) => panic!("{:?}, {mapped:?}", joined.map(|_| ())),
            }
            world.finish();
        });
    });
}

#[test]
fn options_change_while_others_map() {
    explore("options change while others map", 800, || {
        let world = start();
        let options: Work<'_, ()> = Box::new(|| {
            world.ioas[0].set_large_pages(false).unwrap();
            assert_eq!(world.ioas[0].alignment(), PAGE);
            world.ioas[0].allow(&[range(AT + 0x10_0000, 0x10_0000)]).unwrap();
            world.ioas[0].set_large_pages(true).unwrap();
        });
        let maps: Work<'_, ()> = Box::new(|| maps(&world, 8, 1));
        let anywhere: Work<'_, ()> = Box::new(|| {
            let at = world.ioas[0].map(&world.pages[0], 0, PAGE, Placement::Anywhere, RW).unwrap();
            assert!(at.get() == 0x1000 || at.get() == AT + 0x10_0000, "{at}");
            world.ioas[0].unmap(range(at.get(), PAGE)).unwrap();
        });
        side_by_side(vec![options, maps, anywhere]);
        quietly(|| world.finish());
    });
}
