//! Bring-up of a unit: from whatever firmware left to an empty root table and translation on.
//!
//! Never ends less protected than it has to: what needs memory is done before, what firmware left translating in the same
//! mode goes on translating, and once the empty root is set translation goes on whatever else fails.

mod config;

pub use config::Config;

use crate::domain::State;
use crate::fault::Faults;
use crate::ids::DomainIds;
use crate::invalidate::{Change, Tag};
use crate::queue::Queue;
use crate::regs::Regs;
use crate::spec::registers::*;
use crate::tables::Tables;
use crate::unit::{Inner, Unit};
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use iommu_alloc::Shared;
use iommu_core::hw::HwError;
use iommu_core::{error, info, warn};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use spin::Mutex;
use tock_registers::LocalRegisterCopy;

/// Widest physical address that any structure holds.
const MOST_HOST_BITS: u8 = 52;

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

impl<H: Hal + Clone + 'static, R: Registers + 'static> Unit<H, R> {
    /// Brings the unit up: queue on, empty root table set, caches invalidated, translation on, protected memory off.
    ///
    /// Where firmware left translation on in another mode it goes off for a moment, in which DMA is not translated, so
    /// bus mastering should be off behind the unit until this returns.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where no unit answers; [`HwError::Missing`] names what the unit lacks;
    /// [`HwError::OutOfMemory`]: the unit is as it was. [`HwError::TimedOut`] names the status bit that never followed,
    /// and [`HwError::Queue`] a refused invalidation. Once the empty root is set translation goes on even then; before,
    /// it is off unless firmware had it on in scalable mode.
    pub fn bring_up(hal: H, regs: R, config: Config) -> Result<Self, HwError> {
        let regs = Regs::new(regs, config.timeout);
        let host_bits = config.host_bits.min(MOST_HOST_BITS);
        let caps = regs.capabilities()?;
        caps.require_scalable_mode()?;

        let mut ids = DomainIds::new(caps.domain_id_bits())?;
        let identity = Tag::DomainAndPasid(ids.alloc()?);
        let identity = Shared::try_new(State::new(identity)).map_err(|_| HwError::OutOfMemory)?;
        let queue = Queue::new(&hal, host_bits)?;
        let tables = Tables::new(&hal, FrameRequest::single(host_bits, caps.structure_memory()))?;
        // The last that needs memory, while hardware is still as it was.
        let shared = Arc::new(Inner {
            hal,
            caps,
            host_bits,
            regs,
            command: Mutex::new(()),
            queue: Mutex::new(ManuallyDrop::new(queue)),
            tables: Mutex::new(ManuallyDrop::new(tables)),
            ids: Mutex::new(ids),
            faults: Faults::new(&caps),
            identity,
        });
        if let Err(failure) = shared.start() {
            error!("a VT-d unit did not come up");
            if let Some(shared) = Arc::into_inner(shared) {
                shared.give_back(failure.known);
            }
            return Err(failure.error);
        }
        info!("VT-d unit up, CAP {:#x}, ECAP {:#x}", caps.cap(), caps.ecap());
        Ok(Self(shared))
    }
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
