//! First-stage tables of the RISC-V IOMMU: bits as in "Sv39" and "Sv48" of the RISC-V privileged architecture, chapter
//! "Supervisor-Level ISA".
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | V: valid | 1 |
//! | 1 | R: reads allowed; 0 in entries that lead to tables | 1 in leaves |
//! | 2 | W: writes allowed; 0 in entries that lead to tables | as asked for in leaves |
//! | 3 | X: execution allowed; 0 in entries that lead to tables | 0 |
//! | 4 | U: user accesses allowed; reserved in entries that lead to tables | 1 in leaves |
//! | 5 | G: global | 0 |
//! | 6 | A: accessed; reserved in entries that lead to tables | 1 in leaves |
//! | 7 | D: dirty; reserved in entries that lead to tables | 1 in writable leaves, unless the table tracks |
//! | 8 | for software | [`Format::VISIBLE`] in entries that lead to tables |
//! | 53:10 | PPN: bits 55:12 of the address | of the table or the memory |
//!
//! Everything else is 0: no page-based memory types, no NAPOT ranges. Requests without a process, and those with one
//! that do not ask for supervisor privilege, are user accesses. Hardware sets A and D where the device context says so
//! (SADE); otherwise it refuses all accesses where A is 0, and writes where D is.
//!
//! An entry with W and without R is reserved, so that write-only is not expressible.

use crate::format::{Attributes, Format, Pages4K, sealed::Sealed};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const V: u64 = 1 << 0;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
const PPN: u64 = (1 << 54) - (1 << 10);

/// How far an address is shifted in an entry.
const PPN_SHIFT: u32 = 2;

/// The format of RISC-V with 3 levels (Sv39, 38 bits) or 4 (Sv48, 47 bits); levels 0 to 3 hold leaves of 4 KiB, 2 MiB,
/// 1 GiB and 512 GiB. RISC-V privileged architecture, "Sv39" and "Sv48".
///
/// Addresses must have all bits from the highest that is translated upwards alike: these are those with all of them
/// clear.
#[derive(Clone, Copy, Debug)]
pub enum Riscv64 {}

impl Sealed for Riscv64 {}

impl Format for Riscv64 {
    type Options = ();
    type Grain = Pages4K<3>;

    const LEVELS: RangeInclusive<u8> = 3..=4;
    const OUTPUT_BITS: u8 = 56;
    const PRESENT: u64 = V;
    const LINK_MASK: u64 = V | R | W | X;
    const LINK: u64 = V;
    const VISIBLE: u64 = 1 << 8;
    const DIRTY: u64 = D;

    #[inline]
    fn grain(_: Self::Options) -> Self::Grain {
        Pages4K
    }

    #[inline]
    fn input_bits(levels: u8, _: Self::Options) -> u8 {
        // The top bit is the sign: the lower half has it clear.
        12 + 9 * levels - 1
    }

    #[inline]
    fn can_express(prot: Prot, _: Self::Options) -> bool {
        prot.read
    }

    #[inline]
    fn leaf(phys: PhysAddr, _: u8, attributes: Attributes, (): ()) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let Attributes { prot, tracked, .. } = attributes;
        phys.get() >> PPN_SHIFT & PPN | V | R | U | A | bit(prot.write, W) | bit(prot.write && !tracked, D)
    }

    #[inline]
    fn table(phys: PhysAddr, _: bool, (): ()) -> u64 {
        phys.get() >> PPN_SHIFT & PPN | V
    }

    #[inline]
    fn table_address(entry: u64) -> PhysAddr {
        PhysAddr::new((entry & PPN) << PPN_SHIFT)
    }

    #[inline]
    fn leaf_address(entry: u64, _: u8) -> PhysAddr {
        Self::table_address(entry)
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        Prot { read: true, write: entry & W != 0 }
    }

    #[inline]
    fn is_dirty(entry: u64) -> bool {
        entry & D != 0
    }

    #[inline]
    fn dirtied(entry: u64) -> u64 {
        entry | D
    }
}
