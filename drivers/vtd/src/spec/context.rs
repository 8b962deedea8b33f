//! Context entries: of scalable mode (section 9.4), which lead a requester to its PASID directory, and of legacy mode
//! (section 9.3), which lead it to page tables.

use super::pasid::AddressWidth;
use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// 64-bit words in a scalable-mode context entry.
pub const CONTEXT_ENTRY_WORDS: usize = 4;

/// 64-bit words in a legacy-mode context entry.
pub const LEGACY_CONTEXT_ENTRY_WORDS: usize = 2;

/// Word 0 of a scalable-mode context entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextWord0 {
    /// P: the entry is present.
    pub present: bool,
    /// FPD: qualified faults are not recorded.
    pub fault_processing_disable: bool,
    /// DTE: the device TLB may be used.
    pub device_tlb_enable: bool,
    /// PASIDE: requests with PASID are allowed.
    pub pasid_enable: bool,
    /// PRE: page requests are allowed.
    pub page_request_enable: bool,
    #[bits(4)]
    __: u8,
    /// PDTS: the directory has 2^(PDTS + 7) entries.
    #[bits(3)]
    pub directory_size: u8,
    /// PASIDDIRPTR: frame number of the PASID directory.
    #[bits(52)]
    pub directory_frame: u64,
}

/// Word 1 of a scalable-mode context entry. Words 2 and 3 are reserved.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextWord1 {
    /// RID_PASID: the PASID of requests without one, where the unit honours it.
    #[bits(20)]
    pub rid_pasid: u32,
    /// RID_PRIV: requests without PASID are privileged.
    pub rid_privileged: bool,
    #[bits(43)]
    __: u64,
}

const _: () = assert!(size_of::<ContextWord0>() + size_of::<ContextWord1>() == CONTEXT_ENTRY_WORDS * 8 / 2);

/// What a scalable-mode context entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextEntry {
    /// The PASID directory, aligned to its size.
    pub directory: PhysAddr,
    /// log2 of its entries, 7 to 14.
    pub directory_bits: u8,
    /// PASIDE: only where the unit has ECAP.PASID.
    pub pasids: bool,
    /// DTE: only where the unit has ECAP.DT.
    pub device_tlb: bool,
    /// RID_PASID: 0 where the unit lacks ECAP.RPS.
    pub rid_pasid: u32,
}

impl ContextEntry {
    /// The entry's words, present.
    pub fn words(&self) -> [u64; CONTEXT_ENTRY_WORDS] {
        let word0 = ContextWord0::new()
            .with_present(true)
            .with_device_tlb_enable(self.device_tlb)
            .with_pasid_enable(self.pasids)
            .with_directory_size(self.directory_bits.saturating_sub(7))
            .with_directory_frame(self.directory.get() >> 12);
        [word0.into(), ContextWord1::new().with_rid_pasid(self.rid_pasid).into(), 0, 0]
    }
}

/// TT: what requests go through in legacy mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LegacyTranslation {
    /// The second stage; requests of a device TLB are refused.
    SecondStage = 0,
    /// The second stage, and a device TLB may ask and use what it was told.
    SecondStageAndDeviceTlb = 1,
    /// Untranslated; requests of a device TLB are refused.
    PassThrough = 2,
}

/// Word 0 of a legacy-mode context entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct LegacyContextWord0 {
    /// P: the entry is present.
    pub present: bool,
    /// FPD: qualified faults are not recorded.
    pub fault_processing_disable: bool,
    /// TT, see [`LegacyTranslation`].
    #[bits(2)]
    pub translation: u8,
    #[bits(8)]
    __: u8,
    /// SSPTPTR: frame number of the second-stage root.
    #[bits(52)]
    pub second_stage_frame: u64,
}

/// Word 1 of a legacy-mode context entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct LegacyContextWord1 {
    /// AW, see [`AddressWidth`].
    #[bits(3)]
    pub address_width: u8,
    /// Ignored by hardware.
    #[bits(4)]
    pub available: u8,
    #[bits(1)]
    __: u8,
    /// DID: domain id that tags cached translations.
    pub domain_id: u16,
    #[bits(40)]
    __: u64,
}

const _: () = assert!(size_of::<LegacyContextWord0>() + size_of::<LegacyContextWord1>() == 16);

/// What a legacy-mode context entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LegacyContextEntry {
    /// What requests go through.
    pub translation: LegacyTranslation,
    /// Levels of the second stage; the largest width that the unit supports with pass-through.
    pub width: AddressWidth,
    /// Domain id.
    pub domain_id: u16,
    /// Root of the second stage; ignored with pass-through.
    pub second_stage: PhysAddr,
}

impl LegacyContextEntry {
    /// The entry's words, present.
    pub fn words(&self) -> [u64; LEGACY_CONTEXT_ENTRY_WORDS] {
        let word0 = LegacyContextWord0::new()
            .with_present(true)
            .with_translation(self.translation as u8)
            .with_second_stage_frame(self.second_stage.get() >> 12);
        let word1 = LegacyContextWord1::new().with_address_width(self.width as u8).with_domain_id(self.domain_id);
        [word0.into(), word1.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bit numbers are the specification's.
    #[test]
    fn scalable_words_have_their_fields_in_place() {
        let entry = ContextEntry {
            directory: PhysAddr::new(0x12_3450_0000),
            directory_bits: 14,
            pasids: true,
            device_tlb: true,
            rid_pasid: 0xf_edcb,
        };
        assert_eq!(entry.words(), [0x12_3450_0000 | 7 << 9 | 1 << 3 | 1 << 2 | 1, 0xf_edcb, 0, 0]);
        let least = ContextEntry { directory_bits: 7, pasids: false, device_tlb: false, rid_pasid: 0, ..entry };
        assert_eq!(least.words(), [0x12_3450_0000 | 1, 0, 0, 0]);
    }

    #[test]
    fn legacy_words_have_their_fields_in_place() {
        let entry = LegacyContextEntry {
            translation: LegacyTranslation::SecondStageAndDeviceTlb,
            width: AddressWidth::Bits48,
            domain_id: 0xabcd,
            second_stage: PhysAddr::new(0x12_3456_7000),
        };
        assert_eq!(entry.words(), [0x12_3456_7000 | 1 << 2 | 1, 0xab_cd00 | 2]);
        let through = LegacyContextEntry {
            translation: LegacyTranslation::PassThrough,
            width: AddressWidth::Bits57,
            second_stage: PhysAddr::new(0),
            ..entry
        };
        assert_eq!(through.words(), [2 << 2 | 1, 0xab_cd00 | 3]);
    }
}
