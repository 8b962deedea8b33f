//! What a unit can do, read once from IDR0 to IDR5, AIDR and IIDR and asked for by name.
//!
//! * here: single capabilities.
//! * `stages`: granules, levels, widths and page sizes of either stage, and what domains may ask for.
//! * `check`: what the driver cannot do without.
//! * [`errata`]: what units of some makers report and must not be used.
//! * [`names`]: names for what is lacking.

mod check;
mod display;
pub mod errata;
pub mod names;
mod stages;
#[cfg(test)]
mod tests;

pub use iommu_pgtable::GranuleSize as Granule;
pub use stages::StageShape;

use crate::spec::registers::{IDR_COUNT, IDR0, IDR1, IDR3, IDR5};
use crate::spec::ste::WalkAttributes;
use errata::Erratum;
use iommu_core::hw::{Capability, HwError, Pasid, UnitCapabilities};
use iommu_hal::WalkerMemory;
use tock_registers::LocalRegisterCopy;

/// IDR0 to IDR5, AIDR and IIDR, decoded.
#[derive(Clone, Copy)]
pub struct Capabilities {
    idr: [u32; IDR_COUNT],
    aidr: u32,
    iidr: u32,
    idr0: LocalRegisterCopy<u32, IDR0::Register>,
    idr1: LocalRegisterCopy<u32, IDR1::Register>,
    idr3: LocalRegisterCopy<u32, IDR3::Register>,
    idr5: LocalRegisterCopy<u32, IDR5::Register>,
    coherent: bool,
    /// The granule that was chosen.
    granule: Option<Granule>,
}

impl Capabilities {
    /// Decodes the values of IDR0 to IDR5 and of AIDR.
    pub const fn new(idr: [u32; IDR_COUNT], aidr: u32) -> Self {
        let [idr0, idr1, _, idr3, _, idr5] = idr;
        Self {
            idr,
            aidr,
            iidr: 0,
            idr0: LocalRegisterCopy::new(idr0),
            idr1: LocalRegisterCopy::new(idr1),
            idr3: LocalRegisterCopy::new(idr3),
            idr5: LocalRegisterCopy::new(idr5),
            // IDR0.COHACC.
            coherent: idr0 >> 4 & 1 == 1,
            granule: None,
        }
    }

    /// The same, of a unit with this value of IIDR.
    pub const fn with_implementation(self, iidr: u32) -> Self {
        Self { iidr, ..self }
    }

    /// The same, where tables have this granule; with `None` the smallest that there is.
    pub const fn with_granule(self, granule: Option<Granule>) -> Self {
        Self { granule, ..self }
    }

    /// The same, with what firmware says of coherency in place of IDR0.COHACC.
    pub const fn with_coherency(self, coherent: bool) -> Self {
        Self { coherent, ..self }
    }

    /// The same, with what firmware says of updates of page tables in place of IDR0.HTTU.
    pub fn with_table_updates(mut self, httu: u8) -> Self {
        self.idr0.modify(IDR0::HTTU.val(httu.min(3).into()));
        self
    }

    /// Raw values of IDR0 to IDR5.
    pub fn idr(&self) -> [u32; IDR_COUNT] {
        self.idr
    }

    /// Raw value of IIDR.
    pub fn iidr(&self) -> u32 {
        self.iidr
    }

    /// Architecture version, major and minor: (3, 1) is SMMUv3.1. AIDR.
    pub fn version(&self) -> (u8, u8) {
        (3 + (self.aidr >> 4 & 0xf) as u8, (self.aidr & 0xf) as u8)
    }

    /// Width of stream ids in bits. IDR1.SIDSIZE; values above 32 are reserved.
    pub fn stream_bits(&self) -> u8 {
        (self.idr1.read(IDR1::SIDSIZE) as u8).min(32)
    }

    /// Width of substream ids in bits. IDR1.SSIDSIZE; values above 20 are reserved.
    pub fn substream_bits(&self) -> u8 {
        (self.idr1.read(IDR1::SSIDSIZE) as u8).min(Pasid::BITS as u8)
    }

