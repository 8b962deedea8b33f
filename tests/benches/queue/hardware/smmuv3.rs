//! An SMMUv3.

use super::{Architecture, Host, Machine, OFFSET};
use iommu_smmuv3::{Completion, Config, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// CR0.CMDQEN.
const CMDQEN: u32 = 1 << 3;

/// What it was told.
#[derive(Default)]
pub struct Smmuv3 {
    ranges: bool,
    messages: bool,
    cr0: AtomicU32,
    irq_ctrl: AtomicU32,
    gbpa: AtomicU32,
    queue: AtomicU64,
    /// The indices of the command queue.
    producer: AtomicU32,
    consumer: AtomicU32,
}

impl Architecture for Smmuv3 {
    const NAME: &'static str = "smmuv3";
    const KINDS: &'static [&'static str] = &["polling", "messages", "polling, without ranges"];

    type Unit = Unit<Arc<Machine<Self>>, Arc<Machine<Self>>>;

    fn of(kind: usize) -> Self {
        Self { ranges: kind != 2, messages: kind == 1, ..Self::default() }
    }

    fn bring_up(machine: &Arc<Machine<Self>>) -> Self::Unit {
        let completion = if machine.unit.messages { Completion::Message } else { Completion::Poll };
        let config = Config { host_bits: 48, timeout: Duration::from_secs(10), completion, ..Config::default() };
        Unit::bring_up(machine.clone(), machine.clone(), config).expect("a unit")
    }

    fn sync(unit: &Self::Unit) {
        unit.sync().expect("a wait");
    }

    fn window(&self) -> usize {
        0x2_0000
    }

    fn read(&self, offset: usize) -> u64 {
        let value = match offset {
            // What QEMU reports, with messages, 48 bits of address, and ranges where asked for.
            0x00 => 0x0d44_101b | 1 << 13,
            0x04 => 0x0273_0010,
            0x0c => 0x1014 | u32::from(self.ranges) << 10,
            0x14 => 0x75,
            0x1c => 1,
            0x20 | 0x24 => self.cr0.load(Ordering::Relaxed),
            0x44 => self.gbpa.load(Ordering::Relaxed),
            0x50 | 0x54 => self.irq_ctrl.load(Ordering::Relaxed),
            0x98 => self.producer.load(Ordering::Relaxed),
            0x9c => self.consumer.load(Ordering::Acquire),
            _ => 0,
        };
        value.into()
    }

    fn write(&self, offset: usize, value: u64) -> bool {
        let low = value as u32;
        match offset {
            0x20 => self.cr0.store(low, Ordering::Relaxed),
            // UPDATE is over at once.
            0x44 => self.gbpa.store(low & !(1 << 31), Ordering::Relaxed),
            0x50 => self.irq_ctrl.store(low, Ordering::Relaxed),
            0x90 => self.queue.store(value, Ordering::Relaxed),
            0x98 => {
                self.producer.store(low, Ordering::Relaxed);
                return self.cr0.load(Ordering::Relaxed) & CMDQEN != 0;
            }
            0x9c => self.consumer.store(low, Ordering::Relaxed),
            _ => {}
        }
        false
    }

    /// What stands before the producer index is a CMD_SYNC.
    fn confirm(&self) {
        let producer = self.producer.load(Ordering::Relaxed);
        self.consumer.store(producer, Ordering::Release);
        if self.messages {
            let base = self.queue.load(Ordering::Relaxed);
            let mask = (1 << (base & 0x1f)) - 1;
            let at = (base & 0x000f_ffff_ffff_ffe0) + (u64::from(producer).wrapping_sub(1) & mask) * 16;
            let wait = Host::<OFFSET>::pointer(at).cast::<AtomicU64>();
            // SAFETY: the driver has given the queue to this unit for good, and reaches it by atomic accesses only.
            let [low, high] = [0, 1].map(|word| unsafe { &*wait.add(word) }.load(Ordering::Relaxed));
            if low >> 12 & 3 == 1 {
                let cell = Host::<OFFSET>::pointer(high & 0x000f_ffff_ffff_fffc).cast::<AtomicU32>();
                // SAFETY: the driver has given the cell to this unit for good. It reads 64 bits of which these are the
                // lower; on this architecture a load sees them whole.
                unsafe { &*cell }.store((low >> 32) as u32, Ordering::Release);
            }
        }
    }
}
