//! Interrupts of the unit itself (section 3.18): that events wait, and that a global error became active.
//!
//! Both are edges: one goes out when the event queue is no longer empty, one when an error becomes active. A handler of the
//! first calls [`report_faults`](iommu_core::hw::Unit::report_faults) until it says that there is no more, one of the second
//! [`global_errors`](crate::Unit::global_errors); where both come by one line, it calls both.

use crate::capabilities::Capabilities;
use crate::regs::Regs;
use crate::spec::registers::*;
use iommu_core::hw::{Capability, HwError};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

/// A unit without messages cannot be asked for one.
const MESSAGES: Capability = Capability { name: "message-signalled interrupts", field: "SMMU_IDR0.MSI" };

/// A message-signalled interrupt: a write of 32 bits. The unit's own writes are not translated, so this is the address that the
/// interrupt controller has in physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiMessage {
    /// Where the message is written, a multiple of 4 and not 0.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

impl MsiMessage {
    /// Checks that the unit can write it.
    fn check(&self, caps: &Capabilities) -> Result<(), HwError> {
        if self.address == 0 {
            // Would mean that none is sent.
            return Err(HwError::Reserved { address: 0 });
        }
        if !self.address.is_multiple_of(4) {
            return Err(HwError::Misaligned { value: self.address, align: 4 });
        }
        let bits = caps.output_bits();
        if self.address >> bits != 0 {
            let phys = iommu_core::addr::PhysAddr::new(self.address);
            return Err(HwError::OutputTooWide { phys, bits });
        }
        Ok(())
    }
}

/// How a unit tells of events and of global errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Interrupts {
    /// It does not: both are polled.
    #[default]
    Polled,
    /// By its wires, of which the embedder knows where they lead. They are edges.
    Wired,
    /// By messages; only with IDR0.MSI.
    Message {
        /// Of events.
        events: MsiMessage,
        /// Of global errors.
        errors: MsiMessage,
    },
}

impl Interrupts {
    /// Refuses what the unit cannot send.
    ///
    /// # Errors
    ///
    /// As [`Unit::set_interrupts`](crate::Unit::set_interrupts), where nothing has changed.
    pub(crate) fn check(&self, caps: &Capabilities) -> Result<(), HwError> {
        let Self::Message { events, errors } = self else { return Ok(()) };
        if !caps.messages() {
            return Err(HwError::Missing(MESSAGES));
        }
        events.check(caps)?;
        errors.check(caps)
    }

    /// Has the unit do so. On an error its interrupts are off, as far as it obeys.
    pub(crate) fn install<H: Hal, R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        caps: &Capabilities,
    ) -> Result<(), HwError> {
        // Where a message goes changes only while none can be sent.
        regs.set_irq_ctrl(hal, 0)?;
        let (events, errors) = match self {
            Self::Polled => return Ok(()),
            Self::Wired => (None, None),
            Self::Message { events, errors } => (Some(events), Some(errors)),
        };
        if caps.messages() {
            write(regs.io(), [GERROR_IRQ_CFG0_REG, GERROR_IRQ_CFG1_REG, GERROR_IRQ_CFG2_REG], errors);
            write(regs.io(), [EVENTQ_IRQ_CFG0_REG, EVENTQ_IRQ_CFG1_REG, EVENTQ_IRQ_CFG2_REG], events);
        }
        regs.set_irq_ctrl(hal, (IRQ_CTRL::GERROR_IRQEN::SET + IRQ_CTRL::EVENTQ_IRQEN::SET).value)
    }
}

/// Writes where a message goes; nowhere, where there is none.
fn write<R: Registers>(io: &R, [address, data, attributes]: [usize; 3], message: Option<&MsiMessage>) {
    io.write64(address, message.map_or(0, |message| message.address));
    io.write32(data, message.map_or(0, |message| message.data));
    // Device memory, as interrupt controllers are, and so that no message overtakes what it tells of.
    io.write32(attributes, message.map_or(0, |_| IRQ_CFG2::MEMATTR::DeviceNGnRE.value));
}
