//! The stream table of one unit (sections 3.3 and 5.2), and who is attached to what.
//!
//! A stream that is attached has an entry that leads somewhere. Any other has an entry that aborts, or none: then the
//! level-1 descriptor that would lead to it is invalid. Nothing here invalidates; the caller does, with the plan for
//! the change.

use crate::capabilities::Capabilities;
use crate::domain::State;
use crate::regs::Regs;
use crate::spec::registers::*;
use crate::spec::ste::{Level1Descriptor, STE_WORDS, StreamEntry};
use alloc::vec::Vec;
use core::fmt;
use iommu_alloc::Shared;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, StreamId};
use iommu_hal::mem::{ENTRIES, Frame, Frames};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use tock_registers::LocalRegisterCopy;

/// Stream id bits that a level-2 table resolves: one bus of PCIe.
const SPLIT: u8 = 8;
/// log2 of the bytes in a frame, a stream table entry and a level-1 descriptor.
const FRAME_LOG2: u8 = 12;
const STE_LOG2: u8 = 6;
const DESCRIPTOR_LOG2: u8 = 3;
/// Stream table entries in a frame.
const STES: usize = ENTRIES / STE_WORDS;

/// A kind of memory that a unit reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// The stream table, or the first level of it.
    StreamTable,
    /// A level-2 stream table.
    Level2StreamTable,
    /// A context descriptor.
    ContextDescriptor,
    /// The root of a domain's page tables.
    PageTable,
    /// The command queue.
    CommandQueue,
    /// The frame that completions of the command queue are written to.
    QueueStatus,
    /// The event queue.
    EventQueue,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StreamTable => "stream table",
            Self::Level2StreamTable => "level-2 stream table",
            Self::ContextDescriptor => "context descriptor",
            Self::PageTable => "page table",
            Self::CommandQueue => "command queue",
            Self::QueueStatus => "queue status",
            Self::EventQueue => "event queue",
        })
    }
}

/// Where a stream is to lead.
#[derive(Clone)]
pub(crate) struct Destination {
    /// What it leads to.
    pub(crate) state: Shared<State>,
    /// The entry that leads there.
    pub(crate) entry: StreamEntry,
    /// Root of the page tables behind it.
    pub(crate) page_table: Option<PhysAddr>,
}

/// What a stream is attached to.
pub(crate) struct Attachment {
    /// The stream.
    stream: StreamId,
    /// Where it leads.
    to: Destination,
    /// Not confirmed: the entry is being set, or was cleared and hardware has not said that it forgot it.
    pub(crate) draining: bool,
}

impl Attachment {
    /// What it leads to.
    pub(crate) fn state(&self) -> &Shared<State> {
        &self.to.state
    }
}

/// The stream table of one unit.
pub(crate) struct Tables<H: Hal> {
    hal: H,
    request: FrameRequest,
    /// Stream ids below 2^this have, or can be given, an entry.
    stream_bits: u8,
    two_level: bool,
    /// IDR1.ATTR_TYPES_OVR.
    keep_shareability: bool,
    /// The linear table, or level 1.
    root: Frames<H>,
    /// Level-2 tables, sorted by their index in level 1. Never taken away again: 16 KiB for 256 streams.
    leaves: Vec<(u32, Frames<H>)>,
    /// Sorted by stream.
    attachments: Vec<Attachment>,
}

impl<H: Hal + Clone> Tables<H> {
    /// A table for 2^`stream_bits` streams, fewer where the unit has fewer, all of them blocked.
    pub(crate) fn new(hal: &H, caps: &Capabilities, request: FrameRequest, stream_bits: u8) -> Result<Self, HwError> {
        let stream_bits = stream_bits.min(caps.stream_bits());
        let two_level = caps.two_level_streams() && stream_bits > SPLIT;
        let bytes_log2 = if two_level { stream_bits - SPLIT + DESCRIPTOR_LOG2 } else { stream_bits + STE_LOG2 };
        let order = bytes_log2.saturating_sub(FRAME_LOG2);
        let root = Frames::alloc(hal.clone(), FrameRequest { order, ..request }).ok_or(HwError::OutOfMemory)?;
        if !two_level {
            fill_with_aborts(&root);
        }
        Ok(Self {
            hal: hal.clone(),
            request,
            stream_bits,
            two_level,
            keep_shareability: caps.attribute_override(),
            root,
            leaves: Vec::new(),
            attachments: Vec::new(),
        })
    }

