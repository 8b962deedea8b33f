//! Invalidation descriptors, from their raw bits (VT-d section 6.5.2).

use crate::dialect::Mode;
use crate::event::{Domains, Invalidation, Span, Stage};

/// What a descriptor invalidates on a unit in `mode`; `None` where that is nothing that the checks are about. Requests
/// without PASID use PASID 0.
pub fn decode(low: u64, high: u64, mode: Mode) -> Option<Invalidation> {
    let field = |shift: u32, bits: u32| low >> shift & ((1 << bits) - 1);
    let (kind, granularity, domain, pasid) = (field(0, 4), field(4, 2), field(16, 16) as u16, field(32, 20));
    let one = Domains::One(domain);
    let (pages, pasid) = (Some(pages(high)), Some(pasid as u32));
    let tlb = |domains, stage, range, pasid| Some(Invalidation::Tlb { domains, stage, range, pasid });
    let first = Some(Stage::First);
    // Entries of the context cache have the domain as a tag in legacy mode. Scalable-mode hardware ignores it.
    let (tagged, legacy) = if mode == Mode::Legacy { (one, true) } else { (Domains::All, false) };
    match (kind, granularity) {
        // Context cache.
        (1, 1) => Some(Invalidation::StreamCache { id: 0, ignored: u32::MAX, domains: Domains::All }),
        // In scalable mode this form promises nothing.
        (1, 2) if legacy => Some(Invalidation::StreamCache { id: 0, ignored: u32::MAX, domains: one }),
        (1, 3) => {
            let ignored = [0b000, 0b100, 0b110, 0b111][field(48, 2) as usize];
            Some(Invalidation::StreamCache { id: field(32, 16) as u32, ignored, domains: tagged })
        }
        // IOTLB. The page-selective form reaches second-stage and nested entries only.
        (2, 1) => tlb(Domains::All, None, None, None),
        (2, 2) => tlb(one, None, None, None),
        (2, 3) => tlb(one, Some(Stage::Second), pages, None),
        // PASID-based IOTLB: first-stage entries.
        (6, 2) if !legacy => tlb(one, first, None, pasid),
        (6, 3) if !legacy => tlb(one, first, pages, pasid),
        // PASID cache.
        (7, 0) if !legacy => Some(Invalidation::PasidCache { domains: one, pasid: None }),
        (7, 1) if !legacy => Some(Invalidation::PasidCache { domains: one, pasid }),
        (7, 3) if !legacy => Some(Invalidation::PasidCache { domains: Domains::All, pasid: None }),
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

    fn decode(low: u64, high: u64) -> Option<Invalidation> {
        super::decode(low, high, Mode::Scalable(Stage::Second))
    }

    fn in_legacy(low: u64) -> Option<Invalidation> {
        super::decode(low, 0, Mode::Legacy)
    }

    fn of_stream(id: u32, ignored: u32, domains: Domains) -> Option<Invalidation> {
        Some(Invalidation::StreamCache { id, ignored, domains })
    }

    fn of_pasid(domains: Domains, pasid: Option<u32>) -> Option<Invalidation> {
        Some(Invalidation::PasidCache { domains, pasid })
    }

    #[test]
    fn descriptors_of_a_real_trace() {
        let all = Domains::All;
        assert_eq!(decode(0x11, 0), of_stream(0, u32::MAX, all));
        assert_eq!(decode(0x100_0000_0031, 0), of_stream(0x100, 0, all));
        assert_eq!(decode(0x2_0020_0000_0031, 0), of_stream(0x20, 0b110, all));
        let tlb = |domains, stage, range, pasid| Some(Invalidation::Tlb { domains, stage, range, pasid });
        let (two, first) = (Domains::One(2), Some(Stage::First));
        assert_eq!(decode(0xd2, 0), tlb(all, None, None, None));
        assert_eq!(decode(0x200e2, 0), tlb(two, None, None, None));
        let pages = Some(Span { first: 0x20_0060_0000, last: 0x20_007f_ffff });
        assert_eq!(decode(0x200f2, 0x20_0060_0009), tlb(two, Some(Stage::Second), pages, None));
        assert_eq!(decode(0x20036, 0x20_0060_0049), tlb(two, first, pages, Some(0)));
        assert_eq!(decode(0x20026, 0), tlb(two, first, None, Some(0)));
        assert_eq!(decode(0xf_2345_0002_0026, 0), tlb(two, first, None, Some(0xf_2345)));
        assert_eq!(decode(0x20017, 0), of_pasid(two, Some(0)));
        assert_eq!(decode(0x1_2345_0002_0017, 0), of_pasid(two, Some(0x1_2345)));
        assert_eq!(decode(0x20007, 0), of_pasid(two, None));
        assert_eq!(decode(0x37, 0), of_pasid(all, None));
    }

    #[test]
    fn legacy_mode_tags_contexts_with_domains_and_knows_no_pasids() {
        assert_eq!(in_legacy(0x11), of_stream(0, u32::MAX, Domains::All));
        assert_eq!(in_legacy(0x20_0002_0031), of_stream(0x20, 0, Domains::One(2)));
        assert_eq!(in_legacy(0x20021), of_stream(0, u32::MAX, Domains::One(2)));
        for low in [0x20026, 0x20036, 0x20017, 0x20007, 0x37] {
            assert_eq!(in_legacy(low), None, "{low:#x}");
        }
    }

    #[test]
    fn nothing_that_reaches_anything() {
        // A wait, context caches by domain, reserved granularities.
        for low in [0x1_0000_0025, 0x20021, 0x2, 0x6, 0x27] {
            assert_eq!(decode(low, 0), None, "{low:#x}");
        }
    }

    #[test]
    fn a_mask_beyond_all_addresses() {
        assert_eq!(pages(63), Span { first: 0, last: u64::MAX });
        assert_eq!(pages(51), Span { first: 0, last: (1 << 63) - 1 });
    }
}
