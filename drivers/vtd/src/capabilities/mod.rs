//! What a unit can do, read once from VER, CAP and ECAP and asked for by name.
//!
//! * here: single capabilities, and the mode that the unit runs in.
//! * `stages`: levels, widths and page sizes of either stage, PASIDs.
//! * `check`: contradictions that no unit may report.
//! * [`names`]: names for what is lacking.

mod check;
mod display;
pub mod names;
mod stages;
#[cfg(test)]
mod tests;

pub use stages::{FirstStage, SecondStage};

use crate::spec::registers::{CAP, ECAP};
use core::fmt;
use iommu_core::hw::{Capability, HwError, UnitCapabilities};
use iommu_hal::WalkerMemory;
use tock_registers::LocalRegisterCopy;

/// How a unit finds out what a requester may reach (RTADDR.TTM).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Root entry, context entry, second stage.
    Legacy,
    /// Root entry, context entry, PASID directory and table, either stage or both.
    Scalable,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy mode",
            Self::Scalable => "scalable mode",
        })
    }
}

/// Architecture version from which on hardware takes no invalidations through registers (section 6.5).
const QUEUE_ONLY_VERSION: u8 = 6;

/// VER, CAP and ECAP, decoded, for a unit in one of its modes.
#[derive(Clone, Copy)]
pub struct Capabilities {
    cap: LocalRegisterCopy<u64, CAP::Register>,
    ecap: LocalRegisterCopy<u64, ECAP::Register>,
    version: u32,
    mode: Mode,
}

impl Capabilities {
    /// Decodes the two registers' values, for the best mode that the unit has, of architecture version 1.
    pub const fn new(cap: u64, ecap: u64) -> Self {
        // ECAP.SMTS.
        let mode = if ecap >> 43 & 1 != 0 { Mode::Scalable } else { Mode::Legacy };
        Self { cap: LocalRegisterCopy::new(cap), ecap: LocalRegisterCopy::new(ecap), version: 0x10, mode }
    }

    /// The same with this value of VER.
    pub const fn with_version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    /// The same of the unit in `mode`, which need not be the best that it has.
    pub const fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Raw value of CAP.
    pub fn cap(&self) -> u64 {
        self.cap.get()
    }

    /// Raw value of ECAP.
    pub fn ecap(&self) -> u64 {
        self.ecap.get()
    }

