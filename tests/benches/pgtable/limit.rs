//! What no page table can be faster than: loads, checks and stores of the entries and nothing else.

use crate::bits::{ADDRESS, Bits};
use crate::common::host::{FRAME, Host};
use crate::ours::Ours;
use crate::work::{Slot, Table, Work};
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of a table.
const ENTRIES: usize = 512;
/// Levels of every table that is measured.
pub const LEVELS: u8 = 4;

/// The entries of the table at `phys`.
#[inline]
fn table<'t, const OFFSET: u64>(phys: u64) -> &'t [AtomicU64; ENTRIES] {
    // SAFETY: the callers hold the frame, aligned and full of entries, for as long as they keep the view; nobody reaches
    // it but by atomics.
    unsafe { &*Host::<OFFSET>::pointer(phys).cast() }
}

/// The entry of `level` that translates `iova`: load, check, next table.
#[inline]
pub fn walk<'t, const OFFSET: u64, F: Bits>(root: u64, iova: u64, level: u8) -> Option<&'t AtomicU64> {
    let mut here = root;
    let mut at = LEVELS - 1;
    loop {
        let word = &table::<OFFSET>(here)[(iova >> (12 + 9 * at)) as usize % ENTRIES];
        if at == level {
            return Some(word);
        }
        let entry = word.load(Ordering::Relaxed);
        if !F::leads_on(entry) {
            return None;
        }
        here = entry & ADDRESS;
        at -= 1;
    }
}

/// Loads, checks that it is not present, and stores; unrolled by 8. Whether all were free.
#[inline]
fn fill<F: Bits>(words: &[AtomicU64], first: u64, step: u64) -> bool {
    let mut value = first;
    let mut put = |word: &AtomicU64| {
        if word.load(Ordering::Relaxed) & F::ANY != 0 {
            return false;
        }
        word.store(value, Ordering::Relaxed);
        value = value.wrapping_add(step);
        true
    };
    let (strides, rest) = words.as_chunks::<8>();
    for stride in strides {
        for word in stride {
            if !put(word) {
                return false;
            }
        }
    }
    rest.iter().all(put)
}

/// Loads and stores zero; unrolled by 8. All that was loaded, so that no load is left out.
#[inline]
fn empty(words: &[AtomicU64]) -> u64 {
    let mut all = 0;
    let mut take = |word: &AtomicU64| {
        all |= word.load(Ordering::Relaxed);
        word.store(0, Ordering::Relaxed);
    };
    let (strides, rest) = words.as_chunks::<8>();
    strides.iter().for_each(|stride| stride.iter().for_each(&mut take));
    rest.iter().for_each(take);
    all
}

/// One entry: a walk written by hand, in tables that are there.
pub struct HandWalk<const OFFSET: u64, F: Bits> {
    tables: Ours<OFFSET, F>,
    level: u8,
}

impl<const OFFSET: u64, F: Bits> HandWalk<OFFSET, F> {
    /// A walk in tables that `work` needs.
    pub fn new(work: &Work) -> Self {
        let mut tables = Ours::new(false);
        tables.warm(work);
        Self { tables, level: work.level() }
    }

    #[inline]
    fn entry(&self, iova: u64) -> &AtomicU64 {
        walk::<OFFSET, F>(self.tables.root(), iova, self.level).expect("the tables are there")
    }
}

impl<const OFFSET: u64, F: Bits> Table for HandWalk<OFFSET, F> {
    #[inline]
    fn map(&mut self, slot: Slot, _: u64, _: u64) {
        let word = self.entry(slot.iova);
        assert!(word.load(Ordering::Relaxed) & F::ANY == 0, "free");
        word.store(F::entry(slot.phys, self.level), Ordering::Relaxed);
    }

    #[inline]
    fn unmap(&mut self, slot: Slot, _: u64, _: u64) {
        let word = self.entry(slot.iova);
        assert!(word.load(Ordering::Relaxed) & F::ANY != 0, "mapped");
        word.store(0, Ordering::Relaxed);
    }

    #[inline]
    fn translate(&self, iova: u64) -> Option<u64> {
        let mut here = self.tables.root();
        for level in (0..LEVELS).rev() {
            let shift = 12 + 9 * level;
            let entry = table::<OFFSET>(here)[(iova >> shift) as usize % ENTRIES].load(Ordering::Relaxed);
            if level == 0 || !F::leads_on(entry) {
                let inside = (1 << shift) - 1;
                return F::is_there(entry).then_some(entry & ADDRESS & !inside | iova & inside);
            }
            here = entry & ADDRESS;
        }
        None
    }

    fn soil(&mut self, _: Slot, _: u64) {
        unreachable!("not measured");
    }

    fn scan(&mut self, _: Slot, _: u64) -> u64 {
        unreachable!("not measured");
    }
}

