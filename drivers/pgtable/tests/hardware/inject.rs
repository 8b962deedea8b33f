//! Writes of hardware in the middle of an operation.

use super::{Op, Rig};
use crate::common::raw::{Leaf, Raw, Start};
use crate::common::{Kind, Unit, iova, range};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Gather, Touched};
use iommu_models::memory::TestMemory;
use std::sync::{Arc, Mutex};

impl<K: Kind> Rig<K> {
    /// Runs `op`, and writes through `at` right after the store number `when`, from the table number `from` of those
    /// that there were before. Returns whether that was noted in an entry.
    pub fn inject(&mut self, op: Op, when: usize, from: usize, at: u64) -> bool {
        let raw = K::raw(self.how);
        let cached = Arc::new(Mutex::new((self.tables(), 0, false)));
        let start = cached.lock().unwrap().0[from];
        let write = move |state: &mut (Vec<Start>, usize, bool), memory: &TestMemory| {
            let (starts, now, noted) = state;
            if *now == when && starts.contains(&start) {
                *noted = note_write(&raw, memory, start, at);
            }
            *now += 1;
        };
        let state = cached.clone();
        self.memory.set_observer(Some(Box::new(move |memory, _| write(&mut state.lock().unwrap(), memory))));
        let (state, memory) = (cached.clone(), self.memory.clone());
        let at_flush = move |gather: &Gather| {
            let mut state = state.lock().unwrap();
            // The last moment before hardware has forgotten.
            write(&mut state, &memory);
            forget_flushed(&raw, &mut state.0, gather);
        };
        let mut unit = Unit { at_flush: Some(Box::new(at_flush)), ..Unit::default() };
        op.run::<K>(&mut self.table, &mut unit).unwrap();
        drop(unit);
        self.memory.set_observer(None);
        cached.lock().unwrap().2
    }

    /// Counts the moments at which [`Rig::inject`] can write: those of them at which a table that hardware knows was
    /// stored to, or that are flushes, and some of the others.
    pub fn moments(&mut self, op: Op) -> Vec<usize> {
        let known: Vec<_> = self.tables().into_iter().map(|start| start.table).collect();
        let raw = K::RAW;
        let log = Arc::new(Mutex::new(Vec::new()));
        let record = log.clone();
        self.memory.set_observer(Some(Box::new(move |_, phys| {
            let table_of = |table: &&u64| (**table..**table + (8 << raw.index_bits)).contains(&phys.get());
            record.lock().unwrap().push(known.iter().find(table_of).is_some());
        })));
        let record = log.clone();
        let at_flush = move |_: &Gather| record.lock().unwrap().push(true);
        let mut unit = Unit { at_flush: Some(Box::new(at_flush)), ..Unit::default() };
        op.run::<K>(&mut self.table, &mut unit).unwrap();
        drop(unit);
        self.memory.set_observer(None);
        let log = log.lock().unwrap();
        let some = |when: &usize| log[*when] || when.is_multiple_of(101);
        let all: Vec<_> = (0..log.len()).filter(some).collect();
        thinned(all)
    }
}

/// At most some 24 of many, the first and last among them.
pub fn thinned<T: Clone>(all: Vec<T>) -> Vec<T> {
    let step = all.len().div_ceil(24).max(1);
    let last = all.len().saturating_sub(2);
    all.iter().enumerate().filter(|(n, _)| n % step == 0 || *n >= last).map(|(_, one)| one.clone()).collect()
}

/// Whether a table translates `at`.
pub(super) fn holds(raw: &Raw, start: &Start, at: u64) -> bool {
    let size = raw.entry_size(start.level);
    at >= start.iova && (at - start.iova) / size < raw.entries(start.level)
}

/// A write through `at`, as hardware notes it that walks from `start`. Returns whether there is a writable leaf.
pub(super) fn note_write(raw: &Raw, memory: &TestMemory, start: Start, at: u64) -> bool {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    if !holds(raw, &start, at) {
        return false;
    }
    let Some(place) = raw.locate(&read, start, at).unwrap() else { return false };
    let Some(written) = raw.written(place.entry, place.level) else { return false };
    assert_eq!(written >> 32, place.entry >> 32);
    memory.device_write32(PhysAddr::new(place.address), written as u32).unwrap();
    true
}

/// Takes away the tables that the flush of `gather` has hardware forget.
pub(super) fn forget_flushed(raw: &Raw, starts: &mut Vec<Start>, gather: &Gather) {
    let touched: Vec<Touched> = gather.touched().collect();
    starts.retain(|start| {
        let all = range(start.iova, raw.entry_size(start.level) * raw.entries(start.level));
        let level = start.level as u8 - 1;
        !touched.iter().any(|touched| touched.tables.contains(level) && touched.range.overlaps(all))
    });
}

/// Has hardware write through each of `places` at every moment of `op`, from every table that it may know, and looks for
/// it afterwards.
pub fn check_writes<K: Kind>(make: impl Fn() -> Rig<K>, op: Op, places: &[u64]) {
    let mut rig = make();
    let before = rig.leaves();
    let tables = rig.tables().len();
    let moments = rig.moments(op);
    let after = rig.leaves();
    let mut noted = 0;
    for (n, when) in moments.into_iter().enumerate() {
        let at = places[n % places.len()];
        // The leaf that was there, and what was cut of it or it is part of: no more gets dirty.
        let holds = |leaf: &&Leaf| range(leaf.iova, leaf.size).contains(iova(at));
        let [old, new] = [&before, &after].map(|leaves| leaves.iter().find(holds).unwrap());
        let most = range(old.iova, old.size).union(range(new.iova, new.size));
        for from in [0, tables - 2, tables - 1] {
            let mut rig = make();
            let written = rig.inject(op, when, from, at);
            let dirty = rig.dirty();
            let found = dirty.iter().any(|range| range.contains(iova(at)));
            assert_eq!(found, written, "{at:#x} at {when} from {from}: {dirty:x?}");
            assert!(dirty.iter().all(|range| most.covers(*range)), "{at:#x} at {when} from {from}: {dirty:x?}");
            noted += usize::from(written);
            rig.leaves();
        }
    }
    assert!(noted > 3);
}
