//! What the driver cannot do without.

use super::{Capabilities, names, require};
use crate::spec::registers::IDR1;
use iommu_core::hw::HwError;

impl Capabilities {
    /// What this driver cannot do without.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the first capability that is not there.
    pub fn require_own_structures(&self) -> Result<(), HwError> {
        require(!self.idr1.is_set(IDR1::TABLES_PRESET), names::ANY_TABLE_ADDRESS)?;
        require(!self.idr1.is_set(IDR1::QUEUES_PRESET), names::ANY_QUEUE_ADDRESS)?;
        require(self.command_queue_log2() != 0, names::COMMAND_QUEUE)?;
        // One that was asked for; where none was and there is none, there are no page tables, and that is all.
        if self.granule.is_some() { self.granule().map(drop) } else { Ok(()) }
    }
}
