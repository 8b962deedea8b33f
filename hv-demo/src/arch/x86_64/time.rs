//! Time from the time-stamp counter, whose rate is measured against the PIT once.
//!
//! Under `-icount shift=10,sleep=off` both count QEMU's virtual time: the TSC runs at 1 GHz and each instruction takes
//! 1.024 us, so a wait of 10 ms is some ten thousand instructions; time does not pass while the host is busy with other
//! things. Under plain TCG the TSC is the host's and the PIT follows the host's clock. The measurement holds for both.

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::instructions::port::Port;

/// The PIT's input clock in Hz.
const PIT_HZ: u64 = 1_193_182;
/// How long the measurement takes, in ticks of that clock: 50 ms, of which a look at the PIT takes one thousandth.
const PIT_TICKS: u16 = 59_659;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The counter's value at the start.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a tick, as a fixed-point number with 32 bits behind the point.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// Measures the counter's rate. Before this, [`now`] is 0.
pub(super) fn init() {
    let ticks = ticks_of_measurement();
    let nanos = u128::from(PIT_TICKS) * NANOS_PER_SECOND / u128::from(PIT_HZ);
    let scale = (nanos << 32) / u128::from(ticks);
    START.store(counter(), Ordering::Relaxed);
    SCALE.store(u64::try_from(scale).expect("a time-stamp counter of less than 1 Hz"), Ordering::Relaxed);
}

/// Nanoseconds since the start; never goes back.
pub fn now() -> u64 {
    let ticks = counter().saturating_sub(START.load(Ordering::Relaxed));
    ((u128::from(ticks) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

fn counter() -> u64 {
    // SAFETY: every x86_64 CPU has both instructions; the fence keeps earlier loads before the reading.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// How far the counter gets while the PIT's channel 2 counts down once.
fn ticks_of_measurement() -> u64 {
    let mut command = Port::<u8>::new(0x43);
    let mut channel = Port::<u8>::new(0x42);
    // Bit 0: the channel's gate; bit 1: the speaker; bit 5: the channel's output.
    let mut control = Port::<u8>::new(0x61);
    let [low, high] = PIT_TICKS.to_le_bytes();
    // SAFETY: the ports are the PC's PIT and system control, which nothing else drives.
    unsafe {
        let before = control.read();
        control.write(before & !2 | 1);
        command.write(0xb0); // channel 2, both bytes, mode 0: the output rises when the count is over
        channel.write(low);
        channel.write(high);
        let start = counter();
        // A PIT that never gets there must not hang the boot. The bound is far beyond what any CPU does in 50 ms.
        let done = (0..100_000_000).any(|_| control.read() & 0x20 != 0);
        let ticks = counter() - start;
        control.write(before);
        assert!(done && ticks > 0, "the PIT does not count; time cannot be measured");
        ticks
    }
}
