//! Maps, copies, splits and what else there is to do with areas.

use crate::sweep::sweep;
use crate::world::{AT, PAGE, RW, World};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::Prot;
use iommu_core::ioas::{Accounting, Ioas, IoasConfig, Owner, Placement};
use iommu_core::pages::Pages;
use iommu_tests::mock::range;

fn at(address: u64) -> Placement {
    Placement::Fixed(Iova::new(address))
}

fn run(number: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(0x4000_0000 + number * 0x10_0000), PAGE)
}

#[test]
fn maps_of_plain_memory() {
    let one = |world: &World| world.ioas[0].map_extents(&[run(0)], at(AT), RW);
    sweep("map a run", World::new, one);
    sweep("map a run, one domain", || World::new().with_domain(0), one);
    let runs = [run(0), run(1), run(2)];
    let several = |world: &World| world.ioas[0].map_extents(&runs, Placement::Anywhere, Prot::READ);
    let failed = sweep("map runs, two domains", || World::new().with_domain(0).with_domain(1), several);
    assert!(failed.allocations >= 4 && failed.calls >= 2, "{failed:?}");
    sweep("map runs, paid by the address space", World::new, |world| world.ioas[1].map_extents(&runs, at(AT), RW));
    // The lists of areas grow.
    for areas in [1u64, 3, 8, 20, 70] {
        let makes = || {
            let world = World::new();
            (0..areas).for_each(|n| _ = world.ioas[0].map_extents(&[run(n)], at(AT + 2 * n * PAGE), RW).unwrap());
            world
        };
        sweep("map one area more", makes, |world| world.ioas[0].map_extents(&[run(areas)], Placement::Anywhere, RW));
    }
}

#[test]
fn maps_of_pages() {
    let map = |memory: usize| {
        move |world: &World| {
            let pages = &world.pages[memory];
            world.ioas[0].map(pages, 0, pages.len(), at(AT), RW)
        }
    };
    for memory in 0..3 {
        let failed = sweep("map pages", World::new, map(memory));
        assert!(failed.pins >= 1, "{failed:?}");
        sweep("map pages, one domain", || World::new().with_domain(0), map(memory));
        let failed = sweep("map pages, two domains", || World::new().with_domain(0).with_domain(1), map(memory));
        assert!(failed.calls >= 2, "{failed:?}");
        let registered = || {
            let mut world = World::new().with_domain(0);
            let pin = world.pages[memory].register().unwrap();
            world.kept.push(Box::new(pin));
            world
        };
        let failed = sweep("map registered pages", registered, map(memory));
        assert_eq!(failed.pins, 0, "they are pinned already");
        let mapped = || World::new().with_domain(1).with_map_at(memory, AT + 0x10_0000);
        let failed = sweep("map pages that are mapped elsewhere", mapped, map(memory));
        assert_eq!(failed.pins, 0, "they are pinned already");
        let small = || {
            let world = World::new();
            world.ioas[0].set_large_pages(false).unwrap();
            world.with_domain(0)
        };
        sweep("map pages, no large ones", small, map(memory));
    }
    sweep(
        "map part of pages anywhere",
        || World::new().with_domain(0),
        |world| world.ioas[0].map(&world.pages[1], 3 * PAGE, 5 * PAGE, Placement::Anywhere, RW),
    );
}

#[test]
fn copies() {
    // All three memories, without gaps.
    let makes = || {
        let world = World::new().with_domain(0);
        let world = world.with_map_at(2, AT).with_map_at(0, AT + 3 * PAGE).with_map_at(1, AT + 7 * PAGE);
        let run = [run(0)];
        world.ioas[0].map_extents(&run, at(AT + 77 * PAGE), RW).unwrap();
        world
    };
    let part = range(AT + PAGE, 77 * PAGE);
    sweep("copy areas elsewhere", makes, |world| world.ioas[1].copy(&world.ioas[0], part, at(AT), RW));
    let failed = sweep("copy areas here", makes, |world| {
        world.ioas[0].copy(&world.ioas[0], part, at(AT + 0x20_0000), Prot::READ)
    });
    assert!(failed.allocations >= 10 && failed.calls >= 4 && failed.pins == 0, "{failed:?}");
    sweep("copy part of an area", makes, |world| {
        world.ioas[1].copy(&world.ioas[0], range(AT + 10 * PAGE, 2 * PAGE), Placement::Anywhere, RW)
    });
}

