//! Virtual devices, requests, events, hardware queues.

extern crate std;

use super::*;
use crate::addr::{Iova, PhysAddr, PhysExtent};
use crate::device::tests::mock::{Call, REFUSED};
use crate::device::tests::{OWNER, World, map, range};
use crate::hw::{Prot, Stage, StreamId};
use crate::hwpt::HwptConfig;
use crate::ioas::Placement;
use crate::pages::Pages;
use crate::quota::Amounts;
use std::vec::Vec;

fn parent(world: &World) -> Hwpt {
    world.hwpt_of(&world.ioas, HwptConfig { nest_parent: true, ..HwptConfig::new(Stage::Second) })
}

fn request(virt_id: u64, word: u64) -> DeviceInvalidation {
    DeviceInvalidation { virt_id, request: Invalidation { kind: 1, words: [word, 0] } }
}

fn error<T>(result: Result<T, Error>) -> Option<Error> {
    result.err()
}

fn is_invalid<T>(result: Result<T, Error>) -> bool {
    matches!(error(result), Some(Error::Invalid(_)))
}

#[test]
fn it_stands_on_a_nest_parent() {
    let world = World::with(&[&[1]]);
    assert!(is_invalid(Viommu::new(&world.hwpt())));
    let parent = parent(&world);
    let usage = world.account.usage();
    let viommu = Viommu::new(&parent).unwrap();
    assert_eq!((world.account.usage().objects, parent.is_used()), (usage.objects + 1, true));
    let nested = viommu.nested(&NestedConfig { kind: 0, words: &[] }).unwrap();
    let (viommu, busy) = viommu.destroy().err().unwrap();
    assert_eq!(busy, Error::Busy);
    drop(nested);
    let vdevice = viommu.vdevice(&world.devices[0], 1).unwrap();
    let (viommu, _) = viommu.destroy().err().unwrap();
    // What was made from it keeps what it needs.
    drop(viommu);
    assert_eq!((vdevice.is_tombstone(), parent.is_used()), (false, true));
    drop(vdevice);
    assert_eq!((world.account.usage(), parent.is_used()), (usage, false));
}

#[test]
fn numbers_and_devices_are_unique() {
    let mut world = World::with(&[&[1], &[2]]);
    world.add(&[3], &[]);
    let parent = parent(&world);
    let (viommu, other) = (Viommu::new(&parent).unwrap(), Viommu::new(&parent).unwrap());
    let [one, two, unbound] = &world.devices[..] else { unreachable!() };
    let usage = world.account.usage();
    let first = viommu.vdevice(one, 0x99).unwrap();
    let after = world.account.usage();
    assert_eq!((first.virt_id(), after.objects), (0x99, usage.objects + 1));
    // The number is taken; the device has one, here or elsewhere.
    assert_eq!(error(viommu.vdevice(two, 0x99)), Some(Error::Exists));
    assert_eq!(error(viommu.vdevice(one, 0x98)), Some(Error::Exists));
    assert_eq!(error(other.vdevice(one, 0x99)), Some(Error::Exists));
    assert!(is_invalid(viommu.vdevice(unbound, 1)));
    let foreign = World::with(&[&[4]]);
    assert!(is_invalid(viommu.vdevice(&foreign.devices[0], 1)));
    assert_eq!(world.account.usage(), after);
    // None of that left anything behind.
    let second = viommu.vdevice(two, 0x98).unwrap();
    drop(first);
    let first = viommu.vdevice(one, 0x99).unwrap();
    drop((first, second));
    assert_eq!(world.account.usage(), usage);
    world.account.set_limits(usage);
    assert!(matches!(viommu.vdevice(one, 1), Err(Error::Quota(_))));
}

