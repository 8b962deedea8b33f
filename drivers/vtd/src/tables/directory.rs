//! The PASID directory of a requester, and the tables below it (sections 9.5 and 9.6).
//!
//! A directory begins as one frame and grows by a larger one that takes its place; a table comes with the first of its 64
//! PASIDs and stays as long as the directory.

use super::look::word as word_at;
use super::{frame, write_entry};
use crate::spec::pasid::{DIRECTORY_BITS, DirectoryEntry, PASID_ENTRY_WORDS, PASIDS_PER_TABLE, PasidEntry, PasidWord0};
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_hal::mem::{ENTRIES, Frames};
use iommu_hal::{FrameRequest, Hal};

/// log2 of the entries in one frame of a directory.
const FRAME_BITS: u8 = ENTRIES.trailing_zeros() as u8;

/// Entry of a PASID in its directory.
fn slot(pasid: u32) -> u32 {
    pasid / PASIDS_PER_TABLE
}

/// First word of a PASID's entry in its table.
fn word(pasid: u32) -> usize {
    (pasid % PASIDS_PER_TABLE) as usize * PASID_ENTRY_WORDS
}

/// log2 of the frames of the smallest directory that has an entry for `pasid`.
fn order_for(pasid: u32) -> u8 {
    let bits = (u32::BITS - slot(pasid).leading_zeros()) as u8;
    bits.clamp(FRAME_BITS, *DIRECTORY_BITS.end()) - FRAME_BITS
}

/// Memory for a directory, not seen by hardware yet.
pub(crate) struct Space<H: Hal> {
    order: u8,
    frames: Frames<H>,
}

impl<H: Hal + Clone> Space<H> {
    /// Memory for a directory that has an entry for `pasid`; `request` says how one frame of it is asked for.
    pub(super) fn for_pasid(hal: &H, request: FrameRequest, pasid: u32) -> Result<Self, HwError> {
        let order = order_for(pasid);
        let frames = Frames::alloc(hal.clone(), FrameRequest { order, ..request }).ok_or(HwError::OutOfMemory)?;
        Ok(Self { order, frames })
    }
}

impl<H: Hal> Space<H> {
    fn link(&self, slot: u32, table: PhysAddr) -> Result<(), HwError> {
        let frame = self.frames.frame(slot as usize / ENTRIES).ok_or(HwError::Hardware("a directory too small"))?;
        frame.publish(slot as usize % ENTRIES, DirectoryEntry::to(table).into());
        Ok(())
    }

    fn each_frame(&self) -> impl Iterator<Item = PhysAddr> {
        let first = self.frames.phys();
        (0..1u64 << self.order).map(move |at| first.wrapping_add(at * 4096))
    }
}

/// A directory and its tables.
pub(super) struct Directory<H: Hal> {
    space: Space<H>,
    /// Sorted by entry. All of them are linked.
    tables: Vec<(u32, Frames<H>)>,
    /// What was the directory before it grew, until hardware has confirmed that it forgot it.
    old: Option<Space<H>>,
}

impl<H: Hal + Clone> Directory<H> {
    /// A directory without tables.
    pub(super) fn new(space: Space<H>) -> Self {
        Self { space, tables: Vec::new(), old: None }
    }

    /// Where it stands.
    pub(super) fn phys(&self) -> PhysAddr {
        self.space.frames.phys()
    }

    /// log2 of its entries.
    pub(super) fn bits(&self) -> u8 {
        FRAME_BITS + self.space.order
    }

    /// Whether it has an entry for `pasid`.
    pub(super) fn reaches(&self, pasid: u32) -> bool {
        order_for(pasid) <= self.space.order
    }

    /// Whether there is a table for `pasid`.
    pub(super) fn has_table(&self, pasid: u32) -> bool {
        self.position(slot(pasid)).is_ok()
    }

    /// Room for one table more in the list of them.
    pub(super) fn reserve_table(&mut self) -> Result<(), HwError> {
        self.tables.try_reserve(1).map_err(|_| HwError::OutOfMemory)
    }

