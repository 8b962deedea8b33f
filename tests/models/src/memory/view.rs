//! The two views of memory: software's and a device's.

use super::arena::{Arena, WORDS};
use super::{Snapshot, TestMemory};
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_core::addr::{PAGE_SIZE, PhysAddr};
use iommu_hal::{Hal, WalkerMemory};

impl TestMemory {
    /// Reads 8 bytes as a CPU sees them.
    ///
    /// # Panics
    ///
    /// Where `phys` is misaligned or not allocated.
    pub fn read64(&self, phys: PhysAddr) -> u64 {
        self.owned_word(&self.memory, phys).load(Ordering::Acquire)
    }

    /// Stores 8 bytes as a CPU does, and tells the observer.
    ///
    /// # Panics
    ///
    /// Where `phys` is misaligned or not allocated.
    pub fn write64(&self, phys: PhysAddr, value: u64) {
        self.owned_word(&self.memory, phys).store(value, Ordering::Release);
        self.stored(phys);
    }

    /// Reads 8 bytes as a device sees them; `None` where no memory answers. A read of a frame that is not allocated
    /// gives what lies there and is [recorded](Self::take_stale_reads).
    ///
    /// # Panics
    ///
    /// Where `phys` is not aligned to 8 bytes.
    pub fn device_read64(&self, phys: PhysAddr) -> Option<u64> {
        Some(self.device_word(phys)?.load(Ordering::Acquire))
    }

    /// Writes 4 bytes as a device does; `None`, with nothing written, where no memory answers. A write to a frame that
    /// is not allocated is [recorded](Self::take_stale_reads) and goes nowhere.
    ///
    /// # Panics
    ///
    /// Where `phys` is not aligned to 4 bytes.
    pub fn device_write32(&self, phys: PhysAddr, value: u32) -> Option<()> {
        assert!(phys.is_aligned(4), "device write of 4 bytes at {phys}");
        let high = phys.get() & 4 != 0;
        let word = self.device_word(PhysAddr::new(phys.get() & !7))?;
        if self.is_allocated(phys) {
            let (shift, value) = if high { (32, u64::from(value) << 32) } else { (0, u64::from(value)) };
            let keep = !(0xffff_ffff << shift);
            // The closure never declines, so neither does the update.
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(old & keep | value));
        }
        Some(())
    }

    /// Sets bits in 8 bytes in one atomic step as a device does, for accessed and dirty bits; gives what was there.
    /// `None`, with nothing written, where no memory answers. A frame that is not allocated is
    /// [recorded](Self::take_stale_reads) and not changed.
    ///
    /// # Panics
    ///
    /// Where `phys` is not aligned to 8 bytes.
    pub fn device_or64(&self, phys: PhysAddr, bits: u64) -> Option<u64> {
        let word = self.device_word(phys)?;
        let bits = if self.is_allocated(phys) { bits } else { 0 };
        Some(word.fetch_or(bits, Ordering::AcqRel))
    }

    /// Replaces 8 bytes by `new` if they still are `old`, in one atomic step as a device does; what is there where they
    /// are not. `None`, with nothing written, where no memory answers. A frame that is not allocated is
    /// [recorded](Self::take_stale_reads) and not changed.
    ///
    /// # Panics
    ///
    /// Where `phys` is not aligned to 8 bytes.
    pub fn device_update64(&self, phys: PhysAddr, old: u64, new: u64) -> Option<Result<(), u64>> {
        let word = self.device_word(phys)?;
        if !self.is_allocated(phys) {
            let seen = word.load(Ordering::Acquire);
            return Some(if seen == old { Ok(()) } else { Err(seen) });
        }
        Some(word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop))
    }

    /// A copy of every allocated frame as devices see it at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let frames = self.frames.lock();
        for (index, state) in frames.states.iter().enumerate() {
            if let Some(memory) = state.memory() {
                let seen = self.seen_arena(Some(memory));
                let words = (0..WORDS).map(|word| seen.word(index * WORDS + word).load(Ordering::Acquire));
                snapshot.push(self.base + index as u64 * PAGE_SIZE, words);
            }
        }
        snapshot
    }

    /// Where devices see frames with this `memory`.
    pub(super) fn seen_arena(&self, memory: Option<WalkerMemory>) -> &Arena {
        match (&self.shadow, memory) {
            (Some(shadow), Some(WalkerMemory::NonCoherent)) => shadow,
            _ => &self.memory,
        }
    }

    fn device_word(&self, phys: PhysAddr) -> Option<&AtomicU64> {
        assert!(phys.is_aligned(8), "device access of 8 bytes at {phys}");
        let index = self.index(phys)?;
        let memory = self.frames.lock().states[index].memory();
        if memory.is_none() {
            self.stale_reads.lock().push(phys);
        }
        Some(self.seen_arena(memory).word(((phys.get() - self.base) / 8) as usize))
    }

    fn owned_word<'a>(&self, arena: &'a Arena, phys: PhysAddr) -> &'a AtomicU64 {
        assert!(phys.is_aligned(8) && self.is_allocated(phys), "access of 8 bytes at {phys}, which is not allocated");
        arena.word(((phys.get() - self.base) / 8) as usize)
    }
}
