//! Stream table entry (section 5.2) and level-1 stream table descriptor (section 5.1).

use super::cd::ContextDescriptor;
use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// 64-bit words in a stream table entry.
pub const STE_WORDS: usize = 8;

/// A level-1 stream table descriptor: leads to a level-2 table.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Level1Descriptor {
    /// Span: the table has 2^(span - 1) entries; 0 is invalid.
    #[bits(5)]
    pub span: u8,
    #[bits(1)]
    __: u8,
    /// L2Ptr: address of the table in units of 64 bytes; aligned to the table's size.
    #[bits(46)]
    pub table: u64,
    #[bits(12)]
    __: u16,
}

const _: () = assert!(size_of::<Level1Descriptor>() == 8);

impl Level1Descriptor {
    /// A descriptor that leads to the 2^`split` entries at `table`.
    pub fn to(table: PhysAddr, split: u8) -> Self {
        Self::new().with_span(split + 1).with_table(table.get() >> 6)
    }
}

/// Config: what the accesses of a stream go through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StreamConfig {
    /// Nothing: each is aborted, and no event is recorded.
    Abort = 0,
    /// Untranslated.
    Bypass = 4,
    /// Stage 1 only.
    Stage1 = 5,
    /// Stage 2 only.
    Stage2 = 6,
    /// Stage 1, whose output stage 2 translates: nested translation.
    Both = 7,
}

/// S1DSS: where accesses without substream go, where there are substreams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DefaultSubstream {
    /// Nowhere: they are terminated.
    Terminate = 0,
    /// Past stage 1.
    Bypass = 1,
    /// Through context descriptor 0, which no substream may use then.
    Zero = 2,
}

/// Word 0 of a stream table entry. Where Config is [`StreamConfig::Abort`] hardware ignores all else but V.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord0 {
    /// V: the entry is valid.
    pub valid: bool,
    /// Config, see [`StreamConfig`].
    #[bits(3)]
    pub config: u8,
    /// S1Fmt: 0 is one table of context descriptors, 1 is two levels, with 64 context descriptors in a table of the second.
    #[bits(2)]
    pub context_format: u8,
    /// S1ContextPtr: address of the context descriptor, or of the first level, in units of 64 bytes.
    #[bits(46)]
    pub context: u64,
    #[bits(7)]
    __: u8,
    /// S1CDMax: log2 of the number of context descriptors; 0 turns substreams off.
    #[bits(5)]
    pub context_count_log2: u8,
}

/// Word 1 of a stream table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord1 {
    /// S1DSS, see [`DefaultSubstream`]; ignored where S1CDMax is 0.
    #[bits(2)]
    pub default_substream: u8,
    /// S1CIR: inner cacheability of context descriptor fetches: 0 none, 1 write-back.
    #[bits(2)]
    pub context_inner: u8,
    /// S1COR: outer cacheability of the same.
    #[bits(2)]
    pub context_outer: u8,
    /// S1CSH: shareability of the same: 2 outer, 3 inner.
    #[bits(2)]
    pub context_shareability: u8,
    #[bits(19)]
    __: u32,
    /// S1STALLD: stage 1 must not stall accesses; only where IDR0.STALL_MODEL is 0.
    pub stage1_stall_disable: bool,
    /// EATS: 0 refuses translation requests and translated accesses of the device, 1 lets them through.
    #[bits(2)]
    pub ats: u8,
    /// STRW: 0 is the world of EL1.
    #[bits(2)]
    pub world: u8,
    #[bits(12)]
    __: u16,
    /// SHCFG: 1 keeps the shareability of the access; reserved without IDR1.ATTR_TYPES_OVR.
    #[bits(2)]
    pub shareability: u8,
    #[bits(18)]
    __: u32,
}

