//! Global errors (sections 6.3.18 and 7.5): noted, acknowledged, told apart; and whether the unit works at all.
//!
//! | Error | What becomes of it |
//! |---|---|
//! | CMDQ_ERR | left to `queue`, which repairs its ring: whoever submits learns of it |
//! | EVENTQ_ABT_ERR | events are told as lost; the queue goes on, as hardware does |
//! | PRIQ_ABT_ERR, MSI_PRIQ_ABT_ERR | noted: the page request queue is off |
//! | MSI_CMDQ_ABT_ERR | noted: a CMD_SYNC whose message is refused is complete when SMMU_CMDQ_CONS says so |
//! | MSI_EVENTQ_ABT_ERR, MSI_GERROR_ABT_ERR | noted: [`GlobalErrors::lost_interrupts`], from then on the embedder polls |
//! | SFM_ERR | the unit [has failed](Condition::Failed): nothing is confirmed any more |
//! | CMDQP_ERR, DPT_ERR | noted: what they are about is off |

use crate::regs::Regs;
use crate::spec::registers::GERROR;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use iommu_core::hw::{HwError, Wait};
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

    /// MSI_EVENTQ_ABT_ERR or MSI_GERROR_ABT_ERR: an interrupt message did not arrive. What it was about waits to be polled for.
    pub fn lost_interrupts(self) -> bool {
        self.0 & (GERROR::MSI_EVENTQ_ABT_ERR::SET + GERROR::MSI_GERROR_ABT_ERR::SET).value != 0
    }

    /// SFM_ERR: the unit has given up working. All it does from then on is to abort what it is asked for.
    pub fn service_failure(self) -> bool {
        self.0 & GERROR::SFM_ERR::SET.value != 0
    }
}

/// Names of the errors, by bit.
const NAMES: [(u32, &str); 10] = [
    (0, "CMDQ_ERR"),
    (2, "EVENTQ_ABT_ERR"),
    (3, "PRIQ_ABT_ERR"),
    (4, "MSI_CMDQ_ABT_ERR"),
    (5, "MSI_EVENTQ_ABT_ERR"),
    (6, "MSI_PRIQ_ABT_ERR"),
    (7, "MSI_GERROR_ABT_ERR"),
    (8, "SFM_ERR"),
    (9, "CMDQP_ERR"),
    (10, "DPT_ERR"),
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

/// Whether a unit still works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Condition {
    /// It does.
    Working,
    /// It was [shut down](crate::Unit::shutdown), or is being so.
    ShutDown,
    /// It is in service failure mode (section 12.3): traffic has stopped, and so have commands and events. Only the system's
    /// reset ends that.
    Failed,
}

/// The errors of one unit that nobody has asked for yet, and what they have left of it.
#[derive(Default)]
pub(crate) struct ErrorLog {
    noted: AtomicU32,
    condition: AtomicU8,
}

impl ErrorLog {
    /// Acknowledges what was active before this driver came: errors of firmware's queues must not be taken for errors of ours.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where the unit has given up.
    pub(crate) fn start<R: Registers>(&self, regs: &Regs<R>) -> Result<(), HwError> {
        if GlobalErrors(regs.active_errors()).service_failure() {
            self.worsen(Condition::Failed);
        }
        regs.acknowledge(u32::MAX);
        self.check_working()
    }

    /// Whether the unit works.
    pub(crate) fn condition(&self) -> Condition {
        match self.condition.load(Ordering::Acquire) {
            0 => Condition::Working,
            1 => Condition::ShutDown,
            _ => Condition::Failed,
        }
    }

    /// From now on it is no better than `condition`.
    pub(crate) fn worsen(&self, condition: Condition) {
        self.condition.fetch_max(condition as u8, Ordering::AcqRel);
    }

    /// Refuses what nothing was begun of.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`].
    pub(crate) fn check_working(&self) -> Result<(), HwError> {
        match self.condition() {
            Condition::Working => Ok(()),
            Condition::ShutDown => Err(HwError::Hardware("the unit was shut down")),
            Condition::Failed => Err(HwError::Hardware("the unit is in service failure mode")),
        }
    }

    /// Refuses what hardware would not confirm.
    ///
    /// # Errors
    ///
    /// [`HwError::TimedOut`], without the wait.
    pub(crate) fn check_confirms(&self) -> Result<(), HwError> {
        self.check_working().map_err(|_| HwError::TimedOut(Wait::Completion))
    }

    /// Acknowledges what is active, and notes it. Takes no lock that a map, unmap or attach path waits under.
    pub(crate) fn collect<R: Registers>(&self, regs: &Regs<R>) -> GlobalErrors {
        let found = GlobalErrors(regs.take_errors());
        if found.service_failure() {
            self.worsen(Condition::Failed);
            error!("SMMU in service failure mode, errors {:#x}", found.bits());
        } else if !found.is_empty() {
            warn!("SMMU global errors {:#x}", found.bits());
        }
        self.noted.fetch_or(found.bits(), Ordering::Relaxed);
        found
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> GlobalErrors {
        GlobalErrors(self.noted.swap(0, Ordering::Relaxed))
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
        assert_eq!(GlobalErrors::new(1 | 3 << 9 | 1 << 11).to_string(), "CMDQ_ERR CMDQP_ERR DPT_ERR 0x800");
        assert_eq!(GlobalErrors::new(1 << 20).to_string(), "0x100000");
        assert!(GlobalErrors::new(1 << 8).service_failure() && !GlobalErrors::new(1 << 7).service_failure());
        assert!(GlobalErrors::new(1 << 2).lost_events() && !GlobalErrors::new(1 << 3).lost_events());
        let lost = |bits| GlobalErrors::new(bits).lost_interrupts();
        assert!(lost(1 << 5) && lost(1 << 7) && !lost(1 << 4) && !lost(1 << 6));
    }

    #[test]
    fn a_condition_only_gets_worse() {
        let log = ErrorLog::default();
        assert_eq!((log.condition(), log.check_working(), log.check_confirms()), (Condition::Working, Ok(()), Ok(())));
        for (worse, after) in [
            (Condition::ShutDown, Condition::ShutDown),
            (Condition::Failed, Condition::Failed),
            (Condition::ShutDown, Condition::Failed),
        ] {
            log.worsen(worse);
            assert_eq!(log.condition(), after);
            assert!(matches!(log.check_working(), Err(HwError::Hardware(_))));
            assert_eq!(log.check_confirms(), Err(HwError::TimedOut(Wait::Completion)));
        }
    }
}
