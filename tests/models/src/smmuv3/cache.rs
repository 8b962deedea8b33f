//! The unit's caches, which keep what they may keep (sections 3.17, 3.21 and 16.2).
//!
//! Nothing is ever evicted: only an invalidation that covers an entry takes it away. Of the configuration entries that
//! are not valid are kept too. Translations are kept in leaves and, on the way to them, in descriptors of tables;
//! faults are not.

use super::command::{Command, Scope};
use super::walk::{Entry, Regime};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[derive(Default)]
pub(super) struct Caches {
    /// Level-1 stream table descriptors, by index.
    pub(super) level1: BTreeMap<u32, u64>,
    pub(super) stes: BTreeMap<u32, [u64; 8]>,
    /// By stream and substream.
    pub(super) cds: BTreeMap<(u32, u32), [u64; 8]>,
    /// Table descriptors by regime, level, and first address below them.
    steps: BTreeMap<(Regime, u8, u64), u64>,
    /// Leaves by regime, log2 of their size, and first address.
    entries: BTreeMap<(Regime, u32, u64), Entry>,
    /// SPLIT of the stream table, for which level-1 descriptor is a stream's.
    pub(super) split: u32,
}

/// Bytes below a descriptor of `level`, less one.
const fn mask(level: u8) -> u64 {
    (1 << (39 - 9 * level as u32)) - 1
}

/// The same regime for global entries; `None` for stage 2.
const fn global(regime: Regime) -> Option<Regime> {
    match regime {
        Regime::First { el2, vmid, .. } => Some(Regime::First { el2, vmid, asid: None }),
        Regime::Second { .. } => None,
    }
}

impl Caches {
    /// Number of entries: STEs, CDs, translations.
    pub(super) fn len(&self) -> [usize; 3] {
        [self.stes.len(), self.cds.len(), self.entries.len()]
    }

    /// The first address of each translation, whatever tags it.
    pub(super) fn inputs(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.entries.keys().map(|(_, _, first)| *first).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(super) fn step(&self, regime: Regime, level: u8, input: u64) -> Option<u64> {
        self.steps.get(&(regime, level, input & !mask(level))).copied()
    }

    pub(super) fn keep_step(&mut self, regime: Regime, level: u8, input: u64, descriptor: u64) {
        self.steps.insert((regime, level, input & !mask(level)), descriptor);
    }

    /// The translation for `input`, the smallest where there are several.
    pub(super) fn entry(&self, regime: Regime, input: u64) -> Option<Entry> {
        let find = |regime| {
            [12, 21, 30].iter().find_map(|bits| self.entries.get(&(regime, *bits, input >> bits << bits)).copied())
        };
        find(regime).or_else(|| find(global(regime)?))
    }

    /// Keeps a translation; whether another for the same address was there already.
    pub(super) fn keep_entry(&mut self, regime: Regime, input: u64, entry: Entry) -> bool {
        let bits = entry.size.trailing_zeros();
        let (first, last) = (input & !(entry.size - 1), input | (entry.size - 1));
        let conflict = self.entries.iter().any(|((other, size, start), _)| {
            *other == regime && *size != bits && *start <= last && first <= start + ((1 << size) - 1)
        });
        self.entries.insert((regime, bits, first), entry);
        conflict
    }

    /// Drops what `command` covers, and no more.
    pub(super) fn invalidate(&mut self, command: &Command) {
        match *command {
            Command::ConfigAll => {
                self.level1.clear();
                self.stes.clear();
                self.cds.clear();
            }
            Command::ConfigSte { sid, leaf } => {
                self.configuration(sid, sid);
                if !leaf {
                    self.level1.remove(&(sid >> self.split));
                }
            }
            Command::ConfigRange { sid, log2 } => {
                let (first, last) = (u64::from(sid) >> log2 << log2, u64::from(sid) | ((1 << log2) - 1));
                let last = u32::try_from(last).unwrap_or(u32::MAX);
                self.configuration(first as u32, last);
                let split = self.split;
                self.level1.retain(|index, _| *index < first as u32 >> split || *index > last >> split);
            }
            Command::ConfigCd { sid, ssid, .. } => {
                self.cds.remove(&(sid, ssid));
            }
            Command::ConfigCdAll { sid } => self.cds.retain(|(cached, _), _| *cached != sid),
            Command::TlbiEverything => {
                self.drop_all(|regime| !matches!(regime, Regime::First { el2: true, .. }));
            }
            Command::TlbiAll { vmid } => {
                self.drop_all(|regime| matches!(regime, Regime::First { el2: false, vmid: own, .. } if own == vmid));
            }
            Command::TlbiAsid { vmid, asid } => {
                self.drop_all(|regime| regime == Regime::First { el2: false, vmid, asid: Some(asid) });
            }
            Command::TlbiVmid { vmid } => self.drop_all(|regime| match regime {
                Regime::First { el2, vmid: own, .. } => !el2 && own == vmid,
                Regime::Second { vmid: own } => own == vmid,
            }),
            Command::TlbiEl2All => self.drop_all(|regime| matches!(regime, Regime::First { el2: true, .. })),
            Command::TlbiEl2Asid { asid } => {
                self.drop_all(|regime| regime == Regime::First { el2: true, vmid: 0, asid: Some(asid) });
            }
            Command::TlbiVa { vmid, asid, scope } => self.drop_scope(&scope, |regime| of(regime, false, vmid, asid)),
            Command::TlbiEl2Va { asid, scope } => self.drop_scope(&scope, |regime| of(regime, true, 0, asid)),
            Command::TlbiIpa { vmid, scope } => self.drop_scope(&scope, |regime| regime == Regime::Second { vmid }),
            _ => {}
        }
    }

    /// Drops STEs, and the CDs that were fetched through them.
    fn configuration(&mut self, first: u32, last: u32) {
        self.stes.retain(|sid, _| !(first..=last).contains(sid));
        self.cds.retain(|(sid, _), _| !(first..=last).contains(sid));
    }

    fn drop_all(&mut self, covers: impl Fn(Regime) -> bool) {
        self.steps.retain(|(regime, ..), _| !covers(*regime));
        self.entries.retain(|(regime, ..), _| !covers(*regime));
    }

    fn drop_scope(&mut self, scope: &Scope, covers: impl Fn(Regime) -> bool) {
        // Only the 4 KiB granule is ever cached.
        if !matches!(scope.granule, 0 | 12) {
            return;
        }
        let last = scope.len.map_or(scope.address, |len| scope.address.saturating_add(len - 1));
        let meets = |start: u64, mask: u64| start <= last && scope.address <= start + mask;
        self.entries.retain(|(regime, bits, start), entry| {
            let level = scope.level == 0 || scope.level == entry.level;
            !(covers(*regime) && level && meets(*start, (1 << bits) - 1))
        });
        if !scope.leaf_only {
            self.steps.retain(|(regime, level, start), _| !(covers(*regime) && meets(*start, mask(*level))));
        }
    }
}

/// Whether `regime` is the one of this stage 1, with the ASID, or global; `None` is every ASID.
fn of(regime: Regime, el2: bool, vmid: u16, asid: Option<u16>) -> bool {
    match regime {
        Regime::First { el2: own_el2, vmid: own_vmid, asid: own } => {
            (own_el2, own_vmid) == (el2, vmid) && (asid.is_none() || own.is_none() || asid == own)
        }
        Regime::Second { .. } => false,
    }
}
