//! Accesses, PASIDs, and objects of a context.

use crate::sweep::sweep;
use crate::world::{AT, PAGE, RW, World};
use iommu_core::access::{Access, AccessConfig};
use iommu_core::addr::Iova;
use iommu_core::hw::{Pasid, Prot};
use iommu_core::ioas::Ioas;
use iommu_core::pages::Pages;
use iommu_core::pasid::PasidSpace;
use iommu_core::quota::{Account, Amounts};
use iommu_tests::mock::range;

fn pasid(number: u32) -> Pasid {
    Pasid::new(number).unwrap()
}

/// Three areas without gaps, two of them of one memory.
fn mapped() -> World {
    let world = World::new().with_domain(0).with_access();
    world.with_map_at(2, AT).with_map_at(0, AT + 3 * PAGE).with_map_at(0, AT + 7 * PAGE)
}

fn attached() -> World {
    let world = mapped();
    world.accesses[0].attach(&world.ioas[0]).unwrap();
    world
}

#[test]
fn accesses() {
    sweep("an access", World::new, |world| {
        let account = Some(world.accounts[0].clone());
        Access::new(AccessConfig { user: Some(world.user.clone()), account, ..AccessConfig::default() })
    });
    sweep("attach an access", mapped, |world| world.accesses[0].attach(&world.ioas[0]));
    sweep("attach one more", || attached().with_access(), |world| world.accesses[1].attach(&world.ioas[0]));
    sweep("move an access", attached, |world| world.accesses[0].replace(&world.ioas[1]));
    let pinned = || {
        let world = attached();
        let pin = world.accesses[0].pin(range(AT, PAGE), RW).unwrap();
        world.user.hold(pin);
        world
    };
    sweep("move an access that has pins", pinned, |world| world.accesses[0].replace(&world.ioas[1]));
    sweep("pin one area", attached, |world| world.accesses[0].pin(range(AT, 2 * PAGE), RW));
    sweep("pin areas", attached, |world| world.accesses[0].pin(range(AT, 11 * PAGE), Prot::READ));
    let many = || {
        let world = attached();
        (1..11).for_each(|page| world.ioas[0].split(Iova::new(AT + page * PAGE)).unwrap());
        world
    };
    let failed = sweep("pin many areas", many, |world| world.accesses[0].pin(range(AT, 11 * PAGE), RW));
    assert!(failed.allocations >= 2, "{failed:?}");
    sweep("read", many, |world| {
        let mut bytes = [0; 300];
        world.accesses[0].read(Iova::new(AT + PAGE - 100), &mut bytes)
    });
    sweep("write", many, |world| world.accesses[0].write(Iova::new(AT + PAGE - 100), &[9; 300]));
}

#[test]
fn pasids() {
    sweep("a space", World::new, |_| PasidSpace::new(16, &[(pasid(0), pasid(7)), (pasid(100), pasid(101))]));
    sweep("a set", World::new, |world| world.pasids.set(10, Some(&world.accounts[0])));
    for count in [0u32, 3, 8, 40] {
        let makes = || {
            let world = World::new();
            for number in 0..count {
                world.set.alloc(pasid(0), pasid(1 << 19), Some(number)).unwrap();
            }
            world
        };
        let failed = sweep("a PASID", makes, |world| world.set.alloc(pasid(1000), pasid(9000), None));
        assert!(failed.allocations > 0 || count > 0);
        sweep("a PASID with a private number", makes, |world| world.set.alloc(pasid(1), pasid(1 << 19), Some(700)));
    }
    let makes = || {
        let world = World::new();
        world.set.alloc(pasid(5), pasid(5), None).unwrap();
        world
    };
    sweep("use a PASID", makes, |world| world.set.acquire(pasid(5), None));
    sweep("another account pays for a set", makes, |world| world.set.change_owner(Some(&world.accounts[1])));
}

#[test]
fn contexts() {
    sweep("an account", World::new, |_| Account::new(Amounts::UNLIMITED));
    let ioas = |world: &World| world.context.create(&[], || Ioas::new(world.context.ioas_config()));
    for count in [0, 1, 7, 40] {
        let makes = || {
            let world = World::new();
            (0..count).for_each(|_| _ = ioas(&world).unwrap());
            world
        };
        let failed = sweep("an object", makes, ioas);
        assert!(failed.allocations >= 1, "{failed:?}");
        sweep("another account pays for all", makes, |world| world.context.change_owner(Some(&world.accounts[1])));
    }
    sweep("pages of a context", World::new, |world| {
        let account = world.context.account();
        world.context.create(&[], || Pages::new(world.memories[0].clone(), account.as_ref()))
    });
}
