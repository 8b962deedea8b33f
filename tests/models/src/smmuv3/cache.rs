//! The unit's caches, which keep what they may keep (sections 3.17, 3.21, 4.4, 5.4.1 and 16.2).
//!
//! Nothing is evicted unless a switch asks for it: only an invalidation that covers an entry takes it away, and none takes
//! more than it must. Of the configuration, entries that are not valid are kept too. Translations are kept in leaves and,
//! on the way to them, in what leads to tables; faults are not, but the translation that refused an access may be.

mod translations;

use super::command::Command;
use super::violation::Violation;
use super::walk::Regime;
use crate::random::Random;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use translations::Translations;

#[derive(Default)]
pub(super) struct Caches {
    /// Level-1 stream table descriptors, by index.
    pub(super) level1: BTreeMap<u32, u64>,
    pub(super) stes: BTreeMap<u32, [u64; 8]>,
    /// Level-1 CD descriptors, by stream, log2 of the CDs below, and index.
    pub(super) cd_level1: BTreeMap<(u32, u32, u32), u64>,
    /// By stream and substream.
    pub(super) cds: BTreeMap<(u32, u32), [u64; 8]>,
    pub(super) translations: Translations,
    /// SPLIT of the stream table, for which level-1 descriptor is a stream's.
    pub(super) split: u32,
}

impl Caches {
    /// Whether an STE with EATS of 2 is cached.
    pub(super) fn split_stage(&self) -> bool {
        self.stes.values().any(|ste| ste[0] & 1 != 0 && ste[1] >> 28 & 3 == 2)
    }

    /// Number of entries: STEs, CDs, translations.
    pub(super) fn len(&self) -> [usize; 3] {
        [self.stes.len(), self.cds.len(), self.translations.len()]
    }

    /// The first address of each translation, whatever tags it.
    pub(super) fn inputs(&self) -> Vec<u64> {
        self.translations.inputs()
    }

    /// The STE of `sid`: its own, or that of a neighbour which says by CONT that they are alike.
    pub(super) fn ste(&self, sid: u32) -> Option<[u64; 8]> {
        let own = self.stes.get(&sid);
        let near = || {
            let alike = |(other, words): &(&u32, &[u64; 8])| {
                words[0] & 1 != 0 && (**other ^ sid) >> (words[1] >> 13 & 0xf) == 0
            };
            self.stes.iter().find(alike).map(|(_, words)| words)
        };
        own.or_else(near).copied()
    }

    /// Drops what `command` covers, and no more.
    pub(super) fn invalidate(&mut self, command: &Command) -> Option<Violation> {
        let translations = &mut self.translations;
        match *command {
            Command::ConfigAll => {
                self.level1.clear();
                self.stes.clear();
                self.cd_level1.clear();
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
            Command::ConfigCd { sid, ssid, leaf } => {
                self.cds.remove(&(sid, ssid));
                if !leaf {
                    self.cd_level1.retain(|(own, leaf, index), _| *own != sid || *index != ssid >> leaf);
                }
            }
            Command::ConfigCdAll { sid } => {
                self.cd_level1.retain(|(own, ..), _| *own != sid);
                self.cds.retain(|(own, _), _| *own != sid);
            }
            Command::TlbiEverything => {
                translations.drop_all(|regime| !matches!(regime, Regime::First { el2: true, .. }));
            }
            Command::TlbiAll { vmid } => translations
                .drop_all(|regime| matches!(regime, Regime::First { el2: false, vmid: own, .. } if own == vmid)),
            Command::TlbiAsid { vmid, asid } => {
                translations.drop_all(|regime| regime == Regime::First { el2: false, vmid, asid: Some(asid) });
            }
            Command::TlbiVmid { vmid } => translations.drop_all(|regime| match regime {
                Regime::First { el2, vmid: own, .. } => !el2 && own == vmid,
                Regime::Second { vmid: own } => own == vmid,
            }),
            Command::TlbiEl2All => {
                translations.drop_all(|regime| matches!(regime, Regime::First { el2: true, .. }));
            }
            Command::TlbiEl2Asid { asid } => {
                translations.drop_all(|regime| regime == Regime::First { el2: true, vmid: 0, asid: Some(asid) });
            }
            Command::TlbiVa { vmid, asid, scope } => {
                return translations.drop_scope(&scope, |regime| of(regime, false, vmid, asid));
            }
            Command::TlbiEl2Va { asid, scope } => {
                return translations.drop_scope(&scope, |regime| of(regime, true, 0, asid));
            }
            Command::TlbiIpa { vmid, scope } => {
                return translations.drop_scope(&scope, |regime| regime == Regime::Second { vmid });
            }
            _ => {}
        }
        None
    }

    /// Drops STEs, and the CDs that were fetched through them, level-1 descriptors of CDs included.
    fn configuration(&mut self, first: u32, last: u32) {
        self.stes.retain(|sid, _| !(first..=last).contains(sid));
        self.cd_level1.retain(|(sid, ..), _| !(first..=last).contains(sid));
        self.cds.retain(|(sid, _), _| !(first..=last).contains(sid));
    }

    /// Loses one entry of each kind.
    pub(super) fn evict(&mut self, random: &mut Random) {
        evict_one(&mut self.level1, random);
        evict_one(&mut self.stes, random);
        evict_one(&mut self.cd_level1, random);
        evict_one(&mut self.cds, random);
        self.translations.evict(random);
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

fn evict_one<K: Ord + Copy, V>(cache: &mut BTreeMap<K, V>, random: &mut Random) {
    if cache.is_empty() {
        return;
    }
    let chosen = random.below(cache.len());
    if let Some(key) = cache.keys().nth(chosen).copied() {
        cache.remove(&key);
    }
}
