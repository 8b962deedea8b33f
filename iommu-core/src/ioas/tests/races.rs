//! Everything at once on several CPUs, over hardware that fails at any time: memory that is pinned or given back is
//! reachable by nobody, and in the end every domain has what the areas say.

use super::*;
use crate::access::{Access, AccessConfig, AccessUser, Pin};
use crate::hw::HwError;
use crate::hwpt::Hwpt;
use crate::test_support::MockMemory;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex as StdMutex;
use std::vec::Vec;

const PAGE: u64 = 0x1000;
const WINDOW: u64 = 48;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Lets go of all pins, mostly.
#[derive(Default)]
struct User {
    pins: StdMutex<Vec<Pin>>,
    told: AtomicU64,
}

impl AccessUser for User {
    fn unmap(&self, _: IovaRange) {
        if !self.told.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            let gone = core::mem::take(&mut *self.pins.lock().unwrap());
            drop(gone);
        }
    }
}

type Domains = StdMutex<Vec<(Arc<Hardware>, Hwpt)>>;
type Attached = Arc<StdMutex<Vec<Arc<Hardware>>>>;

struct World {
    spaces: [Ioas; 2],
    /// Domains, whichever space they are of, with their hardware.
    domains: [Domains; 2],
    /// All hardware that devices may be attached to.
    attached: Attached,
    pages: StdMutex<Vec<(Pages, Arc<MockMemory>)>>,
    old: StdMutex<Vec<Arc<MockMemory>>>,
    numbers: AtomicU64,
    users: [Arc<User>; 2],
    accesses: [Access; 2],
}

impl World {
    fn new() -> Self {
        let users: [Arc<User>; 2] = Default::default();
        let spaces = [(); 2].map(|()| with_domains(0).0);
        let accesses = [0, 1].map(|at: usize| {
            let user: Arc<dyn AccessUser> = users[at].clone();
            let access = Access::new(AccessConfig { user: Some(user), ..AccessConfig::default() }).unwrap();
            access.attach(&spaces[at]).unwrap();
            access
        });
        let world = Self {
            spaces,
            domains: Default::default(),
            attached: Default::default(),
            pages: Default::default(),
            old: Default::default(),
            numbers: AtomicU64::new(1),
            users,
            accesses,
        };
        for _ in 0..5 {
            let fresh = world.memory();
            world.pages.lock().unwrap().push(fresh);
        }
        world
    }

    fn memory(&self) -> (Pages, Arc<MockMemory>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let base = number << 32;
        let mut memory =
            MockMemory::new(&[extent(base, PAGE), extent(base + 4 * PAGE, 2 * PAGE), extent(base + 8 * PAGE, PAGE)]);
        memory.revocable = number.is_multiple_of(2);
        let attached = self.attached.clone();
        memory.meanwhile(move || {
            for hardware in attached.lock().unwrap().iter() {
                let reachable = hardware.reachable.lock().unwrap();
                let found = reachable.iter().find(|(_, frame)| **frame >> 32 == number);
                assert!(found.is_none(), "{found:x?} is reachable");
            }
        });
        let memory = memory.shared();
        (Pages::new(memory.clone(), None).unwrap(), memory)
    }

    fn range(random: &mut Random) -> IovaRange {
        let start = random.below(WINDOW);
        range(start * PAGE, (1 + random.below(6)) * PAGE)
    }

    fn place(random: &mut Random) -> Placement {
        if random.one_in(2) { Placement::Anywhere } else { Placement::Fixed(Iova::new(random.below(WINDOW) * PAGE)) }
    }

