//! What a unit can do, read once from IDR0 to IDR5 and asked for by name.

use crate::spec::registers::{IDR_COUNT, IDR0, IDR1, IDR3, IDR5};
use crate::spec::ste::WalkAttributes;
use core::fmt;
use iommu_core::hw::{Capability, HwError, PageSizes, Pasid, UnitCapabilities};
use iommu_hal::WalkerMemory;
use tock_registers::LocalRegisterCopy;

/// Names for what a unit may lack.
pub mod names {
    use iommu_core::hw::Capability;

    macro_rules! names {
        ($($name:ident = $text:literal, $field:literal;)*) => { $(
            #[doc = concat!($text, ", reported by `", $field, "`.")]
            pub const $name: Capability = Capability { name: $text, field: $field };
        )* };
    }

    names! {
        STAGE_1 = "stage-1 translation", "SMMU_IDR0.S1P";
        STAGE_2 = "stage-2 translation", "SMMU_IDR0.S2P";
        AARCH64_TABLES = "AArch64 page tables", "SMMU_IDR0.TTF";
        LITTLE_ENDIAN_TABLES = "little-endian page tables", "SMMU_IDR0.TTENDIAN";
        TERMINATED_FAULTS = "faults that terminate the access", "SMMU_IDR0.STALL_MODEL";
        COMMAND_QUEUE = "a command queue of two entries", "SMMU_IDR1.CMDQS";
        ANY_QUEUE_ADDRESS = "queues at any address", "SMMU_IDR1.QUEUES_PRESET";
        ANY_TABLE_ADDRESS = "a stream table at any address", "SMMU_IDR1.TABLES_PRESET";
        ATS = "address translation services", "SMMU_IDR0.ATS";
        SUBSTREAMS = "substreams", "SMMU_IDR1.SSIDSIZE";
        PASID_WIDTH = "PASIDs of so many bits", "SMMU_IDR1.SSIDSIZE";
        GRANULE_4K = "the 4 KiB granule", "SMMU_IDR5.GRAN4K";
    }
}

/// IDR5.OAS of 48 bits, the widest addresses that entries with the 4 KiB granule hold.
const MOST_OUTPUT_SIZE: u8 = 5;
/// Input bits of stage 1: 4 levels. Every unit has at least these (section 3.4).
const STAGE_1_BITS: u8 = 48;
/// Output bits from which on stage 2 may start with 4 levels of the 4 KiB granule. With fewer its root would have to be
/// concatenated to reach beyond 3 levels.
const FOUR_LEVEL_BITS: u8 = 44;

/// IDR0 to IDR5 and AIDR, decoded.
#[derive(Clone, Copy)]
pub struct Capabilities {
    idr: [u32; IDR_COUNT],
    aidr: u32,
    idr0: LocalRegisterCopy<u32, IDR0::Register>,
    idr1: LocalRegisterCopy<u32, IDR1::Register>,
    idr3: LocalRegisterCopy<u32, IDR3::Register>,
    idr5: LocalRegisterCopy<u32, IDR5::Register>,
    coherent: bool,
}

/// A stage as a unit wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageShape {
    /// Levels of the tables.
    pub levels: u8,
    /// Usable input bits.
    pub input_bits: u8,
}

