//! Software users of an address space.

use crate::common::*;
use iommu_core::access::Access;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::Prot;
use iommu_tests::mock::*;
use iommu_tests::random::Random;
use std::sync::Arc;

fn access(rig: &Rig, alignment: u64) -> (Access, Arc<MockUser>) {
    let user = MockUser::new();
    let access = rig.access(Some(user.clone()), alignment);
    (access, user)
}

pub fn access_domain_destroy(case: Case) {
    let mut rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(8 * PAGE);
    source.memory.fill();
    rig.map_all(&source, base);
    let (access, user) = access(&rig, MOCK_PAGE);
    let pin = access.pin(range(base + PAGE, 4 * PAGE), Prot::READ_WRITE).unwrap();
    // Every domain goes, and one comes and goes: what is pinned stays where it is.
    rig.leads.clear();
    let mut bytes = [0; 16];
    pin.read(5, &mut bytes).unwrap();
    assert_eq!(bytes[..], source.memory.peek(PAGE + 5, 16));
    if case != Case::NoDomain {
        rig.add_domain().unwrap();
        rig.expect(&[expected(base, 8 * PAGE, &source, 0, Prot::READ_WRITE)]);
        rig.leads.clear();
    }
    let extents: Vec<_> = pin.extents().collect();
    assert_eq!(extents[0].start, source.memory.phys(PAGE));
    assert_eq!(source.memory.pins(), 1);
    drop(pin);
    assert_eq!(user.told().len(), 0);
    access.detach().unwrap();
    drop((access, user));
    rig.close();
}

pub fn access_pin(case: Case) {
    let mut rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(4 * PAGE);
    let (access, user) = access(&rig, MOCK_PAGE);
    rig.ioas.map(&source.pages, 0, 2 * PAGE, at(base), Prot::READ_WRITE).unwrap();
    rig.ioas.map(&source.pages, 2 * PAGE, 2 * PAGE, at(base + 2 * PAGE), Prot::READ).unwrap();

    // Every part of every length, across the two areas. Nothing of it is paid for longer than it is there.
    let usage = || rig.account.as_ref().map(|account| account.usage());
    let before = usage();
    for start in (0..4 * PAGE).step_by(MOCK_PAGE as usize) {
        for len in (MOCK_PAGE..=4 * PAGE - start).step_by(MOCK_PAGE as usize) {
            let pin = access.pin(range(base + start, len), Prot::READ).unwrap();
            assert_eq!(pin.range(), range(base + start, len));
            let mut offset = start;
            for extent in pin.extents() {
                assert_eq!(extent.start, source.memory.phys(offset));
                offset += extent.len;
            }
            assert_eq!(offset, start + len);
        }
    }
    assert_eq!((source.memory.pins(), user.told().len(), usage()), (1, 0, before));

    // Not aligned; read-only; not there.
    for (start, len) in [(1, MOCK_PAGE), (0, 1), (1024, MOCK_PAGE), (0, MOCK_PAGE + 1)] {
        assert_eq!(errno(access.pin(range(base + start, len), Prot::READ)), EINVAL, "{start} {len}");
    }
    assert_eq!(errno(access.pin(range(base + PAGE, 2 * PAGE), Prot::READ_WRITE)), EPERM);
    assert_eq!(errno(access.pin(range(base + 2 * PAGE, MOCK_PAGE), Prot::WRITE)), EPERM);
    access.pin(range(base + PAGE, PAGE), Prot::READ_WRITE).unwrap();
    for (start, len) in [(4 * PAGE, PAGE), (3 * PAGE, 2 * PAGE), (64 * PAGE, PAGE)] {
        assert_eq!(errno(access.pin(range(base + start, len), Prot::READ)), ENOENT, "{start} {len}");
    }

    // A domain more while it is pinned.
    let pin = access.pin(range(base, 4 * PAGE), Prot::READ).unwrap();
    if case != Case::NoDomain {
        rig.add_domain().unwrap();
    }
    let areas = [
        expected(base, 2 * PAGE, &source, 0, Prot::READ_WRITE),
        expected(base + 2 * PAGE, 2 * PAGE, &source, 2 * PAGE, Prot::READ),
    ];
    rig.expect(&areas);
    drop(pin);
    // Detached, it reaches nothing; attached to another address space, what is there.
    access.detach().unwrap();
    assert_eq!(errno(access.pin(range(base, PAGE), Prot::READ)), ENOENT);
    let other = rig.another();
    access.attach(&other).unwrap();
    assert_eq!(errno(access.pin(range(base, PAGE), Prot::READ)), ENOENT);
    other.map(&source.pages, PAGE, PAGE, at(base), Prot::READ).unwrap();
    let pin = access.pin(range(base, PAGE), Prot::READ).unwrap();
    user.hold(pin);
    // Replaced by where it is: nothing happens. Elsewhere: what was pinned is let go of.
    access.replace(&other).unwrap();
    assert_eq!((user.held(), user.told().len()), (1, 0));
    access.replace(&rig.ioas).unwrap();
    assert_eq!((user.held(), user.told()), (0, vec![IovaRange::FULL]));
    // Detached, the same; but one that is never let go of keeps it where it is.
    user.hold(access.pin(range(base, PAGE), Prot::READ).unwrap());
    user.ignore(u64::MAX);
    assert_eq!(errno(access.detach()), EDEADLOCK);
    assert_eq!(errno(access.replace(&other)), EDEADLOCK);
    assert!((200..=210).contains(&user.told().len()));
    user.hold(access.pin(range(base + PAGE, PAGE), Prot::READ).unwrap());
    user.ignore(0);
    access.detach().unwrap();
    assert_eq!(user.held(), 0);
    drop(access);
    drop(other);
    rig.close();
}

