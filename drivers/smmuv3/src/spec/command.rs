//! Commands (chapter 4), 128 bits each, and why hardware may refuse one (section 7.1).

use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Pasid;
use iommu_driver::batch::Item;

/// 64-bit words in a command.
pub const COMMAND_WORDS: usize = 2;

/// CMDQ_CONS.ERR: the command is illegal.
pub const CERROR_ILL: u8 = 1;
/// CMDQ_CONS.ERR: reading the command was aborted.
pub const CERROR_ABT: u8 = 2;
/// CMDQ_CONS.ERR: a device TLB did not answer an invalidation that the CMD_SYNC waits for.
pub const CERROR_ATC_INV_SYNC: u8 = 3;

/// A command, ready for the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Command(pub [u64; COMMAND_WORDS]);

const _: () = assert!(size_of::<Command>() == 16);

/// Opcodes (section 4.1.5).
pub(crate) mod opcode {
    pub(crate) const CFGI_STE: u8 = 0x03;
    pub(crate) const CFGI_ALL: u8 = 0x04;
    pub(crate) const CFGI_CD: u8 = 0x05;
    pub(crate) const CFGI_CD_ALL: u8 = 0x06;
    pub(crate) const TLBI_NH_ALL: u8 = 0x10;
    pub(crate) const TLBI_NH_ASID: u8 = 0x11;
    pub(crate) const TLBI_NH_VA: u8 = 0x12;
    pub(crate) const TLBI_NH_VAA: u8 = 0x13;
    pub(crate) const TLBI_EL2_ALL: u8 = 0x20;
    pub(crate) const TLBI_S12_VMALL: u8 = 0x28;
    pub(crate) const TLBI_S2_IPA: u8 = 0x2a;
    pub(crate) const TLBI_NSNH_ALL: u8 = 0x30;
    pub(crate) const ATC_INV: u8 = 0x40;
    pub(crate) const RESUME: u8 = 0x44;
    pub(crate) const STALL_TERM: u8 = 0x45;
    pub(crate) const SYNC: u8 = 0x46;
}

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

/// CMD_ATC_INV.
#[bitfield(u64)]
struct AtcInv0 {
    opcode: u8,
    #[bits(1)]
    __: u8,
    /// G: with a substream, entries of all substreams that are global.
    global: bool,
    #[bits(1)]
    __: u8,
    substream_valid: bool,
    #[bits(20)]
    substream: u32,
    stream: u32,
}

#[bitfield(u64)]
struct AtcInv1 {
    /// Size: 2^this pages of 4 KiB; 52 is everything.
    #[bits(6)]
    size: u8,
    #[bits(6)]
    __: u8,
    #[bits(52)]
    frame: u64,
}

/// CMD_RESUME.
#[bitfield(u64)]
struct Resume0 {
    opcode: u8,
    #[bits(4)]
    __: u8,
    /// Ac: tries again.
    retry: bool,
    /// Ab: of those that end, abort.
    abort: bool,
    #[bits(18)]
    __: u32,
    stream: u32,
}

/// CMD_SYNC.
#[bitfield(u64)]
struct Sync0 {
    opcode: u8,
    #[bits(4)]
    __: u8,
    /// CS: see [`Signal`].
    #[bits(2)]
    signal: u8,
    #[bits(8)]
    __: u8,
    /// MSH: shareability of the message, as STE.S2SH0 has it.
    #[bits(2)]
    shareability: u8,
    /// MSIAttr: its memory type, as STE.MemAttr has it.
    #[bits(4)]
    memory: u8,
    #[bits(4)]
    __: u8,
    /// MSIData.
    data: u32,
}

/// How a CMD_SYNC tells of its end (section 4.7.3), beside CMDQ_CONS, which always does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Signal {
    /// Not at all.
    #[default]
    None,
    /// By an event to the CPUs, which ends a WFE; only where IDR0.SEV.
    Event,
    /// By a write of these 32 bits to memory that the CPUs snoop; only where IDR0.MSI.
    Message {
        /// Where, aligned to 4 bytes.
        address: PhysAddr,
        /// What.
        data: u32,
    },
}

/// Normal memory, write-back, as STE.MemAttr has it.
const MEMORY_WRITE_BACK: u8 = 0xf;
/// Inner shareable.
const INNER_SHAREABLE: u8 = 3;

