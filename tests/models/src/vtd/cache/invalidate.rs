//! What an invalidation covers: exactly what the specification's tables say, and nothing more.

use super::{CachedPasid, Caches};
use crate::vtd::descriptor::{Descriptor, Granularity};
use crate::vtd::walk::{Context, PasidEntry};

/// Bits of an address below an address mask: 2^mask pages, of which 2^52 are everything.
pub(in crate::vtd) fn span(mask: u8) -> u64 {
    0x1000u64.checked_shl(mask.into()).map_or(u64::MAX, |span| span.wrapping_sub(1))
}

/// Domain id with which entries are tagged that would fault (sections 6.2.2 and 6.2.3).
const FAULTING: u16 = 0;

impl CachedPasid {
    fn domain(&self) -> u16 {
        self.entry.as_ref().map_or(FAULTING, PasidEntry::domain)
    }
}

/// First stage, nested.
const fn goes_by_pasid(kind: u64) -> bool {
    matches!(kind, 1 | 3)
}

impl Caches {
    /// Drops what `descriptor` covers, and no more.
    pub(in crate::vtd) fn invalidate(&mut self, descriptor: &Descriptor, scalable: bool) {
        match *descriptor {
            Descriptor::ContextCache(granularity) => self.contexts.retain(|cached, entry| {
                let domain = entry.as_ref().ok().and_then(Context::domain).unwrap_or(FAULTING);
                // Section 6.5.2.1: in scalable mode there is no domain id to look at.
                !match granularity {
                    Granularity::Domain(own) => scalable || own == domain,
                    Granularity::Device { domain: own, source, mask } => {
                        cached & !mask == source & !mask && (scalable || own == domain)
                    }
                    _ => true,
                }
            }),
            Descriptor::PasidCache(granularity) => self.pasids.retain(|_, cached| match granularity {
                Granularity::Domain(domain) => cached.domain() != domain,
                Granularity::Pasid { domain, pasid } => (cached.domain(), cached.pasid) != (domain, pasid),
                _ => false,
            }),
            Descriptor::Iotlb { granularity, .. } => self.second_stage(granularity),
            Descriptor::PasidIotlb(granularity) => self.first_stage(granularity),
            _ => {}
        }
    }

    /// Table 23.
    fn second_stage(&mut self, granularity: Granularity) {
        self.translations.retain(|(_, bits, first), entry| match granularity {
            Granularity::Domain(domain) => entry.regime.domain != domain,
            Granularity::Pages { domain, address, mask, .. } => {
                entry.regime.domain != domain
                    || !goes_by_pasid(entry.regime.kind) && !overlaps(*first, (1 << bits) - 1, address, mask)
            }
            _ => false,
        });
        self.structures.second_stage(granularity);
    }

    /// Table 24.
    fn first_stage(&mut self, granularity: Granularity) {
        self.translations.retain(|(_, bits, first), entry| match granularity {
            Granularity::Pasid { domain, pasid } => (entry.regime.domain, entry.regime.pasid) != (domain, Some(pasid)),
            Granularity::Pages { domain, pasid, address, mask, .. } => {
                (entry.regime.domain, entry.regime.pasid) != (domain, pasid)
                    || !goes_by_pasid(entry.regime.kind)
                    || !overlaps(*first, (1 << bits) - 1, address, mask)
            }
            _ => true,
        });
        self.structures.first_stage(granularity);
    }
}

/// Whether what is below `first | bits` is touched by 2^mask pages from `address`.
pub(super) fn overlaps(first: u64, bits: u64, address: u64, mask: u8) -> bool {
    let span = span(mask);
    first <= address | span && address & !span <= first | bits
}
