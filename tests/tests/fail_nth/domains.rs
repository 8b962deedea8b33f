//! Domains, devices and what is nested.

use crate::sweep::sweep;
use crate::world::{AT, PAGE, World, region};
use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::device::{AttachTo, Device, DeviceConfig, Feature};
use iommu_core::dirty::{DirtyBitmap, DirtyRead};
use iommu_core::fault::{FaultQueue, FaultRouter};
use iommu_core::group::Group;
use iommu_core::hw::{NestedConfig, PageRequest, Pasid, Prot, Stage, Stream, StreamId};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::nested::NestedHwpt;
use iommu_core::region::{RegionKind, ReservedRegion};
use iommu_core::viommu::Viommu;
use iommu_tests::mock::{NESTED_KIND, range};

const NESTED: NestedConfig<'_> = NestedConfig { kind: NESTED_KIND, words: &[7] };

fn pasid(number: u32) -> Pasid {
    Pasid::new(number).unwrap()
}

fn full() -> World {
    World::new().with_map(0).with_map(1).with_map(2)
}

#[test]
fn domains_join_what_is_full() {
    let config = || HwptConfig { dirty_tracking: true, ..HwptConfig::new(Stage::Second) };
    let join = move |world: &World| Hwpt::new(&world.ioas[0], &world.unit(0), config());
    sweep("a domain of an empty address space", World::new, join);
    let failed = sweep("a domain of a full one", full, join);
    assert!(failed.calls >= 4, "{failed:?}");
    sweep("a second domain", || full().with_domain(1), join);
    let with_faults = |world: &World| {
        let config = HwptConfig { faults: Some(world.queue.clone()), ..HwptConfig::new(Stage::First) };
        Hwpt::new(&world.ioas[0], &world.unit(0), config)
    };
    sweep("a domain with faults", full, with_faults);
    sweep("dirty tracking", || full().with_domain(0), |world| world.hwpts[0].set_dirty_tracking(true));
    let tracking = || {
        let world = full().with_domain(0);
        world.hwpts[0].set_dirty_tracking(true).unwrap();
        world
    };
    sweep("what is dirty", tracking, |world| {
        let mut bytes = [0; 8];
        let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(AT), PAGE)?;
        world.hwpts[0].read_dirty(range(AT, 16 * PAGE), DirtyRead::Peek, &mut bitmap)
    });
}

#[test]
fn devices() {
    sweep("a group", World::new, |world| Group::new(Some(&world.accounts[0])));
    sweep("a device", World::new, |world| {
        Device::new(
            &world.groups[0],
            &DeviceConfig {
                unit: world.unit(0),
                streams: &[StreamId::new(5), StreamId::new(6), StreamId::new(7)],
                function: None,
                regions: &[ReservedRegion { range: region(), kind: RegionKind::Msi }],
                coherent: true,
                isolated_msi: true,
                router: None,
                account: Some(world.accounts[0].clone()),
            },
        )
    });
    for feature in [Feature::Pasid, Feature::Ats, Feature::Pri] {
        let failed = sweep("a feature", || World::new().with_device(), |world| world.devices[0].enable(feature));
        // Of ATS the unit is told first, for both streams.
        assert_eq!(failed.calls, if feature == Feature::Ats { 3 } else { 1 });
    }
    let both = || full().with_domain(0).with_device().with_device();
    for device in 0..2 {
        let attach = |world: &World| world.devices[device].attach(AttachTo::Hwpt(&world.hwpts[0]));
        let failed = sweep("attach", both, attach);
        assert!(failed.allocations >= 2 && failed.calls >= 3, "{failed:?}");
        let other = || {
            let world = both();
            world.devices[1 - device].attach(AttachTo::Hwpt(&world.hwpts[0])).unwrap();
            world
        };
        sweep("attach the second of a group", other, attach);
        let auto = |world: &World| world.devices[device].attach(AttachTo::Auto(&world.ioas[0]));
        sweep("attach to an automatic domain", both, auto);
    }
    let attached = || {
        let world = both().with_domain(0);
        world.devices[0].attach(AttachTo::Hwpt(&world.hwpts[0])).unwrap();
        world.devices[1].attach(AttachTo::Hwpt(&world.hwpts[0])).unwrap();
        world
    };
    let failed = sweep("replace", attached, |world| world.devices[0].replace(AttachTo::Hwpt(&world.hwpts[1])));
    assert!(failed.calls >= 4, "{failed:?}");
    sweep("replace by an automatic domain", attached, |world| world.devices[0].replace(AttachTo::Auto(&world.ioas[1])));
    let two = || {
        let world = attached();
        world.devices[0].enable(Feature::Pasid).unwrap();
        world.devices[0].attach_pasid(pasid(3), AttachTo::Hwpt(&world.hwpts[1])).unwrap();
        world
    };
    let enabled = || {
        let world = attached();
        world.devices[0].enable(Feature::Pasid).unwrap();
        world
    };
    sweep("attach a PASID", enabled, |world| world.devices[0].attach_pasid(pasid(3), AttachTo::Hwpt(&world.hwpts[1])));
    sweep("replace a PASID", two, |world| world.devices[0].replace_pasid(pasid(3), AttachTo::Hwpt(&world.hwpts[0])));
    for count in [1u32, 4, 30] {
        let several = || {
            let world = enabled();
            for number in 0..count {
                world.devices[0].attach_pasid(pasid(10 + number), AttachTo::Hwpt(&world.hwpts[0])).unwrap();
            }
            world
        };
        sweep("attach one PASID more", several, |world| {
            world.devices[0].attach_pasid(pasid(3), AttachTo::Hwpt(&world.hwpts[0]))
        });
    }
}

