//! Protected memory regions (section 11.4.8): PMEN, and the low and the high region.
//!
//! While they protect, no request reaches them, translated or not, with translation on or off. Nothing is recorded.

use super::unit::Unit;
use super::violation::Violation;

const PMEN: usize = 0x64;
const ENABLE: u32 = 1 << 31;

/// Bits of bases and limits that are not implemented: regions of 2 MiB.
const GRANULE: u64 = 0x1f_ffff;

/// The registers, and a change that was not answered yet.
#[derive(Default)]
pub(super) struct Protection {
    commanded: bool,
    active: bool,
    /// Looks at PMEN before PRS follows.
    polls: u32,
    /// Base and limit of the low and of the high region, as written.
    pub(super) regions: [[u64; 2]; 2],
}

impl Unit {
    /// Whether the unit has the low (0) or the high (1) region: CAP.PLMR, CAP.PHMR.
    const fn has_region(&self, region: usize) -> bool {
        self.config.cap_bit(5 + region as u32)
    }

    /// A write to PMEN.
    pub(super) fn protect(&mut self, value: u32) {
        if !self.has_region(0) && !self.has_region(1) {
            self.violations.push(Violation::ReadOnly { offset: PMEN, value: value.into() });
            return;
        }
        let reserved = value & 0x7fff_fffe;
        if reserved != 0 {
            self.violations.push(Violation::ReservedBits { offset: PMEN, bits: reserved.into() });
        }
        let enable = value & ENABLE != 0;
        if self.protection.commanded != self.protection.active && enable != self.protection.commanded {
            self.violations.push(Violation::WriteWhilePending { offset: PMEN, value: value.into() });
        }
        self.protection.commanded = enable;
        self.protection.polls = self.switches.polls;
        self.answer_protection(false);
    }

    /// A look at PMEN.
    pub(super) fn protection_status(&mut self) -> u32 {
        self.answer_protection(true);
        u32::from(self.protection.commanded) << 31 | u32::from(self.protection.active)
    }

    fn answer_protection(&mut self, look: bool) {
        let protection = &mut self.protection;
        if protection.commanded == protection.active || self.switches.never_protect {
            return;
        }
        match protection.polls {
            0 => protection.active = protection.commanded,
            _ if look => protection.polls -= 1,
            _ => {}
        }
    }

    /// A write to the base (0) or limit (1) of a region.
    pub(super) fn set_region(&mut self, offset: usize, region: usize, bound: usize, value: u64) {
        if !self.has_region(region) {
            self.violations.push(Violation::ReadOnly { offset, value });
        } else if self.protection.active {
            self.violations.push(Violation::ProtectedRegionMoved { offset, value });
        } else {
            self.protection.regions[region][bound] = value & !GRANULE & ((1 << self.config.haw) - 1);
        }
    }

    /// Whether the byte at `phys` is protected now.
    pub(super) fn is_protected(&self, phys: u64) -> bool {
        self.protection.active
            && (0..2).any(|region| {
                let [base, limit] = self.protection.regions[region];
                self.has_region(region) && (base..=limit | GRANULE).contains(&phys)
            })
    }
}