/// The addresses that an invalidation covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// First address, a multiple of 4 KiB.
    pub address: u64,
    /// Leaf: only leaves changed, so that cached entries of upper levels may stay.
    pub leaves_only: bool,
    /// TG, NUM, SCALE and TTL; `None` for whatever maps this one address.
    pub range: Option<Range>,
}

/// The range form of an invalidation by address (section 4.4.1.1). Only where IDR3.RIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// TG: 1 is the granule of 4 KiB, 2 of 16 KiB, 3 of 64 KiB.
    pub granule: u8,
    /// NUM: `num` + 1 pages of that granule, times 2^`scale`.
    pub num: u8,
    /// SCALE, up to 31.
    pub scale: u8,
    /// TTL: level of the leaves as Armv8 counts, 3 for pages; 0 where it is not known.
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
            Some(range) => word.with_granule(range.granule).with_ttl(range.level).into(),
            None => word.into(),
        }
    }
}

/// Addresses in a device TLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AtcPages {
    /// First address, aligned to the size.
    pub address: u64,
    /// 2^`size` pages of 4 KiB; [`AtcPages::ALL`] is everything.
    pub size: u8,
}

impl AtcPages {
    /// All addresses.
    pub const ALL: Self = Self { address: 0, size: 52 };
}

impl Command {
    /// CMD_CFGI_STE (opcode 0x03) of one stream; without `leaf` also the level-1 descriptor that leads there. In either case
    /// every context descriptor that was fetched through the entry (section 4.3.1).
    pub fn cfgi_ste(stream: u32, leaf: bool) -> Self {
        Self::cfgi(opcode::CFGI_STE, stream, 0, leaf.into())
    }

    /// CMD_CFGI_ALL (opcode 0x04, Range = 31): every cached part of the configuration.
    pub fn cfgi_all() -> Self {
        Self::cfgi(opcode::CFGI_ALL, 0, 0, 31)
    }

    /// CMD_CFGI_CD (opcode 0x05) of one context descriptor of a stream, that at `index` of its table; without `leaf` also
    /// the level-1 descriptor that leads there.
    pub fn cfgi_cd(stream: u32, index: u32, leaf: bool) -> Self {
        Self::cfgi(opcode::CFGI_CD, stream, index, leaf.into())
    }

    /// CMD_CFGI_CD_ALL (opcode 0x06): every context descriptor of a stream, and what leads there.
    pub fn cfgi_cd_all(stream: u32) -> Self {
        Self::cfgi(opcode::CFGI_CD_ALL, stream, 0, 0)
    }

    /// CMD_TLBI_NH_ALL (opcode 0x10): everything of stage 1 under a VMID.
    pub fn tlbi_nh_all(vmid: u16) -> Self {
        Self([Tlbi0::new().with_opcode(opcode::TLBI_NH_ALL).with_vmid(vmid).into(), 0])
    }

    /// CMD_TLBI_NH_ASID (opcode 0x11): everything of an ASID under a VMID.
    pub fn tlbi_nh_asid(vmid: u16, asid: u16) -> Self {
        Self([Tlbi0::new().with_opcode(opcode::TLBI_NH_ASID).with_vmid(vmid).with_asid(asid).into(), 0])
    }

    /// CMD_TLBI_NH_VA (opcode 0x12): pages of an ASID under a VMID.
    pub fn tlbi_nh_va(vmid: u16, asid: u16, pages: Pages) -> Self {
        Self([pages.word0(opcode::TLBI_NH_VA).with_vmid(vmid).with_asid(asid).into(), pages.word1()])
    }

    /// CMD_TLBI_NH_VAA (opcode 0x13): pages of every ASID under a VMID.
    pub fn tlbi_nh_vaa(vmid: u16, pages: Pages) -> Self {
        Self([pages.word0(opcode::TLBI_NH_VAA).with_vmid(vmid).into(), pages.word1()])
    }

    /// CMD_TLBI_EL2_ALL (opcode 0x20); illegal without IDR0.HYP.
    pub fn tlbi_el2_all() -> Self {
        Self([Tlbi0::new().with_opcode(opcode::TLBI_EL2_ALL).into(), 0])
    }

    /// CMD_TLBI_S12_VMALL (opcode 0x28): everything of a VMID, of both stages.
    pub fn tlbi_s12_vmall(vmid: u16) -> Self {
        Self([Tlbi0::new().with_opcode(opcode::TLBI_S12_VMALL).with_vmid(vmid).into(), 0])
    }

