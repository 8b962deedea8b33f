//! The queue's registers: its doorbell, how far hardware is, and what it reports (section 6.5.2.11).

use super::ring::Ring;
use crate::regs::Regs;
use crate::spec::registers::*;
use core::time::Duration;
use iommu_core::warn;
use iommu_driver::queue::{Found, Marker, Port};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use tock_registers::LocalRegisterCopy;

/// IQERCD.IQEI of errors that are not of the descriptor at the head: the tail, the descriptors' width.
const OF_THE_QUEUE: [u8; 3] = [1, 5, 6];

impl<H: Hal, R: Registers> Port<Ring<H>> for Regs<R> {
    /// IQH goes past a wait that hardware has fetched.
    const READ_IS_DONE: bool = false;

    fn timeout(&self) -> Duration {
        self.timeout()
    }

    fn ring_doorbell(&self, ring: &Ring<H>, end: u64) {
        self.io().write64(IQT_REG, ring.offset(end));
    }

    #[inline]
    fn is_complete(&self, ring: &Ring<H>, place: u64, marker: Marker) -> bool {
        ring.is_complete(place, marker)
    }

    /// Completions that nobody asked for are cleared here.
    fn look(&self, _: &Ring<H>) -> Option<Found> {
        let status = LocalRegisterCopy::<u32, FSTS::Register>::new(self.io().read32(FSTS_REG));
        if status.get() == u32::MAX {
            return Some(Found::Gone);
        }
        if !status.any_matching_bits_set(FSTS::IQE::SET + FSTS::ICE::SET + FSTS::ITE::SET) {
            return None;
        }
        let record = LocalRegisterCopy::<u64, IQERCD::Register>::new(self.io().read64(IQERCD_REG));
        if status.is_set(FSTS::ICE) {
            warn!("unexpected invalidation completion of {:#x}", record.read(IQERCD::ICESID));
            clear(self, FSTS::ICE::SET.value);
        }
        if status.is_set(FSTS::ITE) {
            // 0 is what older hardware has there for all.
            return Some(Found::Unanswered(Some(record.read(IQERCD::ITESID) as u32)));
        }
        let code = record.read(IQERCD::IQEI) as u8;
        let found = if OF_THE_QUEUE.contains(&code) { Found::Stopped(code) } else { Found::Refused(code) };
        status.is_set(FSTS::IQE).then_some(found)
    }

    fn position(&self, ring: &Ring<H>) -> Option<u64> {
        ring.slot(self.io().read64(IQH_REG))
    }

    fn resume(&self, ring: &Ring<H>, found: Found, end: u64) {
        if matches!(found, Found::Unanswered(_)) {
            return clear(self, FSTS::ITE::SET.value);
        }
        clear(self, FSTS::IQE::SET.value);
        // Some implementations look at the queue again only when the tail is written.
        self.io().write64(IQT_REG, ring.offset(end));
    }
}

fn clear<R: Registers>(regs: &Regs<R>, bits: u32) {
    regs.io().write32(FSTS_REG, bits);
}
