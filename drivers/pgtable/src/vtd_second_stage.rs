//! Second-stage tables of VT-d: bits as in "Second-Stage Paging Entries" of the VT-d specification, chapter 9.
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | R: reads allowed | as asked for; 1 in entries that lead to tables |
//! | 1 | W: writes allowed | as asked for; 1 in entries that lead to tables |
//! | 7 | PS: leaf at level 1 (2 MiB) or 2 (1 GiB) | as the level demands |
//! | 11 | SNP: accesses snoop the caches; leaves only | [`SecondStageOptions::snoop`] |
//! | 51:12 | address | of the table or the memory |
//!
//! Everything else is 0: memory type and IPAT belong to extended memory types, X, A and D to capabilities not used.
//! An entry is present where R or W is set.

use crate::format::{Format, sealed::Sealed, size};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const R: u64 = 1 << 0;
const W: u64 = 1 << 1;
const PS: u64 = 1 << 7;
const SNP: u64 = 1 << 11;
const ADDRESS: u64 = (1 << 52) - (1 << 12);

/// The second-stage format of VT-d, with 3 levels (39 bits) or 4 (48 bits); levels 0, 1 and 2 hold leaves of 4 KiB,
/// 2 MiB and 1 GiB. VT-d specification, "Second-Stage Paging Entries".
#[derive(Clone, Copy, Debug)]
pub enum VtdSecondStage {}

/// What one second-stage table may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SecondStageOptions {
    /// Set SNP in leaves, so that accesses through them snoop the caches whatever the device asks for. Only for a unit
    /// with snoop control (`ECAP.SC`): the bit is reserved without it.
    pub snoop: bool,
}

impl Sealed for VtdSecondStage {}

impl Format for VtdSecondStage {
    type Options = SecondStageOptions;

    const LEVELS: RangeInclusive<u8> = 3..=4;
    const TOP_LEAF_LEVEL: u8 = 2;
    const OUTPUT_BITS: u8 = 52;

    fn input_bits(levels: u8) -> u8 {
        12 + 9 * levels
    }

    fn can_express(prot: Prot) -> bool {
        !prot.is_none()
    }

    fn is_present(entry: u64) -> bool {
        entry & (R | W) != 0
    }

    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || entry & PS != 0
    }

    fn leaf(phys: PhysAddr, level: u8, prot: Prot, options: SecondStageOptions) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        phys.get() & ADDRESS | bit(prot.read, R) | bit(prot.write, W) | bit(level != 0, PS) | bit(options.snoop, SNP)
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.get() & ADDRESS | R | W
    }

    fn address(entry: u64, level: u8) -> PhysAddr {
        let inside = if Self::is_leaf(entry, level) { size(level) - 1 } else { 0 };
        PhysAddr::new(entry & ADDRESS & !inside)
    }

    fn prot(entry: u64) -> Prot {
        Prot { read: entry & R != 0, write: entry & W != 0 }
    }
}