    /// CMD_TLBI_S2_IPA (opcode 0x2a): pages of a VMID's stage 2, but nothing that stage 1 had a part in.
    pub fn tlbi_s2_ipa(vmid: u16, pages: Pages) -> Self {
        Self([pages.word0(opcode::TLBI_S2_IPA).with_vmid(vmid).into(), pages.word1()])
    }

    /// CMD_TLBI_NSNH_ALL (opcode 0x30): everything but EL2's.
    pub fn tlbi_nsnh_all() -> Self {
        Self([Tlbi0::new().with_opcode(opcode::TLBI_NSNH_ALL).into(), 0])
    }

    /// CMD_ATC_INV (opcode 0x40): pages in the device TLB of a stream, of requests without PASID or with this one. With
    /// `global` also of entries that are global to its PASIDs.
    pub fn atc_inv(stream: u32, pasid: Option<Pasid>, global: bool, pages: AtcPages) -> Self {
        let word0 = AtcInv0::new()
            .with_opcode(opcode::ATC_INV)
            .with_global(global && pasid.is_some())
            .with_substream_valid(pasid.is_some())
            .with_substream(pasid.map_or(0, Pasid::get))
            .with_stream(stream);
        Self([word0.into(), AtcInv1::new().with_size(pages.size).with_frame(pages.address >> 12).into()])
    }

    /// CMD_RESUME (opcode 0x44): a stalled access of a stream tries again, or ends with an abort.
    pub fn resume(stream: u32, tag: u16, retry: bool) -> Self {
        let word0 = Resume0::new().with_opcode(opcode::RESUME).with_retry(retry).with_abort(!retry).with_stream(stream);
        Self([word0.into(), tag.into()])
    }

    /// CMD_STALL_TERM (opcode 0x45): every stalled access of a stream ends with an abort.
    pub fn stall_term(stream: u32) -> Self {
        Self([Resume0::new().with_opcode(opcode::STALL_TERM).with_stream(stream).into(), 0])
    }

    /// CMD_SYNC (opcode 0x46): consumed once everything before it is complete.
    pub fn sync(signal: Signal) -> Self {
        let word0 = Sync0::new().with_opcode(opcode::SYNC);
        match signal {
            Signal::None => Self([word0.into(), 0]),
            Signal::Event => Self([word0.with_signal(2).into(), 0]),
            Signal::Message { address, data } => {
                let word0 = word0.with_signal(1).with_shareability(INNER_SHAREABLE).with_memory(MEMORY_WRITE_BACK);
                Self([word0.with_data(data).into(), address.get()])
            }
        }
    }

    fn cfgi(opcode: u8, stream: u32, substream: u32, range: u8) -> Self {
        let word0 = Cfgi0::new().with_opcode(opcode).with_substream(substream).with_stream(stream);
        Self([word0.into(), Cfgi1::new().with_range(range).into()])
    }

    /// The opcode.
    pub const fn opcode(&self) -> u8 {
        self.0[0] as u8
    }

    /// Whether it is a CMD_SYNC.
    pub const fn is_sync(&self) -> bool {
        self.opcode() == opcode::SYNC
    }

    /// Whether it is a CMD_RESUME.
    pub const fn is_resume(&self) -> bool {
        self.opcode() == opcode::RESUME
    }

    /// The stream whose device TLB this is about.
    pub const fn device(&self) -> Option<u32> {
        match self.opcode() {
            opcode::ATC_INV => Some((self.0[0] >> 32) as u32),
            _ => None,
        }
    }
}

impl Item for Command {
    const UNUSED: Self = Self([0; COMMAND_WORDS]);

