//! The way of faults and page requests.

use super::mock::{REFUSED, TIMEOUT};
use super::*;
use crate::fault::{Event, FaultQueue};
use crate::hw::{AccessKind, Fault, FaultKind, HwError, NestedConfig, PageRequest, ResponseCode};

fn world(streams: &[&[u32]]) -> (World, FaultRouter) {
    let mut world = World::new();
    let router = FaultRouter::new(world.unit.clone()).unwrap();
    world.router = Some(router.clone());
    streams.iter().for_each(|streams| world.add(streams, &[]).bind(OWNER, false).unwrap());
    world.devices.iter().for_each(|device| device.enable(Feature::Pasid).unwrap());
    world.mock.calls();
    (world, router)
}

fn queue() -> FaultQueue {
    FaultQueue::new(16).unwrap()
}

fn with_faults(world: &World, queue: &FaultQueue) -> Hwpt {
    let config = HwptConfig { pasid: true, faults: Some(queue.clone()), ..HwptConfig::new(Stage::First) };
    world.hwpt_of(&world.ioas, config)
}

fn fault(stream: Stream) -> Fault {
    Fault {
        stream,
        iova: Iova::new(0x1000),
        granule: 4096,
        access: AccessKind::Read,
        kind: FaultKind::NotMapped,
        code: 0,
        text: "",
        stalled: None,
    }
}

fn request(stream: Stream, group: u16) -> PageRequest {
    PageRequest { stream, iova: Iova::new(0x1000), prot: Prot::READ, group, last: true }
}

/// Streams of the faults in the queue.
fn seen(queue: &FaultQueue) -> Vec<Stream> {
    let mut seen = Vec::new();
    while let Some(record) = queue.read().unwrap() {
        match record.event {
            Event::Fault(fault) => seen.push(fault.stream),
            other => panic!("{other:?}"),
        }
    }
    seen
}

/// Has the stream that moves fault right before.
fn fault_before_moves(world: &World, router: &FaultRouter) {
    let router = router.clone();
    let hook = move |stream, _| {
        router.fault(&fault(stream));
    };
    *world.mock.before_move.lock().unwrap() = Some(std::boxed::Box::new(hook));
}

#[test]
fn faults_go_to_the_domains_queue_while_hardware_leads_there() {
    let (world, router) = world(&[&[1, 9], &[2, 9]]);
    let queue = queue();
    let hwpt = with_faults(&world, &queue);
    let [one, two] = &world.devices[..] else { unreachable!() };
    assert!(!router.fault(&fault(whole(1))));
    fault_before_moves(&world, &router);
    one.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(seen(&queue), [whole(1), whole(9)]);
    assert!(!router.fault(&fault(whole(2))));
    two.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    one.detach().unwrap();
    assert_eq!(seen(&queue), [whole(2), whole(1)]);
    assert!(!router.fault(&fault(whole(1))) && router.fault(&fault(whole(9))));
    two.detach().unwrap();
    assert_eq!(seen(&queue), [whole(9), whole(2), whole(9)]);
    assert!(!router.fault(&fault(whole(2))) && !router.fault(&fault(whole(9))));
}

#[test]
fn nobody_routes_what_has_no_router() {
    let world = World::with(&[&[1]]);
    let hwpt = with_faults(&world, &queue());
    let plain = world.hwpt();
    let before = world.snapshot();
    assert!(is_invalid(world.devices[0].attach(AttachTo::Hwpt(&hwpt))));
    assert_eq!(world.snapshot(), before);
    world.devices[0].attach(AttachTo::Hwpt(&plain)).unwrap();
    assert!(is_invalid(world.devices[0].replace(AttachTo::Hwpt(&hwpt))));
}

#[test]
fn an_attach_that_fails_leaves_no_route() {
    for error in [REFUSED, TIMEOUT] {
        for good in 0..3 {
            let (world, router) = world(&[&[1, 2]]);
            let hwpt = with_faults(&world, &queue());
            world.mock.fail(good, error, false);
            assert!(world.devices[0].attach(AttachTo::Hwpt(&hwpt)).is_err());
            assert!(!router.fault(&fault(whole(1))) && !router.fault(&fault(whole(2))), "after {good}");
        }
    }
}

