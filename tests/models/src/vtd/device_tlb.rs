//! The translations that functions with ATS hold themselves (sections 4.1 and 6.3), until an invalidation of type 3 or 8
//! covers them.

use super::descriptor::Descriptor;
use super::violation::Violation;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr};

/// A translation that a function holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// PASID that it was asked for with.
    pub pasid: Option<u32>,
    /// First byte of its page.
    pub iova: Iova,
    /// Length of its page in bytes.
    pub len: u64,
    /// Where that lies.
    pub phys: PhysAddr,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
}

impl Held {
    const fn last(&self) -> u64 {
        self.iova.get() + (self.len - 1)
    }

    pub(super) fn covers(&self, pasid: Option<u32>, iova: u64) -> bool {
        self.pasid == pasid && (self.iova.get()..=self.last()).contains(&iova)
    }
}

/// What a function holds, and what it is.
#[derive(Default)]
pub(super) struct DeviceTlb {
    pub(super) held: Vec<Held>,
    /// Invalidations that it takes at once; `None` for 32, which is as many as there are.
    pub(super) depth: Option<u8>,
    /// Its physical function, where that is another.
    pub(super) physical: Option<u16>,
}

/// Every function's, by source id.
#[derive(Default)]
pub(super) struct DeviceTlbs(BTreeMap<u16, DeviceTlb>);

/// First and last address of an invalidation (ATS, Invalidate Request): 4 KiB without S; with it, as large as the
/// lowest bit that is clear says. `None` where none is.
const fn range(address: u64, size: bool) -> Option<(u64, u64)> {
    let first = address & !0xfff;
    if !size {
        return Some((first, first | 0xfff));
    }
    match (first | 0xfff).trailing_ones() {
        64 => None,
        63 => Some((0, u64::MAX)),
        bits => {
            let mask = (2 << bits) - 1;
            Some((first & !mask, first | mask))
        }
    }
}

/// Whose translations an invalidation covers.
#[derive(Clone, Copy)]
enum Whose {
    /// Those of requests without PASID.
    Plain,
    Pasid(u32),
    /// Those of every PASID.
    AnyPasid,
}

/// An invalidation of a device TLB.
struct Target {
    source: u16,
    /// First and last address.
    covered: Option<(u64, u64)>,
    whose: Whose,
}

impl Target {
    const fn of(descriptor: &Descriptor) -> Option<Self> {
        let (source, covered, whose) = match *descriptor {
            Descriptor::DeviceTlb { source, address } => (source, range(address, address & 1 != 0), Whose::Plain),
            Descriptor::PasidDeviceTlb { source, pasid, address } => {
                let whose = match pasid {
                    Some(pasid) => Whose::Pasid(pasid),
                    None => Whose::AnyPasid,
                };
                (source, range(address, address & 1 << 11 != 0), whose)
            }
            _ => return None,
        };
        Some(Self { source, covered, whose })
    }
}

impl DeviceTlbs {
    pub(super) fn of(&mut self, requester: u16) -> &mut DeviceTlb {
        self.0.entry(requester).or_default()
    }

    /// Drops what `descriptor` covers, and no more.
    pub(super) fn invalidate(&mut self, descriptor: &Descriptor) {
        let Some(Target { source, covered: Some((first, last)), whose }) = Target::of(descriptor) else { return };
        let Some(function) = self.0.get_mut(&source) else { return };
        function.held.retain(|held| {
            let its = match (whose, held.pasid) {
                (Whose::Plain, None) | (Whose::AnyPasid, Some(_)) => true,
                (Whose::Pasid(pasid), Some(own)) => pasid == own,
                _ => false,
            };
            !(its && held.iova.get() <= last && first <= held.last())
        });
    }

    /// What is wrong with an invalidation of a device TLB, whose first 8 bytes are `low`; `throttled` is ECAP.DIT.
    pub(super) fn check(&self, low: u64, descriptor: &Descriptor, throttled: bool) -> Vec<Violation> {
        let mut found = Vec::new();
        let Some(Target { source, covered, .. }) = Target::of(descriptor) else { return found };
        if covered.is_none()
            && let Descriptor::DeviceTlb { address, .. } | Descriptor::PasidDeviceTlb { address, .. } = *descriptor
        {
            found.push(Violation::DeviceTlbSize { address });
        }
        let Some(function) = self.0.get(&source) else { return found };
        let shift = if matches!(descriptor, Descriptor::DeviceTlb { .. }) { 16 } else { 4 };
        let pending = (low >> shift & 0x1f) as u8;
        if let Some(depth) = function.depth
            && (pending == 0 || pending > depth)
        {
            found.push(Violation::DeviceTlbDepth { descriptor: low, depth });
        }
        let named = (low >> 12 & 0xf | low >> 48 & 0xfff0) as u16;
        let physical = function.physical.unwrap_or(source);
        if throttled && named != physical {
            found.push(Violation::DeviceTlbFunction { descriptor: low, function: physical });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn sizes_are_read_from_the_lowest_clear_bit() {
        assert_eq!(range(0x5000, false), Some((0x5000, 0x5fff)));
        assert_eq!(range(0x5000, true), Some((0x4000, 0x7fff)));
        assert_eq!(range(0x4000, true), Some((0x4000, 0x5fff)));
        assert_eq!(range(0x1001_f000, true), Some((0x1000_0000, 0x1003_ffff)));
        assert_eq!(range(0x3fff_ffff_ffff_f000, true), Some((0, 0x7fff_ffff_ffff_ffff)));
        assert_eq!(range(0x7fff_ffff_ffff_f000, true), Some((0, u64::MAX)));
        assert_eq!(range(0xffff_ffff_ffff_f000, true), None);
    }
}
