//! Bring-up of a unit (section 3.11): from whatever firmware left to translation with everything blocked; and the way back.
//!
//! Never ends less protected than it has to: what needs memory is done before, DMA is to be aborted whenever translation is off
//! before anything else changes, and translation that firmware left on goes off only then. Each unit is on its own.
//!
//! # When DMA is not translated
//!
//! | What firmware left | What happens to DMA |
//! |---|---|
//! | translation off | as firmware left it until GBPA.ABORT is taken over, the first write of all; aborted from then on |
//! | translation on | translated by firmware's tables until it goes off; aborted from then on |
//!
//! * here: bring-up.
//! * [`shutdown`]: everything off again, with DMA aborted.

mod config;
mod shutdown;

pub use config::Config;

use crate::domain::{Identity, Trees};
use crate::errors::ErrorLog;
use crate::fault::{Faults, Interrupts};
use crate::invalidate::Change;
use crate::queue::Queue;
use crate::regs::Regs;
use crate::spec::registers::*;
use crate::tables::{Shape, Tables};
use crate::unit::{Inner, Unit};
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use iommu_core::hw::HwError;
use iommu_core::{error, info, warn};
use iommu_driver::ids::Ids;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal};
use spin::Mutex;
use tock_registers::LocalRegisterCopy;

