//! Device TLBs: what a unit must know of them, and a guest's own requests to them.
//!
//! A function's device TLB is known to every domain that the function leads to *before* its requests are let through, and
//! *until* hardware has confirmed that they are refused: in between, whatever a domain takes away, the device TLB is told
//! of as well.

use super::Inner;
use crate::capabilities::names;
use crate::domain::guest;
use crate::invalidate::{Atc, Change, GuestRequest};
use crate::spec::command::Command;
use iommu_core::hw::{self, DeviceTlb, HwError, StreamId};
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// The device TLB of a function, or that it has none any more.
    pub(super) fn set_device_tlb(&self, stream: StreamId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        self.tables.lock().check(stream)?;
        match tlb {
            Some(tlb) => {
                if !self.caps.ats() {
                    return Err(HwError::Missing(names::ATS));
                }
                if !(1..=DeviceTlb::MAX_QUEUE_DEPTH).contains(&tlb.queue_depth) {
                    return Err(HwError::Hardware("a device TLB's invalidate queue depth is not 1 to 32"));
                }
                self.enable_device_tlb(stream)
            }
            None => self.disable_device_tlb(stream),
        }
    }

    fn enable_device_tlb(&self, stream: StreamId) -> Result<(), HwError> {
        let mut tables = self.tables.lock();
        tables.set_tlb(stream)?;
        // Waits for invalidations that were begun without it; a translation that they remove from the TLB cannot get into the
        // device TLB before.
        tables.states(stream).for_each(|state| state.set_atc(stream, Some(Atc)));
        tables.change_ats(stream)?;
        self.confirm(&mut tables, stream)
    }

    fn disable_device_tlb(&self, stream: StreamId) -> Result<(), HwError> {
        let mut tables = self.tables.lock();
        if tables.tlb(stream).is_none() {
            return Ok(());
        }
        // Section 3.9.2 has it forget everything before. A device that does not answer is let through no more all the same.
        if self.invalidate(&[Change::DeviceTlbCleared { stream }]).is_err() {
            warn!("stream {:#x}: its device TLB did not say that it is empty", stream.get());
        }
        tables.refuse_tlb(stream);
        tables.change_ats(stream)?;
        self.confirm(&mut tables, stream)?;
        tables.states(stream).for_each(|state| state.set_atc(stream, None));
        tables.forget_tlb(stream);
        Ok(())
    }

    /// A guest's request to the device TLB of its own function.
    pub(super) fn invalidate_device(&self, stream: StreamId, request: &hw::Invalidation) -> Result<(), HwError> {
        let none = HwError::Hardware("the function has no device TLB");
        let (known, pasid_bits) = {
            let tables = self.tables.lock();
            (tables.tlb(stream).is_some(), tables.shape().pasid_bits())
        };
        if !known {
            return Err(none);
        }
        match guest::request(request, &self.caps, pasid_bits)? {
            GuestRequest::Device { pasid, global, pages } => {
                self.submit_commands(&[Command::atc_inv(stream.get(), pasid, global, pages)]).map(drop)
            }
            _ => Err(HwError::Hardware("a request to a device TLB of another type")),
        }
    }
}
