//! Shutdown: everything off, with DMA aborted.

use crate::errors::Condition;
use crate::invalidate::{Batch, Change, plan};
use crate::spec::command::Command;
use crate::spec::registers::CR0;
use crate::unit::{Inner, Unit};
use iommu_core::hw::HwError;
use iommu_core::{info, warn};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

impl<H: Hal + Clone + 'static, R: Registers + 'static> Unit<H, R> {
    /// Shuts the unit down, for the end or for whoever takes it over: every stream is blocked, DMA behind the unit is aborted
    /// (SMMU_GBPA.ABORT), accesses that are stalled end, translation, interrupts and queues are off. [`Unit::bring_up`] takes
    /// it back.
    ///
    /// From then on, also where this fails, whatever would change something through a handle of this unit is refused:
    /// [`HwError::Hardware`] where nothing was begun, [`HwError::TimedOut`] where hardware would have to confirm. Nothing is
    /// reported any more. All memory of the unit and of its domains that hardware was told of is kept for ever: nothing
    /// confirms that accesses that were under way are over.
    ///
    /// To call it again is no error, and goes on where it failed. The caller sees to it that bus mastering is off, or that
    /// devices bear that their accesses are aborted.
    ///
    /// # Errors
    ///
    /// [`HwError::TimedOut`] names what never followed, [`HwError::Hardware`] says that SMMU_GBPA.ABORT does not stay set:
    /// translation stays on then, with every stream blocked as far as the unit obeys at all.
    pub fn shutdown(&self) -> Result<(), HwError> {
        self.0.shut_down()
    }
}

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    fn shut_down(&self) -> Result<(), HwError> {
        // From here on nobody else begins anything. Who is at it already finds the unit off, or the entries gone.
        self.errors.worsen(Condition::ShutDown);
        let mut tables = self.tables.lock();
        let (hal, regs) = (&self.hal, &self.regs);
        // First what needs no more than memory, and covers for all that may fail.
        tables.abort_all();
        if self.forget_all().is_err() {
            warn!("an SMMU that is shut down does not confirm that every stream is blocked");
        }
        regs.abort_without_translation(hal)?;
        regs.settle(hal)?;
        // Alone, as with firmware's: from here on every new access is aborted, and what was stalled is marked to end.
        regs.set_cr0(hal, regs.cr0() & !CR0::SMMUEN::SET.value, "SMMU_CR0ACK.SMMUEN")?;
        regs.set_irq_ctrl(hal, 0)?;
        regs.set_cr0(hal, 0, "SMMU_CR0ACK")?;
        info!("SMMU shut down");
        Ok(())
    }

    /// Has hardware forget everything, though nothing else is begun any more.
    fn forget_all(&self) -> Result<(), HwError> {
        if self.regs.cr0() & CR0::CMDQEN::SET.value == 0 {
            // An earlier call has come further.
            return Ok(());
        }
        let mut submit = |batch: &[Command]| self.run_commands(batch).map(drop);
        let mut batch = Batch::new(&mut submit);
        plan(&self.caps, &Change::StreamTable, &mut batch);
        batch.finish().map(drop)
    }
}
