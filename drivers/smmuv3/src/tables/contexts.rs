//! The context descriptors of a stream with substreams (sections 5.3 and 5.4).
//!
//! A table begins as one frame of 64 descriptors. With IDR0.CD2L it becomes the first leaf of a table of two levels as soon
//! as a higher index is needed, and the first level grows by a larger one that takes its place; a leaf comes with the first
//! of its 64 descriptors and stays as long as the table. Without, the table grows by a larger one that takes its place.
//!
//! Descriptor 0 is for requests without substream. Nothing here invalidates.

use super::look::word as word_at;
use super::update::{Plan, Words, used_of_context};
use super::{STES, Structure, load_words, store_words};
use crate::spec::cd::{CD_WORDS, CONTEXTS_LOG2, Level1Context};
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_hal::mem::{ENTRIES, Frame, Frames};
use iommu_hal::{FrameRequest, Hal};

/// Substream id bits that one frame of a first level resolves, with the leaf behind it.
const FRAME_BITS: u8 = CONTEXTS_LOG2 + ENTRIES.trailing_zeros() as u8;

/// What tables of context descriptors a unit takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContextShape {
    /// Width of substream ids in bits; 0 where there are none.
    pub(crate) bits: u8,
    /// IDR0.CD2L.
    pub(crate) two_level: bool,
}

impl ContextShape {
    /// Whether the table that has a descriptor `index` has two levels, and the substream id bits that it takes.
    fn table_for(self, index: u32) -> (bool, u8) {
        let needed = ((u32::BITS - index.leading_zeros()) as u8).max(CONTEXTS_LOG2);
        match self.two_level && needed > CONTEXTS_LOG2 {
            true => (true, needed.max(FRAME_BITS).min(self.bits)),
            false => (false, needed.min(self.bits)),
        }
    }
}

/// Memory for a table, or for its first level, not seen by hardware yet.
pub(crate) struct Space<H: Hal> {
    two_level: bool,
    bits: u8,
    frames: Frames<H>,
}

impl<H: Hal + Clone> Space<H> {
    /// Memory for a table that has a descriptor `index`; `request` says how one frame of it is asked for.
    pub(super) fn for_index(hal: &H, request: FrameRequest, shape: ContextShape, index: u32) -> Result<Self, HwError> {
        let (two_level, bits) = shape.table_for(index);
        let order = bits.saturating_sub(if two_level { FRAME_BITS } else { CONTEXTS_LOG2 });
        let frames = Frames::alloc(hal.clone(), FrameRequest { order, ..request }).ok_or(HwError::OutOfMemory)?;
        Ok(Self { two_level, bits, frames })
    }
}

impl<H: Hal> Space<H> {
    /// Whether this is a first level.
    pub(super) fn two_level(&self) -> bool {
        self.two_level
    }

    fn structures(&self) -> impl Iterator<Item = (Structure, PhysAddr)> + '_ {
        let kind = if self.two_level { Structure::Level1ContextTable } else { Structure::ContextTable };
        (0..self.frames.len() / 4096).map(move |at| (kind, self.frames.phys().wrapping_add(at as u64 * 4096)))
    }
}

/// A stream's table.
pub(super) struct Contexts<H: Hal> {
    /// The table where it has one level, else the first.
    space: Space<H>,
    /// Of two levels, sorted by entry. All of them are linked.
    leaves: Vec<(u32, Frames<H>)>,
    /// What was there before it grew, until hardware has confirmed that it forgot it.
    old: Option<Frames<H>>,
}

impl<H: Hal + Clone> Contexts<H> {
    /// A table without valid descriptors, not seen by hardware yet, in which descriptor 0 has memory; `request` says how one
    /// frame is asked for.
    pub(super) fn new(hal: &H, request: FrameRequest, shape: ContextShape, index: u32) -> Result<Self, HwError> {
        let mut new = Self { space: Space::for_index(hal, request, shape, index)?, leaves: Vec::new(), old: None };
        if new.space.two_level {
            new.reserve_leaves(1)?;
            new.add_leaf(0, Frames::alloc(hal.clone(), request).ok_or(HwError::OutOfMemory)?)?;
        }
        Ok(new)
    }

    /// Where it stands, whether it has two levels, and the bits of substream ids that it takes.
    pub(super) fn place(&self) -> (PhysAddr, bool, u8) {
        (self.space.frames.phys(), self.space.two_level, self.space.bits)
    }

    /// Whether it has room for a descriptor `index`.
    pub(super) fn reaches(&self, index: u32) -> bool {
        index >> self.space.bits == 0
    }

    /// Whether the descriptor `index` has memory.
    pub(super) fn has_leaf(&self, index: u32) -> bool {
        !self.space.two_level || self.position(index).is_ok()
    }

    /// Room for `more` leaves in the list of them.
    pub(super) fn reserve_leaves(&mut self, more: usize) -> Result<(), HwError> {
        self.leaves.try_reserve(more).map_err(|_| HwError::OutOfMemory)
    }

    /// Goes on in `space`, which is larger. The caller leads the stream table entry there, has [reserved](Self::reserve_leaves)
    /// room for a leaf, and there is nothing old now. What was before is kept until [`Contexts::forget_old`].
    pub(super) fn move_to(&mut self, space: Space<H>) -> Result<(), HwError> {
        if !space.two_level {
            let from = (0..).map_while(|at| self.space.frames.frame(at));
            for (from, to) in from.zip((0..).map_while(|at| space.frames.frame(at))) {
                (0..ENTRIES).for_each(|at| to.store(at, from.load(at)));
                to.clean(0, ENTRIES);
            }
            self.old = Some(core::mem::replace(&mut self.space, space).frames);
            return Ok(());
        }
        for (slot, leaf) in &self.leaves {
            link(&space, *slot, leaf.phys())?;
        }
        if self.space.two_level {
            self.old = Some(core::mem::replace(&mut self.space, space).frames);
            return Ok(());
        }
        // A whole table of one frame is the first leaf.
        self.reserve_leaves(1)?;
        link(&space, 0, self.space.frames.phys())?;
        let before = core::mem::replace(&mut self.space, space);
        self.leaves.insert(0, (0, before.frames));
        Ok(())
    }

