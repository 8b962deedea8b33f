//! What takes away needs no memory at all.

use crate::heap;
use crate::world::{AT, PAGE, RW, World};
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::device::{AttachTo, Feature};
use iommu_core::hw::NestedConfig;
use iommu_core::hw::Pasid;
use iommu_core::ioas::{Ioas, Owner};
use iommu_core::nested::NestedHwpt;
use iommu_tests::mock::{NESTED_KIND, range};

/// Everything is in use.
fn busy() -> World {
    let mut world = World::new().with_domain(0).with_domain(1).with_domain(0).with_access();
    for memory in 0..3 {
        world = world.with_map(memory);
    }
    world.ioas[0].split(Iova::new(AT + PAGE)).unwrap();
    world.ioas[1].copy(&world.ioas[0], range(AT, 4 * PAGE), iommu_core::ioas::Placement::Anywhere, RW).unwrap();
    world.accesses[0].attach(&world.ioas[0]).unwrap();
    let pin = world.accesses[0].pin(range(AT, 4 * PAGE), RW).unwrap();
    world.user.hold(pin);
    world = world.with_device().with_device();
    world.devices[0].attach(AttachTo::Hwpt(&world.hwpts[0])).unwrap();
    world.devices[1].attach(AttachTo::Hwpt(&world.hwpts[0])).unwrap();
    world.devices[0].enable(Feature::Pasid).unwrap();
    world.devices[0].attach_pasid(Pasid::new(3).unwrap(), AttachTo::Hwpt(&world.hwpts[2])).unwrap();
    world.ioas[0].reserve(range(AT + (1 << 30), PAGE), Owner::Embedder(1)).unwrap();
    world
}

#[test]
fn one_after_the_other() {
    let world = busy();
    let pasid = Pasid::new(3).unwrap();
    heap::without(|| {
        world.ioas[0].release(Owner::Embedder(1));
        assert_eq!(world.ioas[0].unmap(range(AT, 4 * PAGE)), Ok(4 * PAGE), "the user is told");
        assert_eq!(world.devices[0].detach_pasid(pasid), Ok(()));
        assert_eq!(world.devices[0].disable(Feature::Pasid), Ok(()));
        assert_eq!(world.devices[0].detach(), Ok(()));
        assert_eq!(world.devices[1].detach(), Ok(()));
        assert_eq!(world.devices[1].unbind(), Ok(()));
        assert_eq!(world.accesses[0].detach(), Ok(()));
        assert_eq!(world.pages[2].revoke(), Ok(()));
        assert!(world.ioas[0].unmap_all().is_ok() && world.ioas[1].unmap_all().is_ok());
        assert_eq!(world.ioas[0].allow(&[]), Ok(()));
    });
    let machine = world.machine.clone();
    heap::without(|| drop(world));
    machine.assert_clean();
}

/// The order in which things are let go of does not matter.
#[test]
fn in_any_order() {
    let live = heap::live();
    for order in 0..6 {
        let mut world = busy();
        let machine = world.machine.clone();
        heap::without(|| match order {
            0 => drop(world),
            1 => {
                world.ioas.clear();
                world.hwpts.clear();
                world.devices.clear();
                drop(world);
            }
            2 => {
                world.hwpts.clear();
                world.pages.clear();
                world.accesses.clear();
                drop(world);
            }
            3 => {
                world.user.let_go();
                world.pages.clear();
                world.ioas.clear();
                world.devices.clear();
                drop(world);
            }
            4 => {
                world.accounts.clear();
                world.groups.clear();
                world.accesses.clear();
                world.ioas.clear();
                drop(world);
            }
            _ => {
                world.pages.iter().for_each(|pages| _ = pages.revoke());
                world.devices.clear();
                world.ioas.clear();
                drop(world);
            }
        });
        machine.assert_clean();
        drop(machine);
        assert_eq!(heap::live(), live, "order {order}: bytes are lost");
    }
}

#[test]
fn what_is_nested_goes() {
    let world = World::new().with_domain(0).with_device();
    let nested = NestedHwpt::new(&world.hwpts[0], &NestedConfig { kind: NESTED_KIND, words: &[1] }).unwrap();
    world.devices[0].attach(AttachTo::Nested(&nested)).unwrap();
    heap::without(|| {
        drop(nested);
        drop(world);
    });
}

#[test]
fn a_refused_operation_needs_nothing_either() {
    let world = busy();
    heap::without(|| {
        assert!(world.ioas[0].unmap(range(AT + PAGE, PAGE - 2048)).is_err());
        assert!(world.ioas[0].unmap(IovaRange::FULL).is_ok());
        assert!(Ioas::unmap(&world.ioas[0], IovaRange::FULL).is_err());
    });
}
