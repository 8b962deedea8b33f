//! The machine that the core runs on here: tasks of a scheduler that tries orders, or real threads.
//!
//! The points at which another CPU may go on are those before a lock is taken (the core tells in debug builds), before
//! and after each call of a driver or of the embedder, and each turn of waiting. What runs between two points runs at
//! once. Debug builds also check the order of locks, and that none is held where the embedder is called.

use iommu_core::sync::{Platform, set_platform};
use iommu_tests::figures;
use iommu_tests::mock::set_outside;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::AtomicUsize;
use shuttle::{Config, Runner};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize as Count, Ordering};
use std::sync::{Arc, Mutex};

/// Tasks of one schedule at most, each of which is a CPU to the core.
const TASKS: usize = 16;

thread_local! {
    /// Set while a schedule runs on this thread: what its points are made of.
    static POINT: RefCell<Option<Arc<AtomicUsize>>> = const { RefCell::new(None) };
    /// The order of what CPUs did so far, as a number.
    static ORDER: Cell<u64> = const { Cell::new(0) };
    /// This thread's number, given back when it ends.
    static NUMBER: Number = Number::take();
}

/// Numbers of threads that live, as a mask.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

struct Number(usize);

impl Number {
    fn take() -> Self {
        let lowest = |taken: u64| !taken & (!taken).wrapping_neg();
        let before = NUMBERS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| Some(taken | lowest(taken)));
        let taken = before.unwrap_or(u64::MAX);
        Self((!taken).trailing_zeros() as usize)
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if self.0 < 64 {
            NUMBERS.fetch_and(!(1 << self.0), Ordering::AcqRel);
        }
    }
}

fn scheduled() -> bool {
    POINT.with_borrow(Option::is_some)
}

/// The task of the schedule that runs; 0 on a thread of its own.
fn task() -> usize {
    if scheduled() { usize::from(shuttle::thread::current().id()) } else { 0 }
}

fn cpu() -> usize {
    let number = NUMBER.try_with(|number| number.0).unwrap_or(usize::MAX / TASKS);
    number * TASKS + task() % TASKS
}

fn wait() {
    if scheduled() { shuttle::thread::yield_now() } else { std::thread::yield_now() }
}

/// Another CPU may go on here, or an interrupt come.
pub fn point(what: u64) {
    let point = POINT.with_borrow(Clone::clone);
    if let Some(point) = point {
        interrupt();
        ORDER.set((ORDER.get() ^ ((task() as u64) << 8 | what)).wrapping_mul(0x100_0000_01b3).rotate_left(23));
        point.load(Ordering::SeqCst);
    }
}

/// What an interrupt handler does.
pub type Handler = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    /// Comes at every point, on the CPU that is there.
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
    /// CPUs that are in it, as a mask: it does not interrupt itself.
    static HANDLING: Cell<u64> = const { Cell::new(0) };
}

/// From now on, until the end of the schedule, an interrupt comes at every point.
pub fn set_handler(handler: Handler) {
    HANDLER.set(Some(handler));
}

fn interrupt() {
    let Some(handler) = HANDLER.with_borrow(Clone::clone) else { return };
    let this = 1 << (task() % TASKS);
    if HANDLING.get() & this == 0 {
        HANDLING.set(HANDLING.get() | this);
        handler();
        HANDLING.set(HANDLING.get() & !this);
    }
}

/// Says what the machine is: once is enough for all tests, if it is before the mocks say it.
pub fn platform() {
    set_platform(Platform { wait, cpu, before_lock: || point(0) });
    set_outside(|| point(1), || point(2));
}

/// Runs `with` outside of the schedule's points: to set up, and to look at what came of it.
pub fn quietly<T>(with: impl FnOnce() -> T) -> T {
    let point = POINT.take();
    let result = with();
    POINT.set(point);
    result
}

/// All schedules of this binary so far.
static TRIED: Count = Count::new(0);

/// Tries `schedules` of `scenario`: half of them at random, the others by priorities (PCT). Prints how many there were,
/// and how many of them differ.
pub fn explore(name: &str, schedules: usize, scenario: impl Fn() + Send + Sync + 'static) {
    platform();
    let orders = Arc::new(Mutex::new(HashSet::new()));
    let noted = orders.clone();
    let run = Arc::new(move || {
        POINT.set(Some(Arc::new(AtomicUsize::new(0))));
        ORDER.set(0);
        scenario();
        POINT.set(None);
        HANDLER.set(None);
        noted.lock().unwrap().insert(ORDER.get());
    });
    let mut tried = 0;
    // The same seeds each time: what fails, fails again.
    for (seed, depth) in [(1, 0), (2, 3), (3, 5)] {
        let count = if depth == 0 { schedules - schedules / 4 * 2 } else { schedules / 4 };
        let scheduler: Box<dyn Scheduler + Send> = match depth {
            0 => Box::new(RandomScheduler::new_from_seed(seed, count)),
            _ => Box::new(PctScheduler::new_from_seed(seed, depth, count)),
        };
        let mut config = Config::new();
        config.stack_size = 1 << 18;
        config.silence_warnings = true;
        let run = run.clone();
        tried += Runner::new(scheduler, config).run(move || run());
    }
    POINT.set(None);
    let orders = orders.lock().unwrap().len();
    let all = TRIED.fetch_add(tried, Ordering::Relaxed) + tried;
    figures::print(&format!("{name}: {tried} schedules, {orders} of them different; {all} in all so far"));
    assert_eq!(tried, schedules);
    assert!(orders * 10 >= tried * 3, "{name}: too many schedules are the same");
}

/// Work of one CPU.
pub type Work<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

/// Runs all of `work` side by side, as tasks of the schedule.
pub fn side_by_side<T: Send>(work: Vec<Work<'_, T>>) -> Vec<T> {
    shuttle::thread::scope(|scope| {
        let tasks: Vec<_> = work.into_iter().map(|work| scope.spawn(work)).collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    })
}