    /// Points the unit at the table. Translation must be off.
    pub(crate) fn install<R: Registers>(&self, regs: &Regs<R>) {
        let mut base = LocalRegisterCopy::<u64, STRTAB_BASE::Register>::new(0);
        let allocate = u64::from(self.request.memory == WalkerMemory::Coherent);
        base.write(STRTAB_BASE::ADDR.val(self.root.phys().get() >> 6) + STRTAB_BASE::RA.val(allocate));
        let mut config = LocalRegisterCopy::<u32, STRTAB_BASE_CFG::Register>::new(0);
        config.write(STRTAB_BASE_CFG::LOG2SIZE.val(self.stream_bits.into()));
        if self.two_level {
            config.modify(STRTAB_BASE_CFG::FMT::TwoLevel + STRTAB_BASE_CFG::SPLIT.val(SPLIT.into()));
        }
        regs.io().write64(STRTAB_BASE_REG, base.get());
        regs.io().write32(STRTAB_BASE_CFG_REG, config.get());
    }

    /// The stream, where the table can have an entry for it.
    pub(crate) fn check(&self, stream: StreamId) -> Result<(), HwError> {
        match u64::from(stream.get()) >> self.stream_bits {
            0 => Ok(()),
            _ => Err(HwError::NoSuchStream { stream: stream.get() }),
        }
    }

    /// What `stream` is attached to.
    pub(crate) fn attachment(&self, stream: StreamId) -> Option<&Attachment> {
        let at = self.position(stream).ok()?;
        self.attachments.get(at)
    }

