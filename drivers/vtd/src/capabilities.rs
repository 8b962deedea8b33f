//! What a unit can do, read once from CAP and ECAP and asked for by name.

use crate::spec::pasid::AddressWidth;
use crate::spec::registers::{CAP, ECAP};
use core::fmt;
use iommu_core::hw::{Capability, HwError, PageSizes, UnitCapabilities};
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
        SCALABLE_MODE = "scalable mode", "ECAP.SMTS";
        QUEUED_INVALIDATION = "queued invalidation", "ECAP.QI";
        FIRST_STAGE = "first-stage translation", "ECAP.FSTS";
        SECOND_STAGE = "second-stage translation", "ECAP.SSTS";
        SECOND_STAGE_WIDTH = "a second stage of 3 or 4 levels", "CAP.SAGAW";
        PASS_THROUGH = "pass-through", "ECAP.PT";
    }
}

/// The largest guest address width that the first stage is given: 4 levels, lower canonical half.
const FIRST_STAGE_BITS: u8 = 47;

/// CAP and ECAP, decoded.
#[derive(Clone, Copy)]
pub struct Capabilities {
    cap: LocalRegisterCopy<u64, CAP::Register>,
    ecap: LocalRegisterCopy<u64, ECAP::Register>,
}

/// A second stage as a unit wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecondStage {
    /// Levels of the tables.
    pub levels: u8,
    /// The same as the PASID entry says it.
    pub width: AddressWidth,
    /// Usable input bits: the tables' width, or CAP.MGAW where that is less.
    pub input_bits: u8,
}

impl Capabilities {
    /// Decodes the two registers' values.
    pub const fn new(cap: u64, ecap: u64) -> Self {
        Self { cap: LocalRegisterCopy::new(cap), ecap: LocalRegisterCopy::new(ecap) }
    }

    /// Raw value of CAP.
    pub fn cap(&self) -> u64 {
        self.cap.get()
    }

    /// Raw value of ECAP.
    pub fn ecap(&self) -> u64 {
        self.ecap.get()
    }

    /// Width of domain ids in bits. ND = 7 is reserved; its ids are taken to have the 16 bits that descriptors hold.
    pub fn domain_id_bits(&self) -> u8 {
        (4 + 2 * self.cap.read(CAP::ND) as u8).min(16)
    }

