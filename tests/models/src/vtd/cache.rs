//! The unit's caches, which keep what they may keep (section 6.2).
//!
//! Nothing is ever evicted: only an invalidation that covers an entry takes it away. Entries that are not present are
//! kept only with CAP.CM (section 6.1), and never from the first stage.

use super::descriptor::{Descriptor, Granularity};
use super::walk::{Context, Leaf, PasidEntry, Refused, Regime};
use alloc::collections::BTreeMap;

/// A translation in the IOTLB, or with caching mode the lack of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Translation {
    /// What it was found in: domain id and PASID tag it, and the kind says which invalidations cover it.
    pub(super) regime: Regime,
    pub(super) found: Result<Leaf, Refused>,
}

/// What a request is tagged with: source id, PASID.
type Tag = (u16, Option<u32>);

/// Leaf sizes, as powers of two.
const SIZES: [u32; 3] = [12, 21, 30];

#[derive(Default)]
pub(super) struct Caches {
    pub(super) contexts: BTreeMap<u16, Result<Context, Refused>>,
    pub(super) pasids: BTreeMap<Tag, Result<PasidEntry, Refused>>,
    /// By tag, leaf size (a power of two) and address of the leaf's first byte.
    translations: BTreeMap<(Tag, u32, u64), Translation>,
}

impl Caches {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Number of entries: contexts, PASIDs, translations.
    pub(super) fn len(&self) -> [usize; 3] {
        [self.contexts.len(), self.pasids.len(), self.translations.len()]
    }

    /// The translation for `iova`, with the size of its leaf.
    pub(super) fn find(&self, tag: Tag, iova: u64) -> Option<(Translation, u64)> {
        SIZES.iter().find_map(|bits| {
            let found = self.translations.get(&(tag, *bits, iova >> bits << bits))?;
            Some((*found, 1 << bits))
        })
    }

    pub(super) fn insert(&mut self, tag: Tag, iova: u64, size: u64, translation: Translation) {
        let bits = size.trailing_zeros();
        self.translations.insert((tag, bits, iova >> bits << bits), translation);
    }

    /// Drops what `descriptor` covers, and no more.
    pub(super) fn invalidate(&mut self, descriptor: &Descriptor) {
        match *descriptor {
            Descriptor::ContextCache(Granularity::Global) => self.contexts.clear(),
            // The domain id is not looked at in scalable mode.
            Descriptor::ContextCache(Granularity::Device { source, mask, .. }) => {
                self.contexts.retain(|cached, _| cached & !mask != source & !mask);
            }
            Descriptor::PasidCache(Granularity::Global) => self.pasids.clear(),
            // Entries that are not present carry no domain id of their own, so no domain covers them.
            Descriptor::PasidCache(Granularity::Domain(domain)) => {
                self.pasids.retain(|_, entry| entry.is_ok_and(|entry| entry.domain() != domain) || entry.is_err());
            }
            Descriptor::PasidCache(Granularity::Pasid { domain, pasid }) => {
                self.pasids.retain(|(_, tag), entry| match entry {
                    Ok(entry) => (entry.domain(), entry.pasid) != (domain, pasid),
                    // Whatever the domain id; without PASID in the request it could be any.
                    Err(_) => tag.is_some_and(|tag| tag != pasid),
                });
            }
            Descriptor::Iotlb { granularity, .. } => {
                self.retain(|kind| kind == 2 || kind == 3, granularity);
            }
            Descriptor::PasidIotlb(granularity) => self.retain(|kind| kind != 2, granularity),
            _ => {}
        }
    }

    /// Keeps translations that `granularity` does not cover, and those that are none of this invalidation's.
    fn retain(&mut self, concerns: impl Fn(u64) -> bool, granularity: Granularity) {
        self.translations.retain(|(_, bits, first), entry| {
            let last = first + ((1 << bits) - 1);
            let covered = match granularity {
                Granularity::Global => return false,
                Granularity::Domain(domain) => entry.regime.domain == domain,
                Granularity::Pasid { domain, pasid } => {
                    (entry.regime.domain, entry.regime.pasid) == (domain, Some(pasid))
                }
                Granularity::Pages { domain, pasid, address, mask, .. } => {
                    // 2^mask pages; 2^52 of them are everything.
                    let span = 0x1000u64.checked_shl(mask.into()).map_or(u64::MAX, |span| span.wrapping_sub(1));
                    let (from, to) = (address & !span, address | span);
                    entry.regime.domain == domain
                        && pasid.is_none_or(|pasid| Some(pasid) == entry.regime.pasid)
                        && *first <= to
                        && from <= last
                }
                Granularity::Device { .. } => false,
            };
            !(covered && concerns(entry.regime.kind))
        });
    }
}