    /// Goes on in `space`, which is larger. The caller leads the context entry there. What was before is kept until
    /// [`Directory::forget_old`], and there is nothing old now.
    pub(super) fn move_to(&mut self, space: Space<H>) -> Result<(), HwError> {
        for (slot, table) in &self.tables {
            space.link(*slot, table.phys())?;
        }
        self.old = Some(core::mem::replace(&mut self.space, space));
        Ok(())
    }

    /// Gives back what hardware has confirmed that it forgot.
    pub(super) fn forget_old(&mut self) {
        self.old = None;
    }

    /// Writes the entry of a PASID, which is not present, where `table` is the memory for its table if it has none.
    /// Returns whether it had none.
    pub(super) fn set(&mut self, pasid: u32, entry: &PasidEntry, table: Option<Frames<H>>) -> Result<bool, HwError> {
        let new = match self.position(slot(pasid)) {
            Ok(_) => false,
            // There is room for it, or it is given back unseen.
            Err(at) => {
                self.reserve_table()?;
                self.tables.insert(at, (slot(pasid), table.ok_or(HwError::OutOfMemory)?));
                true
            }
        };
        let table = self.table(pasid)?;
        write_entry(&frame(table)?, word(pasid), &entry.words());
        // The whole table is complete by now, and one store makes it reachable.
        if new {
            self.space.link(slot(pasid), table.phys())?;
        }
        Ok(new)
    }

    /// Makes the entry of a PASID not present by one store of the word that says so, and leaves the other words for hardware
    /// that has begun to use them. Nothing stays in that word: there are units that go by the kind of translation in it and
    /// not by the present bit (QEMU's is one).
    pub(super) fn clear(&self, pasid: u32) -> Result<(), HwError> {
        let (table, at) = (frame(self.table(pasid)?)?, word(pasid));
        if PasidWord0::from(table.load(at)).present() {
            table.publish(at, PasidWord0::new().into());
        }
        Ok(())
    }

    /// Replaces word 0 of the entry of a PASID, which is present, by one store.
    pub(super) fn store_word0(&self, pasid: u32, value: u64) -> Result<(), HwError> {
        frame(self.table(pasid)?)?.publish(word(pasid), value);
        Ok(())
    }

    /// Every frame of the directory, of the one before it and of the tables.
    pub(super) fn frames(&self) -> impl Iterator<Item = (super::Structure, PhysAddr)> + '_ {
        let old = self.old.iter().flat_map(Space::each_frame);
        let directory = self.space.each_frame().chain(old).map(|frame| (super::Structure::PasidDirectory, frame));
        directory.chain(self.tables.iter().map(|(_, table)| (super::Structure::PasidTable, table.phys())))
    }

    /// The word at `at`, where that is in the directory or one of its tables.
    pub(super) fn load(&self, at: PhysAddr) -> Option<u64> {
        word_at(&self.space.frames, at).or_else(|| self.tables.iter().find_map(|(_, table)| word_at(table, at)))
    }

    fn position(&self, slot: u32) -> Result<usize, usize> {
        self.tables.binary_search_by_key(&slot, |(held, _)| *held)
    }

    fn table(&self, pasid: u32) -> Result<&Frames<H>, HwError> {
        let found = self.position(slot(pasid)).ok().and_then(|at| self.tables.get(at));
        found.map(|(_, table)| table).ok_or(HwError::Hardware("a PASID without a table"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_as_large_as_its_last_pasid_needs() {
        // 512 tables of 64 PASIDs in one frame.
        for (pasid, order) in [
            (0, 0),
            (0x7fff, 0),
            (0x8000, 1),
            (0xffff, 1),
            (0x1_0000, 2),
            (0x2_0000, 3),
            (0x7_ffff, 4),
            (0x8_0000, 5),
            (0xf_ffff, 5),
        ] {
            assert_eq!(order_for(pasid), order, "{pasid:#x}");
        }
        assert_eq!((slot(0xf_ffff), word(0xf_ffff)), (0x3fff, 63 * 8));
    }
}