    /// The first frame of everything that hardware reads structures from.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (Structure, PhysAddr)> + '_ {
        let leaves = self.leaves.iter().map(|(_, frames)| (Structure::Level2StreamTable, frames.phys()));
        let behind = self.attachments.iter().flat_map(|held| {
            let context = held.to.entry.context().map(|context| (Structure::ContextDescriptor, context));
            let page_table = held.to.page_table.map(|root| (Structure::PageTable, root));
            [context, page_table].into_iter().flatten()
        });
        core::iter::once((Structure::StreamTable, self.root.phys())).chain(leaves).chain(behind)
    }

    /// Writes all of the entry for a stream that is blocked but its first word, which goes on to abort. On success the
    /// caller invalidates and then calls [`Tables::publish`]; on error nothing is reachable that was not before.
    pub(crate) fn prepare(&mut self, stream: StreamId, to: Destination) -> Result<(), HwError> {
        self.check(stream)?;
        let Err(at) = self.position(stream) else {
            return Err(HwError::InUse);
        };
        // Everything that can fail comes first.
        self.attachments.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        self.grow(stream)?;
        let words = to.entry.words(self.keep_shareability);
        let (frame, word) = self.entry(stream)?;
        for (index, value) in words.iter().enumerate().skip(1) {
            frame.store(word + index, *value);
        }
        frame.clean(word, STE_WORDS);
        // Known before it is reachable: whatever happens from here on, it is cleared first.
        self.attachments.insert(at, Attachment { stream, to, draining: true });
        Ok(())
    }

    /// Makes the entry of a [prepared](Tables::prepare) stream lead where it is to.
    pub(crate) fn publish(&mut self, stream: StreamId) -> Result<(), HwError> {
        let keep_shareability = self.keep_shareability;
        let attachment = self.held(stream)?;
        let [word0, ..] = attachment.to.entry.words(keep_shareability);
        let (frame, word) = self.entry(stream)?;
        frame.publish(word, word0);
        self.held(stream)?.draining = false;
        Ok(())
    }

    /// Makes the entry abort, and leaves its other words for hardware that has begun to use them.
    pub(crate) fn clear(&mut self, stream: StreamId) -> Result<Shared<State>, HwError> {
        let attachment = self.held(stream)?;
        attachment.draining = true;
        let state = attachment.to.state.clone();
        let (frame, word) = self.entry(stream)?;
        frame.publish(word, StreamEntry::ABORT_WORD0);
        Ok(state)
    }

    /// Forgets a stream that was [cleared](Tables::clear) and whose invalidation was confirmed.
    pub(crate) fn release(&mut self, stream: StreamId) {
        if let Ok(at) = self.position(stream) {
            self.attachments.remove(at);
        }
    }

    /// Makes every entry that there is abort, for a unit that is shut down: whatever they led to stays as it is.
    pub(crate) fn abort_all(&mut self) {
        let linear = (!self.two_level).then_some(&self.root);
        for table in self.leaves.iter().map(|(_, table)| table).chain(linear) {
            for frame in (0..).map_while(|index| table.frame(index)) {
                for word in (0..ENTRIES).step_by(STE_WORDS) {
                    if frame.load(word) != StreamEntry::ABORT_WORD0 {
                        frame.publish(word, StreamEntry::ABORT_WORD0);
                    }
                }
            }
        }
    }

    /// Makes sure that the table has an entry for `stream`: a level-2 table of entries that abort is linked where there
    /// is none.
    fn grow(&mut self, stream: StreamId) -> Result<(), HwError> {
        let key = stream.get() >> SPLIT;
        if !self.two_level {
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
    fn entry(&self, stream: StreamId) -> Result<(Frame<'_, H>, usize), HwError> {
        let nobody = HwError::NoSuchStream { stream: stream.get() };
        let (table, index) = if self.two_level {
            let key = stream.get() >> SPLIT;
            let at = self.leaves.binary_search_by_key(&key, |(held, _)| *held).map_err(|_| nobody)?;
            let (_, table) = self.leaves.get(at).ok_or(nobody)?;
            (table, stream.get() as usize % (1 << SPLIT))
        } else {
            (&self.root, stream.get() as usize)
        };
        Ok((frame(table, index / STES)?, index % STES * STE_WORDS))
    }

    fn position(&self, stream: StreamId) -> Result<usize, usize> {
        self.attachments.binary_search_by_key(&stream, |attachment| attachment.stream)
    }

    fn held(&mut self, stream: StreamId) -> Result<&mut Attachment, HwError> {
        let nobody = HwError::NoSuchStream { stream: stream.get() };
        let at = self.position(stream).map_err(|_| nobody)?;
        self.attachments.get_mut(at).ok_or(nobody)
    }
}

fn frame<H: Hal>(frames: &Frames<H>, index: usize) -> Result<Frame<'_, H>, HwError> {
    frames.frame(index).ok_or(HwError::Hardware("a frame without memory"))
}

/// Makes every entry of a fresh table abort, and visible.
fn fill_with_aborts<H: Hal>(table: &Frames<H>) {
    for frame in (0..).map_while(|index| table.frame(index)) {
        for word in (0..ENTRIES).step_by(STE_WORDS) {
            frame.store(word, StreamEntry::ABORT_WORD0);
        }
        frame.clean(0, ENTRIES);
    }
}

/// Writes a structure that nothing leads to yet: everything but the word with the valid bit, then, once that is
/// visible, the word with the valid bit.
pub(crate) fn write_entry<H: Hal>(frame: &Frame<'_, H>, at: usize, words: &[u64]) {
    for (index, word) in words.iter().enumerate().skip(1) {
        frame.store(at + index, *word);
    }
    frame.clean(at, words.len());
    if let Some(first) = words.first() {
        frame.publish(at, *first);
    }
}
