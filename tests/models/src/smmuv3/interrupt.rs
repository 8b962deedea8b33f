//! Interrupts of the unit itself (section 3.18).

use super::config::Config;
use super::unit::Unit;
use iommu_core::addr::PhysAddr;

/// GERROR.MSI_GERROR_ABT_ERR.
const MSI_GERROR_ABT: u32 = 1 << 7;

/// What an interrupt is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A global error became active.
    GlobalError,
    /// The PRI queue is no longer empty.
    PageRequests,
    /// The event queue is no longer empty.
    Events,
    /// A CMD_SYNC that asks for an interrupt completed.
    Sync,
}

/// A message-signalled interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// An interrupt that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// What it is about.
    pub source: Source,
    /// The message; `None` where it went by wire.
    pub message: Option<Message>,
}

/// _IRQ_CFG0 to 2.
#[derive(Clone, Copy, Default)]
pub(super) struct MessageConfig {
    pub(super) address: u64,
    pub(super) data: u32,
    pub(super) attributes: u32,
}

impl Unit {
    /// Sends the interrupt of `source`, which is not [`Source::Sync`], where it is enabled.
    pub(super) fn interrupt(&mut self, source: Source) {
        let bit = source as usize;
        if self.irq.actual >> bit & 1 == 0 {
            return;
        }
        let MessageConfig { address, data, .. } = self.messages[bit];
        let message = (self.config.has(Config::MSI) && address != 0).then_some(Message { address, data });
        if let Some(Message { address, data }) = message {
            if self.switches.aborted_messages.contains(&source) {
                // That of a global error raises none itself (section 7.5.1).
                let bit = match source {
                    Source::GlobalError => 7,
                    Source::PageRequests => 6,
                    Source::Events | Source::Sync => 5,
                };
                return self.global_error(1 << bit);
            }
            // Where no memory is, an interrupt controller may be.
            let _ = self.memory.device_write32(PhysAddr::new(address), data);
        }
        self.interrupts.push(Interrupt { source, message });
    }

    /// Makes the errors of `bits` in GERROR active, where they are not.
    pub(super) fn global_error(&mut self, bits: u32) {
        let fresh = bits & !(self.gerror ^ self.gerrorn);
        self.gerror ^= fresh;
        if fresh & !MSI_GERROR_ABT != 0 {
            self.interrupt(Source::GlobalError);
        }
    }
}
