//! Translations: leaves, and what leads to tables, of stage 1, stage 2, and stage 1 through stage 2.
//!
//! Of nested translation both stages are kept in one: a leaf of stage 1 with where stage 2 put it, and a table of stage 1
//! with where stage 2 put that. What drops stage 2 alone does not drop these (section 4.4.3.1).

use super::evict_one;
use crate::random::Random;
use crate::smmuv3::command::Scope;
use crate::smmuv3::violation::Violation;
use crate::smmuv3::walk::{Cursor, Entry, Granule, Host, Regime};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[derive(Default)]
pub(in crate::smmuv3) struct Translations {
    /// Where table descriptors lead, by regime, granule, level of the descriptor, and first address below it.
    cursors: BTreeMap<(Regime, Granule, u8, u64), Cursor>,
    /// Where stage 2 put tables of stage 1, by regime, granule, level of the table, and first address below those 4 KiB
    /// of it.
    hosts: BTreeMap<(Regime, Granule, u8, u64), Host>,
    /// Leaves by regime, log2 of their size, and first address.
    entries: BTreeMap<(Regime, u32, u64), Entry>,
    /// Sizes that there are or were, as bits.
    sizes: u64,
}

/// The same regime for global entries; `None` for stage 2.
const fn global(regime: Regime) -> Option<Regime> {
    match regime {
        Regime::First { el2, vmid, .. } => Some(Regime::First { el2, vmid, asid: None }),
        Regime::Second { .. } => None,
    }
}

const fn down(address: u64, bits: u32) -> u64 {
    address >> bits << bits
}

/// log2 of what 4 KiB of a table of `level` maps.
const fn part(granule: Granule, level: u8) -> u32 {
    granule.shift(level) + 9
}

impl Translations {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn inputs(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.entries.keys().map(|(_, _, first)| *first).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Below the lowest descriptor that is held: with one, none of those above is looked at again.
    pub(in crate::smmuv3) fn cursor(&self, regime: Regime, granule: Granule, input: u64) -> Option<Cursor> {
        let key = |level| (regime, granule, level, down(input, granule.shift(level)));
        (0..3).rev().find_map(|level| self.cursors.get(&key(level)).copied())
    }

    pub(in crate::smmuv3) fn keep_cursor(
        &mut self,
        regime: Regime,
        granule: Granule,
        level: u8,
        input: u64,
        to: Cursor,
    ) {
        self.cursors.insert((regime, granule, level, down(input, granule.shift(level))), to);
    }

    pub(in crate::smmuv3) fn host(&self, regime: Regime, granule: Granule, level: u8, input: u64) -> Option<Host> {
        self.hosts.get(&(regime, granule, level, down(input, part(granule, level)))).copied()
    }

    pub(in crate::smmuv3) fn keep_host(&mut self, regime: Regime, granule: Granule, level: u8, input: u64, host: Host) {
        self.hosts.insert((regime, granule, level, down(input, part(granule, level))), host);
    }

    /// The translation for `input`, the smallest where there are several.
    pub(in crate::smmuv3) fn entry(&self, regime: Regime, input: u64) -> Option<Entry> {
        let find = |regime| {
            let mut sizes = (0..64).filter(|bits| self.sizes >> bits & 1 != 0);
            sizes.find_map(|bits| self.entries.get(&(regime, bits, down(input, bits))).copied())
        };
        find(regime).or_else(|| find(global(regime)?))
    }

    /// Keeps a translation. What was done wrong where another for the same address is still there: one of another size
    /// (unless `sizes_may_differ`), or one that leads elsewhere.
    pub(in crate::smmuv3) fn keep_entry(
        &mut self,
        regime: Regime,
        input: u64,
        entry: Entry,
        sizes_may_differ: bool,
    ) -> Option<Violation> {
        let bits = entry.bits;
        let (first, last) = (down(input, bits), input | entry.mask());
        // One that it lies in, or one that lies in it.
        let meets = |size: u32| match size > bits {
            true => self.entries.contains_key(&(regime, size, down(input, size))),
            false => self.entries.range((regime, size, first)..=(regime, size, last)).next().is_some(),
        };
        let mut sizes = (0..64).filter(|size| self.sizes >> size & 1 != 0 && *size != bits);
        let other_size = !sizes_may_differ && sizes.any(meets);
        self.sizes |= 1 << bits;
        let before = self.entries.insert((regime, bits, first), entry);
        if other_size {
            return Some(Violation::Conflict { iova: input });
        }
        before.filter(|before| before.phys != entry.phys).map(|_| Violation::Changed { iova: input })
    }

    pub(super) fn drop_all(&mut self, covers: impl Fn(Regime) -> bool) {
        self.cursors.retain(|(regime, ..), _| !covers(*regime));
        self.hosts.retain(|(regime, ..), _| !covers(*regime));
        self.entries.retain(|(regime, ..), _| !covers(*regime));
    }

    /// Drops what an invalidation by address must drop (section 4.4.1). One whose address is not aligned for its level may
    /// drop nothing, which is noted.
    pub(super) fn drop_scope(&mut self, scope: &Scope, covers: impl Fn(Regime) -> bool) -> Option<Violation> {
        let (granule, address) = (scope.granule, scope.address);
        // Level 1 of 16 KiB has no leaves, and is taken as none.
        let level = if granule == 14 && scope.level == 1 { 0 } else { scope.level };
        if granule != 0 {
            let size = Granule(granule).shift(if level == 0 { 3 } else { level });
            if down(address, size) != address {
                return Some(Violation::RangeMisaligned { address, granule, level });
            }
        }
        let last = scope.len.map_or(address, |len| address.saturating_add(len - 1));
        let meets = |start: u64, bits: u32| start <= last && address <= start + ((1 << bits) - 1);
        let of = |own: Granule| granule == 0 || u32::from(granule) == own.bits();
        self.entries.retain(|(regime, _, first), entry| {
            let at_level = level == 0 || level == entry.level;
            !(covers(*regime) && of(entry.granule) && at_level && meets(down(*first, entry.reach), entry.reach))
        });
        if scope.leaf_only {
            return None;
        }
        // With a level, descriptors above it; a table belongs to the descriptor that leads to it.
        self.cursors.retain(|(regime, own, at, first), _| {
            let above = level == 0 || *at < level;
            !(covers(*regime) && of(*own) && above && meets(*first, own.shift(*at)))
        });
        self.hosts.retain(|(regime, own, at, first), _| {
            let above = level == 0 || *at <= level;
            !(covers(*regime) && of(*own) && above && meets(*first, part(*own, *at)))
        });
        None
    }

    pub(super) fn evict(&mut self, random: &mut Random) {
        evict_one(&mut self.cursors, random);
        evict_one(&mut self.hosts, random);
        evict_one(&mut self.entries, random);
    }
}