#[test]
fn a_device_that_goes_leaves_a_tombstone() {
    let mut world = World::with(&[&[1], &[2]]);
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let (stone, other) = (viommu.vdevice(&world.devices[1], 7).unwrap(), viommu.vdevice(&world.devices[0], 8).unwrap());
    let invalidation = Invalidation { kind: 1, words: [5, 0] };
    stone.invalidate(&invalidation).unwrap();
    assert_eq!(world.mock.calls().last(), Some(&Call::InvalidateDevice(StreamId::new(2), 5)));
    world.devices.pop();
    world.mock.calls();
    assert!(stone.is_tombstone() && !other.is_tombstone());
    assert_eq!(stone.invalidate(&invalidation), Err(Error::NoSuchObject));
    assert_eq!(viommu.invalidate(&[request(8, 1), request(7, 2)]), (1, Err(Error::NoSuchObject)));
    assert_eq!(world.mock.calls(), [Call::InvalidateDevice(StreamId::new(1), 1)]);
    // The number stays taken until the owner took notice.
    world.add(&[2], &[]).bind(OWNER, false).unwrap();
    assert_eq!(error(viommu.vdevice(&world.devices[1], 7)), Some(Error::Exists));
    drop(stone);
    let again = viommu.vdevice(&world.devices[1], 7).unwrap();
    assert_eq!(again.invalidate(&invalidation), Ok(()));
    assert_eq!(error(viommu.vdevice(&world.devices[1], 9)), Some(Error::Exists));
}

#[test]
fn what_is_unbound_and_bound_again_is_another() {
    let world = World::with(&[&[1]]);
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let device = &world.devices[0];
    let stone = viommu.vdevice(device, 7).unwrap();
    device.unbind().unwrap();
    assert!(stone.is_tombstone());
    device.bind(crate::group::OwnerId(99), false).unwrap();
    assert!(stone.is_tombstone());
    assert_eq!(error(viommu.vdevice(device, 7)), Some(Error::Exists));
    let new = viommu.vdevice(device, 8).unwrap();
    // The old one goes without taking the new one's place along.
    drop(stone);
    assert_eq!(error(viommu.vdevice(device, 9)), Some(Error::Exists));
    assert!(!new.is_tombstone());
}

#[test]
fn requests_reach_every_stream_of_the_device_they_name() {
    let world = World::with(&[&[1, 6], &[2]]);
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let _vdevices = (viommu.vdevice(&world.devices[0], 20), viommu.vdevice(&world.devices[1], 10));
    world.mock.calls();
    let call = |stream, word| Call::InvalidateDevice(StreamId::new(stream), word);
    assert_eq!(viommu.invalidate(&[request(10, 1), request(20, 2)]), (2, Ok(())));
    assert_eq!(world.mock.calls(), [call(2, 1), call(1, 2), call(6, 2)]);
    assert_eq!(viommu.invalidate(&[request(15, 1)]), (0, Err(Error::NoSuchObject)));
    world.mock.fail(1, REFUSED, false);
    assert_eq!(viommu.invalidate(&[request(10, 1), request(20, 2)]), (1, Err(Error::Hardware(REFUSED))));
    world.mock.calls();
    let many: Vec<_> = (0..1000).map(|word| request(10, word)).collect();
    assert_eq!((viommu.invalidate(&many), world.mock.calls().len()), ((256, Ok(())), 256));
}

#[test]
fn there_is_one_queue_of_each_type() {
    let world = World::new();
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let usage = world.account.usage();
    assert!(is_invalid(viommu.events(1, 0)));
    assert!(is_invalid(viommu.events(1, EventQueue::MOST_EVENTS + 1)));
    let queue = viommu.events(1, 4).unwrap();
    let held = world.account.usage();
    assert_eq!((held.objects, queue.kind()), (usage.objects + 1, 1));
    assert_eq!(held.metadata - usage.metadata, 4 * size_of::<Event>() as u64);
    assert_eq!(error(viommu.events(1, 4)), Some(Error::Exists));
    let other = viommu.events(2, EventQueue::MOST_EVENTS).unwrap();
    assert_eq!((viommu.post(1, None, [1; 4]), viommu.post(3, None, [3; 4])), (Ok(true), Ok(false)));
    assert_eq!((other.read(), queue.read().map(|event| event.words)), (None, Some([1; 4])));
    drop(queue);
    assert_eq!(viommu.post(1, None, [1; 4]), Ok(false));
    let queue = viommu.events(1, 4).unwrap();
    assert_eq!(queue.read(), None);
    drop((queue, other));
    assert_eq!(world.account.usage(), usage);
    world.account.set_limits(Amounts { metadata: usage.metadata + 10, ..Amounts::UNLIMITED });
    assert!(matches!(viommu.events(1, 4), Err(Error::Quota(_))));
}

