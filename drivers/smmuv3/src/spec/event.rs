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
    /// SSV: the access had a substream id. C_BAD_SUBSTREAMID, which has one always, does not say so.
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
    /// STAG: names a stalled access. In events that never stall, Reason: IMPLEMENTATION DEFINED.
    pub stall_tag: u16,
    /// GPCF: of events about a fetch, a granule protection check refused it.
    pub protected: bool,
    #[bits(14)]
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
    /// NSIPA: the intermediate address is a Non-secure one; of Secure streams only.
    pub non_secure: bool,
    #[bits(2)]
    __: u8,
    /// S2: stage 2 refused.
    pub stage2: bool,
    /// CLASS: what was translated, a [`Class`].
    #[bits(2)]
    pub class: u8,
    #[bits(22)]
    __: u32,
}

const _: () = assert!(size_of::<EventWord0>() + size_of::<EventWord1>() == EVENT_WORDS * 8 / 2);

/// Word 1 of E_PAGE_REQUEST: what the device expects to do, privileged or not.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageHint {
    __: u32,
    #[bits(1)]
    __: u8,
    /// uX.
    pub execute: bool,
    /// uW.
    pub write: bool,
    /// uR.
    pub read: bool,
    #[bits(1)]
    __: u8,
    /// pX.
    pub privileged_execute: bool,
    /// pW.
    pub privileged_write: bool,
    /// pR.
    pub privileged_read: bool,
    #[bits(4)]
    __: u8,
    /// Span: how many pages of 4 KiB.
    pub span: u8,
    #[bits(12)]
    __: u16,
}

/// CLASS: what the address was that could not be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// That of a context descriptor (CD).
    Context,
    /// That of an entry of stage 1's page tables (TTD).
    Table,
    /// That of the access (IN).
    Input,
    /// 3, which is reserved.
    Reserved,
}

impl Class {
    /// The class with this value of the field.
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Context,
            1 => Self::Table,
            2 => Self::Input,
            _ => Self::Reserved,
        }
    }
}

/// Which address word 2 of an event holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// None.
    Nothing,
    /// That of an access, whose kind word 1 tells.
    Access,
    /// That of an ATS translation request.
    Request,
    /// That of a page.
    Page,
}

/// Which address word 3 of an event holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Other {
    /// None.
    Nothing,
    /// Where stage 1 led, in whole pages of 4 KiB; with S2 only.
    Intermediate,
    /// What the unit tried to read, in units of 8 bytes.
    Fetched,
}

/// What is known of an event by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meaning {
    /// As all drivers have it.
    pub kind: FaultKind,
    /// In words, with the name.
    pub text: &'static str,
    /// What is in word 2.
    pub input: Input,
    /// What is in word 3.
    pub other: Other,
    /// STALL and STAG are there.
    pub stalls: bool,
}

impl Meaning {
    /// The access may stall whatever it was refused for.
    const fn of_translation(kind: FaultKind, text: &'static str) -> Self {
        Self { kind, text, input: Input::Access, other: Other::Intermediate, stalls: true }
    }

    const fn of(kind: FaultKind, text: &'static str, input: Input, other: Other) -> Self {
        Self { kind, text, input, other, stalls: false }
    }
}

/// Picks the words for where it happened.
macro_rules! at {
    ($stage2:expr, $class:expr, $what:literal, $name:literal) => {
        match ($stage2, $class) {
            (false, _) => concat!($what, " in stage 1 (", $name, ")"),
            (true, Class::Context) => concat!($what, " in stage 2, of a context descriptor (", $name, ")"),
            (true, Class::Table) => concat!($what, " in stage 2, of a table of stage 1 (", $name, ")"),
            (true, _) => concat!($what, " in stage 2 (", $name, ")"),
        }
    };
}

/// What an event means. Numbers that are not listed are [`FaultKind::Unknown`].
pub fn meaning(number: u8, stage2: bool, class: Class) -> Meaning {
    use FaultKind::*;
    let plain = |kind, text| Meaning::of(kind, text, Input::Nothing, Other::Nothing);
    let fetch = |text| Meaning::of(Structure, text, Input::Nothing, Other::Fetched);
    let access = |kind, text| Meaning::of(kind, text, Input::Access, Other::Nothing);
    match number {
        0x01 => access(Request, "unsupported upstream transaction (F_UUT)"),
        0x02 => plain(Blocked, "no stream table entry (C_BAD_STREAMID)"),
        0x03 => fetch("stream table cannot be read (F_STE_FETCH)"),
        0x04 => plain(Structure, "stream table entry invalid (C_BAD_STE)"),
        0x05 => Meaning::of(Request, "translation request refused (F_BAD_ATS_TREQ)", Input::Request, Other::Nothing),
        0x06 => plain(Request, "no substream given (F_STREAM_DISABLED)"),
        0x07 => access(Request, "translated access refused (F_TRANSL_FORBIDDEN)"),
        0x08 => plain(Request, "substream refused (C_BAD_SUBSTREAMID)"),
        0x09 => fetch("context descriptor cannot be read (F_CD_FETCH)"),
        0x0a => plain(Structure, "context descriptor invalid (C_BAD_CD)"),
        0x0b => Meaning::of(
            Structure,
            at!(stage2, class, "page table cannot be read", "F_WALK_EABT"),
            Input::Access,
            Other::Fetched,
        ),
        0x10 => Meaning::of_translation(NotMapped, at!(stage2, class, "not mapped", "F_TRANSLATION")),
        0x11 => Meaning::of_translation(Address, at!(stage2, class, "address too wide", "F_ADDR_SIZE")),
        0x12 => Meaning::of_translation(Structure, at!(stage2, class, "access flag clear", "F_ACCESS")),
        0x13 => Meaning::of_translation(Permission, at!(stage2, class, "no permission", "F_PERMISSION")),
        0x20 => access(Structure, "cached translations conflict (F_TLB_CONFLICT)"),
        0x21 => plain(Structure, "cached configurations conflict (F_CFG_CONFLICT)"),
        0x24 => Meaning::of(Request, "page wanted (E_PAGE_REQUEST)", Input::Page, Other::Nothing),
        0x25 => fetch("virtual machine structure cannot be read (F_VMS_FETCH)"),
        0xe0..=0xef => plain(Unknown, "an event of this implementation"),
        _ => plain(Unknown, "unknown event"),
    }
}
