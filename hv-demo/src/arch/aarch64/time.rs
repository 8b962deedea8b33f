//! Time from the generic timer's physical counter, whose rate the firmware, here QEMU, has put into a register.
//!
//! Under `-icount shift=10,sleep=off` it counts QEMU's virtual time, of which each instruction takes 1.024 us.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use core::sync::atomic::{AtomicU64, Ordering};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The counter's value at the start.
static START: AtomicU64 = AtomicU64::new(0);
/// Ticks a second; 0 before the start.
static RATE: AtomicU64 = AtomicU64::new(0);

/// Takes the counter's rate over. Before this, [`now`] is 0.
pub(super) fn init() {
    let rate = CNTFRQ_EL0.get();
    assert!(rate != 0, "the generic timer does not say how fast it counts");
    START.store(counter(), Ordering::Relaxed);
    RATE.store(rate, Ordering::Relaxed);
}

/// Nanoseconds since the start; never goes back.
pub fn now() -> u64 {
    let ticks = counter().saturating_sub(START.load(Ordering::Relaxed));
    match RATE.load(Ordering::Relaxed) {
        0 => 0,
        rate => (u128::from(ticks) * NANOS_PER_SECOND / u128::from(rate)) as u64,
    }
}

fn counter() -> u64 {
    // Keeps the reading behind everything before it.
    barrier::isb(barrier::SY);
    CNTPCT_EL0.get()
}
