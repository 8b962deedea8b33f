//! Bring-up of a unit: from whatever firmware left to an empty root table and translation on.
//!
//! Never ends less protected than it has to: what needs memory is done before, what firmware left translating in the same
//! mode goes on translating, and once the empty root is set translation goes on whatever else fails.

use crate::invalidate::Change;
use crate::spec::registers::*;
use crate::unit::Inner;
use core::mem::ManuallyDrop;
use iommu_core::hw::HwError;
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use tock_registers::LocalRegisterCopy;

/// What hardware was told of when bring-up failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    Queue,
    Everything,
}

/// Why bring-up failed.
pub(crate) struct Failure {
    pub(crate) error: HwError,
    pub(crate) known: Known,
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Queue, root pointer, invalidation, translation, protected memory: in that order.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        let failed = |known| move |error| Failure { error, known };
        self.stop_firmware_queue().map_err(failed(Known::Nothing))?;
        self.queue.lock().enable(&self.hal, &self.regs).map_err(failed(Known::Queue))?;
        let io = self.regs.io();
        self.faults.discard(io);
        // Faults are polled.
        io.write32(FECTL_REG, FECTL::IM::SET.value);
        if self.caps.needs_write_buffer_flush() {
            // The tables must be in memory before hardware reads them, and no invalidation has come before.
            self.flush_write_buffer().map_err(failed(Known::Queue))?;
        }
        // The mode may change only while translation is off; in the same mode firmware's tables hand over to ours.
        let mode = LocalRegisterCopy::<u64, RTADDR::Register>::new(io.read64(RTADDR_REG)).read(RTADDR::TTM);
        if self.regs.status().is_set(GSTS::TES) && mode != RTADDR::TTM::Scalable.value >> RTADDR::TTM.shift {
            self.regs.set(&self.hal, GSTS::TES, false, "GSTS.TES").map_err(failed(Known::Queue))?;
        }
        self.take_over().map_err(failed(Known::Everything))
    }

    /// From the root pointer to the end.
    fn take_over(&self) -> Result<(), HwError> {
        let mut root = LocalRegisterCopy::<u64, RTADDR::Register>::new(0);
        root.write(RTADDR::RTA.val(self.tables.lock().root().get() >> 12) + RTADDR::TTM::Scalable);
        self.regs.io().write64(RTADDR_REG, root.get());
        self.regs.trigger(&self.hal, GSTS::RTPS, true, "GSTS.RTPS")?;
        // Whatever becomes of the invalidation: translating through the empty root beats not translating.
        let invalidated = self.invalidate(&[Change::RootPointer]);
        self.regs.set(&self.hal, GSTS::TES, true, "GSTS.TES")?;
        invalidated?;
        if self.caps.protected_regions() {
            self.regs.disable_protected_memory(&self.hal)?;
        }
        Ok(())
    }

    /// Turns off the queue that firmware may have left on, without a look at what was in it.
    fn stop_firmware_queue(&self) -> Result<(), HwError> {
        let io = self.regs.io();
        if self.regs.status().is_set(GSTS::QIES) {
            let stopped = || {
                let status = LocalRegisterCopy::<u32, FSTS::Register>::new(io.read32(FSTS_REG));
                status.is_set(FSTS::IQE) || status.is_set(FSTS::ITE) || io.read64(IQH_REG) == io.read64(IQT_REG)
            };
            // A queue that hangs must not keep ours from coming up: all it could do is invalidate.
            if self.regs.wait(&self.hal, "IQH", stopped).is_err() {
                warn!("firmware's invalidation queue hangs");
            }
            self.regs.set(&self.hal, GSTS::QIES, false, "GSTS.QIES")?;
        }
        // Errors of that queue must not be taken for errors of ours.
        io.write32(FSTS_REG, (FSTS::IQE::SET + FSTS::ICE::SET + FSTS::ITE::SET).value);
        Ok(())
    }

    /// Frees what hardware was never told of, when bring-up failed.
    pub(crate) fn give_back(self, known: Known) {
        if known == Known::Nothing {
            drop(ManuallyDrop::into_inner(self.queue.into_inner()));
        }
        if known != Known::Everything {
            drop(ManuallyDrop::into_inner(self.tables.into_inner()));
        }
    }
}