    fn turn(&self, random: &mut Random) {
        let which = random.below(2) as usize;
        let (ioas, domains) = (&self.spaces[which], &self.domains[which]);
        match random.below(20) {
            0..=4 => {
                let (at, len) = (random.below(4), 1 + random.below(4));
                let (pages, _) = self.pages.lock().unwrap()[random.below(5) as usize].clone();
                let _ = ioas.map(&pages, at * PAGE, len.min(4 - at) * PAGE, Self::place(random), Prot::READ_WRITE);
            }
            5..=7 => drop(ioas.unmap(Self::range(random))),
            8 => drop(ioas.unmap_all()),
            9 => drop(ioas.copy(
                &self.spaces[random.below(2) as usize],
                Self::range(random),
                Self::place(random),
                Prot::READ,
            )),
            10 => drop(ioas.split(Iova::new(random.below(WINDOW) * PAGE))),
            11 if random.one_in(4) => {
                let slot = random.below(5) as usize;
                let (pages, memory) = self.pages.lock().unwrap()[slot].clone();
                if pages.revoke().is_ok() {
                    assert!(!memory.is_pinned());
                    let fresh = self.memory();
                    let (_, memory) = core::mem::replace(&mut self.pages.lock().unwrap()[slot], fresh);
                    self.old.lock().unwrap().push(memory);
                }
            }
            12 => {
                if domains.lock().unwrap().len() < 3 {
                    let hardware = Arc::<Hardware>::default();
                    if random.one_in(4) {
                        hardware.good_maps.store(random.below(3) as usize, Ordering::Relaxed);
                        hardware.fail_map(Some(HwError::OutOfMemory));
                    }
                    if let Ok(hwpt) = hwpt(ioas, &hardware) {
                        hardware.fail_map(None);
                        self.attached.lock().unwrap().push(hardware.clone());
                        domains.lock().unwrap().push((hardware, hwpt));
                    }
                }
            }
            13 => {
                let taken = domains.lock().unwrap().pop();
                if let Some((hardware, hwpt)) = taken {
                    hardware.bad_retires.store(random.below(3) as usize, Ordering::Relaxed);
                    match hwpt.destroy() {
                        Err((hwpt, _)) if !random.one_in(3) => domains.lock().unwrap().push((hardware, hwpt)),
                        _ => {}
                    }
                }
            }
            14 => drop(ioas.reclaim()),
            15 => {
                let attached = self.attached.lock().unwrap();
                if let Some(hardware) = attached.get(random.below(1 + attached.len() as u64) as usize) {
                    let stuck = HwError::SplitsLeaf { iova: Iova::new(0), size: 1 << 21 };
                    let some = |random: &mut Random, error| if random.one_in(3) { Some(error) } else { None };
                    hardware.fail_flush(some(random, TIMEOUT));
                    hardware.fail_unmap(some(random, stuck));
                    let map = if random.one_in(2) { TIMEOUT } else { HwError::OutOfMemory };
                    hardware.fail_map(some(random, map));
                }
            }
            16 | 17 => {
                let pin = self.accesses[which].pin(Self::range(random), Prot::READ);
                if let Ok(pin) = pin {
                    self.users[which].pins.lock().unwrap().push(pin);
                }
            }
            18 => {
                let lock = ioas.lock(Self::range(random), false);
                std::thread::yield_now();
                drop(lock);
            }
            _ => drop(ioas.set_large_pages(random.one_in(2))),
        }
    }

    fn calm(&self) {
        for hardware in self.attached.lock().unwrap().iter() {
            hardware.fail_flush(None);
            hardware.fail_unmap(None);
            hardware.fail_map(None);
            hardware.bad_retires.store(0, Ordering::Relaxed);
        }
    }

    /// Every domain has what the areas say, and no more than that and what drains.
    fn compare(&self) {
        for (ioas, domains) in self.spaces.iter().zip(&self.domains) {
            let (mut there, mut maybe) = (BTreeMap::new(), BTreeMap::new());
            for area in areas(ioas) {
                assert!(area.pins == 0 || !area.draining);
                for page in (area.range.start().get()..=area.range.last().get()).step_by(PAGE as usize) {
                    if area.draining {
                        maybe.insert(page, ());
                    } else if !area.revoked {
                        there.insert(page, ioas.translate(Iova::new(page)).unwrap().get());
                    }
                }
            }
            for (hardware, _) in domains.lock().unwrap().iter() {
                let mut pages = hardware.pages.lock().unwrap().clone();
                pages.retain(|page, _| !maybe.contains_key(page));
                let pages: BTreeMap<_, _> = pages.into_iter().map(|(page, (frame, _))| (page, frame)).collect();
                assert_eq!(pages, there);
            }
        }
    }

    fn end(self) {
        self.calm();
        self.compare();
        for user in &self.users {
            user.pins.lock().unwrap().clear();
        }
        for (at, ioas) in self.spaces.iter().enumerate() {
            if at == 0 {
                ioas.unmap_all().unwrap();
                assert_eq!(areas(ioas).len(), 0);
            }
            ioas.reclaim().unwrap();
        }
        self.compare();
        let memories: Vec<_> = self.pages.lock().unwrap().iter().map(|(_, memory)| memory.clone()).collect();
        drop((self.accesses, self.spaces, self.domains, self.users, self.pages));
        for memory in memories.iter().chain(self.old.lock().unwrap().iter()) {
            assert!(!memory.is_pinned());
            assert_eq!(Arc::strong_count(memory), 1);
        }
        for hardware in self.attached.lock().unwrap().iter() {
            assert_eq!(hardware.reachable(), 0);
        }
    }
}

#[test]
fn memory_that_comes_or_goes_is_reachable_by_nobody() {
    let rounds = std::env::var("IOAS_RACES").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
    for round in 0..rounds {
        let world = World::new();
        std::thread::scope(|scope| {
            for cpu in 0..4 {
                let world = &world;
                scope.spawn(move || {
                    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (round * 64 + cpu + 1) << 7);
                    (0..400).for_each(|_| world.turn(&mut random));
                });
            }
        });
        world.end();
    }
}