/// Many entries side by side in tables that are there: where they stand is known.
pub struct Runs<const OFFSET: u64, F: Bits> {
    /// Keeps the tables.
    _tables: Ours<OFFSET, F>,
    /// The entries of each slot.
    slots: Vec<&'static [AtomicU64]>,
    level: u8,
}

impl<const OFFSET: u64, F: Bits> Runs<OFFSET, F> {
    /// Loops over the entries that `work` needs, all of them free.
    pub fn new(work: &Work) -> Self {
        let mut tables = Ours::new(false);
        tables.warm(work);
        Self::over(tables, work)
    }

    /// Loops over leaves of `work` that track dirty state.
    pub fn tracked(work: &Work) -> Self {
        let mut tables = Ours::new(true);
        work.slots.iter().for_each(|slot| tables.map(*slot, work.len, work.leaf));
        Self::over(tables, work)
    }

    fn over(tables: Ours<OFFSET, F>, work: &Work) -> Self {
        let slots = work.slots.iter().map(|slot| {
            let first = walk::<OFFSET, F>(tables.root(), slot.iova, work.level()).expect("the tables are there");
            // SAFETY: slots do not reach over the end of a table, and the tables live as long as `self`.
            unsafe { std::slice::from_raw_parts(first, work.entries()) }
        });
        Self { slots: slots.collect(), _tables: tables, level: work.level() }
    }
}

impl<const OFFSET: u64, F: Bits> Table for Runs<OFFSET, F> {
    #[inline]
    fn map(&mut self, slot: Slot, _: u64, leaf_size: u64) {
        let first = F::entry(slot.phys, self.level);
        assert!(fill::<F>(self.slots[slot.index], first, leaf_size), "free");
    }

    #[inline]
    fn unmap(&mut self, slot: Slot, _: u64, _: u64) {
        assert!(empty(self.slots[slot.index]) & F::ANY != 0, "mapped");
    }

    fn translate(&self, _: u64) -> Option<u64> {
        None
    }

    fn soil(&mut self, slot: Slot, _: u64) {
        for word in self.slots[slot.index] {
            word.store(F::written(word.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    /// Clears in one step, as hardware may note a write at any moment.
    #[inline]
    fn scan(&mut self, slot: Slot, _: u64) -> u64 {
        let mut dirty = 0;
        let written = |word: &AtomicU64| F::was_written(word.load(Ordering::Relaxed));
        for stride in self.slots[slot.index].as_chunks::<8>().0 {
            if stride.iter().fold(false, |any, word| any | written(word)) {
                for word in stride.iter().filter(|word| written(word)) {
                    word.fetch_xor(<F as Bits>::DIRTY, Ordering::Relaxed);
                    dirty += 4096;
                }
            }
        }
        dirty
    }
}

/// Whole tables that are made anew: each is zeroed before it is filled.
pub struct Fresh<const OFFSET: u64, F: Bits> {
    /// For each slot the frames of the leaves, and one for what leads to them where there are several.
    slots: Vec<Vec<u64>>,
    level: u8,
    format: std::marker::PhantomData<F>,
}

impl<const OFFSET: u64, F: Bits> Fresh<OFFSET, F> {
    /// Loops over as many tables as `work` makes.
    pub fn new(work: &Work) -> Self {
        let tables = work.entries() / ENTRIES;
        let frames = if tables > 1 { tables + 1 } else { 1 };
        let slot = |_| (0..frames).map(|_| Host::<OFFSET>::take_zeroed()).collect();
        let slots = work.slots.iter().map(slot).collect();
        Self { slots, level: work.level(), format: std::marker::PhantomData }
    }
}

impl<const OFFSET: u64, F: Bits> Table for Fresh<OFFSET, F> {
    #[inline]
    fn map(&mut self, slot: Slot, _: u64, leaf_size: u64) {
        let mut phys = slot.phys;
        for frame in &self.slots[slot.index] {
            // SAFETY: the frames are this contender's alone.
            unsafe { Host::<OFFSET>::pointer(*frame).write_bytes(0, FRAME) };
            assert!(fill::<F>(table::<OFFSET>(*frame), F::entry(phys, self.level), leaf_size), "free");
            phys += leaf_size * ENTRIES as u64;
        }
    }

    #[inline]
    fn unmap(&mut self, slot: Slot, _: u64, _: u64) {
        for frame in &self.slots[slot.index] {
            assert!(empty(table::<OFFSET>(*frame)) & F::ANY != 0, "mapped");
        }
    }

    fn translate(&self, _: u64) -> Option<u64> {
        None
    }

    fn soil(&mut self, _: Slot, _: u64) {
        unreachable!("not measured");
    }

    fn scan(&mut self, _: Slot, _: u64) -> u64 {
        unreachable!("not measured");
    }
}

impl<const OFFSET: u64, F: Bits> Drop for Fresh<OFFSET, F> {
    fn drop(&mut self) {
        self.slots.iter().flatten().for_each(|frame| Host::<OFFSET>::give_back(*frame));
    }
}
