//! How invalidations reach hardware (section 6.5): a batch in, confirmation or an error out.
//!
//! [`Invalidator::run`] is called by every CPU at once, without a lock around it. Where the unit has queued invalidation
//! the callers share one ring:
//!
//! * `ring`: the memory: descriptors, fences among them, and a status cell for each wait.
//! * `round`: what is written, what hardware works on, and which slots are free.
//! * `seats`: where a caller learns what became of its part.
//! * `group`: who rings the doorbell, polls, and tells the others.
//! * `recovery`: IQE, ICE, ITE, and a unit that is gone.
//!
//! Where it has not: [`crate::register_invalidation`].
//!
//! # Who waits for whom
//!
//! * Writing descriptors takes a lock for as long as the writing takes; nobody holds it while hardware is waited for.
//! * One caller leads: it alone rings, polls and repairs. Leading passes on when it has what it came for, and when its
//!   time is up.
//! * Every caller has a deadline of its own for each attempt, and leaves at it: a CPU that is held up while it leads, or
//!   while it holds the lock, or hardware that hangs, costs others an error, and never more time than that.
//! * A round that everybody has left is waited for only until hardware has read it. Each wait has a status cell and a
//!   number of its own, so that one that completes late is taken for no other.
//!
//! # A device TLB that does not answer
//!
//! Hardware drops the waits, and with them the whole round. Callers with invalidations of that device get the error; the
//! others go again, and until they are through, no new caller with device TLBs joins them: each failure costs the round at
//! least one device. Where hardware does not say which device it was, callers with device TLBs go one at a time.
//!
//! Hardware gives up on each invalidation at its own time, and so may name a device whose round is long over: callers whose
//! device it is not go again. What it had not read of the device-TLB invalidations of a failed round is taken back.
//!
//! This needs [`Config::timeout`](crate::Config::timeout) to be longer than hardware's own limit for a device TLB.

mod group;
mod recovery;
mod ring;
mod round;
mod seats;

pub use ring::Marker;

use crate::capabilities::Capabilities;
use crate::register_invalidation::RegisterInvalidation;
use crate::regs::Regs;
use crate::spec::descriptor::Width;
use crate::spec::invalidation::Invalidation;
use crate::spec::registers::ECAP;
use crate::tables::Structure;
use group::Queue;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, Wait};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use tock_registers::LocalRegisterCopy;

/// [`HwError::Queue`] code of a device TLB that timed out (FSTS.ITE); the entry is its requester id, or where
/// hardware does not name it the first that may be meant. Lower codes are IQERCD.IQEI of an invalid descriptor (FSTS.IQE).
pub const CODE_DEVICE_TLB_TIMEOUT: u8 = 0x40;

/// The error of a caller whose time is up.
const HUNG: HwError = HwError::TimedOut(Wait::Completion);

/// Carries invalidations to one unit.
#[allow(clippy::large_enum_variant, reason = "one a unit, and nearly every unit has the large one")]
pub(crate) enum Invalidator<H: Hal> {
    /// Queued invalidation.
    Queue(Queue<H>),
    /// Registers, on units that have no queue.
    Registers(RegisterInvalidation),
}

impl<H: Hal + Clone> Invalidator<H> {
    /// What the unit has: a queue or registers. Hardware is not told yet.
    pub(crate) fn new(hal: &H, caps: &Capabilities, host_bits: u8) -> Result<Self, HwError> {
        if caps.queued_invalidation() {
            // Wide ones are taken in every mode, others in legacy mode only (section 6.5.2.11, table 26).
            let wide = LocalRegisterCopy::<u64, ECAP::Register>::new(caps.ecap())
                .any_matching_bits_set(ECAP::SMTS::SET + ECAP::ADMS::SET);
            let width = if wide { Width::Bits256 } else { Width::Bits128 };
            return Ok(Self::Queue(Queue::new(hal, host_bits, width)?));
        }
        RegisterInvalidation::new(caps).map(Self::Registers)
    }
}

impl<H: Hal> Invalidator<H> {
    /// Has hardware take invalidations this way. A queue of whoever came before must be off.
    pub(crate) fn enable<R: Registers>(&self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        match self {
            Self::Queue(queue) => queue.enable(hal, regs),
            Self::Registers(_) => Ok(()),
        }
    }

    /// Runs `batch` in order, and returns once hardware has confirmed all of it: the status data of the wait that did. An
    /// empty batch confirms that the queue answers.
    ///
    /// # Errors
    ///
    /// [`HwError::Queue`]: hardware refused one of these very invalidations, or a device TLB among them did not answer.
    /// [`HwError::TimedOut`], and [`HwError::Hardware`] where the unit is gone. Any of them may have been done or not.
    pub(crate) fn run<R: Registers>(&self, hal: &H, regs: &Regs<R>, batch: &[Invalidation]) -> Result<Marker, HwError> {
        match self {
            Self::Queue(queue) => queue.run(hal, regs, batch),
            Self::Registers(registers) => registers.run(hal, regs, batch),
        }
    }

    /// Status data of the newest wait that hardware was told of.
    pub(crate) fn marker(&self) -> Marker {
        match self {
            Self::Queue(queue) => queue.marker(),
            Self::Registers(registers) => registers.marker(),
        }
    }

    /// Calls `visit` with each frame that hardware reads descriptors from, or reports to.
    pub(crate) fn for_each_frame(&self, mut visit: impl FnMut(Structure, PhysAddr)) {
        if let Self::Queue(queue) = self {
            let (descriptors, cells) = queue.frames();
            descriptors.for_each(|frame| visit(Structure::Queue, frame));
            visit(Structure::QueueStatus, cells);
        }
    }
}

#[cfg(test)]
mod tests;
