//! PASID directory entry (section 9.5) and PASID table entry (section 9.6).

use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// PASID table entries in one table: one frame.
pub const PASIDS_PER_TABLE: u32 = 64;

/// log2 of the entries in the smallest directory, and in the largest: one for each 64 PASIDs of 20 bits.
pub const DIRECTORY_BITS: core::ops::RangeInclusive<u8> = 7..=14;

/// 64-bit words in a PASID table entry.
pub const PASID_ENTRY_WORDS: usize = 8;

/// A PASID directory entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DirectoryEntry {
    /// P: the table is present.
    pub present: bool,
    /// FPD: qualified faults are not recorded.
    pub fault_processing_disable: bool,
    #[bits(10)]
    __: u16,
    /// SMPTBLPTR: frame number of the PASID table.
    #[bits(52)]
    pub frame: u64,
}

const _: () = assert!(size_of::<DirectoryEntry>() == 8);

impl DirectoryEntry {
    /// A present entry that leads to the PASID table at `table`.
    pub fn to(table: PhysAddr) -> Self {
        Self::new().with_present(true).with_frame(table.get() >> 12)
    }
}

/// PGTT: what a PASID's requests go through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TranslationType {
    /// First stage only.
    FirstStage = 1,
    /// Second stage only.
    SecondStage = 2,
    /// First stage on top of the second.
    Nested = 3,
    /// Untranslated.
    PassThrough = 4,
}

/// AW: levels of the second stage. Also valid in entries that do not walk it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AddressWidth {
    /// 39 bits, 3 levels.
    Bits39 = 1,
    /// 48 bits, 4 levels.
    Bits48 = 2,
    /// 57 bits, 5 levels.
    Bits57 = 3,
}

/// Word 0 of a PASID table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord0 {
    /// P: the entry is present.
    pub present: bool,
    /// FPD: qualified faults are not recorded.
    pub fault_processing_disable: bool,
    /// AW, see [`AddressWidth`].
    #[bits(3)]
    pub address_width: u8,
    /// SSEE: execute permission of the second stage counts.
    pub second_stage_execute: bool,
    /// PGTT, see [`TranslationType`].
    #[bits(3)]
    pub translation_type: u8,
    /// SSADE: hardware updates accessed and dirty bits of the second stage.
    pub second_stage_access_dirty: bool,
    #[bits(2)]
    __: u8,
    /// SSPTPTR: frame number of the second-stage root.
    #[bits(52)]
    pub second_stage_frame: u64,
}

/// Word 1 of a PASID table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord1 {
    /// DID: domain id that tags cached translations.
    pub domain_id: u16,
    #[bits(7)]
    __: u8,
    /// PWSNP: page walks snoop the caches.
    pub page_walk_snoop: bool,
    /// PGSNP: all accesses snoop the caches.
    pub page_snoop: bool,
    #[bits(39)]
    __: u64,
}

/// Word 2 of a PASID table entry. Words 3 to 7 are reserved.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord2 {
    /// SRE: supervisor requests are allowed.
    pub supervisor_request_enable: bool,
    /// ERE: execute requests are allowed.
    pub execute_request_enable: bool,
    /// FSPM: 0 is 4-level, 1 is 5-level first stage.
    #[bits(2)]
    pub first_stage_mode: u8,
    /// WPE: supervisor writes honour R/W of the first stage.
    pub write_protect_enable: bool,
    /// NXE: XD of the first stage counts.
    pub no_execute_enable: bool,
    /// SMEP: no supervisor execution of user pages.
    pub supervisor_execution_prevention: bool,
    /// EAFE: hardware sets the extended-accessed flag of the first stage.
    pub extended_access_flag_enable: bool,
    #[bits(4)]
    __: u8,
    /// FSPTPTR: frame number of the first-stage root.
    #[bits(52)]
    pub first_stage_frame: u64,
}

const _: () = assert!(size_of::<PasidWord0>() + size_of::<PasidWord1>() + size_of::<PasidWord2>() == 3 * 8);

/// Where requests are led, as a PASID table entry says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasidEntry {
    /// What requests go through.
    pub translation: TranslationType,
    /// Levels of the second stage; any width that the unit supports where it is not walked.
    pub width: AddressWidth,
    /// Domain id.
    pub domain_id: u16,
    /// Root of the second stage, where there is one.
    pub second_stage: PhysAddr,
    /// Root of the first stage, where there is one: a guest-physical address with nested translation.
    pub first_stage: u64,
    /// FSPM: the first stage has 5 levels; only with CAP.FS5LP.
    pub five_levels: bool,
    /// PWSNP: only where the unit has ECAP.SMPWCS.
    pub page_walk_snoop: bool,
    /// PGSNP: only where the unit has ECAP.SC.
    pub page_snoop: bool,
    /// SSADE: only where the unit has ECAP.SSADS.
    pub access_dirty: bool,
    /// SRE: only where the unit has ECAP.SRS.
    pub supervisor: bool,
    /// WPE.
    pub write_protect: bool,
    /// EAFE: only where the unit has ECAP.EAFS.
    pub extended_access: bool,
}

impl PasidEntry {
    /// An entry without anything special.
    pub const fn new(translation: TranslationType, width: AddressWidth, domain_id: u16) -> Self {
        Self {
            translation,
            width,
            domain_id,
            second_stage: PhysAddr::new(0),
            first_stage: 0,
            five_levels: false,
            page_walk_snoop: false,
            page_snoop: false,
            access_dirty: false,
            supervisor: false,
            write_protect: false,
            extended_access: false,
        }
    }

    /// Root of the host's own page tables that hardware walks for it.
    pub fn page_table(&self) -> Option<PhysAddr> {
        match self.translation {
            TranslationType::FirstStage => Some(PhysAddr::new(self.first_stage)),
            TranslationType::SecondStage | TranslationType::Nested => Some(self.second_stage),
            TranslationType::PassThrough => None,
        }
    }

    /// The entry's words, present.
    pub fn words(&self) -> [u64; PASID_ENTRY_WORDS] {
        let word0 = PasidWord0::new()
            .with_present(true)
            .with_address_width(self.width as u8)
            .with_translation_type(self.translation as u8)
            .with_second_stage_access_dirty(self.access_dirty)
            .with_second_stage_frame(self.second_stage.get() >> 12);
        let word1 = PasidWord1::new()
            .with_domain_id(self.domain_id)
            .with_page_walk_snoop(self.page_walk_snoop)
            .with_page_snoop(self.page_snoop);
        let word2 = PasidWord2::new()
            .with_supervisor_request_enable(self.supervisor)
            .with_first_stage_mode(u8::from(self.five_levels))
            .with_write_protect_enable(self.write_protect)
            .with_extended_access_flag_enable(self.extended_access)
            .with_first_stage_frame(self.first_stage >> 12);
        [word0.into(), word1.into(), word2.into(), 0, 0, 0, 0, 0]
    }
}
