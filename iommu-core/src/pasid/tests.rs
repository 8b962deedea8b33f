//! What a space and its sets promise, one by one.

mod model;

extern crate std;

use super::*;
use crate::quota::{Amounts, Resource};
use crate::test_support::platform;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex as StdMutex;
use std::vec::Vec;

fn pasid(raw: u32) -> Pasid {
    Pasid::new(raw).unwrap()
}

const FIRST: Pasid = Pasid::new(0).unwrap();
const LAST: Pasid = Pasid::new(0xf_ffff).unwrap();

fn space(bits: u8, reserved: &[(u32, u32)]) -> PasidSpace {
    platform();
    let reserved: Vec<_> = reserved.iter().map(|&(first, last)| (pasid(first), pasid(last))).collect();
    PasidSpace::new(bits, &reserved).unwrap()
}

/// Counts how often it is told, and may let go of its PASID at once.
#[derive(Default)]
struct Told {
    times: AtomicU32,
    lets_go: StdMutex<Option<PasidUse>>,
}

impl PasidUser for Told {
    fn draining(&self, _: Pasid) {
        self.times.fetch_add(1, Ordering::Relaxed);
        drop(self.lets_go.lock().unwrap().take());
    }
}

impl Told {
    fn times(&self) -> u32 {
        self.times.load(Ordering::Relaxed)
    }
}

fn members(set: &PasidSet) -> Vec<(u32, Option<u32>, PasidState)> {
    let mut found = Vec::new();
    set.for_each(&mut |pasid, private, state| found.push((pasid.get(), private, state)));
    found
}

#[test]
fn a_space_is_as_wide_as_it_is_told() {
    let space = space(4, &[(0, 0), (5, 6), (15, 200), (300, 400)]);
    assert_eq!((space.capacity(), space.available()), (12, 12));
    let set = space.set(100, None).unwrap();
    let all: Vec<_> = (0..12).map(|_| set.alloc(FIRST, LAST, None).unwrap().get()).collect();
    assert_eq!(all, [1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14]);
    assert_eq!((space.capacity(), space.available()), (12, 0));
    assert_eq!(set.alloc(FIRST, LAST, None), Err(Error::NoSpace { len: 1 }));
    for (at, state) in [
        (0, PasidState::Reserved),
        (1, PasidState::Active),
        (5, PasidState::Reserved),
        (6, PasidState::Reserved),
        (15, PasidState::Reserved),
        (16, PasidState::Reserved),
    ] {
        assert_eq!(space.state(pasid(at)), state, "{at}");
    }
    set.free(pasid(4)).unwrap();
    assert_eq!((space.state(pasid(4)), space.available()), (PasidState::Free, 1));
    // PASID 0 and the highest are as good as any, unless they are reserved.
    let whole = self::space(20, &[]);
    let set = whole.set(2, None).unwrap();
    assert_eq!((set.alloc(FIRST, FIRST, None), set.alloc(LAST, LAST, None)), (Ok(FIRST), Ok(LAST)));
    assert_eq!(whole.capacity(), 1 << 20);
}

#[test]
fn a_space_that_makes_no_sense_is_refused() {
    let new = |bits, reserved: &[(u32, u32)]| {
        let reserved: Vec<_> = reserved.iter().map(|&(first, last)| (pasid(first), pasid(last))).collect();
        PasidSpace::new(bits, &reserved).map(drop)
    };
    assert!(matches!(new(0, &[]), Err(Error::Unsupported(_))));
    assert!(matches!(new(21, &[]), Err(Error::Invalid(_))));
    assert!(matches!(new(255, &[]), Err(Error::Invalid(_))));
    assert!(matches!(new(8, &[(3, 2)]), Err(Error::Invalid(_))));
    assert!(matches!(new(8, &[(3, 9), (9, 10)]), Err(Error::Invalid(_))));
    assert_eq!(new(1, &[(0, 1)]), Ok(()));
}

#[test]
fn allocation_takes_the_lowest_in_its_window() {
    let space = space(8, &[(0, 0)]);
    let set = space.set(100, None).unwrap();
    assert_eq!(set.alloc(pasid(10), pasid(12), None), Ok(pasid(10)));
    assert_eq!(set.alloc(pasid(10), pasid(12), None), Ok(pasid(11)));
    assert_eq!(set.alloc(pasid(9), pasid(12), None), Ok(pasid(9)));
    assert_eq!(set.alloc(pasid(9), pasid(12), None), Ok(pasid(12)));
    assert_eq!(set.alloc(pasid(9), pasid(12), None), Err(Error::NoSpace { len: 1 }));
    assert_eq!(set.alloc(pasid(256), LAST, None), Err(Error::NoSpace { len: 1 }));
    assert!(matches!(set.alloc(pasid(2), pasid(1), None), Err(Error::Invalid(_))));
    set.free(pasid(11)).unwrap();
    assert_eq!(set.alloc(FIRST, LAST, None), Ok(pasid(1)));
    assert_eq!(set.alloc(pasid(9), LAST, None), Ok(pasid(11)));
}

