//! Scalable-mode context entry (section 9.4): leads a requester to its PASID directory.

use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// 64-bit words in a scalable-mode context entry.
pub const CONTEXT_ENTRY_WORDS: usize = 4;

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

/// A present entry for requests without PASID, leading to the directory at `directory` of 128 entries (PDTS = 0), the
/// PASID of which is 0.
pub fn context_entry(directory: PhysAddr) -> [u64; CONTEXT_ENTRY_WORDS] {
    let word0 = ContextWord0::new().with_present(true).with_directory_frame(directory.get() >> 12);
    [word0.into(), ContextWord1::new().into(), 0, 0]
}