#[test]
fn a_replacement_switches_behind_the_hardware() {
    let (world, router) = world(&[&[1, 3]]);
    let (queue, other) = (queue(), queue());
    let (hwpt, next, plain) = (with_faults(&world, &queue), with_faults(&world, &other), world.hwpt());
    let device = &world.devices[0];
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    fault_before_moves(&world, &router);
    // From one queue to another.
    device.replace(AttachTo::Hwpt(&next)).unwrap();
    assert_eq!((seen(&queue), seen(&other)), (std::vec![whole(1), whole(3)], std::vec![]));
    assert!(router.fault(&fault(whole(3))) && router.fault(&fault(whole(1))));
    assert_eq!((seen(&queue), seen(&other)), (std::vec![], std::vec![whole(3), whole(1)]));
    // To none.
    device.replace(AttachTo::Hwpt(&plain)).unwrap();
    assert_eq!((seen(&other), router.fault(&fault(whole(1)))), (std::vec![whole(1), whole(3)], false));
    // From none: before hardware leads there.
    device.replace(AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(seen(&queue), [whole(1), whole(3)]);
    device.detach().unwrap();
    assert!(!router.fault(&fault(whole(1))));
}

#[test]
fn a_replacement_that_fails_leaves_routes_and_requests_alone() {
    for error in [REFUSED, TIMEOUT] {
        for good in 0..2 {
            let (world, router) = world(&[&[1, 3]]);
            let (queue, other) = (queue(), queue());
            let (hwpt, next, plain) = (with_faults(&world, &queue), with_faults(&world, &other), world.hwpt());
            let device = &world.devices[0];
            device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
            router.page_request(&request(whole(1), 5));
            world.mock.calls();
            world.mock.fail(good, error, false);
            assert!(device.replace(AttachTo::Hwpt(&next)).is_err());
            assert!(!world.mock.calls().iter().any(|call| matches!(call, Call::Answer(..))));
            let Event::PageRequests { cookie, .. } = queue.read().unwrap().unwrap().event else { panic!() };
            queue.respond(cookie, ResponseCode::Success).unwrap();
            assert_eq!(world.mock.calls(), [Call::Answer(whole(1), 5, ResponseCode::Success)]);
            assert!(router.fault(&fault(whole(3))) && seen(&queue) == [whole(3)]);
            // And where there was none before.
            device.replace(AttachTo::Hwpt(&plain)).unwrap();
            world.mock.fail(good, error, false);
            assert!(device.replace(AttachTo::Hwpt(&next)).is_err());
            assert!(!router.fault(&fault(whole(1))) && !router.fault(&fault(whole(3))));
        }
    }
}

#[test]
fn requests_that_were_not_answered_are_answered_invalid() {
    let (world, router) = world(&[&[1]]);
    let (queue, other) = (queue(), queue());
    let (hwpt, next) = (with_faults(&world, &queue), with_faults(&world, &other));
    let device = &world.devices[0];
    let invalid = |group| Call::Answer(whole(1), group, ResponseCode::Invalid);
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    router.page_request(&request(whole(1), 5));
    world.mock.calls();
    device.replace(AttachTo::Hwpt(&next)).unwrap();
    assert_eq!(world.mock.calls(), [Call::Move(whole(1), At::Paging(2)), invalid(5)]);
    router.page_request(&request(whole(1), 6));
    device.detach().unwrap();
    let down = [Call::BusMaster(0, false), Call::Move(whole(1), At::Blocked), invalid(6)];
    assert_eq!(world.mock.calls(), down);
}

#[test]
fn each_pasid_and_each_first_stage_has_its_own_queue() {
    let (world, router) = world(&[&[1]]);
    let (queue, other, third) = (queue(), queue(), queue());
    let (hwpt, next) = (with_faults(&world, &queue), with_faults(&world, &other));
    let parent = HwptConfig { nest_parent: true, pasid: true, ..HwptConfig::new(Stage::Second) };
    let parent = world.hwpt_of(&world.ioas, parent);
    let config = NestedConfig { kind: 0, words: &[] };
    let nested = NestedHwpt::with_faults(&parent, &config, third.clone()).unwrap();
    let device = &world.devices[0];
    device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    device.attach_pasid(pasid(1), AttachTo::Hwpt(&next)).unwrap();
    device.attach_pasid(pasid(2), AttachTo::Nested(&nested)).unwrap();
    let streams = [whole(1), tagged(1, 1), tagged(1, 2)];
    assert!(streams.into_iter().all(|stream| router.fault(&fault(stream))));
    for (queue, stream) in [&queue, &other, &third].into_iter().zip(streams) {
        assert_eq!(seen(queue), [stream]);
    }
    assert!(!router.fault(&fault(tagged(1, 3))));
    device.detach_pasid(pasid(2)).unwrap();
    assert!(!router.fault(&fault(tagged(1, 2))) && router.fault(&fault(whole(1))));
}

#[test]
fn a_detach_without_confirmation_keeps_the_route() {
    let (world, router) = world(&[&[1]]);
    let queue = queue();
    let hwpt = with_faults(&world, &queue);
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    world.mock.fail(1, TIMEOUT, false);
    assert_eq!(world.devices[0].detach(), Err(Error::Hardware(HwError::TimedOut(crate::hw::Wait::Completion))));
    assert!(router.fault(&fault(whole(1))));
    world.devices[0].detach().unwrap();
    assert!(!router.fault(&fault(whole(1))));
}
