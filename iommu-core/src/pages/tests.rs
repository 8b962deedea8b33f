extern crate std;

use super::*;
use crate::access::{Access, AccessConfig, AccessUser};
use crate::addr::{IovaRange, PhysAddr};
use crate::hw::Prot;
use crate::ioas::{Ioas, IoasConfig, Placement};
use crate::quota::{Amounts, Resource};
use crate::test_support::{Manner, MockMemory, Stop, platform};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::vec::Vec;
use std::{format, thread, vec};

fn run(start: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(start), len)
}

/// A source of `memory`, without an account.
fn pages(memory: &Arc<MockMemory>) -> Pages {
    Pages::new(memory.clone(), None).unwrap()
}

fn all(pin: &PagesPin) -> Vec<PhysExtent> {
    pin.extents(0, u64::MAX).collect()
}

/// Runs of any shape: equal, equal but for the last, mixed, touching, empty.
fn random_runs(random: &mut impl FnMut(u64) -> u64) -> Vec<PhysExtent> {
    let count = random(12);
    let shape = random(4);
    let each = random(5) + 1;
    let mut at = random(1 << 40);
    let mut runs: Vec<_> = (0..count)
        .map(|_| {
            let len = if shape == 0 { random(6) } else { each };
            at += if random(4) == 0 { 0 } else { 1 + random(1 << 20) };
            let run = run(at, len);
            at += len;
            run
        })
        .collect();
    if let (Some(last), 2) = (runs.last_mut(), shape) {
        last.len = random(2 * each);
    }
    runs
}

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed * 2 + 1;
    move |below| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[test]
fn one_run_takes_no_memory() {
    let one = Pages::from_extents(&[run(0x1000, 0x3000)]).unwrap();
    let joined = Pages::from_extents(&[run(0x1000, 0x1000), run(9, 0), run(0x2000, 0x2000)]).unwrap();
    for pages in [one, joined] {
        assert_eq!((pages.len(), pages.metadata(), pages.is_pinned()), (0x3000, 0, true));
        assert!(pages.writable() && pages.kind() == MemoryKind::Ram && !pages.is_revoked());
        let pin = pages.pin().unwrap();
        assert_eq!(all(&pin), [run(0x1000, 0x3000)]);
        assert_eq!(pin.extents(0x800, 0x1000).collect::<Vec<_>>(), [run(0x1800, 0x1000)]);
        assert_eq!(pin.extents(0x3000, 1).count(), 0);
        assert_eq!((pin.phys(0x2fff), pin.phys(0x3000)), (Some(PhysAddr::new(0x3fff)), None));
        assert!(pin.another().pages().same(&pages));
    }
    let top = Pages::from_extents(&[run(u64::MAX - 9, 10)]).unwrap().pin().unwrap();
    assert_eq!((top.phys(9), all(&top)), (Some(PhysAddr::new(u64::MAX)), vec![run(u64::MAX - 9, 10)]));
    // Nothing comes after the top, not even what begins at 0.
    let around = Pages::from_extents(&[run(u64::MAX, 1), run(0, 1)]).unwrap();
    assert_eq!(all(&around.pin().unwrap()).len(), 2);
}

#[test]
fn extents_that_are_none_are_refused() {
    let error = |extents: &[PhysExtent]| Pages::from_extents(extents).map(|_| ()).unwrap_err();
    assert_eq!(error(&[]), Error::Empty);
    assert_eq!(error(&[run(1, 0)]), Error::Empty);
    assert_eq!(error(&[run(1, 0), run(2, 0)]), Error::Empty);
    assert_eq!(error(&[run(u64::MAX, 2)]), Error::BadMemory);
    assert_eq!(error(&[run(0, 1), run(u64::MAX, 2)]), Error::BadMemory);
    assert!(matches!(error(&[run(0, u64::MAX), run(0, 1)]), Error::Overflow { .. }));
    assert!(Pages::from_extents(&[run(1, u64::MAX)]).is_ok());
}

