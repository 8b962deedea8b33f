//! Events (section 7.3), 256 bits each.

use bitfield_struct::bitfield;
use iommu_core::hw::FaultKind;

/// 64-bit words in an event.
pub const EVENT_WORDS: usize = 4;

/// Word 0 of an event.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct EventWord0 {
    /// Event number.
    pub number: u8,
    #[bits(3)]
    __: u8,
    /// SSV: the access had a substream id.
    pub substream_valid: bool,
    /// SubstreamID.
    #[bits(20)]
    pub substream: u32,
    /// StreamID.
    pub stream: u32,
}

/// Word 1 of an event about one access. Word 2 is the input address, word 3 an intermediate or fetched one.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct EventWord1 {
    /// STAG: names a stalled access.
    pub stall_tag: u16,
    #[bits(15)]
    __: u16,
    /// STALL: the access waits for an answer.
    pub stall: bool,
    #[bits(1)]
    __: u8,
    /// PnU: privileged.
    pub privileged: bool,
    /// InD: an instruction fetch.
    pub instruction: bool,
    /// RnW: a read.
    pub read: bool,
    #[bits(3)]
    __: u8,
    /// S2: stage 2 refused.
    pub stage2: bool,
    /// CLASS: what was translated: 0 a context descriptor's address, 1 a table's, 2 the access's.
    #[bits(2)]
    pub class: u8,
    #[bits(22)]
    __: u32,
}

const _: () = assert!(size_of::<EventWord0>() + size_of::<EventWord1>() == EVENT_WORDS * 8 / 2);

/// What an event means: its class, words for it, and whether it holds the address of an access. Unlisted numbers are
/// [`FaultKind::Unknown`].
pub fn reason(number: u8, stage2: bool) -> (FaultKind, &'static str, bool) {
    use FaultKind::*;
    match (number, stage2) {
        (0x01, _) => (Request, "unsupported upstream transaction (F_UUT)", true),
        (0x02, _) => (Blocked, "no stream table entry (C_BAD_STREAMID)", false),
        (0x03, _) => (Structure, "stream table cannot be read (F_STE_FETCH)", false),
        (0x04, _) => (Structure, "stream table entry invalid (C_BAD_STE)", false),
        (0x05, _) => (Request, "translation request refused (F_BAD_ATS_TREQ)", true),
        (0x06, _) => (Request, "no substream given (F_STREAM_DISABLED)", false),
        (0x07, _) => (Request, "translated access refused (F_TRANSL_FORBIDDEN)", true),
        (0x08, _) => (Request, "substream refused (C_BAD_SUBSTREAMID)", false),
        (0x09, _) => (Structure, "context descriptor cannot be read (F_CD_FETCH)", false),
        (0x0a, _) => (Structure, "context descriptor invalid (C_BAD_CD)", false),
        (0x0b, _) => (Structure, "page table cannot be read (F_WALK_EABT)", true),
        (0x10, false) => (NotMapped, "not mapped in stage 1 (F_TRANSLATION)", true),
        (0x10, true) => (NotMapped, "not mapped in stage 2 (F_TRANSLATION)", true),
        (0x11, false) => (Address, "address too wide in stage 1 (F_ADDR_SIZE)", true),
        (0x11, true) => (Address, "address too wide in stage 2 (F_ADDR_SIZE)", true),
        (0x12, false) => (Structure, "access flag clear in stage 1 (F_ACCESS)", true),
        (0x12, true) => (Structure, "access flag clear in stage 2 (F_ACCESS)", true),
        (0x13, false) => (Permission, "no permission in stage 1 (F_PERMISSION)", true),
        (0x13, true) => (Permission, "no permission in stage 2 (F_PERMISSION)", true),
        (0x20, _) => (Structure, "cached translations conflict (F_TLB_CONFLICT)", true),
        (0x21, _) => (Structure, "cached configurations conflict (F_CFG_CONFLICT)", false),
        (0x24, _) => (Request, "page wanted (E_PAGE_REQUEST)", true),
        (0x25, _) => (Structure, "virtual machine structure cannot be read (F_VMS_FETCH)", false),
        (0xe0..=0xef, _) => (Unknown, "an event of this implementation", false),
        _ => (Unknown, "unknown event", false),
    }
}