/// Word 2 of a stream table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord2 {
    /// S2VMID: tags cached translations, also those of stage 1 alone.
    pub vmid: u16,
    #[bits(16)]
    __: u16,
    /// S2T0SZ: 64 minus the width of input addresses.
    #[bits(6)]
    pub t0sz: u8,
    /// S2SL0: the levels of the tables less 2 with the 4 KiB granule, less 1 with the others.
    #[bits(2)]
    pub start_level: u8,
    /// S2IR0: inner cacheability of walks: 0 none, 1 write-back.
    #[bits(2)]
    pub walk_inner: u8,
    /// S2OR0: outer cacheability of walks.
    #[bits(2)]
    pub walk_outer: u8,
    /// S2SH0: shareability of walks: 2 outer, 3 inner.
    #[bits(2)]
    pub walk_shareability: u8,
    /// S2TG: the granule: 0 is 4 KiB, 1 is 64 KiB, 2 is 16 KiB.
    #[bits(2)]
    pub granule: u8,
    /// S2PS: width of output addresses, as IDR5.OAS has it.
    #[bits(3)]
    pub output_size: u8,
    /// S2AA64: AArch64 tables.
    pub aarch64: bool,
    /// S2ENDI: big-endian tables.
    pub big_endian: bool,
    /// S2AFFD: no access flag faults.
    pub access_flag_fault_disable: bool,
    /// S2PTW: stage-1 walks must not meet device memory.
    pub protect_walks: bool,
    /// S2HD: hardware updates dirty state.
    pub dirty: bool,
    /// S2HA: hardware updates access flags.
    pub access_flag: bool,
    /// S2S: faulting accesses stall.
    pub stall: bool,
    /// S2R: faults are recorded.
    pub record: bool,
    #[bits(5)]
    __: u8,
}

/// Word 3 of a stream table entry. Words 4 to 7 are zero here.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord3 {
    #[bits(4)]
    __: u8,
    /// S2TTB: address of the stage-2 root in units of 16 bytes.
    #[bits(48)]
    pub root: u64,
    #[bits(12)]
    __: u16,
}

const _: () = assert!(size_of::<[u64; STE_WORDS]>() == 64);
const _: () = assert!(
    size_of::<SteWord0>() + size_of::<SteWord1>() + size_of::<SteWord2>() + size_of::<SteWord3>() == STE_WORDS * 8 / 2
);

/// How the unit's own accesses to tables and structures go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkAttributes {
    /// 0 not cacheable, 1 write-back.
    pub cacheability: u8,
    /// 2 outer, 3 inner.
    pub shareability: u8,
}

impl WalkAttributes {
    /// Snooping the CPUs' caches.
    pub const COHERENT: Self = Self { cacheability: 1, shareability: 3 };
    /// Not snooping them.
    pub const NON_COHERENT: Self = Self { cacheability: 0, shareability: 2 };
}

/// The stage 1 of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1Entry {
    /// The context descriptor, aligned to 64 bytes.
    pub context: PhysAddr,
    /// What it says, for tables that it is copied to.
    pub descriptor: ContextDescriptor,
    /// How it is fetched.
    pub fetch: WalkAttributes,
    /// S1STALLD.
    pub stall_disable: bool,
}

/// The stage 1 of an entry with substreams: a table of context descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextTable {
    /// The table, or its first level, aligned to its size.
    pub table: PhysAddr,
    /// S1Fmt is 1: the table has two levels.
    pub two_level: bool,
    /// S1CDMax.
    pub count_log2: u8,
    /// S1DSS.
    pub default: DefaultSubstream,
    /// How the table is fetched.
    pub fetch: WalkAttributes,
    /// S1STALLD.
    pub stall_disable: bool,
}

/// A guest's stage 1 on top of a stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NestedEntry {
    /// S1Fmt, S1ContextPtr and S1CDMax, where they stand in word 0.
    pub guest0: u64,
    /// S1DSS, S1CIR, S1COR, S1CSH and S1STALLD, where they stand in word 1.
    pub guest1: u64,
    /// The guest wants translation requests of its device answered: EATS is 1 where the device has a device TLB.
    pub guest_ats: bool,
    /// What it stands on.
    pub stage2: Stage2Entry,
}

/// The stage 2 of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Entry {
    /// VMID.
    pub vmid: u16,
    /// Root of the tables.
    pub root: PhysAddr,
    /// S2TG.
    pub granule: u8,
    /// S2SL0.
    pub start_level: u8,
    /// Width of input addresses in bits.
    pub input_bits: u8,
    /// S2PS.
    pub output_size: u8,
    /// How the tables are walked.
    pub walk: WalkAttributes,
    /// S2HA and S2HD: hardware notes in the tables what is written through them.
    pub track_dirty: bool,
    /// S2S.
    pub stall: bool,
}