#[test]
fn a_run_costs_at_most_16_bytes_with_slack() {
    let object = size_of::<Runs>() + OWNERS;
    for count in [2, 3, 5, 1000] {
        let equal: Vec<_> = (0..count).map(|n| run(n * 0x2000, 0x1000)).collect();
        let mut shorter_last = equal.clone();
        shorter_last[count as usize - 1].len = 0x10;
        let mut longer_last = equal.clone();
        longer_last[count as usize - 1].len = 0x1010;
        let mixed: Vec<_> = (0..count).map(|n| run(n * 0x2000, n + 1)).collect();
        // The last two are one run, longer than the others.
        let mut touching = equal.clone();
        touching.push(run((count - 1) * 0x2000 + 0x1000, 0x1000));
        for (runs, each, left) in [
            (equal, 8, count),
            (shorter_last, 8, count),
            (longer_last, 16, count),
            (mixed, 16, count),
            (touching, 16, count),
        ] {
            let kept = Pages::from_extents(&runs).unwrap();
            assert_eq!(kept.metadata(), object + each * left as usize, "{runs:x?}");
            // A source that does not know how many there will be ends up with the same.
            for hint in [0, 1, 2, usize::MAX] {
                let mut memory = MockMemory::new(&runs);
                memory.hint = hint;
                let account = Account::new(Amounts::UNLIMITED).unwrap();
                let pages = Pages::new(memory.shared(), Some(&account)).unwrap();
                let before = pages.metadata();
                let pin = pages.pin().unwrap();
                assert_eq!(pages.metadata() - before, size_of::<pin::Pinned>() + OWNERS + each * left as usize);
                assert_eq!(account.usage().metadata, pages.metadata() as u64, "hint {hint}");
                drop(pin);
                assert_eq!(account.usage(), Amounts { metadata: before as u64, ..Amounts::NONE });
            }
        }
    }
}

#[test]
fn runs_are_cut_where_they_should_be() {
    for seed in 0..2000 {
        let mut random = random(seed);
        let runs = random_runs(&mut random);
        let flat: Vec<u64> = runs.iter().flat_map(|run| run.start.get()..run.start.get() + run.len).collect();
        let Ok(pages) = Pages::from_extents(&runs) else {
            assert!(flat.is_empty(), "{runs:?}");
            continue;
        };
        let pins = [pages.pin().unwrap(), self::pages(&MockMemory::new(&runs).shared()).pin().unwrap()];
        for pin in pins {
            assert_eq!(pin.pages().len(), flat.len() as u64);
            for offset in 0..flat.len() as u64 + 2 {
                assert_eq!(pin.phys(offset).map(PhysAddr::get), flat.get(offset as usize).copied(), "{runs:?}");
                for len in [0, 1, 2, random(20), u64::MAX] {
                    let cut: Vec<_> = pin.extents(offset, len).collect();
                    let bytes: Vec<u64> =
                        cut.iter().flat_map(|run| run.start.get()..run.start.get() + run.len).collect();
                    let end = flat.len().min((offset.saturating_add(len)) as usize);
                    assert_eq!(bytes, flat.get(offset as usize..end).unwrap_or(&[]), "{runs:?} {offset} {len}");
                    assert!(cut.windows(2).all(|two| two[0].start.get() + two[0].len != two[1].start.get()), "{cut:?}");
                    assert!(cut.iter().all(|run| run.len != 0));
                }
            }
        }
    }
}

#[test]
fn a_source_is_pinned_once_however_many_use_it() {
    platform();
    let memory = MockMemory::scattered(3, 0x1000).shared();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
    assert!(!pages.is_pinned() && memory.pins() == 0 && account.usage().pinned == 0);
    for round in 1..4 {
        let registered = pages.register().unwrap();
        let users: Vec<_> = (0..10).map(|_| pages.clone().pin().unwrap()).collect();
        let others: Vec<_> = users.iter().map(PagesPin::another).collect();
        drop(registered);
        drop(users);
        assert_eq!((memory.pins(), account.usage().pinned), (round, 0x3000));
        assert!(memory.is_pinned() && pages.is_pinned());
        assert!(others.iter().all(|user| user.pages().same(&pages) && all(user) == memory.extents));
        drop(others);
        assert!(!memory.is_pinned() && !pages.is_pinned() && account.usage().pinned == 0);
    }
    // The last user may outlive every handle.
    let last = pages.pin().unwrap();
    drop(pages);
    assert!(memory.is_pinned() && account.usage().metadata > 0);
    drop(last);
    assert_eq!((memory.is_pinned(), account.usage(), Arc::strong_count(&memory)), (false, Amounts::NONE, 1));
}

