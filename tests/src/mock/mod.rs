//! Stand-ins for everything around `iommu-core`, which see every misuse: a unit with its domains, memory sources,
//! functions, users of accesses.
//!
//! All of them belong to a [`World`], which knows every physical page: who pinned it how often, and through what a device
//! could still reach it. Whatever no correct core does ends the test:
//!
//! * a map over what is mapped, or over what was unmapped and not flushed; of memory that is not pinned;
//! * an unmap of what is not mapped (unless hardware did not confirm before), with another domain's gather;
//! * unpinning what is not pinned, pinning twice, unpinning **what a device could still reach**, reading what is not pinned;
//! * dropping a domain while streams lead to it, or a nested one stands on it.
//!
//! Each call can be told to fail ([`Script`]). Nothing here knows how the core works; the numbers are those of the mock
//! domain of Linux's iommufd selftest.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | stale translations | held until the flush, always; never evicted early |
//! | a call that fails | does all of its work, or none |

mod domain;
mod function;
mod memory;
mod nested;
mod script;
mod tables;
#[cfg(test)]
mod tests;
mod unit;
mod user;
mod world;

pub use domain::MockDomain;
pub use function::MockFunction;
pub use memory::{Layout, MemoryConfig, MockMemory};
pub use nested::{DEVICE_CACHES, DEVICE_KIND, INVALIDATE_ALL, IOTLB_IDS, Iotlb, MockNested, NESTED_KIND};
pub use script::{Call, Counts, Effect, Script};
pub use unit::{Leads, MockUnit, UnitConfig};
pub use user::MockUser;
pub use world::{Event, World};

use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::PageSizes;
use iommu_core::sync::{Platform, set_platform};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The smallest page of the mock domain, in bytes.
pub const MOCK_PAGE: u64 = 2048;
/// The large page of the mock domain, in bytes.
pub const MOCK_HUGE: u64 = 512 * MOCK_PAGE;
/// The mock domain's page sizes.
pub const MOCK_SIZES: PageSizes = PageSizes::new(MOCK_PAGE | MOCK_HUGE);
/// Pages of 4 KiB, 2 MiB and 1 GiB, as most formats have them.
pub const COMMON_SIZES: PageSizes = PageSizes::new(1 << 12 | 1 << 21 | 1 << 30);
/// The lowest address that the mock domain maps.
pub const APERTURE_START: u64 = 16 << 20;
/// The highest address that the mock domain maps.
pub const APERTURE_LAST: u64 = (2 << 30) - 1;
/// Width of the mock unit's PASIDs, in bits.
pub const PASID_BITS: u8 = 20;

/// The addresses that the mock domain maps.
pub fn aperture() -> IovaRange {
    span(APERTURE_START, APERTURE_LAST)
}

/// The addresses from `start` to `last`.
pub fn span(start: u64, last: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), Iova::new(last)).expect("a range that ends before it begins")
}

/// The `len` addresses from `start` on.
pub fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).expect("a range that is empty or wraps")
}

/// Tells the core which thread is which, so that it checks its locks' order and that none is held where the embedder is
/// called. Called by [`World::new`].
pub fn platform() {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    set_platform(Platform {
        wait: std::thread::yield_now,
        cpu: || MINE.try_with(|mine| *mine).unwrap_or(usize::MAX),
        before_lock: || {},
    });
}

/// Called without arguments.
pub type Hook = fn();

static OUTSIDE: OnceLock<(Hook, Hook)> = OnceLock::new();

/// Says what is to be called whenever a call of the core enters these stand-ins, and when it leaves them: for suites
/// whose allocator fails, as the stand-ins have memory of their own. Entries nest. The first call counts.
pub fn set_outside(enter: Hook, leave: Hook) {
    let _ = OUTSIDE.set((enter, leave));
}

/// Outside of the core, until dropped.
struct Outside;

impl Outside {
    fn enter() -> Self {
        if let Some((enter, _)) = OUTSIDE.get() {
            enter();
        }
        Self
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some((_, leave)) = OUTSIDE.get() {
            leave();
        }
    }
}

/// The core did what it must not: ends the test, unless that is ending already.
#[track_caller]
fn violation(what: std::fmt::Arguments<'_>) {
    if !std::thread::panicking() {
        panic!("the core broke its contract: {what}");
    }
}

/// A lock that a thread which panicked does not take with it.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
