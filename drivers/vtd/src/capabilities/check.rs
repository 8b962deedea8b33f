//! What no unit may report, and what this driver cannot do without.

use super::{Capabilities, Mode, names, require};
use crate::spec::registers::{CAP, ECAP, FIXED_END, FRCD_LEN, IOTLB_LEN};
use iommu_core::hw::HwError;

/// Least width of guest addresses, in bits: tables of 3 levels hold 39, and no format has fewer.
const LEAST_GUEST_BITS: u8 = 30;

impl Capabilities {
    /// Checks that the unit can translate in its mode, and that it does not contradict itself; `window` is the length
    /// of its register window in bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names what is lacking; [`HwError::Hardware`] says what cannot be.
    pub fn check(&self, window: usize) -> Result<(), HwError> {
        self.check_records(window)?;
        if self.cap.read(CAP::ND) == 7 {
            return Err(HwError::Hardware("domain ids of a width that there is not (CAP.ND = 7)"));
        }
        if self.guest_bits() < LEAST_GUEST_BITS {
            return Err(HwError::Hardware("guest addresses of less than 30 bits (CAP.MGAW)"));
        }
        match self.mode() {
            Mode::Scalable => self.require_scalable_mode()?,
            Mode::Legacy => self.require_legacy_mode(window)?,
        }
        Ok(())
    }

    /// Checks that the window holds the fault records.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`].
    pub fn check_records(&self, window: usize) -> Result<(), HwError> {
        // No overflow: FRO and NFR have 10 and 8 bits.
        let records = self.fault_offset()..self.fault_offset() + self.fault_records() * FRCD_LEN;
        if records.start < FIXED_END {
            return Err(HwError::Hardware("the fault records overlap other registers (CAP.FRO)"));
        }
        if records.end > window {
            return Err(HwError::Hardware("the fault records lie beyond the register window (CAP.FRO, CAP.NFR)"));
        }
        Ok(())
    }

    /// What scalable mode cannot do without.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the first capability that is not there.
    pub fn require_scalable_mode(&self) -> Result<(), HwError> {
        require(self.ecap.is_set(ECAP::SMTS), names::SCALABLE_MODE)?;
        require(self.queued_invalidation(), names::QUEUED_INVALIDATION)?;
        match self.first_stage() {
            Ok(_) => Ok(()),
            // Neither stage: the second is the one to miss, for it is what every domain can be.
            Err(_) => self.second_stage().map(|_| ()),
        }
    }

    /// What legacy mode cannot do without.
    fn require_legacy_mode(&self, window: usize) -> Result<(), HwError> {
        // A unit that only remaps interrupts reports no width at all.
        require(self.cap.read(CAP::SAGAW) != 0, names::DMA_TRANSLATION)?;
        self.second_stage()?;
        if self.queued_invalidation() {
            return Ok(());
        }
        require(self.register_invalidation(), names::REGISTER_INVALIDATION)?;
        if self.iotlb_offset() < FIXED_END || self.iotlb_offset() + IOTLB_LEN > window {
            return Err(HwError::Hardware("the IOTLB registers lie beyond the register window (ECAP.IRO)"));
        }
        Ok(())
    }
}
