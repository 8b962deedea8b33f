//! Device TLBs: what a unit must know of them, and a guest's own requests to them.
//!
//! A requester's device TLB is known to every domain that the requester leads to *before* its requests are let through, and
//! *until* hardware has confirmed that they are refused: in between, whatever a domain takes away, the device TLB is told
//! of as well.

use super::{Inner, requester};
use crate::capabilities::names;
use crate::spec::invalidation::{Invalidation, TlbPages, TlbTarget};
use iommu_core::hw::{self, DeviceTlb, HwError, RequesterId};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// The device TLB of a requester, or that it has none any more.
    pub(super) fn set_device_tlb(&self, source: RequesterId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        match tlb {
            Some(tlb) => self.enable_device_tlb(self.target(source, &tlb)?),
            None => self.disable_device_tlb(source),
        }
    }

    fn target(&self, source: RequesterId, tlb: &DeviceTlb) -> Result<TlbTarget, HwError> {
        self.caps.require_device_tlbs()?;
        if !self.caps.queued_invalidation() {
            return Err(HwError::Missing(names::QUEUED_INVALIDATION));
        }
        if !(1..=DeviceTlb::MAX_QUEUE_DEPTH).contains(&tlb.queue_depth) {
            return Err(HwError::Hardware("a device TLB's invalidate queue depth is not 1 to 32"));
        }
        // The field is reserved on units that do not throttle.
        let physical = match self.caps.invalidation_throttle() {
            true => Some(requester(tlb.physical)?),
            false => None,
        };
        Ok(TlbTarget { source, physical, queue_depth: tlb.queue_depth })
    }

    fn enable_device_tlb(&self, target: TlbTarget) -> Result<(), HwError> {
        let mut tables = self.tables.lock();
        tables.set_tlb(target.source, target)?;
        // Waits for invalidations that were begun without it; a translation that they remove from the IOTLB cannot get into
        // the device TLB before.
        tables.states(target.source).for_each(|state| state.set_tlb(target.source, Some(target)));
        tables.change_enables(target.source)?;
        self.confirm(&mut tables, target.source)
    }

    fn disable_device_tlb(&self, source: RequesterId) -> Result<(), HwError> {
        let mut tables = self.tables.lock();
        if tables.tlb(source).is_none() {
            return Ok(());
        }
        tables.refuse_tlb(source);
        tables.change_enables(source)?;
        self.confirm(&mut tables, source)?;
        tables.states(source).for_each(|state| state.set_tlb(source, None));
        tables.forget_tlb(source);
        Ok(())
    }

    /// A guest's request to the device TLB of its own function.
    pub(super) fn invalidate_device(&self, source: RequesterId, request: &hw::Invalidation) -> Result<(), HwError> {
        let tlb = self.tables.lock().tlb(source);
        let target = tlb.ok_or(HwError::Hardware("the function has no device TLB"))?;
        let invalidation = decode(target, request)?;
        if matches!(invalidation, Invalidation::PasidDeviceTlb { .. }) {
            self.caps.require_pasids()?;
        }
        self.submit(&[invalidation]).map(drop)
    }
}

/// Kind of [`hw::Unit::invalidate_device`] requests: words 0 and 1 of a device-TLB invalidate descriptor, type 3 or 8
/// (sections 6.5.2.5 and 6.5.2.6), as a guest writes it to a queue of its own.
///
/// Bits of words 0 and 1 that count: the type (0 to 3); in type 8 the PASID (word 0, 32 to 51) and G (word 1, 0); S and
/// the address (word 1; S is bit 0 in type 3 and bit 11 in type 8). The source id, PFSID and the queue depth (MIP) are
/// those that the unit knows of the function, whatever the guest says. All other bits must be zero.
pub const DEVICE_TLB_REQUEST: u32 = 1;

/// Bits of word 0 that are ignored: source id, PFSID and MIP, in type 3.
const IGNORED_3: u64 = 0xf << 12 | 0x1f << 16 | 0xffff << 32 | 0xfff << 52;
/// The same in type 8.
const IGNORED_8: u64 = 0x1f << 4 | 0xf << 12 | 0xffff << 16 | 0xfff << 52;
/// The PASID of type 8.
const PASID_8: u64 = 0xf_ffff << 32;
/// Type, the low four bits.
const TYPE: u64 = 0xf;
const DEVICE_TLB: u64 = 3;
const PASID_DEVICE_TLB: u64 = 8;
const ADDRESS: u64 = !0xfff;

