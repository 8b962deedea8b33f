//! How commands reach hardware (sections 3.5 and 4): a batch in, confirmation or an error out.
//!
//! [`Queue::run`] is called by every CPU at once, without a lock around it. The callers share one ring:
//!
//! * [`iommu_driver::queue`]: who writes, rings, waits and is told, and what becomes of errors.
//! * `ring`: its memory: commands, the CMD_SYNCs among them, and a status cell for each that is waited for.
//! * `port`: its registers: the producer and consumer index, and CMDQ_ERR.
//!
//! A round of callers is written whole, ended with one CMD_SYNC, and told to hardware by one write of the producer index.
//! Commands between two CMD_SYNCs may be executed in any order, so within a caller's part there is one wherever commands of
//! a higher [rank](iommu_driver::batch::Item::rank) follow.
//!
//! # What becomes of errors (section 7.1)
//!
//! * CERROR_ILL: a CMD_SYNC takes the command's place, and what stands behind it is done. Whoever wrote it is told.
//! * CERROR_ABT: hardware reads it again, a bounded number of times in a row. After that everybody is told, and the next
//!   caller has it try again.
//! * CERROR_ATC_INV_SYNC: hardware has consumed the invalidations of device TLBs that failed, and will not repeat them:
//!   acknowledged, it executes the CMD_SYNC once more, which then says nothing of them. So the round is given up. Hardware does
//!   not say which device it was. Where there was but one since the CMD_SYNC before, its callers are told; else callers with
//!   device TLBs go again alone. Everybody else goes again, but with no CMD_RESUME that was
//!   consumed: its tag may be another access's by now.
//!
//! The unit must give up on a device TLB before [`Config::timeout`](crate::Config::timeout) does.

mod port;
mod ring;

pub use iommu_driver::queue::Marker;

use crate::capabilities::Capabilities;
use crate::regs::Regs;
use crate::spec::command::Command;
use crate::spec::registers::*;
use crate::tables::Structure;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_driver::queue;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use ring::Ring;
use tock_registers::LocalRegisterCopy;

/// How software learns that a CMD_SYNC is complete (section 4.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Completion {
    /// By reading SMMU_CMDQ_CONS again and again.
    #[default]
    Poll,
    /// As [`Completion::Poll`], and the unit sends CPUs an event with each completion, so that `Hal::relax` may be WFE where
    /// the CPU's event stream is on: what else is waited for sends no event, and every wait has a deadline to look at. On a
    /// unit without SMMU_IDR0.SEV there are no events.
    Event,
    /// By a message that the unit writes to memory, which costs no read of a register. Needs SMMU_IDR0.MSI and a unit whose
    /// writes are coherent; with any other it is [`Completion::Poll`]. A unit that also has an interrupt wire for completions
    /// raises that, too: it is to be left disabled.
    Message,
}

impl Completion {
    /// What the unit can do of it.
    pub(crate) fn on(self, caps: &Capabilities) -> Self {
        match self {
            Self::Message if !caps.messages() || !caps.is_coherent() => Self::Poll,
            other => other,
        }
    }
}

/// The command queue of one unit.
///
/// Its [markers](Marker) are numbers of commands: how many hardware had been given when a CMD_SYNC had been written, itself
/// included, modulo 2^32. Where the queue has 2^n entries, the n + 1 low bits are the value of SMMU_CMDQ_PROD after that
/// CMD_SYNC, and of SMMU_CMDQ_CONS once it is complete.
pub(crate) struct Queue<H: Hal>(queue::Queue<Ring<H>>);

impl<H: Hal + Clone> Queue<H> {
    /// Allocates the queue, of at most 2^`most_log2` commands, at least two.
    pub(crate) fn new(hal: &H, request: FrameRequest, most_log2: u8, completion: Completion) -> Result<Self, HwError> {
        Ok(Self(queue::Queue::new(Ring::new(hal, request, most_log2, completion)?)))
    }
}

impl<H: Hal> Queue<H> {
    /// Points the unit at the queue, which must be off and of which nothing was used yet.
    pub(crate) fn install<R: Registers>(&self, regs: &Regs<R>) {
        regs.io().write64(CMDQ_BASE_REG, self.0.ring().base());
        regs.io().write32(CMDQ_PROD_REG, 0);
        regs.io().write32(CMDQ_CONS_REG, 0);
    }

    /// Gives the memory back, of which hardware no longer reads commands. What messages go to is kept where any were asked for:
    /// that the queue is off does not say that they have arrived (section 6.3.9.3).
    pub(crate) fn give_back(self) {
        let told = self.marker() != 0;
        self.0.into_ring().give_back(told);
    }

    /// Runs `batch` in order of rank, as it comes, and returns once hardware has confirmed all of it: the marker of the
    /// CMD_SYNC that did. An empty batch confirms that the queue answers.
    ///
    /// # Errors
    ///
    /// [`HwError::Queue`] with a CERROR code: hardware refused one of these very commands, which is the entry, or could not
    /// read any, or a device TLB among them did not answer, whose stream id is the entry. [`HwError::TimedOut`], and
    /// [`HwError::Hardware`] where the unit is gone. Any of the commands may have been done or not.
    pub(crate) fn run<R: Registers>(&self, hal: &H, regs: &Regs<R>, batch: &[Command]) -> Result<Marker, HwError> {
        self.0.run(hal, regs, batch)
    }

    /// Marker of the newest CMD_SYNC that ends a round.
    pub(crate) fn marker(&self) -> Marker {
        self.0.marker()
    }

    /// Calls `visit` with each frame that hardware reads commands from, or reports to.
    pub(crate) fn for_each_frame(&self, mut visit: impl FnMut(Structure, PhysAddr)) {
        let (commands, cells) = self.0.ring().frames();
        visit(Structure::CommandQueue, commands);
        if let Some(cells) = cells {
            visit(Structure::QueueStatus, cells);
        }
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

#[cfg(test)]
mod tests;
