//! Random operations against a plain model, and on several threads.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the model knows of one PASID.
struct Known {
    set: usize,
    private: Option<u32>,
    draining: bool,
    users: Vec<(PasidUse, Arc<Told>)>,
    /// Users that will let go as soon as they are told.
    hasty: Vec<Arc<Told>>,
}

struct Model {
    reserved: BTreeSet<u32>,
    last: u32,
    known: BTreeMap<u32, Known>,
}

impl Model {
    fn of(&self, set: usize) -> impl Iterator<Item = (&u32, &Known)> {
        self.known.iter().filter(move |(_, known)| known.set == set)
    }

    fn active(&self, set: usize, at: u32) -> bool {
        self.known.get(&at).is_some_and(|known| known.set == set && !known.draining)
    }

    /// What giving `at` back changes, once it was done.
    fn freed(&mut self, at: u32) {
        let known = self.known.get_mut(&at).unwrap();
        known.draining = true;
        known.private = None;
        for told in known.hasty.drain(..).chain(known.users.iter().map(|(_, told)| told.clone())) {
            assert_eq!(told.times(), 1);
        }
        if known.users.is_empty() {
            self.known.remove(&at);
        }
    }

    fn check(&self, space: &PasidSpace, sets: &[(PasidSet, Account, u32, bool)], at: u32) {
        let expected = match self.known.get(&at) {
            Some(known) if known.draining => PasidState::Draining,
            Some(_) => PasidState::Active,
            None if at > self.last || self.reserved.contains(&at) => PasidState::Reserved,
            None => PasidState::Free,
        };
        assert_eq!(space.state(pasid(at)), expected);
        let capacity = self.last as usize + 1 - self.reserved.len();
        assert_eq!(space.available() as usize, capacity - self.known.len());
        for (number, (set, account, ..)) in sets.iter().enumerate() {
            assert_eq!(set.owns(pasid(at)), self.active(number, at));
            let expected: Vec<_> = self
                .of(number)
                .map(|(&at, known)| {
                    let state = if known.draining { PasidState::Draining } else { PasidState::Active };
                    (at, known.private, state)
                })
                .collect();
            assert_eq!(members(set), expected);
            assert_eq!(account.usage(), Amounts::of(Resource::Pasids, expected.len() as u64));
            for private in 0..10 {
                let global =
                    self.of(number).find(|(_, known)| known.private == Some(private)).map(|(&at, _)| pasid(at));
                assert_eq!(set.global(private), global);
            }
        }
    }
}

/// A number below `below` that looks random.
fn dice(state: &mut u64, below: u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as u32 % below
}

