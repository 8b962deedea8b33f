//! Invalidation descriptors, from their raw bits (VT-d section 6.5.2).

use crate::event::{Domains, Invalidation, Span, Stage};

/// What a descriptor invalidates, of requests without PASID (which use PASID 0); `None` where that is nothing.
pub fn decode(low: u64, high: u64) -> Option<Invalidation> {
    let field = |shift: u32, bits: u32| low >> shift & ((1 << bits) - 1);
    let (kind, granularity, domain, pasid) = (field(0, 4), field(4, 2), field(16, 16) as u16, field(32, 20));
    let one = Domains::One(domain);
    let pages = Some(pages(high));
    match (kind, granularity) {
        // Context cache. Scalable-mode hardware ignores the domain id, so the domain-selective form promises nothing.
        (1, 1) => Some(Invalidation::StreamCache { id: 0, ignored: u32::MAX }),
        (1, 3) => {
            let ignored = [0b000, 0b100, 0b110, 0b111][field(48, 2) as usize];
            Some(Invalidation::StreamCache { id: field(32, 16) as u32, ignored })
        }
        // IOTLB. The page-selective form reaches second-stage and nested entries only.
        (2, 1) => Some(Invalidation::Tlb { domains: Domains::All, stage: None, range: None }),
        (2, 2) => Some(Invalidation::Tlb { domains: one, stage: None, range: None }),
        (2, 3) => Some(Invalidation::Tlb { domains: one, stage: Some(Stage::Second), range: pages }),
        // PASID-based IOTLB: first-stage entries.
        (6, 2) if pasid == 0 => Some(Invalidation::Tlb { domains: one, stage: Some(Stage::First), range: None }),
        (6, 3) if pasid == 0 => Some(Invalidation::Tlb { domains: one, stage: Some(Stage::First), range: pages }),
        // PASID cache.
        (7, 0) => Some(Invalidation::PasidCache(one)),
        (7, 1) if pasid == 0 => Some(Invalidation::PasidCache(one)),
        (7, 3) => Some(Invalidation::PasidCache(Domains::All)),
        _ => None,
    }
}

/// Whether a descriptor is for the PASID cache, whatever it reaches.
pub fn is_pasid_cache(low: u64) -> bool {
    low & 0xf == 7
}

/// The 2^AM pages of a page-selective descriptor.
fn pages(high: u64) -> Span {
    let bits = 12 + (high & 0x3f) as u32;
    let mask = 1u64.checked_shl(bits).map_or(u64::MAX, |size| size - 1);
    Span::block(high & !0xfff, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_a_real_trace() {
        assert_eq!(decode(0x11, 0), Some(Invalidation::StreamCache { id: 0, ignored: u32::MAX }));
        assert_eq!(decode(0x100_0000_0031, 0), Some(Invalidation::StreamCache { id: 0x100, ignored: 0 }));
        assert_eq!(decode(0x2_0020_0000_0031, 0), Some(Invalidation::StreamCache { id: 0x20, ignored: 0b110 }));
        let tlb = |domains, stage, range| Some(Invalidation::Tlb { domains, stage, range });
        assert_eq!(decode(0xd2, 0), tlb(Domains::All, None, None));
        assert_eq!(decode(0x200e2, 0), tlb(Domains::One(2), None, None));
        let pages = Some(Span { first: 0x20_0060_0000, last: 0x20_007f_ffff });
        assert_eq!(decode(0x200f2, 0x20_0060_0009), tlb(Domains::One(2), Some(Stage::Second), pages));
        assert_eq!(decode(0x20036, 0x20_0060_0049), tlb(Domains::One(2), Some(Stage::First), pages));
        assert_eq!(decode(0x20026, 0), tlb(Domains::One(2), Some(Stage::First), None));
        assert_eq!(decode(0x20017, 0), Some(Invalidation::PasidCache(Domains::One(2))));
        assert_eq!(decode(0x20007, 0), Some(Invalidation::PasidCache(Domains::One(2))));
        assert_eq!(decode(0x37, 0), Some(Invalidation::PasidCache(Domains::All)));
    }

    #[test]
    fn nothing_that_reaches_requests_without_pasid() {
        // A wait, another PASID's entries, context caches by domain, reserved granularities.
        for low in [0x1_0000_0025, 0x1_0002_0026, 0x1_0002_0036, 0x1_0002_0017, 0x20021, 0x2, 0x6, 0x27] {
            assert_eq!(decode(low, 0), None, "{low:#x}");
        }
    }

    #[test]
    fn a_mask_beyond_all_addresses() {
        assert_eq!(pages(63), Span { first: 0, last: u64::MAX });
        assert_eq!(pages(51), Span { first: 0, last: (1 << 63) - 1 });
    }
}