#[test]
fn sources_that_do_not_keep_to_their_word_are_refused() {
    platform();
    let memory = MockMemory::scattered(3, 0x1000).shared();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
    let (before, mut wrong) = (account.usage(), 0);
    for (manner, error) in [
        (Manner::Refuses(MemoryError::OutOfMemory), Error::OutOfMemory),
        (Manner::Refuses(MemoryError::Unavailable), Error::BadMemory),
        (Manner::Refuses(MemoryError::Unsupported), Error::BadMemory),
        (Manner::TooShort, Error::BadMemory),
        (Manner::TooLong, Error::BadMemory),
        (Manner::TooLongButListens, Error::BadMemory),
        (Manner::Wraps, Error::BadMemory),
    ] {
        memory.set(manner);
        assert_eq!(pages.pin().map(|_| ()).unwrap_err(), error, "{manner:?}");
        assert_eq!((memory.is_pinned(), pages.is_pinned(), account.usage()), (false, false, before), "{manner:?}");
        if manner == Manner::TooLongButListens {
            assert_eq!(memory.pins(), wrong, "it was told at once");
        }
        wrong = memory.pins();
    }
    memory.set(Manner::Good);
    assert!(pages.pin().is_ok());
    let nothing: Arc<dyn Memory> = MockMemory::new(&[]).shared();
    assert_eq!(Pages::new(nothing, None).map(|_| ()).unwrap_err(), Error::Empty);
}

#[test]
fn what_a_quota_does_not_allow_is_not_pinned() {
    platform();
    for (manner, hint) in [(Manner::Good, 0), (Manner::Good, 100), (Manner::Deaf, 0)] {
        let mut memory = MockMemory::new(&(0..40).map(|n| run(n * 0x4000, 0x1000 + n)).collect::<Vec<_>>());
        memory.hint = hint;
        let memory = memory.shared();
        memory.set(manner);
        let account = Account::new(Amounts::UNLIMITED).unwrap();
        let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
        let (idle, len) = (account.usage(), pages.len());
        account.set_limits(Amounts { pinned: len - 1, ..Amounts::UNLIMITED });
        assert_eq!(pages.pin().map(|_| ()).unwrap_err(), Error::Quota(Resource::Pinned));
        assert_eq!((memory.pins(), account.usage()), (0, idle));
        // Every amount of metadata there could be too little of.
        let mut refused = 0;
        for metadata in (idle.metadata..idle.metadata + 4096).step_by(8) {
            account.set_limits(Amounts { pinned: len, metadata, ..Amounts::UNLIMITED });
            match pages.pin() {
                Ok(pin) => {
                    assert!(account.usage().metadata <= metadata && all(&pin) == memory.extents);
                    break;
                }
                Err(error) => assert_eq!(error, Error::Quota(Resource::Metadata), "{metadata}"),
            }
            refused += 1;
            assert_eq!((memory.is_pinned(), account.usage()), (false, idle), "{metadata}");
        }
        assert!((80..512).contains(&refused), "{refused}");
    }
    let little = Account::new(Amounts { metadata: 8, ..Amounts::UNLIMITED }).unwrap();
    let made = Pages::new(MockMemory::scattered(1, 1).shared(), Some(&little));
    assert_eq!((made.map(|_| ()).unwrap_err(), little.usage()), (Error::Quota(Resource::Metadata), Amounts::NONE));
}

#[test]
fn the_cost_changes_hands() {
    platform();
    let memory = MockMemory::scattered(3, 0x1000).shared();
    let [one, other] = [(); 2].map(|()| Account::new(Amounts::UNLIMITED).unwrap());
    let pages = Pages::new(memory, Some(&one)).unwrap();
    let pin = pages.pin().unwrap();
    let cost = one.usage();
    other.set_limits(Amounts { pinned: 0x2fff, ..Amounts::UNLIMITED });
    assert_eq!(pages.change_owner(Some(&other)).unwrap_err(), Error::Quota(Resource::Pinned));
    assert_eq!((one.usage(), other.usage()), (cost, Amounts::NONE));
    other.set_limits(Amounts::UNLIMITED);
    pages.change_owner(Some(&other)).unwrap();
    assert_eq!((one.usage(), other.usage()), (Amounts::NONE, cost));
    drop(pin);
    assert_eq!((one.usage(), other.usage().pinned), (Amounts::NONE, 0));
    let pin = pages.pin().unwrap();
    assert_eq!((one.usage(), other.usage()), (Amounts::NONE, cost));
    drop((pages, pin));
    assert_eq!(other.usage(), Amounts::NONE);
    let kept = Pages::from_extents(&[run(0, 1)]).unwrap();
    assert!(matches!(kept.change_owner(Some(&one)).unwrap_err(), Error::Invalid(_)));
}

