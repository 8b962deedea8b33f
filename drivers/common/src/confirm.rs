//! What hardware did not confirm.

use iommu_core::hw::{HwError, Wait};
use iommu_core::warn;

/// What a read of registers that nobody answers for gives.
pub const GONE: HwError = HwError::Hardware("the registers read all ones: no unit answers");

/// `error` as the seam has it where hardware did not confirm, whatever the reason: any other says that nothing has changed, and
/// memory would be given back that hardware may still reach. A unit whose registers read all ones may answer again.
pub fn unconfirmed(error: HwError, wait: Wait) -> HwError {
    match error {
        HwError::TimedOut(_) | HwError::Queue { .. } => error,
        HwError::Hardware(what) => {
            warn!("hardware did not confirm: {}", what);
            HwError::TimedOut(wait)
        }
        _ => HwError::TimedOut(wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_says_that_nothing_has_changed() {
        let queue = HwError::Queue { code: 1, entry: 2 };
        assert_eq!(unconfirmed(queue, Wait::Completion), queue);
        let status = HwError::TimedOut(Wait::Status("GSTS.WBFS"));
        assert_eq!(unconfirmed(status, Wait::Completion), status);
        for other in [HwError::Hardware("gone"), HwError::OutOfMemory, HwError::InUse] {
            assert_eq!(unconfirmed(other, Wait::Completion), HwError::TimedOut(Wait::Completion));
        }
    }
}
