//! Stream table, context descriptors, and who is attached to what, of one unit (sections 3.3, 5.1 to 5.4).
//!
//! * here: what there is, and who is known.
//! * [`entries`]: the stream table and its entries.
//! * [`update`]: how an entry that hardware may read becomes another.
//! * [`streams`]: streams made, changed, taken away, and what that was.
//! * [`device`]: what is known of one device.
//! * [`contexts`]: its context descriptors.
//!
//! A device that is attached has an entry that leads somewhere. Any other has an entry that aborts, or none: then the level-1
//! descriptor that would lead to it is invalid. Nothing here invalidates; the caller does, with the plan for the change,
//! before [`Tables::confirmed`] and [`Tables::remove`] give frames back.

mod contexts;
mod device;
mod entries;
mod look;
mod streams;
mod update;

pub(crate) use contexts::ContextShape;
pub(crate) use device::{Attachment, Destination, Form, Key};
pub(crate) use streams::{Room, index};
pub(crate) use update::{Plan, Words};

use crate::capabilities::Capabilities;
use crate::invalidate::User;
use crate::regs::Regs;
use crate::spec::registers::*;
use crate::spec::ste::{STE_WORDS, StreamEntry, WalkAttributes};
use alloc::vec::Vec;
use contexts::Contexts;
use core::fmt;
use device::Device;
use entries::{SPLIT, fill_with_aborts};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, StreamId};
use iommu_hal::mem::{ENTRIES, Frame, Frames};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use tock_registers::LocalRegisterCopy;

/// log2 of the bytes in a frame, a stream table entry and a level-1 descriptor.
const FRAME_LOG2: u8 = 12;
const STE_LOG2: u8 = 6;
const DESCRIPTOR_LOG2: u8 = 3;
/// Stream table entries, or context descriptors, in a frame.
const STES: usize = ENTRIES / STE_WORDS;

/// A kind of memory that a unit reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// The stream table, or the first level of it.
    StreamTable,
    /// A level-2 stream table.
    Level2StreamTable,
    /// The context descriptor of a domain.
    ContextDescriptor,
    /// A table of context descriptors of a stream with PASIDs, or a leaf of it.
    ContextTable,
    /// The first level of such a table.
    Level1ContextTable,
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
            Self::ContextTable => "context table",
            Self::Level1ContextTable => "level-1 context table",
            Self::PageTable => "page table",
            Self::CommandQueue => "command queue",
            Self::QueueStatus => "queue status",
            Self::EventQueue => "event queue",
        })
    }
}

/// What the structures of a unit look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Stream ids below 2^this have, or can be given, an entry.
    stream_bits: u8,
    two_level: bool,
    contexts: ContextShape,
    /// How tables of context descriptors are fetched.
    fetch: WalkAttributes,
    /// IDR1.ATTR_TYPES_OVR.
    keep_shareability: bool,
    /// S1STALLD where no stream stalls.
    disable_stalls: bool,
}

impl Shape {
    /// That of a unit which is asked to serve stream ids of `stream_bits` bits and PASIDs of `pasid_bits`.
    pub(crate) fn new(caps: &Capabilities, stream_bits: u8, pasid_bits: u8) -> Self {
        let stream_bits = stream_bits.min(caps.stream_bits());
        Self {
            stream_bits,
            two_level: caps.two_level_streams() && stream_bits > SPLIT,
            contexts: ContextShape { bits: pasid_bits.min(caps.pasid_bits()), two_level: caps.two_level_contexts() },
            fetch: caps.walk_attributes(),
            keep_shareability: caps.attribute_override(),
            disable_stalls: caps.must_disable_stalls(),
        }
    }

    /// Width in bits of the PASIDs that are served.
    pub(crate) fn pasid_bits(&self) -> u8 {
        self.contexts.bits
    }
}

/// The structures of one unit.
pub(crate) struct Tables<H: Hal> {
    hal: H,
    request: FrameRequest,
    shape: Shape,
    /// The linear table, or level 1.
    root: Frames<H>,
    /// Level-2 tables, sorted by their index in level 1. Never taken away again: 16 KiB for 256 streams.
    leaves: Vec<(u32, Frames<H>)>,
    /// Sorted by stream.
    devices: Vec<Device<H>>,
}

impl<H: Hal + Clone> Tables<H> {
    /// A stream table in which all streams are blocked. `request` is for one frame.
    pub(crate) fn new(hal: &H, request: FrameRequest, shape: Shape) -> Result<Self, HwError> {
        let bits = shape.stream_bits;
        let bytes_log2 = if shape.two_level { bits - SPLIT + DESCRIPTOR_LOG2 } else { bits + STE_LOG2 };
        let order = bytes_log2.saturating_sub(FRAME_LOG2);
        let root = Frames::alloc(hal.clone(), FrameRequest { order, ..request }).ok_or(HwError::OutOfMemory)?;
        if !shape.two_level {
            fill_with_aborts(&root);
        }
        Ok(Self { hal: hal.clone(), request, shape, root, leaves: Vec::new(), devices: Vec::new() })
    }

