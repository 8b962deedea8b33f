//! The command queue (sections 3.5 and 4.7): commands in, completion or an error out.
//!
//! A batch is written whole, followed by one CMD_SYNC and one write of the producer index. It is complete once the
//! consumer index has passed the CMD_SYNC. What software counts is the number of slots that were ever written: it only
//! grows, and its low bits are the producer index.

use crate::regs::Regs;
use crate::spec::command::{CERROR_ABT, CERROR_ATC_INV_SYNC, COMMAND_WORDS, Command, Signal};
use crate::spec::registers::*;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, Wait};
use iommu_core::warn;
use iommu_driver::batch::Item;
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_hal::wait::poll;
use iommu_hal::{FrameRequest, Hal};
use tock_registers::LocalRegisterCopy;

/// log2 of the commands in the queue, where the unit has room for as many: 256 of 16 bytes fill a frame.
const LOG2_SLOTS: u8 = 8;

/// How many commands a unit had been given when a CMD_SYNC had been written, itself included.
///
/// It only grows (modulo 2^32), and names one CMD_SYNC of all. Where the queue has 2^n entries, its n + 1 low bits are
/// the value of SMMU_CMDQ_PROD after that CMD_SYNC, and of SMMU_CMDQ_CONS once it is complete.
pub type Marker = u32;

/// The command queue of one unit.
pub(crate) struct Queue<H: Hal> {
    ring: Frames<H>,
    log2_slots: u8,
    allocate: bool,
    /// Commands written so far; the low bits are the producer index and its wrap bit.
    written: Marker,
    /// A batch was given up on: hardware may still be working on the ring.
    stalled: bool,
}

impl<H: Hal + Clone> Queue<H> {
    /// Allocates the queue, of at most 2^`most_log2` commands.
    pub(crate) fn new(hal: &H, request: FrameRequest, most_log2: u8) -> Result<Self, HwError> {
        let ring = Frames::alloc(hal.clone(), FrameRequest { order: 0, ..request }).ok_or(HwError::OutOfMemory)?;
        let allocate = request.memory == iommu_hal::WalkerMemory::Coherent;
        Ok(Self { ring, log2_slots: LOG2_SLOTS.min(most_log2), allocate, written: 0, stalled: false })
    }

    /// Points the unit at the empty queue, which must be off.
    pub(crate) fn install<R: Registers>(&mut self, regs: &Regs<R>) {
        let base = queue_base(self.ring.phys(), self.log2_slots, self.allocate);
        regs.io().write64(CMDQ_BASE_REG, base);
        regs.io().write32(CMDQ_PROD_REG, 0);
        regs.io().write32(CMDQ_CONS_REG, 0);
        self.written = 0;
    }

    /// The newest CMD_SYNC that was submitted.
    pub(crate) fn marker(&self) -> Marker {
        self.written
    }

    /// The frame that hardware reads commands from.
    pub(crate) fn frame(&self) -> PhysAddr {
        self.ring.phys()
    }

    /// Runs `batch` and returns the marker of the CMD_SYNC that confirmed it.
    ///
    /// An error means that hardware did not confirm; the queue itself is usable again unless it hangs.
    pub(crate) fn submit<R: Registers>(
        &mut self,
        hal: &H,
        regs: &Regs<R>,
        batch: &[Command],
    ) -> Result<Marker, HwError> {
        // The ring may be full, but for the CMD_SYNC: the wrap bits tell that from empty.
        for part in batch.chunks(((self.slots() - 1) as usize).div_ceil(2)) {
            self.run(hal, regs, part)?;
        }
        if batch.is_empty() {
            self.run(hal, regs, &[])?;
        }
        Ok(self.written)
    }

    fn run<R: Registers>(&mut self, hal: &H, regs: &Regs<R>, part: &[Command]) -> Result<(), HwError> {
        if self.stalled {
            self.drain(hal, regs)?;
        }
        let mut rank = None;
        for command in part {
            // What a kind of commands is filled from must be gone before it is dropped.
            if rank.is_some_and(|rank| command.rank() > rank) {
                self.push(Command::sync(Signal::None))?;
            }
            rank = Some(command.rank());
            self.push(*command)?;
        }
        self.push(Command::sync(Signal::None))?;
        regs.io().write32(CMDQ_PROD_REG, self.index());
        self.finish(hal, regs)
    }

