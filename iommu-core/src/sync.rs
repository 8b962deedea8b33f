//! Locks with a place in an order, and what a CPU does while it waits for one.
//!
//! The order is that of `Rank`, lowest first: a CPU that holds a lock takes only locks of higher ranks. Debug builds
//! check it, on platforms that say which CPU is which ([`Platform::cpu`]), and panic where it is broken; they also check
//! that no lock at all is held where the embedder is called back. Release builds check nothing.
//!
//! Locks spin. None is held while an embedder's callback runs, nor while one that a partition drives is waited for; what
//! is held while hardware is waited for (an address space's list of domains) says so.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::RelaxStrategy;

/// What the crate asks of the machine that it runs on.
#[derive(Clone, Copy)]
pub struct Platform {
    /// Called again and again while a lock is waited for: a hint to the CPU, or a yield to another virtual one.
    pub wait: fn(),
    /// Which CPU this is, from 0. A thread of a host's test counts as a CPU. Only debug builds ask.
    pub cpu: fn() -> usize,
    /// Called before each lock is taken, in debug builds: a place where a test's scheduler may switch to another CPU.
    pub before_lock: fn(),
}

static PLATFORM: spin::Once<Platform> = spin::Once::new();

/// Says what machine this is; the first call counts. Without one, waiting is the CPU's own hint and nothing is checked.
/// Returns whether this was the first.
pub fn set_platform(platform: Platform) -> bool {
    let mut first = false;
    PLATFORM.call_once(|| {
        first = true;
        platform
    });
    first
}

/// Places in the order, lowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Rank {
    /// The objects of a context.
    Objects,
    /// What a group of devices leads to.
    Group,
    /// The domains of an address space. Held for reading while tables are changed and hardware is waited for.
    Members,
    /// Areas, reserved and allowed ranges, accesses.
    Space,
    /// Whether memory is pinned, and how often.
    Pages,
    /// PASIDs and their sets.
    Pasids,
    /// What an object has cost its owner.
    Ledger,
    /// Which queues a unit's faults go to: held by whoever changes that.
    Routes,
    /// Faults: taken by interrupt handlers too, so last, and nothing is waited for under it.
    Faults,
}

/// Waits as the platform says.
pub(crate) struct Wait;

impl RelaxStrategy for Wait {
    #[inline]
    fn relax() {
        relax();
    }
}

/// One turn of waiting for another CPU.
#[inline]
pub(crate) fn relax() {
    match PLATFORM.get() {
        Some(platform) => (platform.wait)(),
        None => core::hint::spin_loop(),
    }
}

/// Panics in debug builds where this CPU holds any lock: what follows calls the embedder.
#[inline]
pub(crate) fn assert_none_held() {
    #[cfg(debug_assertions)]
    held::assert_none();
}

/// Which ranks each CPU holds, in debug builds.
#[cfg(debug_assertions)]
mod held {
    use super::{PLATFORM, Rank};
    use core::sync::atomic::{AtomicU32, Ordering};

    /// CPUs beyond are not checked.
    const CPUS: usize = 1024;

    static HELD: [AtomicU32; CPUS] = [const { AtomicU32::new(0) }; CPUS];

    fn mine() -> Option<(usize, &'static AtomicU32)> {
        let cpu = (PLATFORM.get()?.cpu)();
        Some((cpu, HELD.get(cpu)?))
    }

    pub(super) fn assert_none() {
        if let Some((cpu, held)) = mine() {
            let held = held.load(Ordering::Relaxed);
            assert!(held == 0, "CPU {cpu} calls the embedder with locks {held:#b} held");
        }
    }

    /// One lock that is held. The CPU is remembered, so that the right one is given back.
    pub(super) struct Hold(Option<(usize, Rank)>);

    impl Hold {
        pub(super) fn new(rank: Rank) -> Self {
            if let Some(platform) = PLATFORM.get() {
                (platform.before_lock)();
            }
            Self(mine().map(|(cpu, held)| {
                // Nobody else changes this CPU's.
                let before = held.load(Ordering::Relaxed);
                assert!(before >> rank as u32 == 0, "CPU {cpu} takes {rank:?} while it holds {before:#b}");
                held.store(before | 1 << rank as u32, Ordering::Relaxed);
                (cpu, rank)
            }))
        }