#[test]
fn same_is_the_object_and_not_its_content() {
    let memory = MockMemory::scattered(2, 0x1000).shared();
    let (one, other) = (pages(&memory), pages(&memory));
    assert!(one.same(&one.clone()) && !one.same(&other));
    let kept = Pages::from_extents(&memory.extents).unwrap();
    assert!(kept.same(&kept.clone()) && !kept.same(&one));
    assert!(!kept.same(&Pages::from_extents(&memory.extents).unwrap()));
}

#[test]
fn revoked_memory_is_unpinned_once_and_for_ever() {
    platform();
    let mut memory = MockMemory::scattered(2, 0x1000);
    memory.revocable = true;
    let memory = memory.shared();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
    let users = [pages.pin().unwrap(), pages.register().unwrap()];
    pages.revoke().unwrap();
    assert!(pages.is_revoked() && !pages.is_pinned() && !memory.is_pinned());
    assert_eq!(account.usage().pinned, 0);
    assert_eq!(pages.pin().map(|_| ()).unwrap_err(), Error::Revoked);
    pages.revoke().unwrap();
    // Those who still hold a pin know where the memory was, and unpin nothing.
    assert_eq!(all(&users[0]), memory.extents);
    drop((users[0].another(), users));
    assert_eq!(memory.pins(), 1);

    let idle = self::pages(&memory);
    idle.revoke().unwrap();
    assert_eq!(idle.pin().map(|_| ()).unwrap_err(), Error::Revoked);

    let lasting = self::pages(&MockMemory::scattered(2, 0x1000).shared());
    assert!(matches!(lasting.revoke().unwrap_err(), Error::Invalid(_)) && !lasting.is_revoked());
    let kept = Pages::from_extents(&memory.extents).unwrap();
    assert!(matches!(kept.revoke().unwrap_err(), Error::Invalid(_)) && kept.pin().is_ok());
}

#[test]
fn a_revocation_beats_a_pin_that_is_under_way() {
    platform();
    let mut memory = MockMemory::scattered(2, 0x1000);
    memory.revocable = true;
    let memory = memory.shared();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
    let idle = account.usage();
    let (marked, pinning) = (pages.clone(), Arc::new(AtomicBool::new(false)));
    let seen = pinning.clone();
    memory.meanwhile(move || {
        seen.store(true, Ordering::SeqCst);
        while !marked.is_revoked() {
            thread::yield_now();
        }
    });
    thread::scope(|scope| {
        let pin = scope.spawn(|| pages.pin().map(|_| ()));
        while !pinning.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        pages.revoke().unwrap();
        assert!(!memory.is_pinned());
        assert_eq!(pin.join().unwrap(), Err(Error::Revoked));
    });
    assert_eq!((memory.pins(), account.usage()), (1, idle));
    *memory.meanwhile.lock().unwrap() = None;
}

#[test]
fn address_spaces_join_and_leave() {
    platform();
    let mut memory = MockMemory::scattered(2, 0x1000);
    memory.revocable = true;
    let memory = memory.shared();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
    let space = Ioas::new(IoasConfig::default()).unwrap();
    account.set_limits(account.usage());
    assert_eq!(pages.join(space.inner()), Err(Error::Quota(Resource::Metadata)));
    account.set_limits(Amounts::UNLIMITED);
    let metadata = pages.metadata();
    (0..3).for_each(|_| pages.join(space.inner()).unwrap());
    assert_eq!((Shared::owners(space.inner()), pages.metadata()), (2, metadata + size_of::<revoke::Space>()));
    (0..2).for_each(|_| pages.leave(space.inner()));
    assert_eq!(Shared::owners(space.inner()), 2);
    (0..2).for_each(|_| pages.leave(space.inner()));
    assert_eq!(Shared::owners(space.inner()), 1);
    pages.revoke().unwrap();
    assert_eq!(pages.join(space.inner()), Err(Error::Revoked));
    // What can not be revoked knows nobody.
    let lasting = self::pages(&MockMemory::scattered(1, 1).shared());
    assert!(lasting.join(space.inner()).is_ok() && Shared::owners(space.inner()) == 1 && !lasting.is_revocable());
}

/// Tries to revoke what is being revoked, and keeps its pins for as long as it is told to.
struct Stubborn {
    pages: Pages,
    pins: std::sync::Mutex<Vec<crate::access::Pin>>,
    lets_go: AtomicBool,
    told: AtomicUsize,
}

