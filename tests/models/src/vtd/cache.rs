//! The unit's caches, which keep what they may keep (section 6.2).
//!
//! Nothing is evicted unless a switch asks for it: only an invalidation that covers an entry takes it away. Entries that
//! are not present are kept only with CAP.CM (section 6.1), and never from the first stage.

mod domains;
mod invalidate;
mod structures;

use super::walk::{Context, Leaf, PasidEntry, Refused, Regime};
use crate::random::Random;
use alloc::collections::BTreeMap;
pub(super) use invalidate::span;
pub(super) use structures::{Owner, Structures};

/// A translation in the IOTLB, or with caching mode the lack of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Translation {
    /// What it was found in: domain id and PASID tag it, and the kind says which invalidations cover it.
    pub(super) regime: Regime,
    pub(super) found: Result<Leaf, Refused>,
}

/// An entry of the PASID cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CachedPasid {
    /// The PASID that was looked for, which for a request without one is RID_PASID.
    pub(super) pasid: u32,
    pub(super) entry: Result<PasidEntry, Refused>,
    /// What the entry asks for, where it is present.
    pub(super) regime: Option<Regime>,
}

/// What a request is tagged with: source id, PASID.
pub(super) type Tag = (u16, Option<u32>);

/// Leaf sizes, as powers of two.
const SIZES: [u32; 3] = [12, 21, 30];

#[derive(Default)]
pub(super) struct Caches {
    pub(super) contexts: BTreeMap<u16, Result<Context, Refused>>,
    /// By source id and PASID: requests without one use the entry of RID_PASID (section 6.2.1).
    pub(super) pasids: BTreeMap<(u16, u32), CachedPasid>,
    pub(super) structures: Structures,
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

    /// Loses an entry of each cache, which hardware may do at any moment.
    pub(super) fn evict(&mut self, random: &mut Random) {
        evict_one(&mut self.contexts, random);
        evict_one(&mut self.pasids, random);
        evict_one(&mut self.translations, random);
        self.structures.evict(random);
    }
}

fn evict_one<K: Ord + Copy, V>(cache: &mut BTreeMap<K, V>, random: &mut Random) {
    if cache.is_empty() {
        return;
    }
    let chosen = random.below(cache.len());
    if let Some(key) = cache.keys().nth(chosen).copied() {
        cache.remove(&key);
    }
}