#[test]
fn what_is_nested() {
    let makes = || full().with_domain(0).with_device();
    sweep("a nested domain", makes, |world| NestedHwpt::new(&world.hwpts[0], &NESTED));
    sweep("a nested domain with faults", makes, |world| {
        NestedHwpt::with_faults(&world.hwpts[0], &NESTED, world.queue.clone())
    });
    sweep("a virtual IOMMU", makes, |world| Viommu::new(&world.hwpts[0]));
    let on_top = || {
        let mut world = makes();
        let nested = NestedHwpt::new(&world.hwpts[0], &NESTED).unwrap();
        world.kept.push(Box::new(nested));
        world
    };
    sweep("attach to a nested domain", on_top, |world| {
        let nested: &NestedHwpt = world.kept[0].downcast_ref().expect("a nested domain");
        world.devices[0].attach(AttachTo::Nested(nested))
    });
    let guest = || {
        let mut world = makes();
        let viommu = Viommu::new(&world.hwpts[0]).unwrap();
        world.kept.push(Box::new(viommu));
        world
    };
    sweep("a virtual device", guest, |world| of(world, |viommu| viommu.vdevice(&world.devices[0], 9)));
    sweep("a queue of events", guest, |world| of(world, |viommu| viommu.events(1, 16)));
    sweep("a hardware queue", guest, |world| of(world, |viommu| viommu.hw_queue(0, Iova::new(AT), PAGE)));
    sweep("a nested domain of a guest", guest, |world| of(world, |viommu| viommu.nested(&NESTED)));
}

/// What the virtual IOMMU of a world gives.
fn of<T>(world: &World, gives: impl Fn(&Viommu) -> Result<T, Error>) -> Result<T, Error> {
    gives(world.kept[0].downcast_ref().expect("a virtual IOMMU"))
}

#[test]
fn faults() {
    sweep("a queue", World::new, |_| FaultQueue::new(16));
    sweep("a queue that is paid for", World::new, |world| FaultQueue::charged_to(&world.accounts[0], 16));
    sweep("a router", World::new, |world| FaultRouter::new(world.unit(0)));
    let makes = || {
        let mut world = full().with_device().with_device();
        for queue in [Some(world.queue.clone()), Some(FaultQueue::new(4).unwrap()), None] {
            let config = HwptConfig { pasid: true, faults: queue, ..HwptConfig::new(Stage::Second) };
            let hwpt = Hwpt::new(&world.ioas[0], &world.unit(0), config).unwrap();
            world.hwpts.push(hwpt);
        }
        world
    };
    sweep("attach where faults are wanted", makes, |world| world.devices[0].attach(AttachTo::Hwpt(&world.hwpts[0])));
    let asked = || {
        let world = makes();
        world.devices[0].attach(AttachTo::Hwpt(&world.hwpts[0])).unwrap();
        let stream = Stream::function(StreamId::new(0x10));
        for page in 0..5 {
            let iova = Iova::new(AT + page * PAGE);
            let request = PageRequest { stream, iova, prot: Prot::READ, group: 3, last: page == 4 };
            world.router.page_request(&request);
        }
        world
    };
    // One that fails has lost nothing.
    let failed = sweep("read page requests", asked, |world| world.queue.read()?.ok_or(Error::Invalid("it is lost")));
    assert!(failed.allocations >= 2, "{failed:?}");
    for from in 0..3 {
        let attached = || {
            let world = makes();
            world.devices[0].attach(AttachTo::Hwpt(&world.hwpts[from])).unwrap();
            world.devices[1].attach(AttachTo::Hwpt(&world.hwpts[from])).unwrap();
            world
        };
        for to in 0..3 {
            sweep("replace where faults are wanted", attached, |world| {
                world.devices[0].replace(AttachTo::Hwpt(&world.hwpts[to]))
            });
        }
    }
}
