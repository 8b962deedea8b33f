//! What a row asks for, and what can do it.

use std::hint::black_box;

/// One place that is mapped by one call.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its place in [`Work::slots`].
    pub index: usize,
    /// The first address.
    pub iova: u64,
    /// The memory behind it.
    pub phys: u64,
}

/// What one timed batch does: the same for each slot.
#[derive(Clone, Debug)]
pub struct Work {
    /// The places.
    pub slots: Vec<Slot>,
    /// Bytes that one call maps.
    pub len: u64,
    /// Size of the leaves it is mapped with.
    pub leaf: u64,
}

impl Work {
    /// Level of the table that holds the leaves.
    pub fn level(&self) -> u8 {
        ((self.leaf.trailing_zeros() - 12) / 9) as u8
    }

    /// Entries that one call stores.
    pub fn entries(&self) -> usize {
        (self.len / self.leaf) as usize
    }
}

/// A kind of table, or what stands for one as the limit. Every method is to be inlined into the loops below.
pub trait Table {
    /// Maps the `len` bytes of a slot with leaves of `leaf` bytes.
    fn map(&mut self, slot: Slot, len: u64, leaf: u64);
    /// Takes them out, and frees the tables that are no longer needed, where the table does that.
    fn unmap(&mut self, slot: Slot, len: u64, leaf: u64);
    /// Where `iova` leads.
    fn translate(&self, iova: u64) -> Option<u64>;
    /// Does what hardware does when every page of a slot is written through.
    fn soil(&mut self, slot: Slot, len: u64);
    /// Reads and clears dirty state, and returns how many bytes were dirty.
    fn scan(&mut self, slot: Slot, len: u64) -> u64;
    /// Is done before each round, and not timed.
    fn renew(&mut self) {}
}

/// Two operations to be timed, each over the whole of the work.
pub trait Contender {
    /// Is done before each of the pairs and not timed.
    fn prepare(&mut self, _: &Work) {}
    /// The first.
    fn first(&mut self, work: &Work);
    /// The second.
    fn second(&mut self, _: &Work) {}
}

/// Asserts that `table` translates what it has mapped.
fn check<T: Table>(table: &T, work: &Work) {
    for slot in &work.slots {
        for offset in [0, work.len - work.leaf + 0x123] {
            assert_eq!(table.translate(slot.iova + offset), Some(slot.phys + offset));
        }
    }
}

/// Maps, then unmaps.
pub struct MapUnmap<T>(pub T);

impl<T: Table> MapUnmap<T> {
    /// With a look at whether the table does what it is here for.
    pub fn checked(table: T, work: &Work) -> Self {
        let mut checked = Self(table);
        checked.first(work);
        check(&checked.0, work);
        checked.second(work);
        assert_eq!(work.slots.iter().find_map(|slot| checked.0.translate(slot.iova)), None);
        checked
    }
}

impl<T: Table> Contender for MapUnmap<T> {
    fn prepare(&mut self, _: &Work) {
        self.0.renew();
    }

    #[inline(never)]
    fn first(&mut self, work: &Work) {
        for slot in &work.slots {
            self.0.map(black_box(*slot), black_box(work.len), work.leaf);
        }
    }

    #[inline(never)]
    fn second(&mut self, work: &Work) {
        for slot in &work.slots {
            self.0.unmap(black_box(*slot), black_box(work.len), work.leaf);
        }
    }
}

/// Translates one address of each slot.
pub struct Translate<T>(T);

impl<T: Table> Translate<T> {
    /// Maps what is to be translated.
    pub fn new(mut table: T, work: &Work) -> Self {
        work.slots.iter().for_each(|slot| table.map(*slot, work.len, work.leaf));
        check(&table, work);
        Self(table)
    }
}

impl<T: Table> Contender for Translate<T> {
    #[inline(never)]
    fn first(&mut self, work: &Work) {
        for slot in &work.slots {
            black_box(self.0.translate(black_box(slot.iova)));
        }
    }
}

/// Scans slots all of whose leaves are dirty, then again when they are clean.
pub struct Scan<T>(pub T);

impl<T: Table> Scan<T> {
    /// Maps what is to be scanned.
    pub fn new(mut table: T, work: &Work) -> Self {
        work.slots.iter().for_each(|slot| table.map(*slot, work.len, work.leaf));
        Self(table)
    }
}

impl<T: Table> Contender for Scan<T> {
    fn prepare(&mut self, work: &Work) {
        work.slots.iter().for_each(|slot| self.0.soil(*slot, work.len));
    }

    #[inline(never)]
    fn first(&mut self, work: &Work) {
        for slot in &work.slots {
            let dirty = self.0.scan(black_box(*slot), black_box(work.len));
            assert_eq!(dirty, work.len, "every page is dirty");
        }
    }

    #[inline(never)]
    fn second(&mut self, work: &Work) {
        for slot in &work.slots {
            let dirty = self.0.scan(black_box(*slot), black_box(work.len));
            assert_eq!(dirty, 0, "no page is dirty");
        }
    }
}
