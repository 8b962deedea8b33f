//! In which order commands take effect (sections 4.1.4 and 4.7.3).

use crate::smmuv3::unit::Unit;

/// When invalidations that were consumed take effect, and in which order.
///
/// Only a CMD_SYNC orders them: whatever stands before it is done when it is consumed, and what stands behind it does
/// not begin sooner. Between two of them there is no order at all, neither of configuration and translations nor of
/// device TLBs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Execution {
    /// Each at once.
    Queued,
    /// In order, but not before a CMD_SYNC asks for it.
    #[default]
    Late,
    /// Not before a CMD_SYNC asks for it, the one queued last first.
    Reversed,
    /// Not before a CMD_SYNC asks for it, in any order, as this seed has it.
    Shuffled(u64),
}

impl Unit {
    /// Which of the commands pending takes effect next, if any.
    pub(super) fn choose(&mut self) -> Option<usize> {
        let count = self.queue.pending.len();
        let last = count.checked_sub(1)?;
        if self.switches.translations_first {
            let other = self.queue.pending.iter().position(|fetched| !fetched.command.is_configuration());
            return Some(other.unwrap_or(0));
        }
        Some(match self.switches.execution {
            Execution::Queued | Execution::Late => 0,
            Execution::Reversed => last,
            Execution::Shuffled(_) => self.switches.random.below(count),
        })
    }
}