    /// Two-level tables of context descriptors. IDR0.CD2L.
    pub fn two_level_contexts(&self) -> bool {
        self.idr0.is_set(IDR0::CD2L)
    }

    /// Width of ASIDs in bits. IDR0.ASID16.
    pub fn asid_bits(&self) -> u8 {
        if self.idr0.is_set(IDR0::ASID16) { 16 } else { 8 }
    }

    /// Width of VMIDs in bits. IDR0.VMID16.
    pub fn vmid_bits(&self) -> u8 {
        if self.idr0.is_set(IDR0::VMID16) { 16 } else { 8 }
    }

    /// log2 of the most entries of the command queue. IDR1.CMDQS.
    pub fn command_queue_log2(&self) -> u8 {
        self.idr1.read(IDR1::CMDQS) as u8
    }

    /// log2 of the most entries of the event queue. IDR1.EVENTQS.
    pub fn event_queue_log2(&self) -> u8 {
        self.idr1.read(IDR1::EVENTQS) as u8
    }

    /// Two-level stream tables. IDR0.ST_LEVEL.
    pub fn two_level_streams(&self) -> bool {
        self.idr0.read(IDR0::ST_LEVEL) == 1
    }

    /// Invalidation by range. IDR3.RIL.
    pub fn range_invalidation(&self) -> bool {
        self.idr3.is_set(IDR3::RIL)
    }

    /// Streams of EL2, and commands about them. IDR0.HYP.
    pub fn hypervisor_streams(&self) -> bool {
        self.idr0.is_set(IDR0::HYP)
    }

    /// Address translation services. IDR0.ATS.
    pub fn ats(&self) -> bool {
        self.idr0.is_set(IDR0::ATS)
    }

    /// Message-signalled interrupts. IDR0.MSI.
    pub fn messages(&self) -> bool {
        self.idr0.is_set(IDR0::MSI)
    }

    /// CMD_SYNC can complete by an event to the CPUs. IDR0.SEV, but for units with an [erratum](errata).
    pub fn events(&self) -> bool {
        self.idr0.is_set(IDR0::SEV) && !errata::has(self.iidr, Erratum::NoEvents)
    }

    /// Entries of page tables may change their size while hardware uses them. IDR3.BBML is 2.
    pub fn resizes_live(&self) -> bool {
        self.idr3.read(IDR3::BBML) == 2
    }

    /// Whether the unit's own accesses are coherent. IDR0.COHACC, or what firmware says.
    pub fn is_coherent(&self) -> bool {
        self.coherent
    }

    /// Stream table entries may change shareability. IDR1.ATTR_TYPES_OVR.
    pub fn attribute_override(&self) -> bool {
        self.idr1.is_set(IDR1::ATTR_TYPES_OVR)
    }

    /// Width in bits of the PASIDs that streams of stage 1 can have: SMMU_IDR1.SSIDSIZE, which is at most 20.
    pub fn pasid_bits(&self) -> u8 {
        if self.first_stage().is_ok() { self.substream_bits() } else { 0 }
    }

    /// How the unit reads tables, structures and queues. IDR0.COHACC, or what firmware says.
    pub fn memory(&self) -> WalkerMemory {
        if self.coherent { WalkerMemory::Coherent } else { WalkerMemory::NonCoherent }
    }

    /// The same as structures say it.
    pub fn walk_attributes(&self) -> WalkAttributes {
        if self.coherent { WalkAttributes::COHERENT } else { WalkAttributes::NON_COHERENT }
    }

    /// The same in the core's terms.
    pub fn summary(&self) -> UnitCapabilities {
        UnitCapabilities {
            first_stage: self.first_stage().is_ok() && self.stall(false).is_ok(),
            second_stage: self.second_stage().is_ok() && self.stall(false).is_ok(),
            identity: true,
            pasid_bits: self.pasid_bits(),
            dirty_tracking: self.require_dirty_tracking().is_ok(),
            nesting: self.nesting(),
            enforce_coherency: false,
            device_tlbs: self.ats(),
            stalls: self.stalls(),
        }
    }
}

fn require(present: bool, capability: Capability) -> Result<(), HwError> {
    if present { Ok(()) } else { Err(HwError::Missing(capability)) }
}
