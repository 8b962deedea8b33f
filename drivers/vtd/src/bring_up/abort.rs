//! Abort-DMA mode (section 3.4.4): all DMA of a unit refused, without a table.

use super::{Config, firmware};
use crate::capabilities::{names, require};
use crate::regs::Regs;
use crate::spec::registers::*;
use iommu_core::hw::HwError;
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use tock_registers::LocalRegisterCopy;

/// Has the unit abort all DMA behind it, whatever it did before: for one that nobody uses, or that did not
/// [come up](crate::Unit::bring_up). It takes no memory, and leaves the unit holding none. Protected memory regions and
/// interrupt remapping stay as they are. [`Unit::bring_up`](crate::Unit::bring_up) takes the unit back.
///
/// Where the unit was translating and hardware cannot change the mode meanwhile (CAP.ESRTPS is clear), translation goes off for
/// a moment, in which DMA is not translated.
///
/// # Errors
///
/// [`HwError::Missing`] names what the unit lacks: ECAP.ADMS, or CAP.ESRTPS and ECAP.SMTS, one of which it takes for no cached
/// translation to outlive the change. Nothing was touched then. [`HwError::Hardware`] where no unit answers,
/// [`HwError::TimedOut`] where a command was not acknowledged.
pub fn abort_dma<H: Hal, R: Registers>(hal: H, regs: R, config: Config) -> Result<(), HwError> {
    let regs = Regs::new(regs, config.timeout);
    let caps = regs.capabilities()?;
    caps.require_abort_mode()?;
    // Hardware of scalable mode drops all it cached when translation goes off (section 11.4.4.1, TE).
    require(caps.root_pointer_invalidates() || caps.has_scalable_mode(), names::ROOT_POINTER_INVALIDATES)?;

    firmware::mask_events(&regs, &caps);
    if !caps.root_pointer_invalidates() && regs.status()?.is_set(GSTS::TES) {
        regs.set(&hal, GSTS::TES, false, "GSTS.TES")?;
    }
    enter(&hal, &regs)?;
    // Nothing gets through any more. What is left over cannot be worse than it was.
    if firmware::stop_queue(&hal, &regs).is_err() {
        warn!("DMA is aborted, but the invalidation queue does not stop");
    }
    Ok(())
}

/// Sets the mode and turns translation on where it is off. The caller has seen to it that the mode may change.
pub(super) fn enter<H: Hal, R: Registers>(hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
    let mut root = LocalRegisterCopy::<u64, RTADDR::Register>::new(0);
    root.write(RTADDR::TTM::AbortDma);
    regs.set_root(hal, root)?;
    if regs.status()?.is_set(GSTS::TES) { Ok(()) } else { regs.set(hal, GSTS::TES, true, "GSTS.TES") }
}
