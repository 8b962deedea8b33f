//! Stream table entry (section 5.2) and level-1 stream table descriptor (section 5.1).

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

/// Config: what the accesses of a stream go through. (7 is nested translation, which this driver does not build yet.)
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
    /// S1Fmt: 0 is one table of context descriptors.
    #[bits(2)]
    pub context_format: u8,
    /// S1ContextPtr: address of the context descriptor in units of 64 bytes.
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
    /// S1DSS: what happens to accesses without substream; ignored where S1CDMax is 0.
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
    /// EATS: 0 refuses translation requests and translated accesses of the device.
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
    /// How it is fetched.
    pub fetch: WalkAttributes,
    /// S1STALLD.
    pub stall_disable: bool,
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
    /// Leads through stage 2.
    Stage2(Stage2Entry),
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

    /// The entry's words, valid. `keep_shareability` is for units with IDR1.ATTR_TYPES_OVR: accesses that stage 1 does
    /// not translate keep the shareability they come with.
    pub fn words(&self, keep_shareability: bool) -> [u64; STE_WORDS] {
        let word0 = |config: StreamConfig| SteWord0::new().with_valid(true).with_config(config as u8);
        let shareability = u8::from(keep_shareability);
        match *self {
            Self::Abort => [Self::ABORT_WORD0, 0, 0, 0, 0, 0, 0, 0],
            Self::Bypass => {
                let word1 = SteWord1::new().with_shareability(shareability);
                [word0(StreamConfig::Bypass).into(), word1.into(), 0, 0, 0, 0, 0, 0]
            }
            Self::Stage1(stage) => {
                let word0 = word0(StreamConfig::Stage1).with_context(stage.context.get() >> 6);
                let word1 = SteWord1::new()
                    .with_context_inner(stage.fetch.cacheability)
                    .with_context_outer(stage.fetch.cacheability)
                    .with_context_shareability(stage.fetch.shareability)
                    .with_stage1_stall_disable(stage.stall_disable);
                // Word 2 is the VMID: translations of stage 1 alone are tagged with 0.
                [word0.into(), word1.into(), 0, 0, 0, 0, 0, 0]
            }
            Self::Stage2(stage) => {
                let word1 = SteWord1::new().with_shareability(shareability);
                let word2 = SteWord2::new()
                    .with_vmid(stage.vmid)
                    .with_t0sz(64 - stage.input_bits)
                    .with_start_level(stage.start_level)
                    .with_walk_inner(stage.walk.cacheability)
                    .with_walk_outer(stage.walk.cacheability)
                    .with_walk_shareability(stage.walk.shareability)
                    .with_granule(stage.granule)
                    .with_output_size(stage.output_size)
                    .with_aarch64(true)
                    .with_dirty(stage.track_dirty)
                    .with_access_flag(stage.track_dirty)
                    .with_stall(stage.stall)
                    .with_record(true);
                let word3 = SteWord3::new().with_root(stage.root.get() >> 4);
                [word0(StreamConfig::Stage2).into(), word1.into(), word2.into(), word3.into(), 0, 0, 0, 0]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: PhysAddr = PhysAddr::new(0x0abc_dead_b000);

    #[test]
    fn aborting_and_bypassing_entries_bit_for_bit() {
        assert_eq!(StreamEntry::Abort.words(true), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(StreamEntry::ABORT_WORD0, 1);
        assert_eq!(StreamEntry::Bypass.words(false), [1 | 4 << 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(StreamEntry::Bypass.words(true), [1 | 4 << 1, 1 << 44, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_stage_1_entry_bit_for_bit() {
        let stage = Stage1Entry { context: TABLE, fetch: WalkAttributes::COHERENT, stall_disable: false };
        // S1Fmt, S1CDMax, S1DSS, EATS, STRW and the VMID are 0.
        let word1 = 1 << 2 | 1 << 4 | 3 << 6;
        let entry = StreamEntry::Stage1(stage);
        assert_eq!(entry.words(true), [1 | 5 << 1 | 0x0abc_dead_b000, word1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry.context(), Some(TABLE));
        let other = Stage1Entry { fetch: WalkAttributes::NON_COHERENT, stall_disable: true, ..stage };
        assert_eq!(StreamEntry::Stage1(other).words(false)[1], 2 << 6 | 1 << 27);
    }

    #[test]
    fn a_stage_2_entry_bit_for_bit() {
        let stage = Stage2Entry {
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
        let word2: u64 = 0x1234 | 20 << 32 | 2 << 38 | 1 << 40 | 1 << 42 | 3 << 44 | 4 << 48 | 1 << 51 | 1 << 58;
        let expected = [1 | 6 << 1, 0, word2, 0x0abc_dead_b000, 0, 0, 0, 0];
        assert_eq!(StreamEntry::Stage2(stage).words(false), expected);
        assert_eq!(StreamEntry::Stage2(stage).words(true)[1], 1 << 44);
        assert_eq!(StreamEntry::Stage2(stage).context(), None);
        let other =
            Stage2Entry { start_level: 1, input_bits: 39, output_size: 2, walk: WalkAttributes::NON_COHERENT, ..stage };
        let word2: u64 = 0x1234 | 25 << 32 | 1 << 38 | 2 << 44 | 2 << 48 | 1 << 51 | 1 << 58;
        assert_eq!(StreamEntry::Stage2(other).words(false)[2], word2);
        // What may be asked for beside, each alone: S2TG, S2S, S2HD with S2HA.
        let of = |stage| StreamEntry::Stage2(stage).words(false)[2];
        assert_eq!(of(Stage2Entry { granule: 1, ..stage }) ^ of(stage), 1 << 46);
        assert_eq!(of(Stage2Entry { granule: 2, ..stage }) ^ of(stage), 2 << 46);
        assert_eq!(of(Stage2Entry { stall: true, ..stage }) ^ of(stage), 1 << 57);
        assert_eq!(of(Stage2Entry { track_dirty: true, ..stage }) ^ of(stage), 1 << 55 | 1 << 56);
    }

    #[test]
    fn a_level_1_descriptor_spans_what_the_split_leaves() {
        assert_eq!(u64::from(Level1Descriptor::to(PhysAddr::new(0x4_0000_4000), 8)), 0x4_0000_4000 | 9);
        assert_eq!(u64::from(Level1Descriptor::to(PhysAddr::new(0x1000), 6)), 0x1000 | 7);
    }
}
