//! Ownership, and several devices of one group.

use super::*;
use std::boxed::Box;

#[test]
fn a_group_has_one_owner() {
    let mut world = World::new();
    world.add(&[1], &[]);
    world.add(&[2], &[]);
    let [one, other] = &world.devices[..] else { unreachable!() };
    assert_eq!((world.group.owner(), one.bind(OWNER, false)), (None, Ok(())));
    assert_eq!((world.group.owner(), one.bind(OWNER, false)), (Some(OWNER), Err(Error::Busy)));
    assert_eq!(other.bind(OwnerId(8), false), Err(Error::NotOwner));
    assert_eq!(one.bind(OwnerId(8), false), Err(Error::NotOwner));
    assert_eq!(other.bind(OWNER, false), Ok(()));
    assert_eq!((one.unbind(), one.unbind(), one.is_bound()), (Ok(()), Ok(()), false));
    assert_eq!((world.group.owner(), one.bind(OwnerId(8), false)), (Some(OWNER), Err(Error::NotOwner)));
    assert_eq!((other.unbind(), world.group.owner()), (Ok(()), None));
    assert_eq!(one.bind(OwnerId(8), false), Ok(()));
}

#[test]
fn binding_needs_coherent_dma_and_isolated_interrupts() {
    let world = World::new();
    let bind = |coherent, isolated_msi, anyway| {
        let config = DeviceConfig {
            unit: world.unit.clone(),
            streams: &[StreamId::new(1)],
            function: None,
            regions: &[],
            coherent,
            isolated_msi,
            router: None,
            account: None,
        };
        Device::new(&world.group, &config).unwrap().bind(OWNER, anyway)
    };
    assert!(is_invalid(bind(false, true, true)));
    assert!(matches!(bind(true, false, false), Err(Error::NotIsolated(_))));
    assert_eq!(bind(true, false, true), Ok(()));
    assert_eq!(world.group.owner(), None);
}

#[test]
fn a_group_leads_to_one_domain() {
    let world = World::with(&[&[1], &[2]]);
    let (hwpt, other) = (world.hwpt(), world.hwpt());
    let [one, two] = &world.devices[..] else { unreachable!() };
    one.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    let before = world.snapshot();
    assert!(is_invalid(two.attach(AttachTo::Hwpt(&other))));
    assert!(is_invalid(two.attach(AttachTo::Auto(&world.other))));
    assert_eq!(world.snapshot(), before);
    // Any domain of the address space: then the one where the group leads.
    two.attach(AttachTo::Auto(&world.ioas)).unwrap();
    assert_eq!(world.mock.at(whole(2)), At::Paging(1));
    one.detach().unwrap();
    assert!(is_invalid(one.attach(AttachTo::Hwpt(&other))));
    two.detach().unwrap();
    one.attach(AttachTo::Hwpt(&other)).unwrap();
}

#[test]
fn a_stream_in_common_moves_with_the_first_and_the_last() {
    let world = World::with(&[&[1, 9], &[2, 9]]);
    let hwpt = world.hwpt();
    let [one, two] = &world.devices[..] else { unreachable!() };
    one.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    world.mock.calls();
    two.attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(world.mock.calls(), [Call::Move(whole(2), At::Paging(1)), Call::BusMaster(1, true)]);
    one.detach().unwrap();
    assert_eq!(world.mock.calls(), [Call::BusMaster(0, false), Call::Move(whole(1), At::Blocked)]);
    assert_eq!(world.mock.at(whole(9)), At::Paging(1));
    two.detach().unwrap();
    let down = [Call::BusMaster(1, false), Call::Move(whole(2), At::Blocked), Call::Move(whole(9), At::Blocked)];
    assert_eq!(world.mock.calls(), down);
}

#[test]
fn a_second_change_meanwhile_is_busy() {
    let world = Arc::new(World::with(&[&[1], &[2]]));
    let hwpt = world.hwpt();
    let seen = Arc::new(StdMutex::new(Vec::new()));
    let (there, results) = (Arc::downgrade(&world), seen.clone());
    *world.functions[0].during.lock().unwrap() = Some(Box::new(move || {
        let world = there.upgrade().unwrap();
        let other = &world.devices[1];
        let ioas = &world.other;
        let results = &mut *results.lock().unwrap();
        results.push(other.attach(AttachTo::Auto(ioas)).map(drop));
        results.push(other.replace(AttachTo::Auto(ioas)).map(drop));
        results.push(other.attach_pasid(pasid(1), AttachTo::Auto(ioas)).map(drop));
        results.push(other.enable(Feature::Ats));
        results.extend([other.detach(), other.unbind(), other.bind(OWNER, false), world.group.reclaim()]);
        // Looking is no change.
        assert_eq!(world.group.owner(), Some(OWNER));
    }));
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    assert_eq!(core::mem::take(&mut *seen.lock().unwrap()), [Err(Error::Busy); 8]);
    *world.functions[0].during.lock().unwrap() = None;
    assert_eq!(world.devices[1].detach(), Ok(()));
}

#[test]
fn a_drop_waits_for_a_change() {
    let mut world = World::with(&[&[1], &[2]]);
    let hwpt = world.hwpt();
    let dropped = Arc::new(StdMutex::new(None));
    let (last, handle) = (StdMutex::new(world.devices.pop()), dropped.clone());
    *world.functions[0].during.lock().unwrap() = Some(Box::new(move || {
        let last = last.lock().unwrap().take();
        if last.is_some() {
            // Waits until this change is through, so it must not be waited for here.
            *handle.lock().unwrap() = Some(std::thread::spawn(move || drop(last)));
            std::thread::sleep(core::time::Duration::from_millis(20));
        }
    }));
    world.devices[0].attach(AttachTo::Hwpt(&hwpt)).unwrap();
    dropped.lock().unwrap().take().unwrap().join().unwrap();
    world.devices[0].detach().unwrap();
    world.devices[0].unbind().unwrap();
    assert_eq!(world.group.owner(), None);
}

#[test]
fn many_cpus_change_one_group() {
    let world = World::with(&[&[1, 9], &[2, 9], &[3], &[4, 9]]);
    let hwpt = world.hwpt();
    std::thread::scope(|scope| {
        for device in &world.devices {
            scope.spawn(|| {
                for _ in 0..300 {
                    while device.attach(AttachTo::Hwpt(&hwpt)) == Err(Error::Busy) && !device.is_attached() {}
                    while device.detach() == Err(Error::Busy) {}
                }
            });
        }
    });
    assert_eq!(world.mock.streams(), BTreeMap::new());
    assert!(!hwpt.is_used() && world.functions.iter().all(|function| !*function.mastering.lock().unwrap()));
}