    /// Configuration, then translations that are filled through it, those of stage 2 before those of both stages that walks of
    /// stage 1 make of them, then device TLBs that are filled from those, then stalled accesses, which what is forgotten by then
    /// must not let through. Between two ranks the queue puts a CMD_SYNC: commands between two of them may be executed in any
    /// order (sections 3.21 and 4.5.1).
    fn rank(&self) -> u8 {
        match self.opcode() {
            opcode::CFGI_STE..=opcode::CFGI_CD_ALL => 0,
            opcode::TLBI_S2_IPA => 1,
            opcode::TLBI_NH_ALL..=opcode::TLBI_NSNH_ALL => 2,
            opcode::ATC_INV => 3,
            _ => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalidations_of_the_configuration_bit_for_bit() {
        assert_eq!(Command::cfgi_ste(0x1_2345, false).0, [3 | 0x1_2345 << 32, 0]);
        assert_eq!(Command::cfgi_ste(0xffff_ffff, true).0, [3 | 0xffff_ffff << 32, 1]);
        assert_eq!(Command::cfgi_all().0, [4, 31]);
        assert_eq!(Command::cfgi_cd(7, 0xf_edcb, true).0, [5 | 0xf_edcb << 12 | 7 << 32, 1]);
        assert_eq!(Command::cfgi_cd(7, 0xf_edcb, false).0[1], 0);
        assert_eq!(Command::cfgi_cd_all(9).0, [6 | 9 << 32, 0]);
    }

    #[test]
    fn invalidations_of_translations_bit_for_bit() {
        let range = Range { granule: 3, num: 31, scale: 17, level: 2 };
        let pages = Pages { address: 0x1234_5678_9000, leaves_only: true, range: Some(range) };
        let (low, high) = (31 << 12 | 17 << 20, 0x1234_5678_9000 | 1 | 2 << 8 | 3 << 10);
        assert_eq!(Command::tlbi_nh_va(0x1111, 0xabcd, pages).0, [0x12 | low | 0x1111 << 32 | 0xabcd << 48, high]);
        assert_eq!(Command::tlbi_nh_vaa(0x1111, pages).0, [0x13 | low | 0x1111 << 32, high]);
        let one = Pages { leaves_only: false, range: None, ..pages };
        assert_eq!(Command::tlbi_s2_ipa(2, one).0, [0x2a | 2 << 32, 0x1234_5678_9000]);
        assert_eq!(Command::tlbi_nh_all(3).0, [0x10 | 3 << 32, 0]);
        assert_eq!(Command::tlbi_nh_asid(3, 4).0, [0x11 | 3 << 32 | 4 << 48, 0]);
        assert_eq!(Command::tlbi_s12_vmall(5).0, [0x28 | 5 << 32, 0]);
        assert_eq!((Command::tlbi_nsnh_all().0, Command::tlbi_el2_all().0), ([0x30, 0], [0x20, 0]));
    }

    #[test]
    fn commands_to_devices_and_the_rest_bit_for_bit() {
        let pages = AtcPages { address: 0xffff_ffff_ffe0_0000, size: 9 };
        assert_eq!(Command::atc_inv(8, None, true, pages).0, [0x40 | 8 << 32, 0xffff_ffff_ffe0_0000 | 9]);
        let all = Command::atc_inv(8, Pasid::new(0xf_edcb), true, AtcPages::ALL);
        assert_eq!(all.0, [0x40 | 1 << 9 | 1 << 11 | 0xf_edcb << 12 | 8 << 32, 52]);
        assert_eq!((all.device(), Command::cfgi_ste(8, true).device()), (Some(8), None));
        assert_eq!(Command::resume(8, 0xabcd, true).0, [0x44 | 1 << 12 | 8 << 32, 0xabcd]);
        assert_eq!(Command::resume(8, 0xabcd, false).0, [0x44 | 1 << 13 | 8 << 32, 0xabcd]);
        assert_eq!(Command::stall_term(8).0, [0x45 | 8 << 32, 0]);
        assert_eq!(Command::sync(Signal::None).0, [0x46, 0]);
        assert_eq!(Command::sync(Signal::Event).0, [0x46 | 2 << 12, 0]);
        let message = Signal::Message { address: PhysAddr::new(0x12_3456_7898), data: 0x8765_4321 };
        assert_eq!(
            Command::sync(message).0,
            [0x46 | 1 << 12 | 3 << 22 | 0xf << 24 | 0x8765_4321 << 32, 0x12_3456_7898]
        );
    }

    #[test]
    fn configuration_goes_before_translations_and_those_before_devices() {
        let pages = Pages { address: 0, leaves_only: false, range: None };
        let ranks = [
            Command::cfgi_ste(1, true),
            Command::cfgi_cd_all(1),
            Command::tlbi_s2_ipa(1, pages),
            Command::tlbi_nh_all(1),
            Command::tlbi_nh_va(0, 1, pages),
            Command::tlbi_nsnh_all(),
            Command::atc_inv(1, None, false, AtcPages::ALL),
            Command::stall_term(1),
        ]
        .map(|command| command.rank());
        assert_eq!(ranks, [0, 0, 1, 2, 2, 2, 3, 4]);
    }
}
