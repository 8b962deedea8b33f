//! Devices that come, move and go while things are mapped; faults that come at any moment.

use crate::explore::{Work, explore, quietly, set_handler, side_by_side};
use crate::serial::{Op, real};
use crate::world::{AT, World};
use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::device::{AttachTo, Device, DeviceConfig, Feature};
use iommu_core::fault::{Event, FaultQueue, FaultRouter};
use iommu_core::group::{Group, OwnerId};
use iommu_core::hw::{
    AccessKind, Fault, FaultKind, PageRequest, Pasid, Prot, ResponseCode, Stage, Stream, StreamId, Transition,
};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_tests::mock::{Leads, MockFunction};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn stream(number: u32) -> Stream {
    Stream { id: StreamId::new(number), pasid: None }
}

fn device(world: &World, group: &Group, number: u32, router: Option<FaultRouter>) -> Device {
    let device = Device::new(
        group,
        &DeviceConfig {
            unit: world.unit(0),
            streams: &[StreamId::new(number)],
            function: Some(MockFunction::capable(&world.machine)),
            regions: &[],
            coherent: true,
            isolated_msi: true,
            router,
            account: None,
        },
    );
    let device = device.unwrap();
    device.bind(OwnerId(1), false).unwrap();
    device.enable(Feature::Pasid).unwrap();
    device
}

/// Somebody else may be at changing the group, or was faster.
fn moved(found: Result<Transition, Error>) -> bool {
    match found {
        Ok(_) => true,
        Err(Error::Busy | Error::Invalid(_)) => false,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn devices_come_and_go_while_others_map() {
    explore("devices come and go while others map", 1200, || {
        let (world, devices) = quietly(|| {
            let world = World::new();
            real(&world, AT, Op::Map { at: 0, memory: 0, pages: 2 }).unwrap();
            let groups: Vec<_> = (0..2).map(|_| Group::new(None).unwrap()).collect();
            let devices: Vec<_> = (0..2).map(|at| device(&world, &groups[at], 0x10 + at as u32, None)).collect();
            (world, devices)
        });
        // Both want an automatic domain of the same address space.
        let comes = |at: usize| -> Work<'_, ()> {
            let (world, devices) = (&world, &devices);
            Box::new(move || {
                devices[at].attach(AttachTo::Auto(&world.ioas[0])).unwrap();
                let ways = world.units[0].ways(stream(0x10 + at as u32), AT);
                assert_eq!(ways.first().map(|way| way.0), Some(world.memories[0].phys(0)), "it gets there");
                devices[at].detach().unwrap();
            })
        };
        let maps: Work<'_, ()> = Box::new(|| {
            real(&world, AT, Op::Map { at: 4, memory: 1, pages: 3 }).unwrap();
            real(&world, AT, Op::Unmap { at: 4, pages: 3 }).unwrap();
        });
        side_by_side(vec![comes(0), comes(1), maps]);
        quietly(|| {
            assert_eq!(world.ioas[0].alignment(), 1, "automatic domains go with their devices");
            drop(devices);
            world.finish();
        });
    });
}

#[test]
fn a_group_that_several_move() {
    explore("a group that several move", 1200, || {
        let (world, hwpts, devices) = quietly(|| {
            let world = World::new();
            real(&world, AT, Op::Map { at: 0, memory: 0, pages: 2 }).unwrap();
            let hwpts: Vec<_> = vec![world.domain(0, 0), world.domain(1, 0)];
            let group = Group::new(None).unwrap();
            let devices: Vec<_> = (0..2).map(|at| device(&world, &group, 0x10 + at, None)).collect();
            devices[0].attach(AttachTo::Hwpt(&hwpts[0])).unwrap();
            (world, hwpts, devices)
        });
        let pasid = Pasid::new(7).unwrap();
        let moves: Work<'_, ()> = Box::new(|| _ = moved(devices[0].replace(AttachTo::Hwpt(&hwpts[1]))));
        let joins: Work<'_, ()> = Box::new(|| {
            moved(devices[1].attach(AttachTo::Hwpt(&hwpts[0])));
            match devices[1].detach() {
                Ok(()) | Err(Error::Busy) => {}
                Err(error) => panic!("{error:?}"),
            }
        });
        let tagged: Work<'_, ()> = Box::new(|| {
            if moved(devices[0].attach_pasid(pasid, AttachTo::Hwpt(&hwpts[0]))) {
                while devices[0].detach_pasid(pasid) == Err(Error::Busy) {
                    shuttle::thread::yield_now();
                }
            }
        });
        let maps: Work<'_, ()> = Box::new(|| _ = real(&world, AT, Op::Unmap { at: 0, pages: 2 }).unwrap());
        side_by_side(vec![moves, joins, tagged, maps]);
        quietly(|| {
            // All of the group that is attached leads to the same.
            let leads: Vec<_> = (0..2).map(|at| world.units[0].leads(stream(0x10 + at))).collect();
            let attached: Vec<_> = leads.into_iter().filter(|leads| *leads != Leads::Blocked).collect();
            assert!(attached.windows(2).all(|pair| pair[0] == pair[1]), "{attached:?}");
            assert_eq!(devices[0].pasid_of(&hwpts[0]), None);
            drop((devices, hwpts));
            world.finish();
        });
    });
}