/// What a guest asks for, of `target` and nobody else.
fn decode(target: TlbTarget, request: &hw::Invalidation) -> Result<Invalidation, HwError> {
    if request.kind != DEVICE_TLB_REQUEST {
        return Err(HwError::Unsupported("this kind of request to a device"));
    }
    let [low, high] = request.words;
    let (ignored, size, more) = match low & TYPE {
        DEVICE_TLB => (IGNORED_3, 1, 0),
        PASID_DEVICE_TLB => (IGNORED_8 | PASID_8, 1 << 11, 1),
        _ => return Err(HwError::Hardware("a request to a device TLB of another type")),
    };
    if low & !(TYPE | ignored) != 0 || high & !(ADDRESS | size | more) != 0 {
        return Err(HwError::Hardware("reserved bits in a request to a device TLB"));
    }
    let pages = block(high & ADDRESS, high & size != 0);
    Ok(if low & TYPE == DEVICE_TLB {
        Invalidation::DeviceTlb { target, pages }
    } else {
        let pasid = (low & PASID_8) >> 32;
        let pasid = if high & 1 != 0 { None } else { Some(pasid as u32) };
        Invalidation::PasidDeviceTlb { target, pasid, pages }
    })
}

/// What an address with a size bit covers: with it the size stands in the lowest address bits that are set (PCIe ATS).
fn block(address: u64, sized: bool) -> TlbPages {
    if !sized {
        return TlbPages::Block { address, mask: 0 };
    }
    let mask = (address >> 12).trailing_ones() as u8 + 1;
    if mask >= 51 {
        return TlbPages::All;
    }
    TlbPages::Block { address: address >> (12 + mask) << (12 + mask), mask }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: RequesterId = RequesterId::new(0x0108);
    const TARGET: TlbTarget = TlbTarget { source: SOURCE, physical: None, queue_depth: 7 };

    fn asked(low: u64, high: u64) -> Result<Invalidation, HwError> {
        decode(TARGET, &hw::Invalidation { kind: DEVICE_TLB_REQUEST, words: [low, high] })
    }

    #[test]
    fn a_guest_reaches_its_own_device_and_no_other() {
        let pages = TlbPages::Block { address: 0x5000, mask: 0 };
        assert_eq!(asked(3, 0x5000), Ok(Invalidation::DeviceTlb { target: TARGET, pages }));
        // Another source id, PFSID and depth change nothing.
        assert_eq!(asked(3 | 0xffff << 32 | 0xfff << 52 | 0xf << 12 | 9 << 16, 0x5000), asked(3, 0x5000));
        assert_eq!(asked(8 | 0xffff << 16 | 0x1f << 4, 0x5000), asked(8, 0x5000));
        let one = Invalidation::PasidDeviceTlb { target: TARGET, pasid: Some(0xf_edcb), pages };
        assert_eq!(asked(8 | 0xf_edcb << 32, 0x5000), Ok(one));
        let all = Invalidation::PasidDeviceTlb { target: TARGET, pasid: None, pages };
        assert_eq!(asked(8 | 0xf_edcb << 32, 0x5001), Ok(all));
    }

    #[test]
    fn sizes_stand_in_the_address() {
        let covered = |high| match asked(3, high) {
            Ok(Invalidation::DeviceTlb { pages, .. }) => pages,
            other => panic!("{other:?}"),
        };
        assert_eq!(covered(0x8000 | 1), TlbPages::Block { address: 0x8000, mask: 1 });
        assert_eq!(covered(0x9000 | 1), TlbPages::Block { address: 0x8000, mask: 2 });
        assert_eq!(covered(0x1f_f000 | 1), TlbPages::Block { address: 0, mask: 10 });
        assert_eq!(covered(0x7fff_ffff_ffff_f000 | 1), TlbPages::All);
        assert_eq!(covered(0xffff_ffff_ffff_f000 | 1), TlbPages::All);
        let Ok(Invalidation::PasidDeviceTlb { pages, .. }) = asked(8, 0x9000 | 1 << 11) else { panic!("refused") };
        assert_eq!(pages, TlbPages::Block { address: 0x8000, mask: 2 });
    }

    #[test]
    fn anything_else_is_refused() {
        for (low, high) in [(2, 0), (3 | 1 << 4, 0), (3 | 1 << 21, 0), (3, 2), (3, 1 << 11), (8 | 1 << 9, 0), (8, 2)] {
            assert!(matches!(asked(low, high), Err(HwError::Hardware(_))), "{low:#x} {high:#x}");
        }
        let other = hw::Invalidation { kind: 0, words: [3, 0] };
        assert!(matches!(decode(TARGET, &other), Err(HwError::Unsupported(_))));
    }
}