/// What a stream table entry of this driver holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamEntry {
    /// Aborts everything, and records nothing.
    Abort,
    /// Passes everything through.
    Bypass,
    /// Leads through stage 1.
    Stage1(Stage1Entry),
    /// Leads through the stage 1 that the substream says.
    Contexts(ContextTable),
    /// Leads through stage 2.
    Stage2(Stage2Entry),
    /// Leads through a guest's stage 1 and a stage 2.
    Nested(NestedEntry),
}

impl StreamEntry {
    /// Word 0 of an entry that aborts; it needs no other word.
    pub const ABORT_WORD0: u64 = SteWord0::new().with_valid(true).with_config(StreamConfig::Abort as u8).into_bits();

    /// The context descriptor that hardware fetches for it.
    pub fn context(&self) -> Option<PhysAddr> {
        match self {
            Self::Stage1(stage) => Some(stage.context),
            _ => None,
        }
    }

    /// Whether accesses that fault may be stalled.
    pub fn stalls(&self) -> bool {
        match self {
            Self::Abort | Self::Bypass | Self::Contexts(_) => false,
            Self::Stage1(stage) => stage.descriptor.stall,
            Self::Stage2(stage) => stage.stall,
            Self::Nested(nested) => nested.stage2.stall,
        }
    }

    /// Whether stage 2 may stall accesses that fault: then nothing may be let through that the device has translated itself.
    pub fn stalls_stage2(&self) -> bool {
        match self {
            Self::Stage2(stage) => stage.stall,
            Self::Nested(nested) => nested.stage2.stall,
            _ => false,
        }
    }

    /// The entry's words, valid. `keep_shareability` is for units with IDR1.ATTR_TYPES_OVR: accesses that stage 1 does
    /// not translate keep the shareability they come with. `device_tlb` has the device's translation requests answered and
    /// its translated accesses let through (EATS = 1), where something translates.
    pub fn words(&self, keep_shareability: bool, device_tlb: bool) -> [u64; STE_WORDS] {
        let word0 = |config: StreamConfig| SteWord0::new().with_valid(true).with_config(config as u8);
        let ats = SteWord1::new().with_ats(device_tlb.into());
        let shareability = u8::from(keep_shareability);
        match *self {
            Self::Abort => [Self::ABORT_WORD0, 0, 0, 0, 0, 0, 0, 0],
            Self::Bypass => {
                let word1 = SteWord1::new().with_shareability(shareability);
                [word0(StreamConfig::Bypass).into(), word1.into(), 0, 0, 0, 0, 0, 0]
            }
            Self::Stage1(stage) => {
                let word0 = word0(StreamConfig::Stage1).with_context(stage.context.get() >> 6);
                let word1 = stage.fetch.of_contexts(ats).with_stage1_stall_disable(stage.stall_disable);
                // Word 2 is the VMID: translations of stage 1 alone are tagged with 0.
                [word0.into(), word1.into(), 0, 0, 0, 0, 0, 0]
            }
            Self::Contexts(contexts) => {
                let word0 = word0(StreamConfig::Stage1)
                    .with_context_format(contexts.two_level.into())
                    .with_context(contexts.table.get() >> 6)
                    .with_context_count_log2(contexts.count_log2);
                let passing = contexts.default == DefaultSubstream::Bypass;
                let word1 = contexts
                    .fetch
                    .of_contexts(ats)
                    .with_default_substream(contexts.default as u8)
                    .with_stage1_stall_disable(contexts.stall_disable)
                    .with_shareability(if passing { shareability } else { 0 });
                [word0.into(), word1.into(), 0, 0, 0, 0, 0, 0]
            }
            Self::Stage2(stage) => {
                let [word2, word3] = stage.words();
                let word1 = ats.with_shareability(shareability);
                [word0(StreamConfig::Stage2).into(), word1.into(), word2, word3, 0, 0, 0, 0]
            }
            Self::Nested(nested) => {
                let [word2, word3] = nested.stage2.words();
                let word0 = u64::from(word0(StreamConfig::Both)) | nested.guest0;
                let ats = SteWord1::new().with_ats((device_tlb && nested.guest_ats).into());
                let word1 = u64::from(ats.with_shareability(shareability)) | nested.guest1;
                [word0, word1, word2, word3, 0, 0, 0, 0]
            }
        }
    }
}

