//! PASID directory entry (section 9.5) and PASID table entry (section 9.6).

use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// PASID table entries in one table: one frame.
pub const PASIDS_PER_TABLE: u32 = 64;

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

/// PGTT: what a PASID's requests go through. (3 is nested translation, which this driver does not build yet.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TranslationType {
    /// First stage only.
    FirstStage = 1,
    /// Second stage only.
    SecondStage = 2,
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
    #[bits(8)]
    __: u8,
    /// FSPTPTR: frame number of the first-stage root.
    #[bits(52)]
    pub first_stage_frame: u64,
}

const _: () = assert!(size_of::<PasidWord0>() + size_of::<PasidWord1>() + size_of::<PasidWord2>() == 3 * 8);

/// What a PASID table entry of this driver holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasidEntry {
    /// What requests go through.
    pub translation: TranslationType,
    /// Levels of the second stage; any width that the unit supports where it is not walked.
    pub width: AddressWidth,
    /// Domain id.
    pub domain_id: u16,
    /// Root of the stage's tables; ignored for pass-through.
    pub root: PhysAddr,
    /// PWSNP: only where the unit has ECAP.SMPWCS.
    pub page_walk_snoop: bool,
}

impl PasidEntry {
    /// Root of the page tables that hardware walks for it.
    pub fn page_table(&self) -> Option<PhysAddr> {
        (self.translation != TranslationType::PassThrough).then_some(self.root)
    }

    /// The entry's words, present.
    pub fn words(&self) -> [u64; PASID_ENTRY_WORDS] {
        let frame = self.root.get() >> 12;
        let word0 = PasidWord0::new()
            .with_present(true)
            .with_address_width(self.width as u8)
            .with_translation_type(self.translation as u8);
        let word1 = PasidWord1::new().with_domain_id(self.domain_id).with_page_walk_snoop(self.page_walk_snoop);
        let (word0, word2) = match self.translation {
            TranslationType::FirstStage => (word0, PasidWord2::new().with_first_stage_frame(frame)),
            TranslationType::SecondStage => (word0.with_second_stage_frame(frame), PasidWord2::new()),
            TranslationType::PassThrough => (word0, PasidWord2::new()),
        };
        [word0.into(), word1.into(), word2.into(), 0, 0, 0, 0, 0]
    }
}
