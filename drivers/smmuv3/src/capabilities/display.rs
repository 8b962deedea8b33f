//! Capabilities in words.

use super::errata::{self, Erratum};
use super::{Capabilities, Granule};
use crate::spec::registers::{IDR0, IDR1};
use core::fmt;

/// In words, for a log or a console.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version();
        write!(f, "SMMUv{major}.{minor}, {}-bit stream ids", self.stream_bits())?;
        write!(f, ", {}-bit output addresses", self.output_bits())?;
        if let Ok(stage) = self.first_stage() {
            write!(f, ", stage 1 of {} levels, {}-bit ASIDs", stage.levels, self.asid_bits())?;
        }
        if let Ok(stage) = self.second_stage() {
            write!(f, ", stage 2 of {} levels, {}-bit VMIDs", stage.levels, self.vmid_bits())?;
        }
        if self.substream_bits() != 0 {
            write!(f, ", {}-bit substream ids", self.substream_bits())?;
        }
        let idr0 = |field| self.idr0.is_set(field);
        let words = [
            (self.has_granule(Granule::Kib4), "4K granule"),
            (self.has_granule(Granule::Kib16), "16K granule"),
            (self.has_granule(Granule::Kib64), "64K granule"),
            (self.two_level_streams(), "two-level stream tables"),
            (self.coherent, "coherent accesses"),
            (self.coherent != idr0(IDR0::COHACC), "coherency as firmware says"),
            (self.range_invalidation(), "invalidation by range"),
            (self.stalls() && self.terminates(), "stalls"),
            (!self.terminates(), "nothing but stalls"),
            (self.idr0.read(IDR0::HTTU) != 0, "access flag updates"),
            (self.idr0.read(IDR0::HTTU) >= 2, "dirty state updates"),
            (self.resizes_live(), "live changes of size"),
            (self.two_level_contexts(), "two-level context tables"),
            (idr0(IDR0::BTM), "broadcast TLB maintenance"),
            (idr0(IDR0::HYP), "EL2 streams"),
            (idr0(IDR0::ATS), "ATS"),
            (idr0(IDR0::PRI), "page requests"),
            (idr0(IDR0::MSI), "MSIs"),
            (self.events(), "events"),
            (self.attribute_override(), "attribute override"),
            (self.idr1.is_set(IDR1::TABLES_PRESET), "preset tables"),
            (self.idr1.is_set(IDR1::QUEUES_PRESET), "preset queues"),
            (errata::has(self.iidr, Erratum::NoEvents), "no events by erratum"),
            (errata::has(self.iidr, Erratum::NoNesting), "no nesting by erratum"),
        ];
        words.iter().filter(|(present, _)| *present).try_for_each(|(_, word)| write!(f, ", {word}"))
    }
}
