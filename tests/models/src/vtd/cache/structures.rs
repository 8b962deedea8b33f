//! Paging-structure caches (section 6.2.5): where walks may begin.
//!
//! An entry holds everything that a walk knows once it has used an entry of its level: with one of the lowest level, none
//! of those above is looked at again. In nested translation it holds where the second stage put the next table.

use super::evict_one;
use crate::random::Random;
use crate::vtd::descriptor::Granularity;
use crate::vtd::walk::{Cursor, Refused, Stage, Step};
use alloc::collections::BTreeMap;

/// Whose entries: the first stage goes by domain id and PASID, the second by domain id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::vtd) struct Owner {
    stage: Stage,
    domain: u16,
    /// 0 in the second stage.
    pasid: u32,
}

impl Owner {
    pub(in crate::vtd) const fn first(domain: u16, pasid: u32) -> Self {
        Self { stage: Stage::First, domain, pasid }
    }

    pub(in crate::vtd) const fn second(domain: u16) -> Self {
        Self { stage: Stage::Second, domain, pasid: 0 }
    }
}

/// Deepest tables that there are.
const TOP: u32 = 5;

/// Bits of the input below an entry of `level`.
const fn below(level: u32) -> u64 {
    (1 << (3 + 9 * level)) - 1
}

#[derive(Default)]
pub(in crate::vtd) struct Structures {
    /// By owner, level of the entry, and first address below it: where it leads.
    tables: BTreeMap<(Owner, u32, u64), Cursor>,
    /// With caching mode: what faulted in the second stage.
    faulting: BTreeMap<(Owner, u32, u64), Refused>,
}

impl Structures {
    /// Number of entries that lead to tables: first stage, second stage.
    pub(in crate::vtd) fn len(&self) -> [usize; 2] {
        let first = self.tables.keys().filter(|(owner, ..)| owner.stage == Stage::First).count();
        [first, self.tables.len() - first]
    }

    /// Where a walk for `input` begins: below the lowest entry that is held.
    pub(in crate::vtd) fn resume(&self, owner: Owner, input: u64) -> Option<Cursor> {
        (2..=TOP).find_map(|level| self.tables.get(&(owner, level, input & !below(level))).copied())
    }

    /// Keeps an entry that leads to a table.
    pub(in crate::vtd) fn keep(&mut self, owner: Owner, step: &Step) {
        if let Some(next) = step.next {
            self.tables.insert((owner, step.level, step.input & !below(step.level)), next);
        }
    }

    /// Why a walk for `input` ends above its leaf, where that is held.
    pub(in crate::vtd) fn fault(&self, owner: Owner, input: u64) -> Option<Refused> {
        (2..=TOP).find_map(|level| self.faulting.get(&(owner, level, input & !below(level))).copied())
    }

    /// Keeps an entry that is not present or broken, at a level above the lowest.
    pub(in crate::vtd) fn keep_fault(&mut self, owner: Owner, level: u32, input: u64, refused: Refused) {
        if level > 1 {
            self.faulting.insert((owner, level, input & !below(level)), refused);
        }
    }

    /// Drops what an invalidation of type 2 covers (table 23).
    pub(super) fn second_stage(&mut self, granularity: Granularity) {
        self.drop_covered(|owner, level, first| match granularity {
            Granularity::Domain(domain) => owner.domain == domain,
            Granularity::Pages { domain, address, mask, leaf_only, .. } => {
                let second = owner.stage == Stage::Second;
                let covered = !second || !leaf_only && super::invalidate::overlaps(first, below(level), address, mask);
                owner.domain == domain && covered
            }
            _ => true,
        });
    }

    /// Drops what an invalidation of type 6 covers (table 24): nothing of the second stage.
    pub(super) fn first_stage(&mut self, granularity: Granularity) {
        self.drop_covered(|owner, level, first| {
            owner.stage == Stage::First
                && match granularity {
                    Granularity::Pasid { domain, pasid } => (owner.domain, owner.pasid) == (domain, pasid),
                    Granularity::Pages { domain, pasid, address, mask, leaf_only } => {
                        (owner.domain, Some(owner.pasid)) == (domain, pasid)
                            && !leaf_only
                            && super::invalidate::overlaps(first, below(level), address, mask)
                    }
                    _ => false,
                }
        });
    }

    fn drop_covered(&mut self, covered: impl Fn(&Owner, u32, u64) -> bool) {
        self.tables.retain(|(owner, level, first), _| !covered(owner, *level, *first));
        self.faulting.retain(|(owner, level, first), _| !covered(owner, *level, *first));
    }

    pub(super) fn evict(&mut self, random: &mut Random) {
        evict_one(&mut self.tables, random);
        evict_one(&mut self.faulting, random);
    }
}