pub fn access_pin_unmap(case: Case) {
    let rig = Rig::new(case);
    let base = rig.base;
    let source = rig.source(8 * PAGE);
    let (access, user) = access(&rig, MOCK_PAGE);
    for index in 0..4 {
        let place = base + index * 4 * PAGE;
        rig.ioas.map(&source.pages, 2 * index * PAGE, 2 * PAGE, at(place), Prot::READ_WRITE).unwrap();
    }
    let pin = |start: u64, len: u64| access.pin(range(base + start, len), Prot::READ_WRITE).unwrap();
    user.hold(pin(0, PAGE));
    user.hold(pin(PAGE, PAGE));
    user.hold(pin(4 * PAGE, 2 * PAGE));
    // One area goes, and who uses another is not told of it.
    assert_eq!(rig.unmap(base, 2 * PAGE).unwrap(), 2 * PAGE);
    assert_eq!(user.held(), 1);
    let told = user.told();
    assert!(!told.is_empty() && told.iter().all(|told| !told.overlaps(range(base + 4 * PAGE, 12 * PAGE))), "{told:?}");
    // Nobody uses it: nobody is told.
    assert_eq!(rig.unmap(base + 8 * PAGE, 2 * PAGE).unwrap(), 2 * PAGE);
    assert_eq!(user.told().len(), 0);
    // It takes its time.
    user.ignore(3);
    assert_eq!(rig.unmap(base + 4 * PAGE, 2 * PAGE).unwrap(), 2 * PAGE);
    assert_eq!((user.held(), user.told().len()), (0, 4));
    // It never listens.
    let here = expected(base + 12 * PAGE, 2 * PAGE, &source, 6 * PAGE, Prot::READ_WRITE);
    user.hold(pin(12 * PAGE, PAGE));
    user.ignore(u64::MAX);
    assert_eq!(errno(rig.unmap(base, 16 * PAGE)), EDEADLOCK);
    let told = user.told().len();
    assert!((100..=110).contains(&told), "told {told} times");
    rig.expect(&[here]);
    take_their_time(&rig, base + 76 * PAGE);
    // The area is as good as before.
    user.hold(pin(13 * PAGE, PAGE));
    user.ignore(0);
    assert_eq!(rig.ioas.unmap_all().unwrap(), 2 * PAGE);
    assert_eq!(user.held(), 0);
    rig.expect(&[]);
    drop(access);
    rig.close();
}

