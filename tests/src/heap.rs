//! A heap that runs out when a test says so, for the thread that says so; what stands for hardware and the embedder has
//! its own.
//!
//! A suite that uses it makes [`Failing`] its global allocator. Code that aborts instead of returning an error ends the
//! whole test binary.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::ptr::null_mut;

const NEVER: usize = usize::MAX;

thread_local! {
    /// Allocations of this thread that still succeed.
    static LEFT: Cell<usize> = const { Cell::new(NEVER) };
}

/// The system's heap, until it is full.
pub struct Failing;

/// Whether one more allocation succeeds.
fn allowed() -> bool {
    let allowed = LEFT.try_with(|left| match left.get() {
        NEVER => true,
        0 => false,
        more => {
            left.set(more - 1);
            true
        }
    });
    allowed.unwrap_or(true)
}

// SAFETY: everything is the system allocator's, or null, which stands for no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if allowed() { unsafe { System.alloc(layout) } } else { null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if allowed() { unsafe { System.alloc_zeroed(layout) } } else { null_mut() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; all memory came from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `does` with as much heap as it wants: for what stands for hardware and the embedder.
pub fn plenty<T>(does: impl FnOnce() -> T) -> T {
    let left = LEFT.replace(NEVER);
    let result = does();
    LEFT.set(left);
    result
}

/// Runs `does` with `n` allocations.
pub fn with_heap_of<T>(n: usize, does: impl FnOnce() -> T) -> T {
    LEFT.set(n);
    let result = does();
    LEFT.set(NEVER);
    result
}

/// Tries `does` with 0, 1, 2... allocations until it succeeds, and `check`s after each failure. What it gave, and how many
/// failed.
///
/// # Panics
///
/// Where it fails with anything else than `expected`.
#[track_caller]
pub fn until_it_succeeds<T, E: Debug + PartialEq>(
    does: impl Fn() -> Result<T, E>,
    expected: E,
    check: impl Fn(),
) -> (T, usize) {
    for n in 0.. {
        match with_heap_of(n, &does) {
            Ok(value) => return (value, n),
            Err(error) => assert_eq!(error, expected, "allocation {n}"),
        }
        check();
    }
    unreachable!("some number is enough")
}
