//! First-stage tables of VT-d: bits as in "First-Stage Paging Entries" of the VT-d specification, chapter 9. They are
//! those of x86-64 paging.
//!
//! | Bits | Entry | Here |
//! |---|---|---|
//! | 0 | P: present | 1 |
//! | 1 | R/W: writes allowed | as asked for; 1 in entries that lead to tables |
//! | 2 | U/S: user accesses allowed | 1, at every level, unless [`FirstStageOptions::supervisor`] |
//! | 5 | A: accessed | 1, so that hardware does not have to write it |
//! | 6 | D: dirty; leaves only | 0 until hardware sets it, in tables that track; 1 in writable leaves of others |
//! | 7 | PS: leaf at level 1 (2 MiB) or 2 (1 GiB) | as the level demands; at level 0 the bit is PAT: 0 |
//! | 51:12 | address | of the table or the memory |
//! | 52 | ignored by hardware | [`Format::VISIBLE`] in entries that lead to tables |
//! | 63 | XD: no execution | [`FirstStageOptions::no_execute`] in leaves |
//!
//! Everything else is 0: caching as PAT entry 0 says, not global. Hardware updates A and D whenever they are 0, and can
//! do so only with walks that snoop: in tables that do not track it never has to.
//!
//! Reads cannot be refused where writes are allowed, so that write-only is not expressible.

use crate::format::{Attributes, Format, Pages4K, sealed::Sealed};
use core::ops::RangeInclusive;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::Prot;

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const XD: u64 = 1 << 63;
const ADDRESS: u64 = (1 << 52) - (1 << 12);

/// The first-stage format of VT-d, with 4 levels (47 bits) or 5 (56 bits); levels 0, 1 and 2 hold leaves of 4 KiB,
/// 2 MiB and 1 GiB. VT-d specification, "First-Stage Paging Entries".
///
/// Addresses must be canonical: these are the lower half of them, where the highest bit that is translated is clear,
/// and all above it.
#[derive(Clone, Copy, Debug)]
pub enum VtdFirstStage {}

/// What one first-stage table may have otherwise than another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FirstStageOptions {
    /// Clear U/S everywhere, so that only requests with supervisor privilege get through. Requests without PASID, and
    /// those with one that do not ask for privilege, are user requests.
    pub supervisor: bool,
    /// Set XD in leaves, so that requests to execute are refused. Only where the PASID entry enables it (NXE): the bit
    /// is reserved without that.
    pub no_execute: bool,
}

impl Sealed for VtdFirstStage {}

impl Format for VtdFirstStage {
    type Options = FirstStageOptions;
    type Grain = Pages4K<2>;

    const LEVELS: RangeInclusive<u8> = 4..=5;
    const OUTPUT_BITS: u8 = 52;
    const PRESENT: u64 = P;
    const LINK_MASK: u64 = P | PS;
    const LINK: u64 = P;
    const VISIBLE: u64 = 1 << 52;
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
    fn leaf(phys: PhysAddr, level: u8, attributes: Attributes, options: FirstStageOptions) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let Attributes { prot, tracked, .. } = attributes;
        let access = bit(prot.write, RW) | bit(prot.write && !tracked, D) | bit(!options.supervisor, US);
        phys.get() & ADDRESS | P | A | access | bit(level != 0, PS) | bit(options.no_execute, XD)
    }

    #[inline]
    fn table(phys: PhysAddr, _: bool, options: FirstStageOptions) -> u64 {
        phys.get() & ADDRESS | P | RW | A | if options.supervisor { 0 } else { US }
    }

    #[inline]
    fn table_address(entry: u64) -> PhysAddr {
        PhysAddr::new(entry & ADDRESS)
    }

    #[inline]
    fn leaf_address(entry: u64, _: u8) -> PhysAddr {
        // Nothing but the address stands between its highest bit and its lowest: PAT is 0.
        PhysAddr::new(entry & ADDRESS)
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        Prot { read: true, write: entry & RW != 0 }
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