impl AccessUser for Stubborn {
    fn unmap(&self, _: IovaRange) {
        self.told.fetch_add(1, Ordering::Relaxed);
        assert_eq!(self.pages.revoke(), Err(Error::Busy));
        assert_eq!(self.pages.pin().map(|_| ()).unwrap_err(), Error::Revoked);
        if self.lets_go.load(Ordering::Relaxed) {
            self.pins.lock().unwrap().clear();
        }
    }
}

#[test]
fn a_revocation_reaches_every_address_space_and_can_be_tried_again() {
    platform();
    let mut memory = MockMemory::scattered(2, 0x1000);
    memory.revocable = true;
    let memory = memory.shared();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
    let idle = account.usage();
    let spaces = [(); 3].map(|()| Ioas::new(IoasConfig::default()).unwrap());
    let map = |space: &Ioas, at, len| space.map(&pages, 0, len, Placement::Fixed(Iova::new(at)), Prot::READ);
    // Several areas of each, of which some go again. The last space has none left.
    for (space, areas) in spaces.iter().zip([3, 2, 2]) {
        (0..areas).for_each(|area| assert!(map(space, area * 0x2000, 0x1000 + area * 0x1000 % 0x2000).is_ok()));
        assert_eq!(space.unmap(IovaRange::from_len(Iova::new(0), 0x1000).unwrap()), Ok(0x1000));
    }
    spaces[2].unmap_all().unwrap();
    assert_eq!((memory.pins(), memory.is_pinned(), account.usage().pinned), (1, true, 0x2000));
    let stubborn = Arc::new(Stubborn {
        pages: pages.clone(),
        pins: Default::default(),
        lets_go: AtomicBool::new(false),
        told: AtomicUsize::new(0),
    });
    let access = Access::new(AccessConfig { user: Some(stubborn.clone()), ..AccessConfig::default() }).unwrap();
    access.attach(&spaces[0]).unwrap();
    let pinned = access.pin(IovaRange::from_len(Iova::new(0x2000), 1).unwrap(), Prot::READ).unwrap();
    stubborn.pins.lock().unwrap().push(pinned);

    assert_eq!(pages.revoke(), Err(Error::Deadlock));
    // An access that is told of an unmap can not wait for that unmap.
    assert_eq!(spaces[0].unmap_all(), Err(Error::Deadlock));
    assert!(pages.is_revoked() && memory.is_pinned() && stubborn.told.load(Ordering::Relaxed) >= 100);
    let revoked = |space: &Ioas, at| space.area(IovaRange::from_len(Iova::new(at), 1).unwrap()).unwrap().revoked;
    assert!(!revoked(&spaces[0], 0x2000) && revoked(&spaces[1], 0x2000));
    assert_eq!(map(&spaces[2], 0, 0x1000), Err(Error::Revoked));
    stubborn.lets_go.store(true, Ordering::Relaxed);
    pages.revoke().unwrap();
    assert!(!memory.is_pinned() && revoked(&spaces[0], 0x2000) && revoked(&spaces[0], 0x4000));
    assert_eq!(account.usage().pinned, 0);

    // Nobody knows anybody any more, once all is unmapped.
    drop(access);
    assert_eq!(spaces[0].unmap_all(), Ok(0x2000 + 0x1000));
    assert_eq!(Shared::owners(spaces[0].inner()), 1);
    drop(spaces);
    assert_eq!(account.usage().metadata, idle.metadata + 3 * size_of::<revoke::Space>() as u64);
    let weak = Arc::downgrade(&stubborn);
    drop((stubborn, pages));
    assert!(weak.upgrade().is_none() && Arc::strong_count(&memory) == 1 && account.usage() == Amounts::NONE);
}

