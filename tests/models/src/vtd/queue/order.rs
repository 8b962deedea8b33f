//! In which order descriptors take effect (section 6.5.2.12).

use super::Fetched;
use crate::vtd::descriptor::Descriptor;
use crate::vtd::unit::Unit;

/// When descriptors that were fetched take effect, and in which order.
///
/// Hardware must keep the order of some classes only: PASID-cache invalidations after the context-cache invalidations
/// ahead of them, IOTLB invalidations of both types after those of context and PASID cache, device-TLB invalidations
/// after those of type 2 and of interrupt entries, and those with PASID after type 6 too. A wait reports after
/// everything between the wait before it and itself, and where it is a fence nothing behind it begins sooner.
/// Everything else is free: a device TLB without PASID may come before type 6, a wait before an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Execution {
    /// Each at once.
    #[default]
    Queued,
    /// In order, but not before a wait asks for it.
    Late,
    /// Not before a wait asks for it, and of those that may come next the one queued last, behind the wait as well.
    Reversed,
    /// Not before a wait asks for it, and any of those that may come next, as this seed has it.
    Shuffled(u64),
}

/// Whether `later`, queued behind `earlier`, must be executed behind it.
const fn must_follow(earlier: &Descriptor, later: &Descriptor) -> bool {
    use Descriptor as D;
    match later {
        D::PasidCache(_) => matches!(earlier, D::ContextCache(_)),
        D::Iotlb { .. } | D::PasidIotlb(_) => matches!(earlier, D::ContextCache(_) | D::PasidCache(_)),
        D::DeviceTlb { .. } => matches!(earlier, D::Iotlb { .. } | D::InterruptEntries { .. }),
        D::PasidDeviceTlb { .. } => {
            matches!(earlier, D::Iotlb { .. } | D::PasidIotlb(_) | D::InterruptEntries { .. })
        }
        _ => false,
    }
}

impl Unit {
    /// Whether descriptors behind a wait are fetched before it has reported.
    pub(super) const fn overtakes(&self) -> bool {
        matches!(self.switches.execution, Execution::Reversed | Execution::Shuffled(_))
    }

    /// Which of the descriptors pending is executed next, if any.
    pub(super) fn choose(&mut self) -> Option<usize> {
        let pending = &self.queue.pending;
        let asked = self.queue.drain || pending.iter().any(Fetched::is_wait);
        if !asked && self.switches.execution != Execution::Queued {
            return None;
        }
        let may_come = |index: &usize| {
            let (ahead, this) = (&pending[..*index], &pending[*index]);
            let held = |other: &Fetched| other.is_fence() || must_follow(&other.descriptor, &this.descriptor);
            let first = this.is_wait() && ahead.last().is_some_and(|other| !other.is_wait());
            !first && !ahead.iter().any(held)
        };
        let mut candidates = (0..pending.len()).filter(may_come);
        match self.switches.execution {
            Execution::Queued | Execution::Late => (!pending.is_empty()).then_some(0),
            Execution::Reversed => candidates.next_back(),
            Execution::Shuffled(_) => {
                let count = (0..pending.len()).filter(may_come).count();
                let chosen = self.switches.random.below(count.max(1));
                candidates.nth(chosen)
            }
        }
    }
}
