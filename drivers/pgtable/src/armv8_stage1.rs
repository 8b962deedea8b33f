//! Stage-1 tables of Armv8: bits as in "VMSAv8-64 translation table format descriptors" of the Arm Architecture
//! Reference Manual, chapter D8, which the SMMU architecture takes over (IHI 0070, section 3.4). 4 KiB granule.
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | valid | 1 |
//! | 1 | table, or page at level 0; 0 in blocks | as the entry demands |
//! | 4:2 | AttrIndx: index into MAIR; leaves only | [`Stage1Options::attribute_index`] |
//! | 7:6 | AP\[2:1\]: 7 read-only, 6 unprivileged accesses; leaves only | 7 as asked for, 6 is 1: DMA is unprivileged |
//! | 9:8 | SH: shareability; leaves only | 3, inner |
//! | 10 | AF: access flag; leaves only | 1, so that hardware never has to write the entry |
//! | 11 | nG: not global; leaves only | 1: global entries would match every ASID |
//! | 47:12 | address | of the table or the memory |
//! | 53, 54 | PXN, UXN: no execution; leaves only | 1 |
//!
//! Everything else is 0: no attributes in entries that lead to tables, dirty state not tracked, no contiguous runs.
//!
//! Levels are counted from the leaves here, and from the root in the Arm manual: level 0 here is its level 3.
//!
//! Reads cannot be refused where writes are allowed, so that write-only is not expressible.

use crate::format::{Format, sealed::Sealed, size};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const VALID: u64 = 1 << 0;
const TABLE_OR_PAGE: u64 = 1 << 1;
const AP_UNPRIVILEGED: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const SH_INNER: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const ADDRESS: u64 = (1 << 48) - (1 << 12);

/// The stage-1 format of Armv8 with the 4 KiB granule and 3 levels (39 bits) or 4 (48 bits); levels 0, 1 and 2 hold
/// leaves of 4 KiB, 2 MiB and 1 GiB. Arm Architecture Reference Manual, chapter D8.
///
/// Addresses are those of TTB0: from 0 up.
#[derive(Clone, Copy, Debug)]
pub enum Armv8Stage1 {}

/// What one stage-1 table may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stage1Options {
    /// AttrIndx of leaves: which byte of MAIR says how memory is accessed. Three bits; the others are ignored.
    pub attribute_index: u8,
}

impl Sealed for Armv8Stage1 {}

impl Format for Armv8Stage1 {
    type Options = Stage1Options;

    const LEVELS: RangeInclusive<u8> = 3..=4;
    const TOP_LEAF_LEVEL: u8 = 2;
    const OUTPUT_BITS: u8 = 48;

    fn input_bits(levels: u8) -> u8 {
        12 + 9 * levels
    }

    fn can_express(prot: Prot) -> bool {
        prot.read
    }

    fn is_present(entry: u64) -> bool {
        entry & VALID != 0
    }

    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || entry & TABLE_OR_PAGE == 0
    }

    fn leaf(phys: PhysAddr, level: u8, prot: Prot, options: Stage1Options) -> u64 {
        let page = if level == 0 { TABLE_OR_PAGE } else { 0 };
        let access = if prot.write { AP_UNPRIVILEGED } else { AP_UNPRIVILEGED | AP_READ_ONLY };
        let attributes = u64::from(options.attribute_index & 7) << 2;
        phys.get() & ADDRESS | VALID | page | attributes | access | SH_INNER | AF | NG | PXN | UXN
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.get() & ADDRESS | VALID | TABLE_OR_PAGE
    }

    fn address(entry: u64, level: u8) -> PhysAddr {
        let inside = if Self::is_leaf(entry, level) { size(level) - 1 } else { 0 };
        PhysAddr::new(entry & ADDRESS & !inside)
    }

    fn prot(entry: u64) -> Prot {
        Prot { read: true, write: entry & AP_READ_ONLY == 0 }
    }
}