#[test]
fn random_operations_match_a_plain_model() {
    for seed in 1..40u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let reserved = [(0, 0), (9, 11)];
        let space = space(5, &reserved);
        let mut model = Model {
            reserved: reserved.iter().flat_map(|&(first, last)| first..=last).collect(),
            last: 31,
            known: BTreeMap::new(),
        };
        let mut sets: Vec<_> = [6, 12, 40]
            .iter()
            .map(|&quota| {
                let account = Account::new(Amounts::of(Resource::Pasids, 15)).unwrap();
                (space.set(quota, Some(&account)).unwrap(), account, quota, false)
            })
            .collect();
        for _ in 0..400 {
            let number = dice(&mut random, 3) as usize;
            let (set, _, quota, closed) = &mut sets[number];
            let at = dice(&mut random, 34);
            match dice(&mut random, 20) {
                0..8 => {
                    let last = dice(&mut random, 40);
                    let private = (dice(&mut random, 2) == 0).then(|| dice(&mut random, 10));
                    let held = model.of(number).count();
                    let free =
                        (at..=last.min(31)).find(|at| !model.known.contains_key(at) && !model.reserved.contains(at));
                    let expected = if at > last || *closed {
                        None
                    } else if held >= *quota as usize {
                        Some(Err(Error::Quota(Resource::Pasids)))
                    } else if private.is_some() && model.of(number).any(|(_, known)| known.private == private) {
                        Some(Err(Error::Exists))
                    } else {
                        match free {
                            None => Some(Err(Error::NoSpace { len: 1 })),
                            Some(_) if held >= 15 => Some(Err(Error::Quota(Resource::Pasids))),
                            Some(at) => Some(Ok(pasid(at))),
                        }
                    };
                    let outcome = set.alloc(pasid(at), pasid(last), private);
                    match expected {
                        None => assert!(matches!(outcome, Err(Error::Invalid(_)))),
                        Some(expected) => assert_eq!(outcome, expected),
                    }
                    if let Ok(pasid) = outcome {
                        let known =
                            Known { set: number, private, draining: false, users: Vec::new(), hasty: Vec::new() };
                        model.known.insert(pasid.get(), known);
                    }
                }
                8..12 => {
                    let told = Arc::new(Told::default());
                    let outcome = set.acquire(pasid(at), Some(told.clone()));
                    assert_eq!(outcome.is_ok(), model.active(number, at));
                    if let Ok(held) = outcome {
                        let known = model.known.get_mut(&at).unwrap();
                        if dice(&mut random, 2) == 0 {
                            *told.lets_go.lock().unwrap() = Some(held);
                            known.hasty.push(told);
                        } else {
                            known.users.push((held, told));
                        }
                    }
                }
                12..16 => {
                    if let Some(known) = model.known.get_mut(&at)
                        && !known.users.is_empty()
                    {
                        let which = dice(&mut random, known.users.len() as u32) as usize;
                        let (held, told) = known.users.swap_remove(which);
                        assert_eq!(told.times(), u32::from(known.draining));
                        drop(held);
                        assert_eq!(Arc::strong_count(&told), 1);
                        if known.draining && known.users.is_empty() {
                            model.known.remove(&at);
                        }
                    }
                }
                16..19 => {
                    let expected = model.active(number, at);
                    assert_eq!(set.free(pasid(at)), if expected { Ok(()) } else { Err(Error::NoSuchPasid(pasid(at))) });
                    if expected {
                        model.freed(at);
                    }
                }
                _ if dice(&mut random, 20) == 0 => {
                    set.close();
                    *closed = true;
                    let active: Vec<_> =
                        model.of(number).filter(|(_, known)| !known.draining).map(|(&at, _)| at).collect();
                    active.into_iter().for_each(|at| model.freed(at));
                }
                _ => {}
            }
            model.check(&space, &sets, at);
        }
        let accounts: Vec<_> = sets.into_iter().map(|(_, account, ..)| account).collect();
        let draining: usize = model.known.values().map(|known| usize::from(!known.users.is_empty())).sum();
        assert_eq!(accounts.iter().map(|account| account.usage().pasids as usize).sum::<usize>(), draining);
        model.known.clear();
        assert_eq!(space.available(), space.capacity());
        assert!(accounts.iter().all(|account| account.usage() == Amounts::NONE));
    }
}

#[test]
fn threads_that_allocate_use_and_free_lose_nothing() {
    let space = space(6, &[(0, 0)]);
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let sets = [(); 2].map(|()| space.set(40, Some(&account)).unwrap());
    let told = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (set, told) = (&sets[thread as usize % 2], &told);
            scope.spawn(move || {
                let mut random = thread + 7;
                let mut held = Vec::new();
                for _ in 0..3000 {
                    if dice(&mut random, 2) == 0 {
                        match set.alloc(FIRST, LAST, None) {
                            // Nobody else gets it while this thread has it.
                            Ok(pasid) => held.push(pasid),
                            Err(error) => assert!(matches!(error, Error::NoSpace { .. } | Error::Quota(_))),
                        }
                    } else if let Some(pasid) = held.pop() {
                        let user = Arc::new(Told::default());
                        let mut uses = Vec::new();
                        for _ in 0..dice(&mut random, 3) {
                            uses.push(set.acquire(pasid, Some(user.clone())).unwrap());
                        }
                        let hasty = Arc::new(Told::default());
                        *hasty.lets_go.lock().unwrap() = Some(set.acquire(pasid, Some(hasty.clone())).unwrap());
                        set.free(pasid).unwrap();
                        assert_eq!((user.times() as usize, hasty.times()), (uses.len(), 1));
                        told.fetch_add(1, Ordering::Relaxed);
                    }
                }
                for pasid in held {
                    set.free(pasid).unwrap();
                }
            });
        }
    });
    assert!(told.into_inner() > 1000);
    assert_eq!((space.available(), account.usage()), (63, Amounts::NONE));
}