#[test]
fn events_name_the_guests_number_of_the_device() {
    let mut world = World::with(&[&[1, 6], &[2]]);
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let _vdevices = (viommu.vdevice(&world.devices[0], 20), viommu.vdevice(&world.devices[1], 10));
    let queue = viommu.events(1, 8).unwrap();
    let post = |stream, word| viommu.post(1, Some(StreamId::new(stream)), [word, 0, 0, 0]);
    assert_eq!([post(6, 1), post(2, 2), post(9, 3), post(1, 4)], [Ok(true), Ok(true), Ok(false), Ok(true)]);
    let read = || queue.read().map(|event| (event.virt_id, event.words[0], event.sequence, event.lost));
    let events: Vec<_> = core::iter::from_fn(read).collect();
    assert_eq!(events, [(Some(20), 1, 0, false), (Some(10), 2, 1, false), (Some(20), 4, 2, false)]);
    // A tombstone has no events any more.
    world.devices.pop();
    assert_eq!(viommu.post(1, Some(StreamId::new(2)), [0; 4]), Ok(false));
}

#[test]
fn losses_are_told_by_sequence_numbers() {
    let world = World::new();
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let queue = viommu.events(1, 3).unwrap();
    let post = |word: u64| viommu.post(1, None, [word; 4]).unwrap();
    let read = || queue.read().map(|event| (event.sequence, event.lost, event.words[3]));
    assert_eq!([0, 1, 2, 3, 4].map(post), [true, true, true, false, false]);
    assert!(queue.has_lost());
    assert_eq!([read(), read()], [Some((0, false, 0)), Some((1, false, 1))]);
    assert_eq!([5, 6, 7].map(post), [true, true, false]);
    let all: Vec<_> = core::iter::from_fn(read).collect();
    assert_eq!(all, [(2, false, 2), (5, true, 5), (6, false, 6)]);
    // The last one is missing, and nothing that was read says so.
    assert!(queue.has_lost());
    assert_eq!((post(8), queue.has_lost(), read(), read()), (true, false, Some((8, true, 8)), None));
    // Around the end of the memory, and of the numbers.
    viommu.0.state.lock().rings[0].wind_to(u32::MAX);
    for word in 0..20u64 {
        assert!(post(word));
        assert_eq!(read(), Some((u32::MAX.wrapping_add(word as u32), false, word)));
    }
}

#[test]
fn posting_never_waits() {
    let world = World::new();
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let queue = viommu.events(1, 3).unwrap();
    let held = viommu.0.state.lock();
    assert_eq!(viommu.post(1, None, [0; 4]), Err(Error::Busy));
    drop(held);
    assert_eq!(queue.read(), None);
    assert_eq!(viommu.post(1, None, [0; 4]), Ok(true));
    assert_eq!(queue.read().map(|event| (event.sequence, event.lost)), Some((0, false)));
}