    /// Raw value of VER: major version in bits 7:4, minor in 3:0.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The mode that the unit runs in, and that everything here is about: scalable where the unit has it, unless
    /// the other was chosen.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn scalable(&self) -> bool {
        self.mode == Mode::Scalable
    }

    /// Width of domain ids in bits. ND = 7 is reserved; its ids are taken to have the 16 bits that descriptors hold.
    pub fn domain_id_bits(&self) -> u8 {
        (4 + 2 * self.cap.read(CAP::ND) as u8).min(16)
    }

    /// CAP.CM: a map must be followed by an invalidation.
    pub fn caching_mode(&self) -> bool {
        self.cap.is_set(CAP::CM)
    }

    /// CAP.RWBF: changes that no invalidation follows need a write-buffer flush.
    pub fn needs_write_buffer_flush(&self) -> bool {
        self.cap.is_set(CAP::RWBF)
    }

    /// CAP.ESRTPS: setting the root pointer invalidates every remapping cache by itself.
    pub fn root_pointer_invalidates(&self) -> bool {
        self.cap.is_set(CAP::ESRTPS)
    }

    /// ECAP.QI: invalidations can be queued.
    pub fn queued_invalidation(&self) -> bool {
        self.ecap.is_set(ECAP::QI)
    }

    /// Invalidations can be given through registers, as long as the queue is off: hardware before version 6.
    pub fn register_invalidation(&self) -> bool {
        (self.version >> 4 & 0xf) < QUEUE_ONLY_VERSION.into()
    }

    /// CAP.PSI: IOTLB invalidation can be page-selective. That of PASIDs always can.
    pub fn page_selective(&self) -> bool {
        self.cap.is_set(CAP::PSI)
    }

    /// CAP.MAMV: 2^n pages at most in one page-selective invalidation.
    pub fn max_address_mask(&self) -> u8 {
        self.cap.read(CAP::MAMV) as u8
    }

    /// CAP.DWD.
    pub fn drains_writes(&self) -> bool {
        self.cap.is_set(CAP::DWD)
    }

    /// CAP.DRD.
    pub fn drains_reads(&self) -> bool {
        self.cap.is_set(CAP::DRD)
    }

    /// Whether there are protected memory regions to turn off.
    pub fn protected_regions(&self) -> bool {
        self.cap.is_set(CAP::PLMR) || self.cap.is_set(CAP::PHMR)
    }

    /// Offset of the first fault recording register, in bytes.
    pub fn fault_offset(&self) -> usize {
        self.cap.read(CAP::FRO) as usize * 16
    }

    /// Number of fault recording registers, 1 to 256.
    pub fn fault_records(&self) -> usize {
        self.cap.read(CAP::NFR) as usize + 1
    }

    /// Offset of the IVA register, in bytes; the IOTLB register follows it.
    pub fn iotlb_offset(&self) -> usize {
        self.ecap.read(ECAP::IRO) as usize * 16
    }

    /// How root, context and PASID structures are read (ECAP.C).
    pub fn structure_memory(&self) -> WalkerMemory {
        coherent(self.ecap.is_set(ECAP::C))
    }

    /// How paging structures are read: in scalable mode ECAP.SMPWCS, with PWSNP set in the PASID entry; in legacy mode
    /// ECAP.C.
    pub fn paging_memory(&self) -> WalkerMemory {
        coherent(self.page_walk_snoop() || !self.scalable() && self.ecap.is_set(ECAP::C))
    }

    /// ECAP.SMPWCS: PASID entries may set PWSNP.
    pub fn page_walk_snoop(&self) -> bool {
        self.scalable() && self.ecap.is_set(ECAP::SMPWCS)
    }

    /// ECAP.SC: the domain can have all its accesses snoop the caches, whatever the device asks for (SNP in leaves of
    /// the second stage, PGSNP in PASID entries).
    pub fn snoop_control(&self) -> bool {
        self.ecap.is_set(ECAP::SC)
    }

    /// ECAP.SRS: PASID entries may set SRE.
    pub fn supervisor_requests(&self) -> bool {
        self.scalable() && self.ecap.is_set(ECAP::SRS)
    }

    /// ECAP.EAFS: PASID entries may set EAFE.
    pub fn extended_accessed(&self) -> bool {
        self.scalable() && self.ecap.is_set(ECAP::EAFS)
    }

    /// ECAP.DT: functions may cache translations and are told to forget them.
    pub fn device_tlbs(&self) -> bool {
        self.ecap.is_set(ECAP::DT)
    }

    /// ECAP.DIT: device-TLB invalidations must name the physical function (PFSID), and may not where it is clear.
    pub fn invalidation_throttle(&self) -> bool {
        self.ecap.is_set(ECAP::DIT)
    }

    /// ECAP.ADMS: all DMA can be aborted without any memory (RTADDR.TTM = 3).
    pub fn abort_mode(&self) -> bool {
        self.ecap.is_set(ECAP::ADMS)
    }

    /// ECAP.SMTS: the unit has scalable mode, whichever it runs in.
    pub fn has_scalable_mode(&self) -> bool {
        self.ecap.is_set(ECAP::SMTS)
    }

    /// ECAP.PRS.
    pub fn page_requests(&self) -> bool {
        self.ecap.is_set(ECAP::PRS)
    }

    /// ECAP.IR.
    pub fn interrupt_remapping(&self) -> bool {
        self.ecap.is_set(ECAP::IR)
    }

    /// ECAP.EIM: interrupts, its own too, reach APIC ids of more than 8 bits.
    pub fn extended_interrupts(&self) -> bool {
        self.ecap.is_set(ECAP::EIM)
    }

    /// ECAP.PT.
    pub fn pass_through(&self) -> bool {
        self.ecap.is_set(ECAP::PT)
    }

    /// Asks for pass-through.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.PT.
    pub fn require_pass_through(&self) -> Result<(), HwError> {
        require(self.pass_through(), names::PASS_THROUGH)
    }

    /// Asks for abort-DMA mode.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.ADMS.
    pub fn require_abort_mode(&self) -> Result<(), HwError> {
        require(self.abort_mode(), names::ABORT_MODE)
    }

    /// Asks for accesses that can be made to snoop.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.SC.
    pub fn require_snoop_control(&self) -> Result<(), HwError> {
        require(self.snoop_control(), names::SNOOP_CONTROL)
    }

    /// Asks for device TLBs.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.DT.
    pub fn require_device_tlbs(&self) -> Result<(), HwError> {
        require(self.device_tlbs(), names::DEVICE_TLBS)
    }

    /// The same in the core's terms.
    pub fn summary(&self) -> UnitCapabilities {
        UnitCapabilities {
            first_stage: self.first_stage().is_ok(),
            second_stage: self.second_stage().is_ok(),
            // Where there is no pass-through, tables of either stage do the same.
            identity: self.pass_through() || self.second_stage().is_ok() || self.first_stage().is_ok(),
            pasid_bits: self.pasid_bits(),
            // Of one stage at least.
            dirty_tracking: self.tracks_second_stage() || self.first_stage().is_ok() && self.page_walk_snoop(),
            nesting: self.nesting(),
            enforce_coherency: self.snoop_control(),
            // They are told to forget by the queue only.
            device_tlbs: self.device_tlbs() && self.queued_invalidation(),
            stalls: false,
        }
    }
}

fn coherent(snoops: bool) -> WalkerMemory {
    if snoops { WalkerMemory::Coherent } else { WalkerMemory::NonCoherent }
}

pub(crate) fn require(present: bool, capability: Capability) -> Result<(), HwError> {
    if present { Ok(()) } else { Err(HwError::Missing(capability)) }
}
