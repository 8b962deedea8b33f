//! The memory of the command queue: commands, and the cells that messages of CMD_SYNCs go to.
//!
//! What a place is stands with [`queue::Ring`]; the slot is that modulo the number of slots, and the producer and consumer
//! index, wrap bit included, are it modulo twice that. Nothing here decides which places are free.

use super::{Completion, queue_base};
use crate::spec::command::{CERROR_ATC_INV_SYNC, COMMAND_WORDS, Command, Signal};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_driver::batch::Item;
use iommu_driver::queue::{self, Marker};
use iommu_hal::mem::{ENTRIES, Frame, Frames};
use iommu_hal::{FrameRequest, Hal, WalkerMemory, barrier};

/// log2 of the commands in the queue, where the unit has room for as many: 256 of 16 bytes fill a frame.
const LOG2_SLOTS: u8 = 8;

const _: () = assert!(COMMAND_WORDS << LOG2_SLOTS == ENTRIES);

pub(crate) struct Ring<H: Hal> {
    commands: Frames<H>,
    /// Where completions are messages.
    cells: Option<Frames<H>>,
    completion: Completion,
    log2_slots: u8,
    allocate: bool,
}

impl<H: Hal + Clone> Ring<H> {
    pub(super) fn new(hal: &H, request: FrameRequest, most_log2: u8, completion: Completion) -> Result<Self, HwError> {
        let request = FrameRequest { order: 0, ..request };
        let alloc = || Frames::alloc(hal.clone(), request).ok_or(HwError::OutOfMemory);
        let coherent = request.memory == WalkerMemory::Coherent;
        let completion = match completion {
            // The cells are read without any maintenance.
            Completion::Message if !coherent => Completion::Poll,
            other => other,
        };
        Ok(Self {
            commands: alloc()?,
            cells: if completion == Completion::Message { Some(alloc()?) } else { None },
            completion,
            log2_slots: LOG2_SLOTS.min(most_log2),
            allocate: coherent,
        })
    }
}

impl<H: Hal> Ring<H> {
    /// Frees the memory, but for the cells where `told`: hardware was told of CMD_SYNCs, and may still send their messages.
    pub(super) fn give_back(self, told: bool) {
        if told {
            core::mem::forget(self.cells);
        }
    }

    /// What CMDQ_BASE is to hold.
    pub(super) fn base(&self) -> u64 {
        queue_base(self.commands.phys(), self.log2_slots, self.allocate)
    }

    /// What CMDQ_PROD holds where `place` is the next to be written, and CMDQ_CONS.RD where it is the next to be consumed.
    pub(super) fn index(&self, place: u64) -> u32 {
        place as u32 & self.index_mask()
    }

    /// Index and wrap bit.
    pub(super) fn index_mask(&self) -> u32 {
        (2 << self.log2_slots) - 1
    }

    /// The frame that hardware reads commands from, and the one that it writes messages to.
    pub(super) fn frames(&self) -> (PhysAddr, Option<PhysAddr>) {
        (self.commands.phys(), self.cells.as_ref().map(Frames::phys))
    }

    /// Whether the CMD_SYNC at `place` has sent its message; `None` where it sends none. What hardware did before is visible
    /// then.
    #[inline]
    pub(super) fn has_sent(&self, place: u64, marker: Marker) -> Option<bool> {
        let cells = self.cells.as_ref()?;
        // The upper half of the word is not hardware's.
        let cell = cells.frame(0).map(|frame| frame.load(self.slot(place)) as Marker);
        let sent = cell == Some(marker);
        if sent {
            barrier::after_device_load();
        }
        Some(sent)
    }

    fn slot(&self, place: u64) -> usize {
        (place % (1 << self.log2_slots)) as usize
    }

    /// The frame and the index in it of the first word of `place`.
    fn locate(&self, place: u64) -> Option<(Frame<'_, H>, usize)> {
        Some((self.commands.frame(0)?, self.slot(place) * COMMAND_WORDS))
    }

    fn load(&self, place: u64) -> Command {
        let words = self.locate(place).map(|(frame, first)| [frame.load(first), frame.load(first + 1)]);
        Command(words.unwrap_or_default())
    }
}

impl<H: Hal> queue::Ring for Ring<H> {
    type Item = Command;
    /// The rank of the command before.
    type Order = Option<u8>;

    const TIMED_OUT: u8 = CERROR_ATC_INV_SYNC;

    fn period(&self) -> u64 {
        2 << self.log2_slots
    }

    /// The wrap bit tells a full ring from an empty one.
    fn most(&self) -> u64 {
        (1 << self.log2_slots) - 1
    }

    fn fence_before(order: &mut Option<u8>, command: &Command) -> bool {
        order.replace(command.rank()).is_some_and(|before| before < command.rank())
    }

    fn device(command: &Command) -> Option<u32> {
        command.device()
    }

    fn device_at(&self, place: u64) -> Option<u32> {
        self.load(place).device()
    }

    /// An answer to a stalled access, whose tag may be another's after that (section 4.7.1).
    fn is_once_at(&self, place: u64) -> bool {
        self.load(place).is_resume()
    }

    fn is_fence_at(&self, place: u64) -> bool {
        self.load(place).is_sync()
    }

    fn first_word(&self, place: u64) -> u64 {
        self.load(place).0[0]
    }

    fn write(&self, place: u64, command: &Command) -> Option<()> {
        let (frame, first) = self.locate(place)?;
        command.0.iter().enumerate().for_each(|(at, word)| frame.store(first + at, *word));
        Some(())
    }

    /// A CMD_SYNC without a signal.
    fn write_fence(&self, place: u64) -> Option<()> {
        self.write(place, &Command::sync(Signal::None))
    }

    /// A CMD_SYNC. `again`: without a signal, which may be what was refused; the consumer index tells of every one.
    fn write_wait(&self, place: u64, marker: Marker, again: bool) -> Option<()> {
        let signal = match (&self.cells, self.completion) {
            _ if again => Signal::None,
            (Some(cells), _) => {
                // Whatever stands there, it is not this marker, even after 2^32 commands.
                cells.frame(0)?.store(self.slot(place), (!marker).into());
                Signal::Message { address: cells.phys().wrapping_add(self.slot(place) as u64 * 8), data: marker }
            }
            (None, Completion::Event) => Signal::Event,
            (None, _) => Signal::None,
        };
        self.write(place, &Command::sync(signal))
    }

    fn written(&self, first: u64, count: u64) {
        let Some(frame) = self.commands.frame(0) else { return };
        let start = self.slot(first);
        let count = count as usize;
        let before_wrap = count.min((1 << self.log2_slots) - start);
        frame.clean(start * COMMAND_WORDS, before_wrap * COMMAND_WORDS);
        frame.clean(0, (count - before_wrap) * COMMAND_WORDS);
        // Another CPU may tell hardware.
        barrier::before_device_store();
    }

    /// How many commands there are with this one.
    fn marker(&self, _: Marker, place: u64) -> Marker {
        (place + 1) as Marker
    }
}