/// Three users let go after 60, 120 and 180 calls: as long as one of them does, nobody gives up.
fn take_their_time(rig: &Rig, place: u64) {
    let source = rig.source(PAGE);
    rig.ioas.map(&source.pages, 0, PAGE, at(place), Prot::READ_WRITE).unwrap();
    let users = [60, 120, 180].map(|calls| {
        let user = MockUser::new();
        let access = rig.access(Some(user.clone()), MOCK_PAGE);
        user.hold(access.pin(range(place, PAGE), Prot::READ).unwrap());
        user.ignore(calls);
        (access, user)
    });
    assert_eq!(rig.unmap(place, PAGE).unwrap(), PAGE);
    assert!(users.iter().all(|(_, user)| user.held() == 0));
}

/// Reads and writes of `lens` at odd places of an address space of three areas, one of them read-only, against its bytes.
fn read_and_write(case: Case, alignment: u64, lens: &[u64]) {
    let rig = Rig::new(case);
    let base = rig.base;
    let (one, two) = (rig.source(8 * PAGE), rig.source(2 * PAGE));
    one.memory.fill();
    // Without a user, only reads and writes.
    let access = rig.access(None, alignment);
    rig.ioas.map(&one.pages, 3 * PAGE, 2 * PAGE, at(base), Prot::READ_WRITE).unwrap();
    rig.ioas.map(&two.pages, 0, 2 * PAGE, at(base + 2 * PAGE), Prot::READ_WRITE).unwrap();
    rig.ioas.map(&one.pages, 0, PAGE, at(base + 4 * PAGE), Prot::READ).unwrap();
    let mut oracle = one.memory.peek(3 * PAGE, 2 * PAGE);
    oracle.extend(two.memory.peek(0, 2 * PAGE));
    oracle.extend(one.memory.peek(0, PAGE));
    let mut random = Random::new(case as u64 + 1);
    let end = 5 * PAGE;
    for &len in lens {
        for start in (0..end).step_by(1021).chain([0, PAGE - 1, 2 * PAGE - 1, end - 1]) {
            let bytes: Vec<u8> = (0..len).map(|_| random.number() as u8).collect();
            let result = access.write(Iova::new(base + start), &bytes);
            // The first byte that cannot be written says why.
            if start + len <= 4 * PAGE {
                result.unwrap();
                oracle[start as usize..(start + len) as usize].copy_from_slice(&bytes);
            } else if start + len <= end || start >= 4 * PAGE {
                let expected = if start >= 4 * PAGE || start + len <= end { EPERM } else { ENOENT };
                assert_eq!(errno(result), expected, "{start:#x} {len:#x}");
            } else {
                assert!([EPERM, ENOENT].contains(&errno(result)));
            }
            let mut got = vec![0; len as usize];
            let result = access.read(Iova::new(base + start), &mut got);
            if start + len <= end {
                result.unwrap();
                assert_eq!(got, oracle[start as usize..(start + len) as usize], "{start:#x} {len:#x}");
            } else {
                assert_eq!(errno(result), ENOENT, "{start:#x} {len:#x}");
            }
            let mut memory = one.memory.peek(3 * PAGE, 2 * PAGE);
            memory.extend(two.memory.peek(0, 2 * PAGE));
            memory.extend(one.memory.peek(0, PAGE));
            assert!(memory == oracle, "the memory differs after {len:#x} bytes at {start:#x}");
        }
    }
    assert_eq!(errno(access.write(Iova::new(base), &[])), EINVAL);
    assert_eq!(errno(access.read(Iova::new(base), &mut [])), EINVAL);
    assert_eq!(errno(access.read(Iova::new(u64::MAX), &mut [0, 0])), EOVERFLOW);
    assert_eq!(errno(access.pin(range(base, PAGE), Prot::READ)), EINVAL);
    drop((access, one, two));
    rig.close();
}

pub fn access_rw(case: Case) {
    read_and_write(case, MOCK_PAGE, &[2, 8, 1000, MOCK_PAGE, PAGE, 2 * PAGE, 4 * PAGE, 5 * PAGE]);
}

pub fn access_rw_unaligned(case: Case) {
    read_and_write(case, 1, &[1, 3, 7, 511, MOCK_PAGE - 1, MOCK_PAGE + 1, 3 * PAGE + 13]);
}
