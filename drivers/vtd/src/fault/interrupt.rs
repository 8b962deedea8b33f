//! The fault event: the unit's own interrupt (sections 5.1.6 and 11.4.7.2 to 11.4.7.4).

use super::Faults;
use crate::capabilities::{Capabilities, names};
use crate::spec::registers::*;
use iommu_core::hw::HwError;
use iommu_hal::regs::Registers;

/// Where x86 takes interrupt messages: bits 31:20 of the address.
const MESSAGES: u64 = 0xfee;

/// A message-signalled interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiMessage {
    /// Where the message is written: 0xfee in bits 31:20, the destination's APIC id in bits 19:12 and, beyond 8 bits, the rest
    /// of it in bits 63:40; redirection hint and destination mode in bits 3 and 2.
    pub address: u64,
    /// What is written: vector in bits 7:0, delivery mode in 10:8, edge-triggered.
    pub data: u32,
}

impl MsiMessage {
    /// Checks that it is an interrupt in compatibility format, as the unit's own messages are whether or not interrupts
    /// are remapped, and not a write to memory.
    fn check(&self, caps: &Capabilities) -> Result<(), HwError> {
        let low = self.address & 0xffff_ffff;
        if low >> 20 != MESSAGES || self.address >> 32 & 0xff != 0 {
            return Err(HwError::Reserved { address: self.address });
        }
        if low & 0x13 != 0 {
            // Bits 1:0 make it no whole 32-bit write, bit 4 the remappable format.
            return Err(HwError::Unsupported("fault interrupts that are not in compatibility format"));
        }
        if self.address >> 32 != 0 && !caps.extended_interrupts() {
            return Err(HwError::Missing(names::EXTENDED_INTERRUPTS));
        }
        if self.data & 0xffff_0000 != 0 || self.data & 1 << 15 != 0 {
            return Err(HwError::Unsupported("fault interrupts that are level-triggered or of more than 16 bits"));
        }
        Ok(())
    }
}

impl Faults {
    /// Masks the fault event: faults are polled.
    pub(crate) fn mask<R: Registers>(&self, io: &R) {
        io.write32(FECTL_REG, FECTL::IM::SET.value);
    }

    /// Has the unit send `message` for the first fault or queue error after everything was reported; `None` masks it.
    pub(crate) fn set_interrupt<R: Registers>(
        &self,
        io: &R,
        caps: &Capabilities,
        message: Option<MsiMessage>,
    ) -> Result<(), HwError> {
        if let Some(message) = message {
            message.check(caps)?;
        }
        let _one = self.interrupt.lock();
        // Also so that none goes out half of the one message and half of the other.
        self.mask(io);
        let Some(message) = message else { return Ok(()) };
        let words = [
            (FEDATA_REG, message.data),
            (FEADDR_REG, message.address as u32),
            // Read-only zero where destinations have 8 bits.
            (FEUADDR_REG, (message.address >> 32) as u32),
        ];
        for (register, value) in words {
            if io.read32(register) != value {
                io.write32(register, value);
            }
        }
        if words.iter().any(|(register, value)| io.read32(*register) != *value) {
            return Err(HwError::Hardware("the fault interrupt's message does not read back as written"));
        }
        // A message held back since faults were recorded goes out now.
        io.write32(FECTL_REG, 0);
        Ok(())
    }
}