    /// Maximum guest address width in bits.
    pub fn guest_bits(&self) -> u8 {
        self.cap.read(CAP::MGAW) as u8 + 1
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

    /// CAP.PSI: IOTLB invalidation can be page-selective.
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

    /// Number of fault recording registers.
    pub fn fault_records(&self) -> usize {
        self.cap.read(CAP::NFR) as usize + 1
    }

    /// How root, context and PASID structures are read (ECAP.C).
    pub fn structure_memory(&self) -> WalkerMemory {
        coherent(self.ecap.is_set(ECAP::C))
    }

    /// How paging structures are read (ECAP.SMPWCS, with PWSNP set in the PASID entry).
    pub fn paging_memory(&self) -> WalkerMemory {
        coherent(self.page_walk_snoop())
    }

    /// ECAP.SMPWCS: PASID entries may set PWSNP.
    pub fn page_walk_snoop(&self) -> bool {
        self.ecap.is_set(ECAP::SMPWCS)
    }

    /// What this driver cannot do without.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the first capability that is not there.
    pub fn require_scalable_mode(&self) -> Result<(), HwError> {
        require(self.ecap.is_set(ECAP::SMTS), names::SCALABLE_MODE)?;
        require(self.ecap.is_set(ECAP::QI), names::QUEUED_INVALIDATION)
    }

    /// The second stage to use: the shallowest tables that hold all of MGAW, else the deepest there are.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.SSTS or CAP.SAGAW.
    pub fn second_stage(&self) -> Result<SecondStage, HwError> {
        require(self.ecap.is_set(ECAP::SSTS), names::SECOND_STAGE)?;
        let sagaw = self.cap.read(CAP::SAGAW);
        let (three, four) = (sagaw & 1 << 1 != 0, sagaw & 1 << 2 != 0);
        let guest_bits = self.guest_bits();
        if three && (guest_bits <= 39 || !four) {
            Ok(SecondStage { levels: 3, width: AddressWidth::Bits39, input_bits: guest_bits.min(39) })
        } else {
            require(four, names::SECOND_STAGE_WIDTH)?;
            Ok(SecondStage { levels: 4, width: AddressWidth::Bits48, input_bits: guest_bits.min(48) })
        }
    }

    /// AW of an entry that walks no second stage: the largest that the unit supports, as pass-through demands. A unit
    /// without a second stage may report none; then 48 bits is what hardware of scalable mode takes.
    pub fn idle_width(&self) -> AddressWidth {
        match self.cap.read(CAP::SAGAW) {
            sagaw if sagaw & 1 << 3 != 0 => AddressWidth::Bits57,
            sagaw if sagaw & 1 << 2 != 0 => AddressWidth::Bits48,
            sagaw if sagaw & 1 << 1 != 0 => AddressWidth::Bits39,
            _ => AddressWidth::Bits48,
        }
    }

    /// Input bits of the first stage: the lower canonical half of 4 levels, or MGAW where that is less.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.FSTS.
    pub fn first_stage_bits(&self) -> Result<u8, HwError> {
        require(self.ecap.is_set(ECAP::FSTS), names::FIRST_STAGE)?;
        Ok(self.guest_bits().min(FIRST_STAGE_BITS))
    }

    /// Leaf sizes of the second stage.
    pub fn second_stage_pages(&self) -> PageSizes {
        let large = self.cap.read(CAP::SSLPS);
        PageSizes::new(1 << 12 | (large & 1) << 21 | (large >> 1 & 1) << 30)
    }

    /// Leaf sizes of the first stage.
    pub fn first_stage_pages(&self) -> PageSizes {
        PageSizes::new(1 << 12 | 1 << 21 | self.cap.read(CAP::FS1GP) << 30)
    }

    /// Asks for pass-through.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names ECAP.PT.
    pub fn require_pass_through(&self) -> Result<(), HwError> {
        require(self.ecap.is_set(ECAP::PT), names::PASS_THROUGH)
    }

    /// The same in the core's terms.
    pub fn summary(&self) -> UnitCapabilities {
        UnitCapabilities {
            first_stage: self.first_stage_bits().is_ok(),
            second_stage: self.second_stage().is_ok(),
            identity: self.ecap.is_set(ECAP::PT),
            // Whole functions only for now, and nothing below: see the crate's table of limits.
            pasid_bits: 0,
            dirty_tracking: false,
            nesting: false,
            enforce_coherency: false,
            device_tlbs: false,
        }
    }
}

fn coherent(snoops: bool) -> WalkerMemory {
    if snoops { WalkerMemory::Coherent } else { WalkerMemory::NonCoherent }
}

fn require(present: bool, capability: Capability) -> Result<(), HwError> {
    if present { Ok(()) } else { Err(HwError::Missing(capability)) }
}

/// In words, for a log or a console.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-bit addresses, {}-bit domain ids", self.guest_bits(), self.domain_id_bits())?;
        if let Ok(stage) = self.second_stage() {
            write!(f, ", second stage of {} levels", stage.levels)?;
            write_pages(f, self.second_stage_pages())?;
        }
        if self.first_stage_bits().is_ok() {
            f.write_str(", first stage of 4 levels")?;
            write_pages(f, self.first_stage_pages())?;
        }
        let cap = |field| self.cap.is_set(field);
        let ecap = |field| self.ecap.is_set(field);
        let words = [
            (ecap(ECAP::SMTS), "scalable mode"),
            (ecap(ECAP::QI), "queued invalidation"),
            (ecap(ECAP::NEST), "nesting"),
            (ecap(ECAP::PT), "pass-through"),
            (ecap(ECAP::PASID), "PASIDs"),
            (ecap(ECAP::RPS), "RID_PASID"),
            (ecap(ECAP::DT), "device TLBs"),
            (ecap(ECAP::PRS), "page requests"),
            (ecap(ECAP::IR), "interrupt remapping"),
            (ecap(ECAP::SC), "snoop control"),
            (ecap(ECAP::SSADS), "second-stage dirty bits"),
            (ecap(ECAP::C), "coherent structures"),
            (ecap(ECAP::SMPWCS), "coherent page walks"),
            (cap(CAP::PSI), "page-selective invalidation"),
            (cap(CAP::CM), "caching mode"),
            (cap(CAP::RWBF), "write-buffer flush needed"),
            (cap(CAP::ESRTPS), "root pointer invalidates caches"),
            (cap(CAP::PLMR), "protected low memory"),
            (cap(CAP::PHMR), "protected high memory"),
        ];
        words.iter().filter(|(present, _)| *present).try_for_each(|(_, word)| write!(f, ", {word}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    // Values that real QEMU versions report; the expectations are the specification's reading of their bits.
    const SECOND: Capabilities = Capabilities::new(0x00d2_008c_222f_0606, 0x0000_4800_80f0_0f4a);
    const FIRST: Capabilities = Capabilities::new(0x01d2_008c_222f_0606, 0x0000_8800_00f0_0f4a);
    const NARROW: Capabilities = Capabilities::new(0x00d2_008c_2226_0206, 0x0000_4800_80f0_0f4a);
    const LEGACY: Capabilities = Capabilities::new(0x00d2_008c_222f_0606, 0x0000_0000_00f0_0f4a);

    #[test]
    fn widths_follow_sagaw_and_mgaw() {
        let four = SecondStage { levels: 4, width: AddressWidth::Bits48, input_bits: 48 };
        let three = SecondStage { levels: 3, width: AddressWidth::Bits39, input_bits: 39 };
        assert_eq!(SECOND.second_stage(), Ok(four));
        assert_eq!(NARROW.second_stage(), Ok(three));
        // MGAW of 39 bits, but tables of 4 levels only: the deeper tables, the narrower input.
        let clamped = Capabilities::new(0x00d2_008c_2226_0406, SECOND.ecap());
        assert_eq!(clamped.second_stage(), Ok(SecondStage { input_bits: 39, ..four }));
        assert_eq!((SECOND.idle_width(), NARROW.idle_width()), (AddressWidth::Bits48, AddressWidth::Bits39));
        assert_eq!(Capabilities::new(0x00d2_008c_2226_0e06, 0).idle_width(), AddressWidth::Bits57);
        assert_eq!(Capabilities::new(0x00d2_008c_2226_0006, 0).idle_width(), AddressWidth::Bits48);
        let five_only = Capabilities::new(0x00d2_008c_222f_0806, SECOND.ecap());
        assert_eq!(five_only.second_stage(), Err(HwError::Missing(names::SECOND_STAGE_WIDTH)));
    }

    #[test]
    fn what_is_lacking_is_named() {
        assert_eq!(FIRST.second_stage(), Err(HwError::Missing(names::SECOND_STAGE)));
        assert_eq!(SECOND.first_stage_bits(), Err(HwError::Missing(names::FIRST_STAGE)));
        assert_eq!(FIRST.first_stage_bits(), Ok(47));
        assert_eq!(LEGACY.require_scalable_mode(), Err(HwError::Missing(names::SCALABLE_MODE)));
        let no_queue = Capabilities::new(SECOND.cap(), SECOND.ecap() & !2);
        assert_eq!(no_queue.require_scalable_mode(), Err(HwError::Missing(names::QUEUED_INVALIDATION)));
        assert_eq!(SECOND.require_scalable_mode(), Ok(()));
    }

    #[test]
    fn fields_are_where_the_specification_says() {
        assert_eq!(SECOND.fault_offset(), 0x220);
        assert_eq!(SECOND.fault_records(), 1);
        assert_eq!(SECOND.domain_id_bits(), 16);
        assert_eq!(SECOND.max_address_mask(), 18);
        assert!(SECOND.page_selective() && SECOND.drains_reads() && SECOND.drains_writes());
        assert!(!SECOND.caching_mode() && Capabilities::new(0x00d2_008c_222f_0686, 0).caching_mode());
        assert_eq!(SECOND.second_stage_pages().mask(), 1 << 12 | 1 << 21 | 1 << 30);
        assert_eq!(FIRST.first_stage_pages().mask(), 1 << 12 | 1 << 21 | 1 << 30);
    }
}