impl Capabilities {
    /// Decodes the values of IDR0 to IDR5 and of AIDR.
    pub const fn new(idr: [u32; IDR_COUNT], aidr: u32) -> Self {
        let [idr0, idr1, _, idr3, _, idr5] = idr;
        Self {
            idr,
            aidr,
            idr0: LocalRegisterCopy::new(idr0),
            idr1: LocalRegisterCopy::new(idr1),
            idr3: LocalRegisterCopy::new(idr3),
            idr5: LocalRegisterCopy::new(idr5),
            // IDR0.COHACC.
            coherent: idr0 >> 4 & 1 == 1,
        }
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

    /// Architecture version, major and minor: (3, 1) is SMMUv3.1. AIDR.
    pub fn version(&self) -> (u8, u8) {
        (3 + (self.aidr >> 4 & 0xf) as u8, (self.aidr & 0xf) as u8)
    }

    /// Width of stream ids in bits. IDR1.SIDSIZE; values above 32 are reserved.
    pub fn stream_bits(&self) -> u8 {
        (self.idr1.read(IDR1::SIDSIZE) as u8).min(32)
    }

    /// Width of substream ids in bits. IDR1.SSIDSIZE.
    pub fn substream_bits(&self) -> u8 {
        self.idr1.read(IDR1::SSIDSIZE) as u8
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

    /// Whether the unit's own accesses are coherent. IDR0.COHACC, or what firmware says.
    pub fn is_coherent(&self) -> bool {
        self.coherent
    }

    /// Stream table entries may change shareability. IDR1.ATTR_TYPES_OVR.
    pub fn attribute_override(&self) -> bool {
        self.idr1.is_set(IDR1::ATTR_TYPES_OVR)
    }

    /// Entries of stage 1 must say that faults do not stall: the unit could do both. IDR0.STALL_MODEL.
    pub fn must_disable_stalls(&self) -> bool {
        self.idr0.matches_all(IDR0::STALL_MODEL::StallOrTerminate)
    }

    /// Faults can stall. IDR0.STALL_MODEL.
    pub fn can_stall(&self) -> bool {
        matches!(self.idr0.read(IDR0::STALL_MODEL), 0 | 2)
    }

    /// Two-level tables of context descriptors. IDR0.CD2L.
    pub fn two_level_contexts(&self) -> bool {
        self.idr0.is_set(IDR0::CD2L)
    }

    /// Width in bits of the PASIDs that streams of stage 1 can have: SMMU_IDR1.SSIDSIZE, which is at most 20.
    pub fn pasid_bits(&self) -> u8 {
        if self.first_stage().is_ok() { self.substream_bits().min(Pasid::BITS as u8) } else { 0 }
    }

    /// How the unit reads tables, structures and queues. IDR0.COHACC, or what firmware says.
    pub fn memory(&self) -> WalkerMemory {
        if self.coherent { WalkerMemory::Coherent } else { WalkerMemory::NonCoherent }
    }

    /// The same as structures say it.
    pub fn walk_attributes(&self) -> WalkAttributes {
        if self.coherent { WalkAttributes::COHERENT } else { WalkAttributes::NON_COHERENT }
    }

    /// Output addresses as CD.IPS and STE.S2PS say their width: IDR5.OAS, at most 48 bits.
    pub fn output_size(&self) -> u8 {
        (self.idr5.read(IDR5::OAS) as u8).min(MOST_OUTPUT_SIZE)
    }

    /// Width of output addresses in bits, at most 48.
    pub fn output_bits(&self) -> u8 {
        [32, 36, 40, 42, 44, 48][usize::from(self.output_size())]
    }

    /// Leaf sizes of both stages.
    pub fn page_sizes(&self) -> PageSizes {
        PageSizes::new(1 << 12 | 1 << 21 | 1 << 30)
    }

    /// What this driver cannot do without.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the first capability that is not there.
    pub fn require_own_structures(&self) -> Result<(), HwError> {
        require(!self.idr1.is_set(IDR1::TABLES_PRESET), names::ANY_TABLE_ADDRESS)?;
        require(!self.idr1.is_set(IDR1::QUEUES_PRESET), names::ANY_QUEUE_ADDRESS)?;
        require(self.command_queue_log2() != 0, names::COMMAND_QUEUE)
    }

    /// The stage 1 to use.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names what there is not: SMMU_IDR0.S1P, or what every page table of this driver needs.
    pub fn first_stage(&self) -> Result<StageShape, HwError> {
        require(self.idr0.is_set(IDR0::S1P), names::STAGE_1)?;
        self.require_page_tables()?;
        Ok(StageShape { levels: 4, input_bits: STAGE_1_BITS })
    }

    /// The stage 2 to use: input addresses as wide as output addresses, or as 3 levels where 4 are not allowed.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names what there is not: SMMU_IDR0.S2P, or what every page table of this driver needs.
    pub fn second_stage(&self) -> Result<StageShape, HwError> {
        require(self.idr0.is_set(IDR0::S2P), names::STAGE_2)?;
        self.require_page_tables()?;
        // S2T0SZ must not ask for more than the unit's intermediate addresses have, which is OAS where it matters here.
        let bits = self.output_bits();
        Ok(match bits >= FOUR_LEVEL_BITS {
            true => StageShape { levels: 4, input_bits: bits },
            false => StageShape { levels: 3, input_bits: bits.min(39) },
        })
    }

    fn require_page_tables(&self) -> Result<(), HwError> {
        require(self.idr0.read(IDR0::TTF) & 2 != 0, names::AARCH64_TABLES)?;
        require(!self.idr0.matches_all(IDR0::TTENDIAN::Big), names::LITTLE_ENDIAN_TABLES)?;
        // Nobody here would let a stalled access go on.
        require(self.idr0.read(IDR0::STALL_MODEL) < 2, names::TERMINATED_FAULTS)?;
        require(self.idr5.is_set(IDR5::GRAN4K), names::GRANULE_4K)
    }

    /// The same in the core's terms.
    pub fn summary(&self) -> UnitCapabilities {
        UnitCapabilities {
            first_stage: self.first_stage().is_ok(),
            second_stage: self.second_stage().is_ok(),
            identity: true,
            pasid_bits: self.pasid_bits(),
            dirty_tracking: false,
            nesting: self.first_stage().is_ok() && self.second_stage().is_ok(),
            enforce_coherency: false,
            device_tlbs: self.ats(),
            stalls: false,
        }
    }
}

fn require(present: bool, capability: Capability) -> Result<(), HwError> {
    if present { Ok(()) } else { Err(HwError::Missing(capability)) }
}

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
            (self.idr5.is_set(IDR5::GRAN4K), "4K granule"),
            (self.idr5.is_set(IDR5::GRAN16K), "16K granule"),
            (self.idr5.is_set(IDR5::GRAN64K), "64K granule"),
            (self.two_level_streams(), "two-level stream tables"),
            (self.coherent, "coherent accesses"),
            (self.coherent != idr0(IDR0::COHACC), "coherency as firmware says"),
            (self.range_invalidation(), "invalidation by range"),
            (self.must_disable_stalls(), "stalls"),
            (self.idr0.read(IDR0::STALL_MODEL) == 2, "nothing but stalls"),
            (self.idr0.read(IDR0::HTTU) != 0, "access flag updates"),
            (self.idr0.read(IDR0::HTTU) >= 2, "dirty state updates"),
            (idr0(IDR0::BTM), "broadcast TLB maintenance"),
            (idr0(IDR0::HYP), "EL2 streams"),
            (idr0(IDR0::ATS), "ATS"),
            (idr0(IDR0::PRI), "page requests"),
            (idr0(IDR0::MSI), "MSIs"),
            (self.attribute_override(), "attribute override"),
            (self.idr1.is_set(IDR1::TABLES_PRESET), "preset tables"),
            (self.idr1.is_set(IDR1::QUEUES_PRESET), "preset queues"),
        ];
        words.iter().filter(|(present, _)| *present).try_for_each(|(_, word)| write!(f, ", {word}"))
    }
}

#[cfg(test)]
mod tests;