#[test]
fn maps_among_revocations_leave_nothing_behind() {
    platform();
    for round in 0..60 {
        let mut memory = MockMemory::scattered(2, 0x1000);
        memory.revocable = true;
        let memory = memory.shared();
        let pages = Pages::new(memory.clone(), None).unwrap();
        let spaces = [(); 2].map(|()| Ioas::new(IoasConfig::default()).unwrap());
        let go = AtomicUsize::new(0);
        thread::scope(|scope| {
            for space in &spaces {
                let (pages, go) = (&pages, &go);
                scope.spawn(move || {
                    for at in 0..100 {
                        go.store(at, Ordering::SeqCst);
                        match space.map(pages, 0, 0x1000, Placement::Fixed(Iova::new(at as u64 * 0x1000)), Prot::READ) {
                            Ok(iova) if at % 2 == 0 => {
                                space
                                    .unmap(IovaRange::from_len(iova, 0x1000).unwrap())
                                    .map(|_| ())
                                    .or_else(busy)
                                    .unwrap();
                            }
                            Ok(_) => {}
                            Err(error) => assert_eq!(error, Error::Revoked),
                        }
                    }
                });
            }
            while go.load(Ordering::SeqCst) < round {
                thread::yield_now();
            }
            pages.revoke().unwrap();
            assert!(!memory.is_pinned());
        });
        for space in &spaces {
            let mut from = 0;
            while let Some(area) = space.area(IovaRange::new(Iova::new(from), Iova::new(u64::MAX)).unwrap()) {
                assert!(area.revoked, "{area:?}");
                from = area.range.last().get() + 1;
            }
        }
    }
}

/// An area that is being revoked is not there to be unmapped.
fn busy(error: Error) -> Result<(), Error> {
    if error == Error::Busy { Ok(()) } else { Err(error) }
}

/// Pins and drops, a few hundred times, with a user more now and then.
fn use_it(pages: &Pages, memory: &MockMemory, seed: u64) -> usize {
    let mut random = random(seed);
    let mut held = Vec::new();
    let mut pinned = 0;
    for _ in 0..500 {
        match pages.pin() {
            Ok(pin) => {
                // A revocation may have unpinned it already.
                (0..random(12)).for_each(|_| thread::yield_now());
                assert!(memory.is_pinned() || pages.is_revoked());
                if random(8) == 0 {
                    held.push(pin.another());
                }
                pinned += 1;
            }
            Err(error) => assert_eq!(error, Error::Revoked),
        }
        if random(2) == 0 {
            held.clear();
        }
    }
    pinned
}

#[test]
fn pins_of_many_cpus_are_one() {
    platform();
    let memory = MockMemory::scattered(2, 0x1000).shared();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
    let idle = account.usage();
    thread::scope(|scope| {
        let (pages, memory) = (&pages, &memory);
        for seed in 0..4 {
            scope.spawn(move || assert_eq!(use_it(pages, memory, seed), 500));
        }
    });
    assert_eq!((memory.is_pinned(), account.usage()), (false, idle));
    assert!(memory.pins() > 1, "the last user never went");
}

#[test]
fn who_comes_while_the_last_one_goes_waits_for_the_unpin() {
    platform();
    let memory = MockMemory::scattered(1, 0x1000).shared();
    let pages = pages(&memory);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(pages.pin().unwrap());
            }
        });
        let _stop = Stop(&done);
        for _ in 0..5000 {
            let pin = pages.pin().unwrap();
            (0..3).for_each(|_| thread::yield_now());
            assert!(memory.is_pinned());
            drop(pin);
        }
    });
    assert!(!memory.is_pinned());
}

#[test]
fn a_revocation_among_pins_unpins_once() {
    platform();
    let mut overtaken = 0;
    for seed in 0..100 {
        let mut memory = MockMemory::scattered(2, 0x1000);
        memory.revocable = true;
        let memory = memory.shared();
        let account = Account::new(Amounts::UNLIMITED).unwrap();
        let pages = Pages::new(memory.clone(), Some(&account)).unwrap();
        let idle = account.usage();
        let go = AtomicBool::new(false);
        thread::scope(|scope| {
            let (pages, memory, go) = (&pages, &memory, &go);
            let users: Vec<_> = (0..2)
                .map(|user| {
                    scope.spawn(move || {
                        go.store(true, Ordering::SeqCst);
                        use_it(pages, memory, seed * 2 + user)
                    })
                })
                .collect();
            while !go.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            (0..random(seed)(50)).for_each(|_| thread::yield_now());
            pages.revoke().unwrap();
            // From here on nothing is pinned, whoever was on the way to it.
            assert!(!memory.is_pinned());
            overtaken += users.into_iter().map(|user| user.join().unwrap()).filter(|&pinned| pinned < 500).count();
        });
        assert_eq!((memory.is_pinned(), account.usage()), (false, idle));
    }
    assert!(overtaken > 0, "every revocation came last");
}

#[test]
fn pins_are_shown_by_what_they_are() {
    // Small, as each area has one.
    assert!(size_of::<PagesPin>() <= 24, "{}", size_of::<PagesPin>());
    assert_eq!(format!("{}", MemoryError::Unavailable), "the memory is not to be had");
}
