//! Stage-1 tables of Armv8. [`armv8`] says what stands in the bits that mean the same in both stages; here
//! are the others, all in leaves only:
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 4:2 | AttrIndx: index into MAIR | [`Stage1Options::attribute_index`] |
//! | 6 | AP\[1\]: unprivileged accesses allowed | 1, unless [`Stage1Options::privileged`] |
//! | 7 | AP\[2\]: writes refused | as asked for; 1 in writable leaves of tables that track, until hardware clears it |
//! | 11 | nG: not global | 1: global entries would match every ASID |
//! | 53, 54 | PXN, UXN: no execution | 1, unless [`Stage1Options::executable`] |
//!
//! Everything else is 0. Hardware clears AP\[2\] of a leaf with DBM at the first write, where the context descriptor
//! says so (HA and HD), with walks that snoop: such a leaf is writable either way, and dirty where AP\[2\] is 0.
//!
//! Reads cannot be refused where writes are allowed, so that write-only is not expressible.

use crate::armv8::{self, DBM, Granule, Granule4K, Of, Shareability, WAS_DIRTY, bits_if};
use crate::format::{Attributes, Format, sealed::Sealed};
use core::convert::Infallible;
use core::marker::PhantomData;
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const AP_UNPRIVILEGED: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const NG: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;

/// The stage-1 format of Armv8. With pages of 4 KiB it has 3 levels (39 bits) or 4 (48 bits); with pages of 16 KiB 2
/// (36 bits), 3 (47 bits) or 4 (48 bits); with pages of 64 KiB 2 (42 bits) or 3 (48 bits). Arm Architecture Reference
/// Manual, chapter D8.
///
/// Addresses are those of TTB0: from 0 up.
#[derive(Clone, Copy, Debug)]
pub struct Armv8Stage1<G: Granule = Granule4K>(PhantomData<G>, Infallible);

/// What one stage-1 table may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stage1Options {
    /// AttrIndx of leaves: which byte of MAIR says how memory is accessed. Three bits; the others are ignored.
    pub attribute_index: u8,
    /// SH of leaves. Memory that is not cacheable is outer shareable whatever this says.
    pub shareability: Shareability,
    /// Clear AP\[1\] in leaves, so that only privileged accesses get through. DMA is unprivileged, unless the stream's
    /// configuration makes it privileged (PRIVCFG).
    pub privileged: bool,
    /// Clear PXN and UXN in leaves, so that instruction fetches get through.
    pub executable: bool,
    /// The unit lets the size of live blocks change in one store: `SMMU_IDR3.BBML` is 2.
    pub resizes_live: bool,
}

impl<G: Granule> Sealed for Armv8Stage1<G> {}

impl<G: Granule> Format for Armv8Stage1<G> {
    type Options = Stage1Options;
    type Grain = Of<G>;

    const LEVELS: RangeInclusive<u8> = G::STAGE1_LEVELS;
    const ROOT_BY_WIDTH: bool = true;
    const OUTPUT_BITS: u8 = armv8::ADDRESS_BITS;
    const PRESENT: u64 = armv8::VALID;
    const LINK_MASK: u64 = armv8::LINK;
    const LINK: u64 = armv8::LINK;
    const VISIBLE: u64 = armv8::VISIBLE;
    const DIRTY: u64 = AP_READ_ONLY | WAS_DIRTY;

    #[inline]
    fn grain(_: Self::Options) -> Of<G> {
        Of(PhantomData)
    }

    #[inline]
    fn input_bits(levels: u8, _: Self::Options) -> u8 {
        armv8::input_bits::<G>(levels, 0)
    }

    #[inline]
    fn resizes_live(options: Stage1Options) -> bool {
        options.resizes_live
    }

    #[inline]
    fn can_express(prot: Prot, _: Self::Options) -> bool {
        prot.read
    }

    #[inline]
    fn is_grouped(entry: u64) -> bool {
        armv8::is_grouped(entry)
    }

    #[inline]
    fn leaf(phys: PhysAddr, level: u8, attributes: Attributes, options: Stage1Options) -> u64 {
        let Attributes { prot, grouped, tracked } = attributes;
        let access = bits_if(!prot.write || tracked, AP_READ_ONLY) | bits_if(prot.write && tracked, DBM);
        let who = bits_if(!options.privileged, AP_UNPRIVILEGED) | bits_if(!options.executable, PXN | UXN);
        let memory = u64::from(options.attribute_index & 7) << 2;
        armv8::leaf::<G>(phys, level, grouped, options.shareability) | memory | access | who | NG
    }

    #[inline]
    fn table(phys: PhysAddr, _: bool, _: Stage1Options) -> u64 {
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
        Prot { read: true, write: entry & (DBM | AP_READ_ONLY) != AP_READ_ONLY }
    }

    #[inline]
    fn is_dirty(entry: u64) -> bool {
        entry & Self::DIRTY != AP_READ_ONLY
    }

    #[inline]
    fn dirtied(entry: u64) -> u64 {
        if entry & DBM != 0 { entry & !AP_READ_ONLY } else { entry | WAS_DIRTY }
    }
}
