//! Context descriptor (section 5.4): the stage 1 that a stream is translated by; and level-1 context descriptor (section 5.3).

use super::ste::WalkAttributes;
use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// 64-bit words in a context descriptor.
pub const CD_WORDS: usize = 8;

/// V, in word 0 of a context descriptor.
pub const CONTEXT_VALID: u64 = CdWord0::new().with_valid(true).into_bits();

/// log2 of the context descriptors in a frame, which is also a level-2 table of those that S1Fmt = 1 means.
pub const CONTEXTS_LOG2: u8 = 6;

/// A level-1 context descriptor: leads to a table of 64 context descriptors.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Level1Context {
    /// V: the descriptor is valid.
    pub valid: bool,
    #[bits(11)]
    __: u16,
    /// L2Ptr: address of the table in units of 4 KiB.
    #[bits(40)]
    pub table: u64,
    #[bits(12)]
    __: u16,
}

const _: () = assert!(size_of::<Level1Context>() == 8);

impl Level1Context {
    /// A descriptor that leads to the context descriptors at `table`.
    pub fn to(table: PhysAddr) -> Self {
        Self::new().with_valid(true).with_table(table.get() >> 12)
    }
}

/// Memory attributes that index 0 of MAIR stands for: normal, write-back, allocating on reads and writes.
const WRITE_BACK: u64 = 0xff;

/// Word 0 of a context descriptor. TTB1's half of it is zero: EPD1 turns that half off.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CdWord0 {
    /// T0SZ: 64 minus the width of input addresses.
    #[bits(6)]
    pub t0sz: u8,
    /// TG0: the granule: 0 is 4 KiB, 1 is 64 KiB, 2 is 16 KiB.
    #[bits(2)]
    pub granule: u8,
    /// IR0: inner cacheability of walks: 0 none, 1 write-back.
    #[bits(2)]
    pub walk_inner: u8,
    /// OR0: outer cacheability of walks.
    #[bits(2)]
    pub walk_outer: u8,
    /// SH0: shareability of walks: 2 outer, 3 inner.
    #[bits(2)]
    pub walk_shareability: u8,
    /// EPD0: no walks from TTB0.
    pub disable0: bool,
    /// ENDI: big-endian tables.
    pub big_endian: bool,
    #[bits(14)]
    __: u16,
    /// EPD1: no walks from TTB1.
    pub disable1: bool,
    /// V: the descriptor is valid.
    pub valid: bool,
    /// IPS: width of output addresses, as IDR5.OAS has it.
    #[bits(3)]
    pub output_size: u8,
    /// AFFD: no access flag faults.
    pub access_flag_fault_disable: bool,
    #[bits(5)]
    __: u8,
    /// AA64: AArch64 tables.
    pub aarch64: bool,
    /// HD: hardware updates dirty state.
    pub dirty: bool,
    /// HA: hardware updates access flags.
    pub access_flag: bool,
    /// S: faulting accesses stall.
    pub stall: bool,
    /// R: faults are recorded.
    pub record: bool,
    /// A: faulting accesses abort; without it reads give zero and writes are ignored.
    pub abort: bool,
    /// ASET: the ASID is none of the CPUs'; their TLB maintenance does not concern it.
    pub private_asid: bool,
    /// ASID.
    pub asid: u16,
}

/// Word 1 of a context descriptor. Word 3 is MAIR, the others are zero here.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CdWord1 {
    #[bits(4)]
    __: u8,
    /// TTB0: address of the root in units of 16 bytes.
    #[bits(48)]
    pub root: u64,
    #[bits(12)]
    __: u16,
}

const _: () = assert!(size_of::<[u64; CD_WORDS]>() == 64);
const _: () = assert!(size_of::<CdWord0>() + size_of::<CdWord1>() == 2 * 8);

/// What a context descriptor of this driver holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextDescriptor {
    /// ASID.
    pub asid: u16,
    /// Root of the tables.
    pub root: PhysAddr,
    /// TG0.
    pub granule: u8,
    /// Width of input addresses in bits.
    pub input_bits: u8,
    /// IPS.
    pub output_size: u8,
    /// How the tables are walked.
    pub walk: WalkAttributes,
    /// HA and HD: hardware notes in the tables what is written through them.
    pub track_dirty: bool,
    /// S.
    pub stall: bool,
}

impl ContextDescriptor {
    /// The descriptor's words, valid. Leaves must have attribute index 0.
    pub fn words(&self) -> [u64; CD_WORDS] {
        let word0 = CdWord0::new()
            .with_t0sz(64 - self.input_bits)
            .with_granule(self.granule)
            .with_walk_inner(self.walk.cacheability)
            .with_walk_outer(self.walk.cacheability)
            .with_walk_shareability(self.walk.shareability)
            .with_disable1(true)
            .with_valid(true)
            .with_output_size(self.output_size)
            .with_aarch64(true)
            .with_dirty(self.track_dirty)
            .with_access_flag(self.track_dirty)
            .with_stall(self.stall)
            .with_record(true)
            .with_abort(true)
            .with_private_asid(true)
            .with_asid(self.asid);
        let word1 = CdWord1::new().with_root(self.root.get() >> 4);
        [word0.into(), word1.into(), 0, WRITE_BACK, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_1_descriptor_bit_for_bit() {
        assert_eq!(u64::from(Level1Context::to(PhysAddr::new(0x0abc_dead_b000))), 0x0abc_dead_b001);
        assert_eq!(CONTEXT_VALID, 1 << 31);
    }

    #[test]
    fn a_descriptor_bit_for_bit() {
        let context = ContextDescriptor {
            asid: 0x8765,
            root: PhysAddr::new(0x0abc_dead_b000),
            granule: 0,
            input_bits: 48,
            output_size: 4,
            walk: WalkAttributes::COHERENT,
            track_dirty: false,
            stall: false,
        };
        // T0SZ, IR0, OR0, SH0, EPD1, V, IPS, AA64, R, A, ASET, ASID; TG0, S, HA, HD and TBI are 0.
        let low: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31;
        let word0 = low | 4 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 47 | 0x8765 << 48;
        assert_eq!(context.words(), [word0, 0x0abc_dead_b000, 0, 0xff, 0, 0, 0, 0]);
        let other = ContextDescriptor { walk: WalkAttributes::NON_COHERENT, ..context };
        assert_eq!(other.words()[0], word0 & !(1 << 8 | 1 << 10 | 3 << 12) | 2 << 12);
        // What may be asked for beside, each alone: TG0, S, HD with HA.
        let of = |context: ContextDescriptor| context.words()[0];
        assert_eq!(of(ContextDescriptor { granule: 1, ..context }) ^ word0, 1 << 6);
        assert_eq!(of(ContextDescriptor { granule: 2, ..context }) ^ word0, 2 << 6);
        assert_eq!(of(ContextDescriptor { stall: true, ..context }) ^ word0, 1 << 44);
        assert_eq!(of(ContextDescriptor { track_dirty: true, ..context }) ^ word0, 1 << 42 | 1 << 43);
    }
}
