//! Capabilities in words.

use super::Capabilities;
use crate::spec::registers::{CAP, ECAP};
use core::fmt;
use iommu_core::hw::PageSizes;

/// In words, for a log or a console.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}-bit addresses, {}-bit domain ids", self.mode(), self.guest_bits(), self.domain_id_bits())?;
        if let Ok(stage) = self.second_stage() {
            write!(f, ", second stage of {} levels", stage.levels)?;
            write_pages(f, self.second_stage_pages())?;
        }
        if let Ok(stage) = self.first_stage() {
            write!(f, ", first stage of {} levels", stage.levels)?;
            write_pages(f, self.first_stage_pages())?;
        }
        if self.pasid_bits() > 0 {
            write!(f, ", {}-bit PASIDs", self.pasid_bits())?;
        }
        let cap = |field| self.cap.is_set(field);
        let ecap = |field| self.ecap.is_set(field);
        let words = [
            (self.has_scalable_mode() && !self.scalable(), "scalable mode not used"),
            (self.queued_invalidation(), "queued invalidation"),
            (!self.queued_invalidation(), "invalidation through registers"),
            (self.nesting(), "nesting"),
            (self.pass_through(), "pass-through"),
            (self.abort_mode(), "abort-DMA mode"),
            (self.honours_rid_pasid(), "RID_PASID"),
            (self.device_tlbs(), "device TLBs"),
            (self.device_tlbs() && self.invalidation_throttle(), "throttled by physical function"),
            (self.page_requests(), "page requests"),
            (self.supervisor_requests(), "supervisor requests"),
            (self.extended_accessed(), "extended accessed flags"),
            (self.interrupt_remapping(), "interrupt remapping"),
            (self.snoop_control(), "snoop control"),
            (self.tracks_second_stage(), "second-stage dirty bits"),
            (ecap(ECAP::C), "coherent structures"),
            (self.page_walk_snoop(), "coherent page walks"),
            (self.page_selective(), "page-selective invalidation"),
            (self.caching_mode(), "caching mode"),
            (self.needs_write_buffer_flush(), "write-buffer flush needed"),
            (self.root_pointer_invalidates(), "root pointer invalidates caches"),
            (cap(CAP::PLMR), "protected low memory"),
            (cap(CAP::PHMR), "protected high memory"),
        ];
        words.iter().filter(|(present, _)| *present).try_for_each(|(_, word)| write!(f, ", {word}"))?;
        write!(f, ", {} fault records", self.fault_records())
    }
}

fn write_pages(f: &mut fmt::Formatter<'_>, pages: PageSizes) -> fmt::Result {
    f.write_str(match (pages.contains(1 << 21), pages.contains(1 << 30)) {
        (true, true) => " (4K, 2M, 1G)",
        (true, false) => " (4K, 2M)",
        (false, true) => " (4K, 1G)",
        (false, false) => " (4K)",
    })
}
