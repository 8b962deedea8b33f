//! Global errors (section 6.3, SMMU_GERROR): noted, acknowledged, told apart.

use crate::regs::Regs;
use crate::spec::registers::GERROR;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use iommu_core::{error, warn};
use iommu_hal::regs::Registers;

/// A set of global errors, as the bits of SMMU_GERROR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GlobalErrors(u32);

impl GlobalErrors {
    /// The errors whose bits of SMMU_GERROR are set in `bits`.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// EVENTQ_ABT_ERR: events could not be written, and are lost.
    pub fn lost_events(self) -> bool {
        self.0 & GERROR::EVENTQ_ABT_ERR::SET.value != 0
    }

    /// SFM_ERR: the unit has given up working. All it does from then on is to abort what it is asked for.
    pub fn service_failure(self) -> bool {
        self.0 & GERROR::SFM_ERR::SET.value != 0
    }
}

/// Names of the errors, by bit.
const NAMES: [(u32, &str); 8] = [
    (0, "CMDQ_ERR"),
    (2, "EVENTQ_ABT_ERR"),
    (3, "PRIQ_ABT_ERR"),
    (4, "MSI_CMDQ_ABT_ERR"),
    (5, "MSI_EVENTQ_ABT_ERR"),
    (6, "MSI_PRIQ_ABT_ERR"),
    (7, "MSI_GERROR_ABT_ERR"),
    (8, "SFM_ERR"),
];

/// The specification's names, separated by spaces, and bits without a name as a number.
impl fmt::Display for GlobalErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let (mut left, mut space) = (self.0, "");
        for (bit, name) in NAMES.iter().filter(|(bit, _)| self.0 >> bit & 1 == 1) {
            write!(f, "{space}{name}")?;
            (left, space) = (left & !(1 << bit), " ");
        }
        if left == 0 { Ok(()) } else { write!(f, "{space}{left:#x}") }
    }
}

/// The errors of one unit that nobody has asked for yet.
#[derive(Default)]
pub(crate) struct ErrorLog(AtomicU32);

impl ErrorLog {
    /// Acknowledges what is active, and notes it. Takes no lock that a map, unmap or attach path waits under.
    pub(crate) fn collect<R: Registers>(&self, regs: &Regs<R>) -> GlobalErrors {
        let found = GlobalErrors(regs.take_errors().unwrap_or(0));
        if found.service_failure() {
            error!("SMMU in service failure mode, errors {:#x}", found.bits());
        } else if !found.is_empty() {
            warn!("SMMU global errors {:#x}", found.bits());
        }
        self.0.fetch_or(found.bits(), Ordering::Relaxed);
        found
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> GlobalErrors {
        GlobalErrors(self.0.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn errors_have_the_names_of_the_specification() {
        assert_eq!(GlobalErrors::new(0).to_string(), "none");
        assert_eq!(GlobalErrors::new(1 << 2 | 1 << 8).to_string(), "EVENTQ_ABT_ERR SFM_ERR");
        assert_eq!(GlobalErrors::new(1 | 1 << 9).to_string(), "CMDQ_ERR 0x200");
        assert_eq!(GlobalErrors::new(1 << 20).to_string(), "0x100000");
        assert!(GlobalErrors::new(1 << 8).service_failure() && !GlobalErrors::new(1 << 7).service_failure());
        assert!(GlobalErrors::new(1 << 2).lost_events() && !GlobalErrors::new(1 << 3).lost_events());
    }
}