    /// Looks after both the consumer index and the error bit until one answers.
    fn finish<R: Registers>(&mut self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        let (mut skipped, mut retried) = (None, None);
        let outcome = poll(hal, regs.timeout(), || match self.check(regs) {
            Ok(done) => done.then_some(Ok(())),
            // What follows it in the ring still runs. The first error is the one to report.
            Err(Found::Skipped(error)) => {
                skipped.get_or_insert(error);
                None
            }
            Err(Found::Retried(error)) => {
                retried.get_or_insert(error);
                None
            }
            Err(Found::Sync(error)) => Some(Err(error)),
        });
        match outcome {
            Some(Ok(())) => skipped.map_or(Ok(()), Err),
            Some(Err(error)) => {
                // The CMD_SYNC was refused. The one in its place must have run before the ring is written again.
                self.stalled = true;
                Err(skipped.unwrap_or(error))
            }
            None => {
                self.stalled = true;
                warn!("command queue: no completion of the CMD_SYNC before {}", self.written);
                Err(skipped.or(retried).unwrap_or(HwError::TimedOut(Wait::Completion)))
            }
        }
    }

    /// Waits until the ring is empty after a batch was given up on, so that its slots can be written again.
    fn drain<R: Registers>(&mut self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        // What stopped it may be an error that was raised after the last look; it was, or is, an error all the same.
        poll(hal, regs.timeout(), || matches!(self.check(regs), Ok(true)).then_some(()))
            .ok_or(HwError::TimedOut(Wait::Completion))?;
        self.stalled = false;
        Ok(())
    }

    /// Whether everything in the ring is complete; handles the error of the queue.
    fn check<R: Registers>(&mut self, regs: &Regs<R>) -> Result<bool, Found> {
        let consumed = regs.io().read32(CMDQ_CONS_REG);
        if consumed == u32::MAX {
            // Nobody answers: the reserved bits of a unit that is there read zero.
            return Ok(false);
        }
        if consumed & self.index_mask() == self.index() {
            return Ok(true);
        }
        if regs.active_errors() & GERROR::CMDQ_ERR::SET.value == 0 {
            return Ok(false);
        }
        // Reason and index stand still from the moment that the error shows.
        let consumed = LocalRegisterCopy::<u32, CMDQ_CONS::Register>::new(regs.io().read32(CMDQ_CONS_REG));
        let code = consumed.read(CMDQ_CONS::ERR) as u8;
        let slot = consumed.read(CMDQ_CONS::RD) & (self.slots() - 1);
        let mut ring = self.ring.ring();
        let at = slot as usize * COMMAND_WORDS;
        let error = HwError::Queue { code, entry: ring.load(at).unwrap_or(0) };
        warn!("command in slot {} refused, reason {}", slot, code);
        let retried = code == CERROR_ABT || code == CERROR_ATC_INV_SYNC;
        if !retried {
            // A CMD_SYNC is harmless wherever it stands.
            let _ = ring.store(at, &Command::sync(Signal::None).0);
        }
        // Hardware goes on from the same slot, so it must hold what it is to do by now.
        regs.acknowledge(GERROR::CMDQ_ERR::SET.value);
        let last = self.written.wrapping_sub(1) & (self.slots() - 1);
        Err(match (retried, slot == last) {
            (true, _) => Found::Retried(error),
            (false, true) => Found::Sync(error),
            (false, false) => Found::Skipped(error),
        })
    }

    fn push(&mut self, command: Command) -> Result<(), HwError> {
        let slot = (self.written & (self.slots() - 1)) as usize;
        self.ring
            .ring()
            .store(slot * COMMAND_WORDS, &command.0)
            .ok_or(HwError::Hardware("the command queue's producer left the ring"))?;
        self.written = self.written.wrapping_add(1);
        Ok(())
    }

    fn slots(&self) -> u32 {
        1 << self.log2_slots
    }

    /// Index and wrap bit.
    fn index_mask(&self) -> u32 {
        2 * self.slots() - 1
    }

    fn index(&self) -> u32 {
        self.written & self.index_mask()
    }
}

/// The value of a queue's base register.
pub(crate) fn queue_base(base: PhysAddr, log2_slots: u8, allocate: bool) -> u64 {
    let mut value = LocalRegisterCopy::<u64, QUEUE_BASE::Register>::new(0);
    value.write(
        QUEUE_BASE::LOG2SIZE.val(log2_slots.into())
            + QUEUE_BASE::ADDR.val(base.get() >> 5)
            + QUEUE_BASE::ALLOCATE.val(allocate.into()),
    );
    value.get()
}

/// A command that hardware refused.
enum Found {
    /// It will not be carried out; a harmless one stands in its place.
    Skipped(HwError),
    /// Hardware was told to try again.
    Retried(HwError),
    /// It was the CMD_SYNC that is waited for; another stands in its place.
    Sync(HwError),
}
