//! Commands (chapter 4), 128 bits each, and why hardware may refuse one (section 7.1).

use bitfield_struct::bitfield;

/// 64-bit words in a command.
pub const COMMAND_WORDS: usize = 2;

/// CMDQ_CONS.ERR: the command is illegal.
pub const CERROR_ILL: u8 = 1;
/// CMDQ_CONS.ERR: reading the command was aborted.
pub const CERROR_ABT: u8 = 2;
/// CMDQ_CONS.ERR: a device TLB did not answer an invalidation that the CMD_SYNC waits for.
pub const CERROR_ATC_INV_SYNC: u8 = 3;

/// Widest range form: NUM + 1 pages, times 2^SCALE.
pub const MOST_NUM: u64 = 32;
/// Largest SCALE.
pub const MOST_SCALE: u32 = 31;

/// A command, ready for the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Command(pub [u64; COMMAND_WORDS]);

const _: () = assert!(size_of::<Command>() == 16);

#[bitfield(u64)]
struct Cfgi0 {
    opcode: u8,
    #[bits(4)]
    __: u8,
    #[bits(20)]
    substream: u32,
    stream: u32,
}

#[bitfield(u64)]
struct Cfgi1 {
    /// Leaf in bit 0 of CFGI_STE and CFGI_CD, Range in CFGI_ALL.
    #[bits(5)]
    range: u8,
    #[bits(59)]
    __: u64,
}

#[bitfield(u64)]
struct Tlbi0 {
    opcode: u8,
    #[bits(4)]
    __: u8,
    #[bits(5)]
    num: u8,
    #[bits(3)]
    __: u8,
    #[bits(5)]
    scale: u8,
    #[bits(7)]
    __: u8,
    vmid: u16,
    asid: u16,
}

#[bitfield(u64)]
struct Tlbi1 {
    leaf: bool,
    #[bits(7)]
    __: u8,
    #[bits(2)]
    ttl: u8,
    #[bits(2)]
    granule: u8,
    #[bits(52)]
    frame: u64,
}

#[bitfield(u64)]
struct Sync0 {
    opcode: u8,
    #[bits(4)]
    __: u8,
    /// CS: 0 signals nothing; completion shows in CMDQ_CONS.
    #[bits(2)]
    signal: u8,
    #[bits(50)]
    __: u64,
}

/// The pages that an invalidation by address covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// First address, a multiple of 4 KiB.
    pub address: u64,
    /// Leaf: only leaves changed, so that cached entries of upper levels may stay.
    pub leaves_only: bool,
    /// NUM, SCALE and TTL; `None` for whatever maps this one address.
    pub range: Option<Range>,
}

/// The range form of an invalidation by address, in pages of 4 KiB. Only where IDR3.RIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// NUM: `num` + 1 pages, times 2^`scale`.
    pub num: u8,
    /// SCALE.
    pub scale: u8,
    /// TTL: level of the leaves as Armv8 counts, 3 for 4 KiB, 1 for 1 GiB; 0 where it is not known. Must not be 0
    /// where `num` and `scale` are.
    pub level: u8,
}

impl Pages {
    fn word0(self, opcode: u8) -> Tlbi0 {
        let word = Tlbi0::new().with_opcode(opcode);
        match self.range {
            Some(range) => word.with_num(range.num).with_scale(range.scale),
            None => word,
        }
    }

    fn word1(self) -> u64 {
        let word = Tlbi1::new().with_leaf(self.leaves_only).with_frame(self.address >> 12);
        match self.range {
            // TG: 1 is 4 KiB.
            Some(range) => word.with_granule(1).with_ttl(range.level).into(),
            None => word.into(),
        }
    }
}

impl Command {
    /// CMD_CFGI_STE (opcode 0x03) of one stream; without `leaf` also the level-1 descriptor that leads there.
    pub fn cfgi_ste(stream: u32, leaf: bool) -> Self {
        Self::cfgi(0x03, stream, leaf.into())
    }

    /// CMD_CFGI_ALL (opcode 0x04, Range = 31): every cached part of the configuration.
    pub fn cfgi_all() -> Self {
        Self::cfgi(0x04, 0, 31)
    }

    /// CMD_CFGI_CD (opcode 0x05) of the one context descriptor of a stream without substreams.
    pub fn cfgi_cd(stream: u32) -> Self {
        Self::cfgi(0x05, stream, 1)
    }

    /// CMD_TLBI_NH_ASID (opcode 0x11): everything of an ASID, under VMID 0.
    pub fn tlbi_nh_asid(asid: u16) -> Self {
        Self([Tlbi0::new().with_opcode(0x11).with_asid(asid).into(), 0])
    }

    /// CMD_TLBI_NH_VA (opcode 0x12): pages of an ASID, under VMID 0.
    pub fn tlbi_nh_va(asid: u16, pages: Pages) -> Self {
        Self([pages.word0(0x12).with_asid(asid).into(), pages.word1()])
    }

    /// CMD_TLBI_EL2_ALL (opcode 0x20); illegal without IDR0.HYP.
    pub fn tlbi_el2_all() -> Self {
        Self([Tlbi0::new().with_opcode(0x20).into(), 0])
    }

    /// CMD_TLBI_S12_VMALL (opcode 0x28): everything of a VMID.
    pub fn tlbi_s12_vmall(vmid: u16) -> Self {
        Self([Tlbi0::new().with_opcode(0x28).with_vmid(vmid).into(), 0])
    }

    /// CMD_TLBI_S2_IPA (opcode 0x2a): pages of a VMID.
    pub fn tlbi_s2_ipa(vmid: u16, pages: Pages) -> Self {
        Self([pages.word0(0x2a).with_vmid(vmid).into(), pages.word1()])
    }

    /// CMD_TLBI_NSNH_ALL (opcode 0x30): everything but EL2's.
    pub fn tlbi_nsnh_all() -> Self {
        Self([Tlbi0::new().with_opcode(0x30).into(), 0])
    }

    /// CMD_SYNC (opcode 0x46, CS = 0): consumed once everything before it is complete.
    pub fn sync() -> Self {
        Self([Sync0::new().with_opcode(0x46).into(), 0])
    }

    fn cfgi(opcode: u8, stream: u32, range: u8) -> Self {
        Self([Cfgi0::new().with_opcode(opcode).with_stream(stream).into(), Cfgi1::new().with_range(range).into()])
    }
}
