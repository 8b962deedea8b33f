//! Stores that wait in a write buffer (VT-d, section 6.8): a walker does not see them before the buffer is flushed.

use super::TestMemory;
use super::arena::{Arena, WORDS};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use iommu_core::addr::PhysAddr;

/// What walkers see while stores are buffered, and the words that they see late.
pub(super) struct WriteBuffer {
    seen: Arena,
    waiting: spin::Mutex<BTreeSet<usize>>,
}

impl TestMemory {
    /// From now on stores reach walkers only with [`TestMemory::flush_write_buffer`]. Frames come zeroed all the same.
    pub fn buffer_writes(&self) {
        self.buffer.call_once(|| {
            let seen = Arena::new(self.base, self.frames());
            let frames = self.frames.lock();
            for (index, state) in frames.states.iter().enumerate().filter(|(_, state)| state.memory().is_some()) {
                for word in index * WORDS..(index + 1) * WORDS {
                    let value = self.seen_arena(state.memory()).word(word).load(Ordering::Acquire);
                    seen.word(word).store(value, Ordering::Release);
                }
            }
            WriteBuffer { seen, waiting: spin::Mutex::default() }
        });
    }

    /// Lets walkers see all that devices can see.
    pub fn flush_write_buffer(&self) {
        let Some(buffer) = self.buffer.get() else { return };
        let words = core::mem::take(&mut *buffer.waiting.lock());
        let frames = self.frames.lock();
        for word in words {
            let value = self.seen_arena(frames.states[word / WORDS].memory()).word(word).load(Ordering::Acquire);
            buffer.seen.word(word).store(value, Ordering::Release);
        }
    }

    /// Reads 8 bytes as a walker of tables sees them: as [`TestMemory::device_read64`], but for stores that wait in the
    /// write buffer.
    ///
    /// # Panics
    ///
    /// Where `phys` is not aligned to 8 bytes.
    pub fn walker_read64(&self, phys: PhysAddr) -> Option<u64> {
        let value = self.device_read64(phys)?;
        let late = self.buffer.get().map(|buffer| buffer.seen.word(self.word(phys)).load(Ordering::Acquire));
        Some(late.unwrap_or(value))
    }

    /// Replaces 8 bytes as [`TestMemory::device_update64`] does, by what a walker sees.
    ///
    /// # Panics
    ///
    /// Where `phys` is not aligned to 8 bytes.
    pub fn walker_update64(&self, phys: PhysAddr, old: u64, new: u64) -> Option<Result<(), u64>> {
        let done = self.device_update64(phys, old, new)?;
        if let (Some(buffer), Ok(())) = (self.buffer.get(), done) {
            buffer.seen.word(self.word(phys)).store(new, Ordering::Release);
        }
        Some(done)
    }

    /// Notes that walkers see these words late.
    pub(super) fn buffer_words(&self, words: core::ops::Range<usize>) {
        if let Some(buffer) = self.buffer.get() {
            buffer.waiting.lock().extend(words);
        }
    }

    /// Fills words at once, as frames are that come and go.
    pub(super) fn fill_buffer(&self, words: core::ops::Range<usize>, value: u64) {
        if let Some(buffer) = self.buffer.get() {
            let mut waiting = buffer.waiting.lock();
            let late: Vec<usize> = waiting.range(words.clone()).copied().collect();
            for word in late {
                waiting.remove(&word);
            }
            words.for_each(|word| buffer.seen.word(word).store(value, Ordering::Release));
        }
    }

    fn word(&self, phys: PhysAddr) -> usize {
        ((phys.get() - self.base) / 8) as usize
    }
}