    /// What the structures look like.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Points the unit at the table. Translation must be off.
    pub(crate) fn install<R: Registers>(&self, regs: &Regs<R>) {
        let mut base = LocalRegisterCopy::<u64, STRTAB_BASE::Register>::new(0);
        let allocate = u64::from(self.request.memory == WalkerMemory::Coherent);
        base.write(STRTAB_BASE::ADDR.val(self.root.phys().get() >> 6) + STRTAB_BASE::RA.val(allocate));
        let mut config = LocalRegisterCopy::<u32, STRTAB_BASE_CFG::Register>::new(0);
        config.write(STRTAB_BASE_CFG::LOG2SIZE.val(self.shape.stream_bits.into()));
        if self.shape.two_level {
            config.modify(STRTAB_BASE_CFG::FMT::TwoLevel + STRTAB_BASE_CFG::SPLIT.val(SPLIT.into()));
        }
        regs.io().write64(STRTAB_BASE_REG, base.get());
        regs.io().write32(STRTAB_BASE_CFG_REG, config.get());
    }

    /// The stream, where the table can have an entry for it.
    pub(crate) fn check(&self, stream: StreamId) -> Result<(), HwError> {
        match u64::from(stream.get()) >> self.shape.stream_bits {
            0 => Ok(()),
            _ => Err(HwError::NoSuchStream { stream: stream.get() }),
        }
    }

    /// What stands between a stream and its domain; `None` where it is blocked, and hardware has confirmed that.
    pub(crate) fn attachment(&self, key: Key) -> Option<&Attachment> {
        self.device(key.stream)?.attachment(key.pasid)
    }

    /// A stream as commands name it.
    pub(crate) fn user(&self, key: Key) -> User {
        let atc = self.device(key.stream).and_then(|held| held.tlb);
        User { stream: key.stream, pasid: key.pasid, atc }
    }

    /// The first frame of everything that hardware reads structures from; all of them of tables of context descriptors.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (Structure, PhysAddr)> + '_ {
        let leaves = self.leaves.iter().map(|(_, frames)| (Structure::Level2StreamTable, frames.phys()));
        let behind = self.devices.iter().flat_map(|held| {
            let domains = held.streams.iter().flat_map(|stream| {
                let context = stream.to.entry.context().map(|context| (Structure::ContextDescriptor, context));
                let page_table = stream.to.page_table.map(|root| (Structure::PageTable, root));
                context.into_iter().chain(page_table)
            });
            held.contexts.iter().flat_map(Contexts::structures).chain(domains)
        });
        core::iter::once((Structure::StreamTable, self.root.phys())).chain(leaves).chain(behind)
    }

    /// Forgets a device of which nothing has to be kept, and a table of context descriptors that no entry leads to.
    fn prune(&mut self, stream: StreamId) {
        let Ok(at) = self.position(stream) else { return };
        let Some(held) = self.devices.get_mut(at) else { return };
        if !held.has_pasids() && held.form != Form::Table && !held.changed {
            held.contexts = None;
        }
        if held.is_empty() {
            self.devices.remove(at);
        }
    }

    /// Makes every entry that there is abort, for a unit that is shut down: whatever they led to stays as it is.
    pub(crate) fn abort_all(&mut self) {
        let linear = (!self.shape.two_level).then_some(&self.root);
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

    fn position(&self, stream: StreamId) -> Result<usize, usize> {
        self.devices.binary_search_by_key(&stream, |held| held.stream)
    }

    fn device(&self, stream: StreamId) -> Option<&Device<H>> {
        self.devices.get(self.position(stream).ok()?)
    }

    fn device_or_new(&mut self, stream: StreamId) -> Result<&mut Device<H>, HwError> {
        if let Err(at) = self.position(stream) {
            self.devices.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
            self.devices.insert(at, Device::new(stream));
        }
        self.held(stream)
    }

    fn held(&mut self, stream: StreamId) -> Result<&mut Device<H>, HwError> {
        let nobody = HwError::NoSuchStream { stream: stream.get() };
        let at = self.position(stream).map_err(|_| nobody)?;
        self.devices.get_mut(at).ok_or(nobody)
    }

    fn attachment_mut(&mut self, key: Key) -> Result<&mut Attachment, HwError> {
        let nobody = HwError::NoSuchStream { stream: key.stream.get() };
        self.held(key.stream)?.attachment_mut(key.pasid).ok_or(nobody)
    }
}

fn frame<H: Hal>(frames: &Frames<H>, index: usize) -> Result<Frame<'_, H>, HwError> {
    frames.frame(index).ok_or(HwError::Hardware("a frame without memory"))
}

/// The words from `at` on.
fn load_words<H: Hal>(frame: &Frame<'_, H>, at: usize) -> Words {
    core::array::from_fn(|word| frame.load(at + word))
}

/// Stores those of an entry's words that differ, in any order as hardware sees it.
fn store_words<H: Hal>(frame: &Frame<'_, H>, at: usize, words: &Words) {
    for (index, word) in words.iter().enumerate() {
        if frame.load(at + index) != *word {
            frame.store(at + index, *word);
        }
    }
    frame.clean(at, words.len());
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
