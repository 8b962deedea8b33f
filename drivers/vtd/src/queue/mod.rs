//! How invalidations reach hardware (section 6.5): a batch in, confirmation or an error out.
//!
//! [`Invalidator::run`] is called by every CPU at once, without a lock around it. Where the unit has queued invalidation
//! the callers share one ring:
//!
//! * [`iommu_driver::queue`]: who writes, rings, waits and is told, and what becomes of errors.
//! * `ring`: its memory: descriptors, fences among them, and a status cell for each wait.
//! * `port`: its registers: the doorbell, and IQE, ICE, ITE.
//!
//! Where it has not: [`crate::register_invalidation`].
//!
//! A device TLB that does not answer (ITE) has hardware drop the waits, and with them the whole round: this needs
//! [`Config::timeout`](crate::Config::timeout) to be longer than hardware's own limit for a device TLB.

mod port;
mod ring;

pub use iommu_driver::queue::Marker;

use crate::capabilities::Capabilities;
use crate::register_invalidation::RegisterInvalidation;
use crate::regs::Regs;
use crate::spec::descriptor::Width;
use crate::spec::invalidation::Invalidation;
use crate::spec::registers::{ECAP, GSTS, IQA_REG, IQT_REG};
use crate::tables::Structure;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_driver::queue::Queue;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use ring::Ring;
use tock_registers::LocalRegisterCopy;

/// [`HwError::Queue`] code of a device TLB that timed out (FSTS.ITE); the entry is its requester id, or where
/// hardware does not name it the first that may be meant. Lower codes are IQERCD.IQEI of an invalid descriptor (FSTS.IQE).
pub const CODE_DEVICE_TLB_TIMEOUT: u8 = 0x40;

/// Carries invalidations to one unit.
#[allow(clippy::large_enum_variant, reason = "one a unit, and nearly every unit has the large one")]
pub(crate) enum Invalidator<H: Hal> {
    /// Queued invalidation.
    Queue(Queue<Ring<H>>),
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
            return Ok(Self::Queue(Queue::new(Ring::new(hal, host_bits, width)?)));
        }
        RegisterInvalidation::new(caps).map(Self::Registers)
    }
}

impl<H: Hal> Invalidator<H> {
    /// Has hardware take invalidations this way. A queue of whoever came before must be off.
    pub(crate) fn enable<R: Registers>(&self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        match self {
            Self::Queue(queue) => {
                regs.io().write64(IQT_REG, 0);
                regs.io().write64(IQA_REG, queue.ring().address());
                regs.set(hal, GSTS::QIES, true, "GSTS.QIES")
            }
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
            let (descriptors, cells) = queue.ring().frames();
            descriptors.for_each(|frame| visit(Structure::Queue, frame));
            visit(Structure::QueueStatus, cells);
        }
    }
}

#[cfg(test)]
mod tests;
