//! The stream table: level-2 tables as they are needed, and entries word by word.

use super::update::{Plan, Words, used_of_entry};
use super::{FRAME_LOG2, Form, STE_LOG2, STES, Tables, frame, load_words, store_words};
use crate::spec::ste::{Level1Descriptor, STE_WORDS, StreamEntry};
use iommu_core::hw::{HwError, StreamId};
use iommu_hal::mem::{ENTRIES, Frame, Frames};
use iommu_hal::{FrameRequest, Hal};

/// Stream id bits that a level-2 table resolves: one bus of PCIe.
pub(super) const SPLIT: u8 = 8;

impl<H: Hal + Clone> Tables<H> {
    /// The words of `entry` for `stream`, with its device TLB as it is known.
    pub(super) fn words_of(&self, stream: StreamId, entry: &StreamEntry) -> Words {
        let device_tlb = self.device(stream).is_some_and(|held| held.tlb_enabled);
        entry.words(self.shape.keep_shareability, device_tlb)
    }

    /// How the entry of a stream becomes `to`; `None` where that takes one that aborts in between.
    pub(crate) fn plan(&self, stream: StreamId, to: &Words) -> Result<Option<Plan>, HwError> {
        let (frame, at) = self.entry(stream)?;
        Ok(Plan::of(&load_words(&frame, at), to, used_of_entry))
    }

    /// Stores the words of the entry of a stream that differ. None of the bits that do may be in use. The caller invalidates.
    pub(crate) fn store(&mut self, stream: StreamId, words: &Words) -> Result<(), HwError> {
        let (frame, at) = self.entry(stream)?;
        store_words(&frame, at, words);
        Ok(())
    }

    /// Stores one word of the entry of a stream, which makes it one of `form`. The caller invalidates, and then
    /// [confirms](Tables::confirmed).
    pub(crate) fn switch(&mut self, stream: StreamId, form: Form, (word, value): (usize, u64)) -> Result<(), HwError> {
        let held = self.held(stream)?;
        (held.form, held.changed) = (form, true);
        let (frame, at) = self.entry(stream)?;
        frame.publish(at + word, value);
        Ok(())
    }

    /// Makes the entry of a stream abort, and leaves its other words for hardware that has begun to use them.
    pub(super) fn abort(&mut self, stream: StreamId) -> Result<(), HwError> {
        self.held(stream)?.form = Form::Abort;
        let (frame, at) = self.entry(stream)?;
        if frame.load(at) != StreamEntry::ABORT_WORD0 {
            frame.publish(at, StreamEntry::ABORT_WORD0);
        }
        Ok(())
    }

    /// Makes sure that the table has an entry for `stream`: a level-2 table of entries that abort is linked where there
    /// is none.
    pub(super) fn reach(&mut self, stream: StreamId) -> Result<(), HwError> {
        let key = stream.get() >> SPLIT;
        if !self.shape.two_level {
            return Ok(());
        }
        let Err(at) = self.leaves.binary_search_by_key(&key, |(held, _)| *held) else {
            return Ok(());
        };
        self.leaves.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let request = FrameRequest { order: SPLIT + STE_LOG2 - FRAME_LOG2, ..self.request };
        let table = Frames::alloc(self.hal.clone(), request).ok_or(HwError::OutOfMemory)?;
        fill_with_aborts(&table);
        let phys = table.phys();
        // Owned before it is reachable: it is never given back.
        self.leaves.insert(at, (key, table));
        let level1 = frame(&self.root, key as usize / ENTRIES)?;
        level1.publish(key as usize % ENTRIES, Level1Descriptor::to(phys, SPLIT).into());
        Ok(())
    }

    /// Frame and first word of the entry of a stream.
    pub(super) fn entry(&self, stream: StreamId) -> Result<(Frame<'_, H>, usize), HwError> {
        let nobody = HwError::NoSuchStream { stream: stream.get() };
        let (table, index) = if self.shape.two_level {
            let key = stream.get() >> SPLIT;
            let at = self.leaves.binary_search_by_key(&key, |(held, _)| *held).map_err(|_| nobody)?;
            let (_, table) = self.leaves.get(at).ok_or(nobody)?;
            (table, stream.get() as usize % (1 << SPLIT))
        } else {
            (&self.root, stream.get() as usize)
        };
        Ok((frame(table, index / STES)?, index % STES * STE_WORDS))
    }
}

/// Makes every entry of a fresh table abort, and visible.
pub(super) fn fill_with_aborts<H: Hal>(table: &Frames<H>) {
    for frame in (0..).map_while(|index| table.frame(index)) {
        for word in (0..ENTRIES).step_by(STE_WORDS) {
            frame.store(word, StreamEntry::ABORT_WORD0);
        }
        frame.clean(0, ENTRIES);
    }
}