#[test]
fn splits() {
    for memory in 0..3 {
        let plain = || World::new().with_map_at(memory, AT);
        sweep("split", plain, |world| world.ioas[0].split(Iova::new(AT + PAGE)));
        let domains = || World::new().with_map_at(memory, AT).with_domain(0).with_domain(1);
        sweep("split in two domains", domains, |world| world.ioas[0].split(Iova::new(AT + PAGE)));
    }
    let large = || {
        let world = World::new().with_domain(0);
        let run = [PhysExtent::new(PhysAddr::new(0x4000_0000), 2 << 20)];
        world.ioas[0].map_extents(&run, at(AT), RW).unwrap();
        world
    };
    let split = |world: &World| world.ioas[0].split(Iova::new(AT + 5 * PAGE));
    // A leaf that was split may stay so, as everything leads where it did.
    sweep("split a large page", large, split);
}

#[test]
fn ranges_and_options() {
    let ranges = [range(AT, PAGE), range(AT + 0x10_0000, PAGE), range(AT + 0x20_0000, PAGE)];
    sweep("allow", World::new, |world| world.ioas[0].allow(&ranges));
    sweep("reserve", World::new, |world| world.ioas[0].reserve(ranges[0], Owner::Embedder(1)));
    sweep("large pages off", World::new, |world| world.ioas[0].set_large_pages(false));
    let mapped = || World::new().with_map_at(0, AT).with_map_at(1, AT + 4 * PAGE);
    sweep("lock areas", mapped, |world| world.ioas[0].lock(range(AT + PAGE, 5 * PAGE), false));
    sweep("lock one run", mapped, |world| world.ioas[0].lock(range(AT + PAGE, 2 * PAGE), true));
    sweep("another account pays for an address space", mapped, |world| {
        world.ioas[0].change_owner(Some(&world.accounts[1]))
    });
    sweep("another account pays for pages", mapped, |world| world.pages[1].change_owner(Some(&world.accounts[1])));
    sweep("an address space", World::new, |world| {
        Ioas::new(IoasConfig { account: Some(world.accounts[0].clone()), accounting: Accounting::PerOwner })
    });
}

#[test]
fn pages() {
    let runs: Vec<PhysExtent> = (0..9).map(run).collect();
    sweep("pages of runs", World::new, |_| Pages::from_extents(&runs));
    let odd: Vec<PhysExtent> = (1..6).map(|n| PhysExtent::new(PhysAddr::new(n << 30), n * PAGE)).collect();
    sweep("pages of runs of any length", World::new, |_| Pages::from_extents(&odd));
    for memory in 0..3 {
        sweep("register", World::new, |world| world.pages[memory].register());
    }
    sweep("pages of a source", World::new, |world| Pages::new(world.memories[0].clone(), Some(&world.accounts[0])));
}

#[test]
fn the_window_of_an_area_is_whole() {
    // That the snapshots see what they should: one that maps a page less differs.
    let world = World::new().with_domain(0).with_map_at(0, AT);
    let whole = world.snapshot();
    assert_eq!(world.ioas[0].unmap(IovaRange::FULL), Ok(4 * PAGE));
    world.ioas[0].map(&world.pages[0], 0, 3 * PAGE, at(AT), RW).unwrap();
    let part = world.snapshot();
    assert_eq!(whole.iter().zip(&part).filter(|(whole, part)| whole != part).count(), 2, "{whole:#?} {part:#?}");
}
