//! A heap that fails where it is told to, and knows how much of it is in use.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// Which allocations of this thread fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    /// None.
    Never,
    /// The one after so many more, and no other.
    Only(usize),
    /// Those after so many more.
    After(usize),
}

thread_local! {
    static PLAN: Cell<Plan> = const { Cell::new(Plan::Never) };
    /// Allocations that failed since the plan was made.
    static FAILED: Cell<usize> = const { Cell::new(0) };
    /// Bytes in use that this thread allocated, less those that it freed.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

struct Failing;

/// Whether the next allocation of this thread succeeds.
fn allowed() -> bool {
    let plan = PLAN.try_with(|plan| {
        let (next, allowed) = match plan.get() {
            Plan::Never => (Plan::Never, true),
            Plan::Only(0) => (Plan::Never, false),
            Plan::Only(more) => (Plan::Only(more - 1), true),
            Plan::After(0) => (Plan::After(0), false),
            Plan::After(more) => (Plan::After(more - 1), true),
        };
        plan.set(next);
        allowed
    });
    let allowed = plan.unwrap_or(true);
    if !allowed {
        let _ = FAILED.try_with(|failed| failed.set(failed.get() + 1));
    }
    allowed
}

fn count(bytes: isize) {
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: everything is the system allocator's, or null, which stands for no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !allowed() {
            return null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises; all memory came from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Bytes in use that this thread allocated.
pub fn live() -> isize {
    LIVE.get()
}

/// Runs `does`, while the allocation after `n` more fails: it alone, or all from it on. Returns how many failed, too.
pub fn failing<T>(n: usize, alone: bool, does: impl FnOnce() -> T) -> (T, usize) {
    FAILED.set(0);
    PLAN.set(if alone { Plan::Only(n) } else { Plan::After(n) });
    let result = does();
    PLAN.set(Plan::Never);
    (result, FAILED.get())
}

/// Runs `does`, and fails the test if it allocates.
pub fn without<T>(does: impl FnOnce() -> T) -> T {
    let (result, failed) = failing(0, false, does);
    assert_eq!(failed, 0, "memory was asked for, and got none");
    result
}

thread_local! {
    /// How often the stand-ins were entered, and the plan for when the last of them is left.
    static OUTSIDE: Cell<(usize, Plan)> = const { Cell::new((0, Plan::Never)) };
}

/// What stands outside of the core has memory of its own: from entering to leaving it nothing fails.
pub struct Outside;

impl Outside {
    pub fn enter() {
        OUTSIDE.with(|outside| match outside.get() {
            (0, _) => outside.set((1, PLAN.replace(Plan::Never))),
            (depth, plan) => outside.set((depth + 1, plan)),
        });
    }

    pub fn leave() {
        OUTSIDE.with(|outside| {
            let (depth, plan) = outside.get();
            outside.set((depth.saturating_sub(1), plan));
            if depth == 1 {
                PLAN.set(plan);
            }
        });
    }
}
