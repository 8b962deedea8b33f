//! Stage-2 tables of Armv8: bits as in "VMSAv8-64 translation table format descriptors" of the Arm Architecture
//! Reference Manual, chapter D8, which the SMMU architecture takes over (IHI 0070, section 3.4). 4 KiB granule.
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | valid | 1 |
//! | 1 | table, or page at level 0; 0 in blocks | as the entry demands |
//! | 5:2 | MemAttr: memory type; leaves only | 15: normal, write-back; not for tables that are walked with FWB |
//! | 7:6 | S2AP: 6 reads, 7 writes allowed; leaves only | as asked for |
//! | 9:8 | SH: shareability; leaves only | 3, inner |
//! | 10 | AF: access flag; leaves only | 1, so that hardware never has to write the entry |
//! | 47:12 | address | of the table or the memory |
//! | 54:53 | XN: 2 refuses execution at every level, with FEAT_XNX or without; leaves only | 2 |
//!
//! Everything else is 0: dirty state not tracked, no contiguous runs. No concatenated roots: a root is one frame.
//!
//! Levels are counted from the leaves here, and from the root in the Arm manual: level 0 here is its level 3.

use crate::format::{Format, sealed::Sealed, size};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const VALID: u64 = 1 << 0;
const TABLE_OR_PAGE: u64 = 1 << 1;
const WRITE_BACK: u64 = 0xf << 2;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const SH_INNER: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const XN: u64 = 1 << 54;
const ADDRESS: u64 = (1 << 48) - (1 << 12);

/// The stage-2 format of Armv8 with the 4 KiB granule and 3 levels (39 bits) or 4 (48 bits); levels 0, 1 and 2 hold
/// leaves of 4 KiB, 2 MiB and 1 GiB. Arm Architecture Reference Manual, chapter D8.
#[derive(Clone, Copy, Debug)]
pub enum Armv8Stage2 {}

impl Sealed for Armv8Stage2 {}

impl Format for Armv8Stage2 {
    type Options = ();

    const LEVELS: RangeInclusive<u8> = 3..=4;
    const TOP_LEAF_LEVEL: u8 = 2;
    const OUTPUT_BITS: u8 = 48;

    fn input_bits(levels: u8) -> u8 {
        12 + 9 * levels
    }

    fn can_express(prot: Prot) -> bool {
        !prot.is_none()
    }

    fn is_present(entry: u64) -> bool {
        entry & VALID != 0
    }

    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || entry & TABLE_OR_PAGE == 0
    }

    fn leaf(phys: PhysAddr, level: u8, prot: Prot, _: ()) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let access = bit(prot.read, READ) | bit(prot.write, WRITE);
        phys.get() & ADDRESS | VALID | bit(level == 0, TABLE_OR_PAGE) | WRITE_BACK | access | SH_INNER | AF | XN
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.get() & ADDRESS | VALID | TABLE_OR_PAGE
    }

    fn address(entry: u64, level: u8) -> PhysAddr {
        let inside = if Self::is_leaf(entry, level) { size(level) - 1 } else { 0 };
        PhysAddr::new(entry & ADDRESS & !inside)
    }

    fn prot(entry: u64) -> Prot {
        Prot { read: entry & READ != 0, write: entry & WRITE != 0 }
    }
}
