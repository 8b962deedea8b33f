//! First-stage tables of VT-d: bits as in "First-Stage Paging Entries" of the VT-d specification, chapter 9. They are
//! those of x86-64 paging.
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | P: present | 1 |
//! | 1 | R/W: writes allowed | as asked for; 1 in entries that lead to tables |
//! | 2 | U/S: user accesses allowed | 1: requests without PASID, and most with one, are user accesses |
//! | 5 | A: accessed | 1, so that hardware never has to write the entry |
//! | 6 | D: dirty; leaves only | 1 in writable leaves, for the same reason |
//! | 7 | PS: leaf at level 1 (2 MiB) or 2 (1 GiB) | as the level demands; at level 0 the bit is PAT: 0 |
//! | 51:12 | address | of the table or the memory |
//!
//! Everything else is 0: caching as PAT entry 0 says, not global, execution not taken away.
//!
//! Reads cannot be refused where writes are allowed, so that write-only is not expressible.

use crate::format::{Format, sealed::Sealed, size};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const ADDRESS: u64 = (1 << 52) - (1 << 12);

/// The first-stage format of VT-d with 4 levels; levels 0, 1 and 2 hold leaves of 4 KiB, 2 MiB and 1 GiB. VT-d
/// specification, "First-Stage Paging Entries".
///
/// Addresses must be canonical: this is the lower half of them, with bit 47 clear.
#[derive(Clone, Copy, Debug)]
pub enum VtdFirstStage {}

impl Sealed for VtdFirstStage {}

impl Format for VtdFirstStage {
    type Options = ();

    const LEVELS: RangeInclusive<u8> = 4..=4;
    const TOP_LEAF_LEVEL: u8 = 2;
    const OUTPUT_BITS: u8 = 52;

    fn input_bits(levels: u8) -> u8 {
        // The top bit is the sign: the lower half has it clear.
        12 + 9 * levels - 1
    }

    fn can_express(prot: Prot) -> bool {
        prot.read
    }

    fn is_present(entry: u64) -> bool {
        entry & P != 0
    }

    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 0 || entry & PS != 0
    }

    fn leaf(phys: PhysAddr, level: u8, prot: Prot, _: ()) -> u64 {
        let writable = if prot.write { RW | D } else { 0 };
        let large = if level != 0 { PS } else { 0 };
        phys.get() & ADDRESS | P | US | A | writable | large
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.get() & ADDRESS | P | RW | US | A
    }

    fn address(entry: u64, level: u8) -> PhysAddr {
        let inside = if Self::is_leaf(entry, level) { size(level) - 1 } else { 0 };
        PhysAddr::new(entry & ADDRESS & !inside)
    }

    fn prot(entry: u64) -> Prot {
        Prot { read: true, write: entry & RW != 0 }
    }
}