#[test]
fn private_numbers_lead_both_ways_within_their_set() {
    let space = space(8, &[]);
    let [one, other] = [(); 2].map(|()| space.set(10, None).unwrap());
    let first = one.alloc(FIRST, LAST, Some(7)).unwrap();
    let second = other.alloc(FIRST, LAST, Some(7)).unwrap();
    let plain = one.alloc(FIRST, LAST, None).unwrap();
    assert_ne!(first, second);
    assert_eq!((one.global(7), other.global(7)), (Some(first), Some(second)));
    assert_eq!((one.private(first), one.private(plain), one.private(second)), (Some(7), None, None));
    assert_eq!(one.alloc(FIRST, LAST, Some(7)), Err(Error::Exists));
    assert_eq!((one.len(), one.global(8)), (2, None));
    assert_eq!(one.alloc(FIRST, LAST, Some(u32::MAX)).map(|_| one.global(u32::MAX).is_some()), Ok(true));
    // Given back and still in use, its number is free for another; it is not what the new one stands for.
    let user = one.acquire(first, None).unwrap();
    one.free(first).unwrap();
    assert_eq!((one.global(7), one.private(first)), (None, None));
    let third = one.alloc(FIRST, LAST, Some(7)).unwrap();
    drop(user);
    assert_eq!((one.global(7), one.private(third)), (Some(third), Some(7)));
    assert_eq!(other.global(7), Some(second));
}

#[test]
fn anothers_pasid_is_as_good_as_none() {
    let space = space(8, &[(3, 3)]);
    let [one, other] = [(); 2].map(|()| space.set(10, None).unwrap());
    let mine = one.alloc(FIRST, LAST, None).unwrap();
    assert!(one.owns(mine) && !other.owns(mine));
    for foreign in [mine, pasid(3), pasid(9), LAST] {
        assert_eq!(other.free(foreign), Err(Error::NoSuchPasid(foreign)));
        assert_eq!(other.acquire(foreign, None).map(drop), Err(Error::NoSuchPasid(foreign)));
        assert_eq!(other.private(foreign), None);
    }
    assert!(one.owns(mine));
    assert_eq!((one.len(), other.len(), other.is_empty()), (1, 0, true));
}

#[test]
fn quotas_of_the_set_and_of_the_owner() {
    let space = space(8, &[]);
    let account = Account::new(Amounts::of(Resource::Pasids, 3)).unwrap();
    let set = space.set(2, Some(&account)).unwrap();
    let other = space.set(2, Some(&account)).unwrap();
    let first = set.alloc(FIRST, LAST, None).unwrap();
    let second = set.alloc(FIRST, LAST, None).unwrap();
    assert_eq!(set.alloc(FIRST, LAST, None), Err(Error::Quota(Resource::Pasids)));
    other.alloc(FIRST, LAST, None).unwrap();
    assert_eq!(other.alloc(FIRST, LAST, None), Err(Error::Quota(Resource::Pasids)));
    assert_eq!((account.usage().pasids, space.available()), (3, 253));
    // Draining ones are paid for until the last user has let go.
    let [use_one, use_two] = [(); 2].map(|()| set.acquire(first, None).unwrap());
    set.free(first).unwrap();
    assert_eq!((set.len(), account.usage().pasids, set.owns(first)), (2, 3, false));
    drop(use_one);
    assert_eq!(set.alloc(FIRST, LAST, None), Err(Error::Quota(Resource::Pasids)));
    drop(use_two);
    assert_eq!((set.len(), account.usage().pasids), (1, 2));
    set.free(second).unwrap();
    assert_eq!(account.usage().pasids, 1);
    let next = Account::new(Amounts::NONE).unwrap();
    assert_eq!(other.change_owner(Some(&next)), Err(Error::Quota(Resource::Pasids)));
    next.set_limits(Amounts::UNLIMITED);
    other.change_owner(Some(&next)).unwrap();
    assert_eq!((account.usage().pasids, next.usage().pasids), (0, 1));
    drop(other);
    assert_eq!(next.usage(), Amounts::NONE);
}