    /// Gives back what hardware has confirmed that it forgot.
    pub(super) fn forget_old(&mut self) {
        self.old = None;
    }

    /// Makes `leaf` the memory of the descriptors around `index`, which have none. There is room for it in the list.
    pub(super) fn add_leaf(&mut self, index: u32, leaf: Frames<H>) -> Result<(), HwError> {
        if let Err(at) = self.position(index) {
            self.reserve_leaves(1)?;
            let phys = leaf.phys();
            // Owned before it is reachable.
            self.leaves.insert(at, (slot(index), leaf));
            link(&self.space, slot(index), phys)?;
        }
        Ok(())
    }

    /// How the descriptor `index` becomes `to`; `None` where it is valid, and another.
    pub(super) fn plan(&self, index: u32, to: &Words) -> Result<Option<Plan>, HwError> {
        let (frame, at) = self.descriptor(index)?;
        Ok(Plan::of(&load_words(&frame, at), to, used_of_context))
    }

    /// Stores the words of the descriptor `index` that differ.
    pub(super) fn store(&self, index: u32, words: &Words) -> Result<(), HwError> {
        let (frame, at) = self.descriptor(index)?;
        store_words(&frame, at, words);
        Ok(())
    }

    /// Stores one word of the descriptor `index`.
    pub(super) fn publish(&self, index: u32, word: usize, value: u64) -> Result<(), HwError> {
        let (frame, at) = self.descriptor(index)?;
        frame.publish(at + word, value);
        Ok(())
    }

    /// Makes the descriptor `index` not valid by one store of the word that says so, and leaves the others for hardware that
    /// has begun to use them. Nothing to do where it has no memory.
    pub(super) fn clear(&self, index: u32) -> Result<(), HwError> {
        if self.reaches(index) && self.has_leaf(index) {
            let (frame, at) = self.descriptor(index)?;
            if frame.load(at) != 0 {
                frame.publish(at, 0);
            }
        }
        Ok(())
    }

    /// Every frame of the table, of what was before it and of the leaves.
    pub(super) fn structures(&self) -> impl Iterator<Item = (Structure, PhysAddr)> + '_ {
        let old = self.old.iter().map(|old| (Structure::ContextTable, old.phys()));
        let leaves = self.leaves.iter().map(|(_, leaf)| (Structure::ContextTable, leaf.phys()));
        self.space.structures().chain(old).chain(leaves)
    }

    /// The word at `at`, where that is in the table.
    pub(super) fn load(&self, at: PhysAddr) -> Option<u64> {
        word_at(&self.space.frames, at).or_else(|| self.leaves.iter().find_map(|(_, leaf)| word_at(leaf, at)))
    }

    /// Frame and first word of the descriptor `index`.
    fn descriptor(&self, index: u32) -> Result<(Frame<'_, H>, usize), HwError> {
        const { assert!(STES == 1 << CONTEXTS_LOG2, "as many descriptors in a frame as entries") };
        let nowhere = HwError::Hardware("a substream without a context descriptor");
        let word = index as usize % STES * CD_WORDS;
        let frame = if self.space.two_level {
            let at = self.position(index).map_err(|_| nowhere)?;
            self.leaves.get(at).and_then(|(_, leaf)| leaf.frame(0))
        } else {
            self.space.frames.frame(index as usize / STES)
        };
        Ok((frame.ok_or(nowhere)?, word))
    }

    fn position(&self, index: u32) -> Result<usize, usize> {
        self.leaves.binary_search_by_key(&slot(index), |(held, _)| *held)
    }
}

/// Entry of a descriptor in the first level.
fn slot(index: u32) -> u32 {
    index >> CONTEXTS_LOG2
}

fn link<H: Hal>(space: &Space<H>, slot: u32, leaf: PhysAddr) -> Result<(), HwError> {
    let frame = space.frames.frame(slot as usize / ENTRIES).ok_or(HwError::Hardware("a context table too small"))?;
    frame.publish(slot as usize % ENTRIES, Level1Context::to(leaf).into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_large_as_its_last_substream_needs() {
        let two = ContextShape { bits: 20, two_level: true };
        for (index, expected) in [
            (0, (false, 6)),
            (0x3f, (false, 6)),
            (0x40, (true, 15)),
            (0x7fff, (true, 15)),
            (0x8000, (true, 16)),
            (0xf_ffff, (true, 20)),
        ] {
            assert_eq!(two.table_for(index), expected, "{index:#x}");
        }
        let one = ContextShape { two_level: false, ..two };
        assert_eq!([0x3f, 0x40, 0x7fff, 0xf_ffff].map(|index| one.table_for(index).1), [6, 7, 15, 20]);
        assert!([0x3f, 0x40, 0xf_ffff].iter().all(|index| !one.table_for(*index).0));
        // Never more than the unit takes.
        for bits in 1..=20 {
            for two_level in [false, true] {
                let shape = ContextShape { bits, two_level };
                for index in [0, 1, (1 << bits) - 1] {
                    let (_, found) = shape.table_for(index);
                    assert!(found <= bits && index >> found == 0, "{shape:?} {index:#x}");
                }
            }
        }
    }
}
