//! What whoever came before left on that is neither translation nor memory protection: events and the queue.

use crate::capabilities::Capabilities;
use crate::regs::Regs;
use crate::spec::registers::*;
use iommu_core::hw::HwError;
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use tock_registers::LocalRegisterCopy;

/// Masks the events that the unit has: their messages lead to whoever came before.
pub(super) fn mask_events<R: Registers>(regs: &Regs<R>, caps: &Capabilities) {
    let events = [(FECTL_REG, true), (IECTL_REG, caps.queued_invalidation()), (PECTL_REG, caps.page_requests())];
    events
        .iter()
        .filter(|(_, there)| *there)
        .for_each(|(control, _)| regs.io().write32(*control, FECTL::IM::SET.value));
}

/// Turns off the queue that may have been left on, without a look at what was in it.
pub(super) fn stop_queue<H: Hal, R: Registers>(hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
    let io = regs.io();
    if regs.status()?.is_set(GSTS::QIES) {
        let stopped = || {
            let status = LocalRegisterCopy::<u32, FSTS::Register>::new(io.read32(FSTS_REG));
            Ok(status.is_set(FSTS::IQE) || status.is_set(FSTS::ITE) || io.read64(IQH_REG) == io.read64(IQT_REG))
        };
        // A queue that hangs must not keep ours from coming up: all it could do is invalidate.
        if regs.wait(hal, "IQH", stopped).is_err() {
            warn!("firmware's invalidation queue hangs");
        }
        regs.set(hal, GSTS::QIES, false, "GSTS.QIES")?;
    }
    // Errors of that queue must not be taken for errors of ours.
    io.write32(FSTS_REG, (FSTS::IQE::SET + FSTS::ICE::SET + FSTS::ITE::SET).value);
    Ok(())
}