/// Why bring-up failed, and what of CR0 may still be on of what it turned on.
struct Failure {
    error: HwError,
    left_on: u32,
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Unit<H, R> {
    /// Brings the unit up: everything off with DMA aborted, queues and an empty stream table set, caches invalidated,
    /// translation on.
    ///
    /// Whatever firmware left on goes off. From the first register write on new accesses are refused, but for what
    /// firmware's translation still lets through until it is off.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where no unit answers; [`HwError::Missing`] names what the unit lacks; those of
    /// [`set_interrupts`](Self::set_interrupts); [`HwError::OutOfMemory`]: the unit is as it was. [`HwError::TimedOut`] names
    /// the field that never followed, [`HwError::Queue`] a command that was refused, and [`HwError::Hardware`] that
    /// SMMU_GBPA.ABORT does not stay set, or that the unit is in service failure mode: DMA is aborted as far as the unit obeys
    /// at all.
    pub fn bring_up(hal: H, regs: R, config: Config) -> Result<Self, HwError> {
        let regs = Regs::new(regs, config.timeout, config.one_page);
        let caps = regs.capabilities()?;
        let caps = config.coherent.map_or(caps, |coherent| caps.with_coherency(coherent));
        let caps = config.httu.map_or(caps, |httu| caps.with_table_updates(httu)).with_granule(config.granule);
        caps.require_own_structures()?;
        config.interrupts.check(&caps)?;

        let host_bits = config.host_bits.min(caps.output_bits());
        let request = FrameRequest::single(host_bits, caps.memory());
        let asids = Ids::new(caps.asid_bits())?;
        let vmids = Ids::new(caps.vmid_bits())?;
        let queue = Queue::new(&hal, request, caps.command_queue_log2(), config.completion.on(&caps))?;
        let tables = Tables::new(&hal, request, Shape::new(&caps, config.stream_bits, config.pasid_bits))?;
        let faults = Faults::new(&hal, request, caps.event_queue_log2().min(config.event_queue_log2))?;
        // The last that needs memory, while hardware is still as it was.
        let shared = Arc::new(Inner {
            hal,
            caps,
            host_bits,
            trees: Trees::new(),
            regs,
            queue: ManuallyDrop::new(queue),
            tables: Mutex::new(ManuallyDrop::new(tables)),
            asids: Mutex::new(asids),
            vmids: Mutex::new(vmids),
            faults,
            errors: ErrorLog::default(),
            identity: Identity::new()?,
        });
        if let Err(failure) = shared.start(&config.interrupts) {
            error!("an SMMU did not come up");
            if let Some(shared) = Arc::into_inner(shared) {
                shared.give_back(failure.left_on);
            }
            return Err(failure.error);
        }
        let [idr0, idr1, ..] = caps.idr();
        info!("SMMU up, IDR0 {:#x}, IDR1 {:#x}", idr0, idr1);
        Ok(Self(shared))
    }
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Everything off, then queues, caches, translation: in that order.
    fn start(&self, interrupts: &Interrupts) -> Result<(), Failure> {
        // Nothing of ours is known to hardware before the second half.
        self.stop().map_err(|error| Failure { error, left_on: 0 })?;
        self.run(interrupts).map_err(|error| Failure { error, left_on: self.stop_again() })
    }

    /// Has DMA aborted and turns off whatever firmware left on, without a look at what was in it.
    fn stop(&self) -> Result<(), HwError> {
        self.regs.abort_without_translation(&self.hal)?;
        self.regs.settle(&self.hal)?;
        let on = self.regs.cr0();
        let translation = CR0::SMMUEN::SET.value;
        if on & translation != 0 {
            warn!("firmware left an SMMU on, CR0 {:#x}", on);
            // First, and alone: from here on every new access is aborted.
            self.regs.set_cr0(&self.hal, on & !translation, "SMMU_CR0ACK.SMMUEN")?;
        }
        if on & !translation != 0 {
            self.regs.set_cr0(&self.hal, 0, "SMMU_CR0ACK")?;
        }
        self.regs.set_irq_ctrl(&self.hal, 0)?;
        self.errors.start(&self.regs)
    }

    /// Turns everything on that this driver uses.
    fn run(&self, interrupts: &Interrupts) -> Result<(), HwError> {
        let (hal, regs) = (&self.hal, &self.regs);
        let walk = self.caps.walk_attributes();
        let (cache, share) = (u32::from(walk.cacheability), u32::from(walk.shareability));
        let mut cr1 = LocalRegisterCopy::<u32, CR1::Register>::new(0);
        cr1.write(
            CR1::QUEUE_IC.val(cache)
                + CR1::QUEUE_OC.val(cache)
                + CR1::QUEUE_SH.val(share)
                + CR1::TABLE_IC.val(cache)
                + CR1::TABLE_OC.val(cache)
                + CR1::TABLE_SH.val(share),
        );
        regs.io().write32(CR1_REG, cr1.get());
        // The CPUs' TLB maintenance is about their own tables. Streams without an entry are worth an event.
        regs.io().write32(CR2_REG, (CR2::PTM::SET + CR2::RECINVSID::SET).value);
        self.tables.lock().install(regs);

        let mut on = 0;
        if self.caps.ats() {
            // Without it a device that says it has translated an address itself would be believed. Before the caches
            // are invalidated, which may hold it.
            on |= CR0::ATSCHK::SET.value;
            regs.set_cr0(hal, on, "SMMU_CR0ACK.ATSCHK")?;
        }

        on |= CR0::CMDQEN::SET.value;
        self.queue.install(regs);
        regs.set_cr0(hal, on, "SMMU_CR0ACK.CMDQEN")?;
        self.invalidate(&[Change::StreamTable])?;

        on |= CR0::EVENTQEN::SET.value;
        self.faults.install(regs);
        regs.set_cr0(hal, on, "SMMU_CR0ACK.EVENTQEN")?;
        if *interrupts != Interrupts::Polled {
            // Before the first event that they could tell of.
            interrupts.install(hal, regs, &self.caps)?;
        }

        regs.set_cr0(hal, on | CR0::SMMUEN::SET.value, "SMMU_CR0ACK.SMMUEN")
    }

    /// Turns off what [`run`](Self::run) turned on before it failed, and returns what may still be on.
    fn stop_again(&self) -> u32 {
        let on = self.regs.cr0() | self.regs.io().read32(CR0ACK_REG);
        // A change that hardware has not taken over yet must not be followed by another.
        let stopped = self.regs.is_settled() && self.regs.set_cr0(&self.hal, 0, "SMMU_CR0ACK").is_ok();
        // Nobody is left to whom messages could tell anything.
        let _ = self.regs.set_irq_ctrl(&self.hal, 0);
        // Accesses that were under way when translation went off may still walk the tables: nothing confirms their end.
        if stopped { on & CR0::SMMUEN::SET.value } else { on }
    }

    /// Frees what hardware does not use, when bring-up failed with `left_on` of CR0 on.
    fn give_back(self, left_on: u32) {
        if left_on & CR0::CMDQEN::SET.value == 0 {
            ManuallyDrop::into_inner(self.queue).give_back();
        }
        if left_on & CR0::EVENTQEN::SET.value == 0 {
            self.faults.give_back();
        }
        if left_on & CR0::SMMUEN::SET.value == 0 {
            drop(ManuallyDrop::into_inner(self.tables.into_inner()));
        }
    }
}