        /// For a lock that was got without waiting, which no order makes wrong: the handler of an interrupt may have
        /// stopped this CPU with any lock held, one of the same rank too. That one's record stays its own.
        pub(super) fn without_waiting(rank: Rank) -> Self {
            if let Some(platform) = PLATFORM.get() {
                (platform.before_lock)();
            }
            Self(mine().and_then(|(cpu, held)| {
                let before = held.fetch_or(1 << rank as u32, Ordering::Relaxed);
                (before & 1 << rank as u32 == 0).then_some((cpu, rank))
            }))
        }
    }

    impl Drop for Hold {
        fn drop(&mut self) {
            if let Some((cpu, rank)) = self.0
                && let Some(held) = HELD.get(cpu)
            {
                held.fetch_and(!(1 << rank as u32), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;

    /// Nothing: release builds check nothing.
    pub(super) struct Hold;

    impl Hold {
        #[inline(always)]
        pub(super) fn new(_: Rank) -> Self {
            Self
        }

        #[inline(always)]
        pub(super) fn without_waiting(_: Rank) -> Self {
            Self
        }
    }
}

use held::Hold;

/// A mutex with a rank.
pub(crate) struct Mutex<T> {
    rank: Rank,
    inner: spin::mutex::SpinMutex<T, Wait>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: spin::mutex::SpinMutex::new(value) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<spin::mutex::SpinMutexGuard<'_, T, Wait>> {
        let hold = Hold::new(self.rank);
        Guard { inner: self.inner.lock(), _hold: hold }
    }

    /// `None` where another holds it: for interrupt handlers, which must not wait for the code that they interrupted.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Guard<spin::mutex::SpinMutexGuard<'_, T, Wait>>> {
        let inner = self.inner.try_lock()?;
        Some(Guard { inner, _hold: Hold::without_waiting(self.rank) })
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// A lock for many readers or one writer, with a rank. A writer that waits keeps new readers out, so that readers who
/// come and go can not keep it waiting for ever.
pub(crate) struct RwLock<T> {
    rank: Rank,
    /// Writers that wait or hold it.
    writers: AtomicUsize,
    inner: spin::rwlock::RwLock<T, Wait>,
}

impl<T> RwLock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, writers: AtomicUsize::new(0), inner: spin::rwlock::RwLock::new(value) }
    }

    #[inline]
    pub(crate) fn read(&self) -> Guard<spin::rwlock::RwLockReadGuard<'_, T, Wait>> {
        let hold = Hold::new(self.rank);
        loop {
            if self.writers.load(Ordering::Relaxed) == 0
                && let Some(inner) = self.inner.try_read()
            {
                return Guard { inner, _hold: hold };
            }
            relax();
        }
    }

    /// `None` where a writer waits or holds it: for interrupt handlers, as [`Mutex::try_lock`].
    #[inline]
    pub(crate) fn try_read(&self) -> Option<Guard<spin::rwlock::RwLockReadGuard<'_, T, Wait>>> {
        if self.writers.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let inner = self.inner.try_read()?;
        Some(Guard { inner, _hold: Hold::without_waiting(self.rank) })
    }

    pub(crate) fn write(&self) -> Guard<spin::rwlock::RwLockWriteGuard<'_, T, Wait>> {
        let hold = Hold::new(self.rank);
        self.writers.fetch_add(1, Ordering::Relaxed);
        let inner = self.inner.write();
        self.writers.fetch_sub(1, Ordering::Relaxed);
        Guard { inner, _hold: hold }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// A lock that is held, until this is dropped.
pub(crate) struct Guard<G> {
    // Given back before the record of it.
    inner: G,
    _hold: Hold,
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    #[inline]
    fn deref(&self) -> &G::Target {
        &self.inner
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    #[inline]
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests;