impl WalkAttributes {
    /// Word 1 with these for what S1ContextPtr leads to.
    fn of_contexts(self, word1: SteWord1) -> SteWord1 {
        word1
            .with_context_inner(self.cacheability)
            .with_context_outer(self.cacheability)
            .with_context_shareability(self.shareability)
    }
}

impl Stage2Entry {
    /// Words 2 and 3.
    fn words(&self) -> [u64; 2] {
        let word2 = SteWord2::new()
            .with_vmid(self.vmid)
            .with_t0sz(64 - self.input_bits)
            .with_start_level(self.start_level)
            .with_walk_inner(self.walk.cacheability)
            .with_walk_outer(self.walk.cacheability)
            .with_walk_shareability(self.walk.shareability)
            .with_granule(self.granule)
            .with_output_size(self.output_size)
            .with_aarch64(true)
            .with_dirty(self.track_dirty)
            .with_access_flag(self.track_dirty)
            .with_stall(self.stall)
            .with_record(true);
        [word2.into(), SteWord3::new().with_root(self.root.get() >> 4).into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: PhysAddr = PhysAddr::new(0x0abc_dead_b000);
    const DESCRIPTOR: ContextDescriptor = ContextDescriptor {
        asid: 0,
        root: TABLE,
        granule: 0,
        input_bits: 48,
        output_size: 5,
        walk: WalkAttributes::COHERENT,
        track_dirty: false,
        stall: false,
    };
    const STAGE_2: Stage2Entry = Stage2Entry {
        vmid: 0x1234,
        root: TABLE,
        granule: 0,
        start_level: 2,
        input_bits: 44,
        output_size: 4,
        walk: WalkAttributes::COHERENT,
        track_dirty: false,
        stall: false,
    };

    #[test]
    fn aborting_and_bypassing_entries_bit_for_bit() {
        assert_eq!(StreamEntry::Abort.words(true, false), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(StreamEntry::ABORT_WORD0, 1);
        assert_eq!(StreamEntry::Bypass.words(false, false), [1 | 4 << 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(StreamEntry::Bypass.words(true, false), [1 | 4 << 1, 1 << 44, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_stage_1_entry_bit_for_bit() {
        let stage = Stage1Entry {
            context: TABLE,
            descriptor: DESCRIPTOR,
            fetch: WalkAttributes::COHERENT,
            stall_disable: false,
        };
        // S1Fmt, S1CDMax, S1DSS, EATS, STRW and the VMID are 0.
        let word1 = 1 << 2 | 1 << 4 | 3 << 6;
        let entry = StreamEntry::Stage1(stage);
        assert_eq!(entry.words(true, false), [1 | 5 << 1 | 0x0abc_dead_b000, word1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry.context(), Some(TABLE));
        let other = Stage1Entry { fetch: WalkAttributes::NON_COHERENT, stall_disable: true, ..stage };
        assert_eq!(StreamEntry::Stage1(other).words(false, false)[1], 2 << 6 | 1 << 27);
    }

    #[test]
    fn a_stage_2_entry_bit_for_bit() {
        let stage = STAGE_2;
        let word2: u64 = 0x1234 | 20 << 32 | 2 << 38 | 1 << 40 | 1 << 42 | 3 << 44 | 4 << 48 | 1 << 51 | 1 << 58;
        let expected = [1 | 6 << 1, 0, word2, 0x0abc_dead_b000, 0, 0, 0, 0];
        assert_eq!(StreamEntry::Stage2(stage).words(false, false), expected);
        assert_eq!(StreamEntry::Stage2(stage).words(true, false)[1], 1 << 44);
        assert_eq!(StreamEntry::Stage2(stage).context(), None);
        let other =
            Stage2Entry { start_level: 1, input_bits: 39, output_size: 2, walk: WalkAttributes::NON_COHERENT, ..stage };
        let word2: u64 = 0x1234 | 25 << 32 | 1 << 38 | 2 << 44 | 2 << 48 | 1 << 51 | 1 << 58;
        assert_eq!(StreamEntry::Stage2(other).words(false, false)[2], word2);
        // What may be asked for beside, each alone: S2TG, S2S, S2HD with S2HA.
        let of = |stage| StreamEntry::Stage2(stage).words(false, false)[2];
        assert_eq!(of(Stage2Entry { granule: 1, ..stage }) ^ of(stage), 1 << 46);
        assert_eq!(of(Stage2Entry { granule: 2, ..stage }) ^ of(stage), 2 << 46);
        assert_eq!(of(Stage2Entry { stall: true, ..stage }) ^ of(stage), 1 << 57);
        assert_eq!(of(Stage2Entry { track_dirty: true, ..stage }) ^ of(stage), 1 << 55 | 1 << 56);
    }

    #[test]
    fn an_entry_with_substreams_bit_for_bit() {
        let contexts = ContextTable {
            table: TABLE,
            two_level: true,
            count_log2: 15,
            default: DefaultSubstream::Zero,
            fetch: WalkAttributes::COHERENT,
            stall_disable: false,
        };
        let of = |contexts, keep| StreamEntry::Contexts(contexts).words(keep, false);
        let (word0, word1) = (1 | 5 << 1 | 1 << 4 | 0x0abc_dead_b000 | 15 << 59, 2 | 1 << 2 | 1 << 4 | 3 << 6);
        assert_eq!(of(contexts, true), [word0, word1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(of(ContextTable { two_level: false, ..contexts }, true)[0] ^ word0, 1 << 4);
        assert_eq!(of(ContextTable { stall_disable: true, ..contexts }, true)[1] ^ word1, 1 << 27);
        let default = |default, keep| of(ContextTable { default, ..contexts }, keep)[1];
        assert_eq!(default(DefaultSubstream::Terminate, true), word1 & !3);
        assert_eq!(default(DefaultSubstream::Bypass, true), word1 & !3 | 1 | 1 << 44);
        assert_eq!(default(DefaultSubstream::Bypass, false), word1 & !3 | 1);
    }

    #[test]
    fn a_nested_entry_has_the_guests_stage_1_and_our_stage_2() {
        let guest0 = 1 << 4 | 0x5_4000 | 15 << 59;
        let guest1 = 2 | 1 << 2 | 1 << 27;
        let nested = StreamEntry::Nested(NestedEntry { guest0, guest1, guest_ats: true, stage2: STAGE_2 });
        let [_, _, word2, word3, ..] = StreamEntry::Stage2(STAGE_2).words(false, false);
        assert_eq!(nested.words(false, false), [1 | 7 << 1 | guest0, guest1, word2, word3, 0, 0, 0, 0]);
        assert_eq!(nested.words(true, true)[1], guest1 | 1 << 44 | 1 << 28);
    }

    #[test]
    fn translated_accesses_are_let_through_where_something_translates() {
        let stage = Stage1Entry {
            context: TABLE,
            descriptor: DESCRIPTOR,
            fetch: WalkAttributes::COHERENT,
            stall_disable: false,
        };
        for (entry, ats) in [
            (StreamEntry::Abort, 0),
            (StreamEntry::Bypass, 0),
            (StreamEntry::Stage1(stage), 1 << 28),
            (StreamEntry::Stage2(STAGE_2), 1 << 28),
        ] {
            let [off, on] = [false, true].map(|device_tlb| entry.words(false, device_tlb));
            assert_eq!(on[1] ^ off[1], ats, "{entry:?}");
            assert_eq!((on[0], &on[2..]), (off[0], &off[2..]));
        }
    }

    #[test]
    fn a_level_1_descriptor_spans_what_the_split_leaves() {
        assert_eq!(u64::from(Level1Descriptor::to(PhysAddr::new(0x4_0000_4000), 8)), 0x4_0000_4000 | 9);
        assert_eq!(u64::from(Level1Descriptor::to(PhysAddr::new(0x1000), 6)), 0x1000 | 7);
    }
}
