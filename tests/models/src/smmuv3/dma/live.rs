//! Memory and caches as the unit's walks see them.

use crate::memory::TestMemory;
use crate::random::Random;
use crate::smmuv3::cache::Caches;
use crate::smmuv3::config::Config;
use crate::smmuv3::violation::Violation;
use crate::smmuv3::walk::{Cursor, Entry, Granule, Host, Order, Piece, Regime, View};
use alloc::boxed::Box;
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;

/// What is called after each word that a walk fetched, with the memory and the word's place: what it stores there, the
/// walk sees in the words that it fetches later.
///
/// It may do everything with the memory, and must not call the unit, which is in the middle of a request.
pub type FetchHook = Box<dyn FnMut(&TestMemory, &Piece) + Send>;

/// How the unit fetches structures, and how long it keeps them.
#[derive(Default)]
pub(in crate::smmuv3) struct Fetching {
    pub(in crate::smmuv3) order: Order,
    pub(in crate::smmuv3) random: Random,
    pub(in crate::smmuv3) hook: Option<FetchHook>,
    /// One lookup in so many loses entries of every cache.
    pub(in crate::smmuv3) evict: Option<usize>,
    /// Contiguous groups are kept leaf by leaf.
    pub(in crate::smmuv3) single: bool,
}

/// Memory behind the unit's caches, with the hook between two words.
pub(super) struct Live<'a> {
    pub(super) caches: &'a mut Caches,
    pub(super) memory: &'a TestMemory,
    pub(super) config: &'a Config,
    pub(super) violations: &'a mut Vec<Violation>,
    pub(super) fetching: &'a mut Fetching,
}

impl View for Live<'_> {
    fn word(&mut self, phys: u64) -> Option<u64> {
        self.memory.device_read64(PhysAddr::new(phys))
    }

    fn update(&mut self, phys: u64, old: u64, new: u64) -> Option<Result<(), u64>> {
        self.memory.device_update64(PhysAddr::new(phys), old, new)
    }

    fn fetched(&mut self, piece: &Piece) {
        if let Some(hook) = &mut self.fetching.hook {
            hook(self.memory, piece);
        }
    }

    fn order(&mut self) -> [usize; 8] {
        let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
        match self.fetching.order {
            Order::Ascending => {}
            Order::Descending => order.reverse(),
            Order::Shuffled(_) => {
                for left in (1..order.len()).rev() {
                    order.swap(left, self.fetching.random.below(left + 1));
                }
            }
        }
        order
    }

    fn groups(&self) -> bool {
        !self.fetching.single
    }

    fn groups_may_differ(&self) -> bool {
        self.config.bbml() >= 2
    }

    fn note(&mut self, violation: Violation) {
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    fn level1(&mut self, index: u32) -> Option<u64> {
        self.caches.level1.get(&index).copied()
    }

    fn keep_level1(&mut self, index: u32, descriptor: u64) {
        self.caches.level1.insert(index, descriptor);
    }

    fn ste(&mut self, sid: u32) -> Option<[u64; 8]> {
        self.caches.ste(sid)
    }

    fn keep_ste(&mut self, sid: u32, words: &[u64; 8]) {
        self.caches.stes.insert(sid, *words);
    }

    fn cd_level1(&mut self, sid: u32, leaf: u32, ssid: u32) -> Option<u64> {
        self.caches.cd_level1.get(&(sid, leaf, ssid >> leaf)).copied()
    }

    fn keep_cd_level1(&mut self, sid: u32, leaf: u32, ssid: u32, descriptor: u64) {
        self.caches.cd_level1.insert((sid, leaf, ssid >> leaf), descriptor);
    }

    fn cd(&mut self, sid: u32, ssid: u32) -> Option<[u64; 8]> {
        self.caches.cds.get(&(sid, ssid)).copied()
    }

    fn keep_cd(&mut self, sid: u32, ssid: u32, words: &[u64; 8]) {
        self.caches.cds.insert((sid, ssid), *words);
    }

    fn cursor(&mut self, regime: Regime, granule: Granule, input: u64) -> Option<Cursor> {
        self.caches.translations.cursor(regime, granule, input)
    }

    fn keep_cursor(&mut self, regime: Regime, granule: Granule, level: u8, input: u64, cursor: Cursor) {
        self.caches.translations.keep_cursor(regime, granule, level, input, cursor);
    }

    fn host(&mut self, regime: Regime, granule: Granule, level: u8, input: u64) -> Option<Host> {
        self.caches.translations.host(regime, granule, level, input)
    }

    fn keep_host(&mut self, regime: Regime, granule: Granule, level: u8, input: u64, host: Host) {
        self.caches.translations.keep_host(regime, granule, level, input, host);
    }

    fn entry(&mut self, regime: Regime, input: u64) -> Option<Entry> {
        self.caches.translations.entry(regime, input)
    }

    fn keep_entry(&mut self, regime: Regime, input: u64, entry: Entry) {
        let sizes_may_differ = self.config.bbml() >= 2;
        if let Some(violation) = self.caches.translations.keep_entry(regime, input, entry, sizes_may_differ) {
            self.note(violation);
        }
    }
}
