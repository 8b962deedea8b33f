//! A VT-d unit.

use super::{Architecture, Host, Machine, OFFSET};
use iommu_vtd::{Config, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of the queue: 256 descriptors of 256 bits.
const QUEUE: u64 = 256 * 32;

/// What it was told.
#[derive(Default)]
pub struct Vtd {
    status: AtomicU32,
    queue: AtomicU64,
    /// Where the wait that is pending reports to, and what.
    cell: AtomicU64,
    data: AtomicU32,
}

impl Architecture for Vtd {
    const NAME: &'static str = "vtd";
    const KINDS: &'static [&'static str] = &["status writes"];

    type Unit = Unit<Arc<Machine<Self>>, Arc<Machine<Self>>>;

    fn of(_: usize) -> Self {
        Self::default()
    }

    fn bring_up(machine: &Arc<Machine<Self>>) -> Self::Unit {
        let config = Config { host_bits: 48, timeout: Duration::from_secs(10), ..Config::default() };
        Unit::bring_up(machine.clone(), machine.clone(), config).expect("a unit")
    }

    fn sync(unit: &Self::Unit) {
        unit.sync().expect("a wait");
    }

    fn window(&self) -> usize {
        4096
    }

    fn read(&self, offset: usize) -> u64 {
        match offset {
            0x00 => 0x10,
            // What QEMU reports with `x-scalable-mode=on`, and everything snooped.
            0x08 => 0x00d2_008c_222f_0606,
            0x10 => 0x0000_4800_80f0_0f4a | 1 | 1 << 48,
            0x1c => self.status.load(Ordering::Relaxed).into(),
            // FECTL and IECTL: masked.
            0x38 | 0xa0 => 1 << 31,
            _ => 0,
        }
    }

    fn write(&self, offset: usize, value: u64) -> bool {
        match offset {
            0x18 => {
                // Lasting states and the root pointer are acknowledged at once.
                self.status.fetch_and(1 << 30, Ordering::Relaxed);
                self.status.fetch_or(value as u32 & !(1 << 27), Ordering::Relaxed);
            }
            0x88 => return self.told(value),
            0x90 => self.queue.store(value, Ordering::Relaxed),
            _ => {}
        }
        false
    }

    fn confirm(&self) {
        let cell = Host::<OFFSET>::pointer(self.cell.load(Ordering::Relaxed)).cast::<AtomicU32>();
        // SAFETY: the driver has given the cell to this unit for good. It reads 64 bits of which these are the lower; on this
        // architecture a load sees them whole.
        unsafe { &*cell }.store(self.data.load(Ordering::Relaxed), Ordering::Release);
    }
}

impl Vtd {
    /// What stands before the tail is a wait.
    fn told(&self, tail: u64) -> bool {
        let queue = self.queue.load(Ordering::Relaxed) & !0xfff;
        if queue == 0 {
            // Before there is one.
            return false;
        }
        let wait = Host::<OFFSET>::pointer(queue + (tail + QUEUE - 32) % QUEUE).cast::<AtomicU64>();
        // SAFETY: the driver has given the queue to this unit for good, and reaches it by atomic accesses only.
        let [low, high] = [0, 1].map(|word| unsafe { &*wait.add(word) }.load(Ordering::Relaxed));
        self.cell.store(high, Ordering::Relaxed);
        self.data.store((low >> 32) as u32, Ordering::Relaxed);
        true
    }
}
