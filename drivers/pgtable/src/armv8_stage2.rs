//! Stage-2 tables of Armv8. [`armv8`] says what stands in the bits that mean the same in both stages; here
//! are the others, all in leaves only:
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 5:2 | MemAttr: memory type | [`Stage2Options::memory_attributes`] |
//! | 6 | S2AP\[0\]: reads allowed | as asked for |
//! | 7 | S2AP\[1\]: writes allowed | as asked for; 0 in writable leaves of tables that track, until hardware sets it |
//! | 54:53 | XN: 2 refuses execution at every level, with FEAT_XNX or without | 2; 0 if [`Stage2Options::executable`] |
//!
//! Everything else is 0. Hardware sets S2AP\[1\] of a leaf with DBM at the first write, where the stream table entry
//! says so (S2HA and S2HD), with walks that snoop: such a leaf is writable either way, and dirty where S2AP\[1\] is 1.

use crate::armv8::{self, DBM, Granule, Granule4K, Of, Shareability, WAS_DIRTY, bits_if};
use crate::format::{Attributes, Format, sealed::Sealed};
use core::convert::Infallible;
use core::marker::PhantomData;
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const XN: u64 = 2 << 53;

/// log2 of the root tables that can stand side by side.
const CONCATENATED_BITS: u8 = 4;

/// The stage-2 format of Armv8. Up to 16 tables are concatenated at the root: with pages of 4 KiB 2 levels translate up
/// to 34 bits, 3 up to 43, and 4 up to 48; with pages of 16 KiB 2 up to 40, 3 and 4 up to 48; with pages of 64 KiB 2 up
/// to 46, and 3 up to 48. Arm Architecture Reference Manual, chapter D8.
///
/// With pages of 16 KiB a walk of stage 2 starts at the fourth level only in tables for 52-bit addresses, whose entries
/// differ from those here: units that walk these take 2 levels or 3.
#[derive(Clone, Copy, Debug)]
pub struct Armv8Stage2<G: Granule = Granule4K>(PhantomData<G>, Infallible);

/// What one stage-2 table may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Options {
    /// MemAttr of leaves: how memory is accessed. Four bits; the others are ignored. The default, 15, is normal memory,
    /// write-back; for tables that are walked with FWB that would be 6.
    pub memory_attributes: u8,
    /// SH of leaves. Memory that is not cacheable is outer shareable whatever this says.
    pub shareability: Shareability,
    /// Clear XN in leaves, so that instruction fetches get through.
    pub executable: bool,
    /// The unit lets the size of live blocks change in one store: `SMMU_IDR3.BBML` is 2.
    pub resizes_live: bool,
}

impl Default for Stage2Options {
    fn default() -> Self {
        Self { memory_attributes: 0xf, shareability: Shareability::Inner, executable: false, resizes_live: false }
    }
}

impl<G: Granule> Sealed for Armv8Stage2<G> {}

impl<G: Granule> Format for Armv8Stage2<G> {
    type Options = Stage2Options;
    type Grain = Of<G>;

    const LEVELS: RangeInclusive<u8> = G::STAGE2_LEVELS;
    const ROOT_BY_WIDTH: bool = true;
    const OUTPUT_BITS: u8 = armv8::ADDRESS_BITS;
    const PRESENT: u64 = armv8::VALID;
    const LINK_MASK: u64 = armv8::LINK;
    const LINK: u64 = armv8::LINK;
    const VISIBLE: u64 = armv8::VISIBLE;
    const DIRTY: u64 = WRITE | WAS_DIRTY;

    #[inline]
    fn grain(_: Self::Options) -> Of<G> {
        Of(PhantomData)
    }

    #[inline]
    fn input_bits(levels: u8, _: Self::Options) -> u8 {
        armv8::input_bits::<G>(levels, CONCATENATED_BITS)
    }

    #[inline]
    fn resizes_live(options: Stage2Options) -> bool {
        options.resizes_live
    }

    #[inline]
    fn can_express(prot: Prot, _: Self::Options) -> bool {
        !prot.is_none()
    }

    #[inline]
    fn is_grouped(entry: u64) -> bool {
        armv8::is_grouped(entry)
    }

    #[inline]
    fn leaf(phys: PhysAddr, level: u8, attributes: Attributes, options: Stage2Options) -> u64 {
        let Attributes { prot, grouped, tracked } = attributes;
        let write = bits_if(prot.write, if tracked { DBM } else { WRITE });
        let access = bits_if(prot.read, READ) | write | bits_if(!options.executable, XN);
        let memory = u64::from(options.memory_attributes & 0xf) << 2;
        armv8::leaf::<G>(phys, level, grouped, options.shareability) | memory | access
    }

    #[inline]
    fn table(phys: PhysAddr, _: bool, _: Stage2Options) -> u64 {
        armv8::table::<G>(phys)
    }

    #[inline]
    fn table_address(entry: u64) -> PhysAddr {
        armv8::address::<G>(entry)
    }

    #[inline]
    fn leaf_address(entry: u64, _: u8) -> PhysAddr {
        armv8::address::<G>(entry)
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        Prot { read: entry & READ != 0, write: entry & (DBM | WRITE) != 0 }
    }

    #[inline]
    fn is_dirty(entry: u64) -> bool {
        entry & Self::DIRTY != 0
    }

    #[inline]
    fn dirtied(entry: u64) -> u64 {
        entry | if entry & DBM != 0 { WRITE } else { WAS_DIRTY }
    }
}
