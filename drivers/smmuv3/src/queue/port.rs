//! The queue's registers: its indices, and the errors that hardware stops at (section 7.1).

use super::ring::Ring;
use crate::regs::Regs;
use crate::spec::command::{CERROR_ABT, CERROR_ATC_INV_SYNC};
use crate::spec::registers::*;
use core::time::Duration;
use iommu_driver::queue::{Found, Marker, Port};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use tock_registers::LocalRegisterCopy;

type Consumer = LocalRegisterCopy<u32, CMDQ_CONS::Register>;

/// CMDQ_CONS; `None` where nobody answers: the reserved bits of a unit that is there read zero.
fn consumer<R: Registers>(regs: &Regs<R>) -> Option<Consumer> {
    let value = regs.io().read32(CMDQ_CONS_REG);
    (value != u32::MAX).then_some(Consumer::new(value))
}

impl<H: Hal, R: Registers> Port<Ring<H>> for Regs<R> {
    /// A CMD_SYNC is consumed when it is complete (section 4.8).
    const READ_IS_DONE: bool = true;

    fn timeout(&self) -> Duration {
        self.timeout()
    }

    fn ring_doorbell(&self, ring: &Ring<H>, end: u64) {
        self.io().write32(CMDQ_PROD_REG, ring.index(end));
    }

    #[inline]
    fn is_complete(&self, ring: &Ring<H>, place: u64, marker: Marker) -> bool {
        ring.has_sent(place, marker).unwrap_or_else(|| self.position(ring) == Some(ring.index(place + 1).into()))
    }

    fn look(&self, _: &Ring<H>) -> Option<Found> {
        let errors = self.io().read32(GERROR_REG);
        if errors == u32::MAX {
            return Some(Found::Gone);
        }
        if (errors ^ self.io().read32(GERRORN_REG)) & GERROR::CMDQ_ERR::SET.value == 0 {
            return None;
        }
        // Reason and index stand still from the moment that the error shows.
        let Some(consumer) = consumer(self) else { return Some(Found::Gone) };
        Some(match consumer.read(CMDQ_CONS::ERR) as u8 {
            CERROR_ABT => Found::Unread(CERROR_ABT),
            CERROR_ATC_INV_SYNC => Found::Unanswered(None),
            // CERROR_ILL, and what the specification does not know yet: that command is not to be done again.
            code => Found::Refused(code),
        })
    }

    fn position(&self, ring: &Ring<H>) -> Option<u64> {
        consumer(self).map(|consumer| (consumer.read(CMDQ_CONS::RD) & ring.index_mask()).into())
    }

    /// Hardware reads commands from the consumer index on again, up to the producer index, which is as it was. Where another
    /// CPU is at the register it is done after the next look, which finds the same.
    fn resume(&self, _: &Ring<H>, _: Found, _: u64) {
        self.try_acknowledge(GERROR::CMDQ_ERR::SET.value);
    }
}