#[test]
fn nothing_is_reused_before_each_user_was_told_and_let_go() {
    let space = space(2, &[(1, 3)]);
    let set = space.set(4, None).unwrap();
    let only = set.alloc(FIRST, LAST, None).unwrap();
    let told = [(); 3].map(|()| Arc::new(Told::default()));
    let mut uses: Vec<_> = told.iter().map(|told| set.acquire(only, Some(told.clone())).unwrap()).collect();
    let quiet = set.acquire(only, None).unwrap();
    assert_eq!(quiet.pasid(), only);
    // One lets go before: it is not told. One does so as soon as it is told.
    drop(uses.remove(0));
    *told[1].lets_go.lock().unwrap() = Some(uses.remove(0));
    set.free(only).unwrap();
    assert_eq!(told.each_ref().map(|told| told.times()), [0, 1, 1]);
    assert_eq!(space.state(only), PasidState::Draining);
    assert_eq!(set.free(only), Err(Error::NoSuchPasid(only)));
    assert_eq!(set.acquire(only, None).map(drop), Err(Error::NoSuchPasid(only)));
    assert_eq!(members(&set), [(0, None, PasidState::Draining)]);
    drop(uses);
    assert_eq!(
        (space.state(only), set.alloc(FIRST, LAST, None)),
        (PasidState::Draining, Err(Error::NoSpace { len: 1 }))
    );
    drop(quiet);
    assert_eq!((space.state(only), set.is_empty()), (PasidState::Free, true));
    assert_eq!(set.alloc(FIRST, LAST, None), Ok(only));
    assert_eq!(told.each_ref().map(|told| told.times()), [0, 1, 1]);
    // The space keeps nothing of users that let go.
    assert!(told.iter().all(|told| Arc::strong_count(told) == 1));
}

#[test]
fn a_set_that_closes_gives_everything_back() {
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let space = space(8, &[]);
    let set = space.set(10, Some(&account)).unwrap();
    for private in 0..6 {
        set.alloc(FIRST, LAST, Some(private)).unwrap();
    }
    let told = Arc::new(Told::default());
    let before = set.acquire(pasid(2), Some(told.clone())).unwrap();
    let used = set.acquire(pasid(4), Some(told.clone())).unwrap();
    set.free(pasid(2)).unwrap();
    assert_eq!(told.times(), 1);
    set.close();
    set.close();
    assert_eq!(told.times(), 2, "who was told already is not told again");
    assert_eq!(members(&set), [(2, None, PasidState::Draining), (4, None, PasidState::Draining)]);
    assert!(matches!(set.alloc(FIRST, LAST, None), Err(Error::Invalid(_))));
    drop(used);
    assert_eq!((set.len(), account.usage().pasids), (1, 1));
    // The last user outlives the set.
    let other = set.clone();
    drop(set);
    assert_eq!(other.len(), 1);
    drop(other);
    assert_eq!((space.state(pasid(2)), account.usage().pasids), (PasidState::Draining, 1));
    assert_eq!(space.0.lock().sets(), 1);
    drop(before);
    assert_eq!((space.state(pasid(2)), account.usage().pasids), (PasidState::Free, 0));
    assert_eq!((space.available(), space.0.lock().sets()), (256, 0));
    // A new set has nothing of the old one.
    let set = space.set(1, None).unwrap();
    assert_eq!(set.alloc(FIRST, LAST, Some(4)), Ok(pasid(0)));
    drop(set);
    assert_eq!(space.0.lock().sets(), 0);
}

/// Lets go when told, and takes the same PASID once more with another user.
struct Again {
    set: PasidSet,
    held: StdMutex<Option<PasidUse>>,
    next: Arc<Told>,
}

impl PasidUser for Again {
    fn draining(&self, pasid: Pasid) {
        let mut held = self.held.lock().unwrap();
        drop(held.take());
        assert_eq!(self.set.alloc(pasid, pasid, None), Ok(pasid));
        *held = Some(self.set.acquire(pasid, Some(self.next.clone())).unwrap());
    }
}

#[test]
fn who_comes_after_is_not_told_of_what_was_before() {
    let space = space(8, &[]);
    let set = space.set(1, None).unwrap();
    let only = set.alloc(FIRST, LAST, None).unwrap();
    let again = Arc::new(Again { set: set.clone(), held: StdMutex::new(None), next: Arc::default() });
    let first = set.acquire(only, Some(again.clone())).unwrap();
    *again.held.lock().unwrap() = Some(first);
    set.free(only).unwrap();
    assert_eq!((space.state(only), again.next.times()), (PasidState::Active, 0));
    let held = again.held.lock().unwrap().take();
    set.free(only).unwrap();
    assert_eq!((space.state(only), again.next.times()), (PasidState::Draining, 1));
    drop(held);
    assert_eq!(space.state(only), PasidState::Free);
}

#[test]
fn users_of_one_pasid_are_bounded() {
    let space = space(8, &[]);
    let set = space.set(1, None).unwrap();
    let only = set.alloc(FIRST, LAST, None).unwrap();
    let mut uses: Vec<_> = (0..PasidUse::MOST).map(|_| set.acquire(only, None).unwrap()).collect();
    assert_eq!(set.acquire(only, None).map(drop), Err(Error::NoSpace { len: 1 }));
    uses.pop();
    uses.push(set.acquire(only, None).unwrap());
    set.free(only).unwrap();
    drop(uses);
    assert!(set.is_empty());
}