fn fault(number: u32) -> Fault {
    Fault {
        stream: stream(number),
        iova: Iova::new(0x4000),
        granule: 4096,
        access: AccessKind::Read,
        kind: FaultKind::NotMapped,
        code: 1,
        text: "nothing there",
        stalled: None,
    }
}

fn request(number: u32, group: u16, last: bool) -> PageRequest {
    PageRequest { stream: stream(number), iova: Iova::new(0x4000), prot: Prot::READ, group, last }
}

/// An interrupt comes wherever a lock is about to be taken and wherever a driver is called, on the CPU that is there, with
/// whatever it holds: reporting neither waits for that nor breaks the order of locks.
#[test]
fn faults_come_at_any_moment() {
    explore("faults come at any moment", 1200, || {
        let reported = Arc::new(AtomicU64::new(0));
        let (world, hwpts, devices, queue) = quietly(|| {
            let world = World::new();
            real(&world, AT, Op::Map { at: 0, memory: 0, pages: 2 }).unwrap();
            let queue = FaultQueue::new(4).unwrap();
            let router = FaultRouter::new(world.unit(0)).unwrap();
            let config = HwptConfig { faults: Some(queue.clone()), ..HwptConfig::new(Stage::Second) };
            let hwpts: Vec<_> =
                (0..2).map(|_| Hwpt::new(&world.ioas[0], &world.unit(0), config.clone()).unwrap()).collect();
            let group = Group::new(None).unwrap();
            let devices = vec![device(&world, &group, 0x10, Some(router.clone()))];
            let count = reported.clone();
            set_handler(Arc::new(move || {
                let n = count.fetch_add(1, Ordering::Relaxed) as u16;
                router.fault(&fault(0x10));
                router.page_request(&request(0x10, n % 7, n % 3 == 2));
                // Nobody's.
                assert!(!router.fault(&fault(0x99)));
            }));
            (world, hwpts, devices, queue)
        });
        let moves: Work<'_, ()> = Box::new(|| {
            devices[0].attach(AttachTo::Hwpt(&hwpts[0])).unwrap();
            devices[0].replace(AttachTo::Hwpt(&hwpts[1])).unwrap();
            devices[0].detach().unwrap();
        });
        let maps: Work<'_, ()> = Box::new(|| {
            real(&world, AT, Op::Map { at: 4, memory: 1, pages: 3 }).unwrap();
            real(&world, AT, Op::Unmap { at: 0, pages: 7 }).unwrap();
        });
        let reads: Work<'_, ()> = Box::new(|| {
            for _ in 0..4 {
                match queue.read() {
                    Ok(Some(record)) => {
                        if let Event::PageRequests { cookie, requests } = record.event {
                            assert!(requests.iter().rev().skip(1).all(|request| !request.last), "whole groups");
                            assert!(requests.last().is_some_and(|request| request.last), "whole groups");
                            match queue.respond(cookie, ResponseCode::Success) {
                                // Answered already where the device went.
                                Ok(()) | Err(Error::Invalid(_) | Error::NoSuchObject) => {}
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                    }
                    Ok(None) => shuttle::thread::yield_now(),
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        side_by_side(vec![moves, maps, reads]);
        assert!(reported.load(Ordering::Relaxed) > 20);
        quietly(|| {
            drop((devices, hwpts, queue));
            world.finish();
        });
    });
}