#[test]
fn a_hardware_queue_is_one_run_that_stays() {
    let world = World::new();
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let ioas = &world.ioas;
    // Two areas that touch on both sides, and one that touches on one.
    map(ioas, 0x10000, 0x8000, 0x2000, Prot::READ_WRITE);
    map(ioas, 0x12000, 0xa000, 0x2000, Prot::READ);
    map(ioas, 0x14000, 0x8000, 0x1000, Prot::READ);
    let usage = world.account.usage();
    let at = Iova::new(0x11800);
    assert_eq!(error(viommu.hw_queue(0, at, 0)), Some(Error::Empty));
    assert_eq!(error(viommu.hw_queue(0, Iova::new(u64::MAX), 2)), Some(Error::Overflow { iova: Iova::new(u64::MAX) }));
    assert_eq!(error(viommu.hw_queue(0, at, 0x4000)), Some(Error::BadMemory));
    let hole = Iova::new(0x15000);
    assert_eq!(error(viommu.hw_queue(0, Iova::new(0x14000), 0x1001)), Some(Error::NotFound { iova: hole }));
    assert_eq!(error(viommu.hw_queue(0, Iova::new(0x14800), 0x1000)), Some(Error::NotFound { iova: hole }));
    assert_eq!(error(viommu.hw_queue(0, hole, 1)), Some(Error::NotFound { iova: hole }));
    assert_eq!(world.account.usage(), usage);
    let locks = || [0x10000, 0x12000, 0x14000].map(|at| ioas.area(range(at, 1)).unwrap().locks);
    assert_eq!(locks(), [0; 3]);

    let queue = viommu.hw_queue(3, at, 0x1000).unwrap();
    assert_eq!((queue.index(), queue.base(), queue.range()), (3, PhysAddr::new(0x9800), range(0x11800, 0x1000)));
    assert_eq!((locks(), world.account.usage().objects), ([1, 1, 0], usage.objects + 1));
    assert_eq!(error(viommu.hw_queue(3, Iova::new(0x14000), 1)), Some(Error::Exists));
    assert_eq!(locks(), [1, 1, 0]);
    assert_eq!(ioas.unmap(range(0x12000, 0x2000)), Err(Error::Busy));
    let other = viommu.hw_queue(4, Iova::new(0x12000), 1).unwrap();
    drop(queue);
    assert_eq!((locks(), ioas.unmap(range(0x10000, 0x2000))), ([0, 1, 0], Ok(0x2000)));
    drop(other);
    assert_eq!(ioas.unmap_all(), Ok(0x3000));
    drop(viommu.hw_queue(3, Iova::new(0), 0));
}

#[test]
fn runs_that_only_begin_alike_are_not_one() {
    let world = World::new();
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let run = |start, len| PhysExtent::new(PhysAddr::new(start), len);
    for runs in [[run(0x8000, 0x1000), run(0x8000, 0x1000)], [run(0x8000, 0x1000), run(0x7000, 0x1000)]] {
        let pages = Pages::from_extents(&runs).unwrap();
        let at = Iova::new(0x10000);
        world.ioas.map(&pages, 0, 0x2000, Placement::Fixed(at), Prot::READ).unwrap();
        assert_eq!(error(viommu.hw_queue(0, at, 0x1001)), Some(Error::BadMemory));
        assert!(viommu.hw_queue(0, at, 0x1000).is_ok());
        world.ioas.unmap_all().unwrap();
    }
}

#[test]
fn devices_come_and_go_while_they_are_named() {
    let world = World::with(&[&[1]]);
    let viommu = Viommu::new(&parent(&world)).unwrap();
    let device = &world.devices[0];
    let usage = world.account.usage();
    let name = |virt_id| {
        for _ in 0..500 {
            match viommu.vdevice(device, virt_id) {
                Ok(vdevice) => {
                    let done = vdevice.invalidate(&Invalidation { kind: 1, words: [0; 2] });
                    assert!(matches!(done, Ok(()) | Err(Error::NoSuchObject)), "{done:?}");
                }
                Err(error) => assert!(matches!(error, Error::Exists | Error::Invalid(_)), "{error:?}"),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| name(1));
        scope.spawn(|| name(2));
        for _ in 0..500 {
            device.unbind().unwrap();
            device.bind(OWNER, false).unwrap();
        }
    });
    // Nothing is left of any of them.
    assert_eq!(world.account.usage(), usage);
    drop(viommu.vdevice(device, 1).unwrap());
    drop(viommu.vdevice(device, 2).unwrap());
}

#[test]
fn a_device_that_is_dropped_unconfirmed_leaves_a_tombstone_too() {
    let mut world = World::with(&[&[1]]);
    let (parent, device) = (parent(&world), world.devices.pop().unwrap());
    let viommu = Viommu::new(&parent).unwrap();
    let vdevice = viommu.vdevice(&device, 5).unwrap();
    device.attach(crate::device::AttachTo::Hwpt(&parent)).unwrap();
    world.mock.fail(0, REFUSED, true);
    drop(device);
    world.mock.mend();
    assert_eq!(world.group.owner(), Some(OWNER));
    assert!(vdevice.is_tombstone());
    assert_eq!(viommu.post(1, Some(StreamId::new(1)), [0; 4]), Ok(false));
    assert_eq!((world.group.reclaim(), world.group.owner()), (Ok(()), None));
}
