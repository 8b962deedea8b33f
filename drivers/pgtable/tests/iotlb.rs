//! Whatever hardware remembers of the tables is covered by what a gather names: a model of an IOTLB with caches of upper
//! entries looks at the tables at every store, remembers all that it may, and forgets what a flush names and no more.

#[path = "common/actions.rs"]
mod actions;
#[path = "common/cases.rs"]
mod cases;
mod common;
#[path = "common/iotlb.rs"]
mod iotlb;
#[path = "common/live.rs"]
mod live;
#[path = "common/oracle.rs"]
mod oracle;

use actions::{Action, Came, Owner, Places, Weights};
use common::{Flat, Kind, Unit, iova, range, run};
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{Gather, LevelSet, Prot, Touched, Transition};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Claim, Flush, Format, PageTable, Removed};
use iotlb::{Hardware, Iotlb};
use oracle::{Random, between, ends};
use std::cell::Cell;

for_each_kind!(
    nothing_stale_is_left_after_a_flush,
    a_gather_with_too_many_ranges_covers_them,
    a_gather_joins_what_a_later_unmap_connects,
    no_more_is_asked_for_than_changed,
);
for_each_live_kind!(nothing_stale_is_left_after_a_flush, no_more_is_asked_for_than_changed);
for_each_tracked_kind!(writes_during_an_operation_are_not_lost);

/// Cases, and operations in each.
const CASES: usize = 30;
const OPERATIONS: usize = 60;

/// What was done and dropped, so that a test in which nothing was remembered fails.
#[derive(Default, Debug)]
struct Tally {
    flushes: usize,
    dropped_leaves: usize,
    dropped_uppers: usize,
    hitless: usize,
    through_blocked: usize,
    /// Unmaps whose gather held nothing before.
    exact: usize,
}

struct Rig<'m, K: Kind> {
    memory: &'m TestMemory,
    table: PageTable<&'m TestMemory, K::F>,
    hardware: Hardware<'m>,
    owner: Owner<'m>,
    /// Another gather, with a flush to come.
    other: Gather,
    places: Places,
    random: Random,
}

impl<'m, K: Kind> Rig<'m, K> {
    fn new(memory: &'m TestMemory, how: WalkerMemory, mut random: Random) -> Self {
        let table = K::table_in(memory, how);
        let sizes = K::sizes().into_iter().chain((2..=K::RAW.levels).map(|level| K::RAW.entry_size(level)));
        let spans: Vec<u64> = sizes.filter(|size| *size < K::TOP).collect();
        let borders = (0..2).map(|_| {
            let span = random.pick(&spans);
            span * (1 + random.below((K::TOP / span).min(9)))
        });
        let places = Places {
            borders: borders.collect(),
            within: between(0, K::TOP - 1),
            weights: WEIGHTS,
            recent: Cell::new(None),
        };
        let by_level = random.one_in(2);
        let iotlb = Iotlb::new::<K>(K::raw(how), table.root(), by_level, random.clone());
        let hardware = Hardware::new(memory, iotlb);
        Self { memory, table, hardware, owner: Owner::new::<K>(None), other: Gather::new(), places, random }
    }

    /// What hardware looks at during the next operation.
    fn choose_interest(&mut self, action: &Action) {
        let mut interest = Vec::new();
        if let Some((first, last)) = action.ends() {
            interest.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
            interest.extend((0..4).map(|_| first + self.random.below((last - first).saturating_add(1).max(1))));
            let large = last & !(K::LARGE - 1);
            interest.extend([large, large.wrapping_sub(1)]);
        }
        for border in self.places.borders.clone() {
            let near = border.wrapping_add(self.random.below(2 * K::LARGE)).wrapping_sub(K::LARGE);
            interest.extend(self.owner.oracle.leaves.range(near..).next().map(|(at, _)| *at));
        }
        let mut iotlb = self.hardware.iotlb();
        iotlb.interest = interest;
        iotlb.look_around(self.memory);
        iotlb.look_around(self.memory);
    }

    /// Whether `action` touches what a flush to come is about.
    fn is_pending(&self, action: &Action) -> bool {
        let Some((first, last)) = action.ends() else { return false };
        let all = between(first, last);
        self.owner.gather.ranges().chain(self.other.ranges()).any(|held| held.overlaps(all))
    }

    /// A device writes through some of what hardware looks at.
    fn write(&mut self) {
        let interest = self.hardware.iotlb().interest.clone();
        for at in interest.into_iter().filter(|at| *at < K::TOP) {
            if self.random.one_in(3) && self.owner.oracle.write(at) {
                assert!(common::write_through::<K>(self.memory, self.table.root(), at));
            }
        }
    }

    fn flush(&mut self, trace: bool) {
        if trace {
            eprintln!("flush of {:x?}", self.owner.gather.touched().collect::<Vec<_>>());
        }
        let mut claim = self.table.exclusive();
        self.owner.act(&Action::Flush, &mut claim, &mut self.hardware, false);
        if self.other.is_empty() {
            self.hardware.iotlb().allow_only(&self.owner.flat);
        }
    }

    fn step(&mut self, tally: &mut Tally, trace: bool) {
        if self.random.one_in(12) {
            std::mem::swap(&mut self.owner.gather, &mut self.other);
        }
        if self.random.one_in(60) {
            self.owner.gather.add_everything();
        }
        let action = self.places.action::<K>(&self.owner.oracle, &mut self.random);
        self.choose_interest(&action);
        if K::RAW.tracked {
            self.write();
        }
        if let Action::Flush = action {
            self.flush(trace);
        } else {
            // What was mapped there before must have been forgotten.
            if matches!(action, Action::Map { .. }) && self.is_pending(&action) {
                self.flush(trace);
                std::mem::swap(&mut self.owner.gather, &mut self.other);
                self.flush(trace);
            }
            if trace {
                eprintln!("{action:x?}");
            }
            self.act(&action, tally);
        }
        let pending = [&self.owner.gather, &self.other];
        self.hardware.iotlb().check_nothing_stale(self.memory, &pending);
    }

    fn act(&mut self, action: &Action, tally: &mut Tally) {
        let mut claim = self.table.exclusive();
        let settled = self.owner.gather.is_empty() && self.other.is_empty();
        let after = self.owner.flat_after(action, claim.range());
        self.hardware.iotlb().allow(&after);
        if settled {
            self.hardware.iotlb().expect_steady(&self.owner.flat);
        }
        let exact = match action {
            Action::Unmap(range) if self.owner.gather.is_empty() => Some(touched_by::<K>(&self.owner, *range)),
            _ => None,
        };
        let came = self.owner.act(action, &mut claim, &mut self.hardware, false);
        let refused = self.hardware.iotlb().end_steady();
        match came {
            Came::Through(Transition::Hitless, 1..) if settled => {
                assert_eq!(refused, None, "it was to be hitless, and this address led nowhere for a moment");
                tally.hitless += 1;
            }
            Came::Through(Transition::ThroughBlocked, _) => tally.through_blocked += 1,
            Came::Done(_) if exact.is_some() => {
                assert_eq!(self.owner.gather.touched().collect::<Vec<_>>(), [exact.unwrap()]);
                tally.exact += 1;
            }
            _ => {}
        }
        if self.owner.gather.is_empty() && self.other.is_empty() {
            self.hardware.iotlb().allow_only(&self.owner.flat);
        }
    }
}

const WEIGHTS: Weights = [30, 20, 10, 10, 10, 0, 6, 0, 6];

/// The level of the entries of a leaf, as the decoder counts.
fn level_of<K: Kind>(size: u64) -> u32 {
    (1..=K::RAW.top_leaf_level()).rev().find(|level| K::RAW.entry_size(*level) <= size).unwrap()
}

/// What an unmap of all of `range` touches, and no more: each leaf in it, and each table all of which lies in it.
fn touched_by<K: Kind>(owner: &Owner<'_>, range: IovaRange) -> Touched {
    let (first, last) = ends(range);
    let (mut leaves, mut tables) = (LevelSet::default(), LevelSet::default());
    for (start, cell) in owner.oracle.within(range) {
        let level = level_of::<K>(cell.size);
        leaves.insert(level as u8 - 1);
        for level in level..K::RAW.levels {
            let span = K::RAW.entry_size(level + 1);
            let begin = start & !(span - 1);
            if first <= begin && begin + (span - 1) <= last {
                tables.insert(level as u8 - 1);
            }
        }
    }
    Touched { range, leaves, tables }
}

fn nothing_stale_is_left_after_a_flush<K: Kind>() {
    let mut tally = Tally::default();
    let cases = if K::ENTRIES == 512 { CASES } else { CASES / 3 };
    cases::run(cases, OPERATIONS, |steps, trace| {
        let how = K::memories()[steps[0] as usize % K::memories().len()];
        let memory = common::memory_for(how);
        let mut rig = Rig::<K>::new(&memory, how, Random(steps[0]));
        for step in &steps[1..] {
            rig.random = Random(*step);
            rig.step(&mut tally, trace);
        }
        rig.flush(trace);
        std::mem::swap(&mut rig.owner.gather, &mut rig.other);
        rig.flush(trace);
        rig.hardware.iotlb().check_nothing_stale(&memory, &[]);
        common::leaves_in::<K, _>(&memory, &rig.table, how);
        tally.flushes += rig.hardware.flushes;
        tally.dropped_leaves += rig.hardware.iotlb().dropped_leaves;
        tally.dropped_uppers += rig.hardware.iotlb().dropped_uppers;
        drop(rig);
        assert_eq!(memory.in_use(), 0);
    });
    println!("{tally:?}");
    let Tally { flushes, dropped_leaves, dropped_uppers, hitless, through_blocked, exact } = tally;
    // Between a third and a fifth of what is usual; with large tables there are few of each.
    let least = |count: usize| if K::ENTRIES == 512 { count } else { count.div_ceil(10) };
    let live = <K::F as Format>::resizes_live(K::options());
    assert!(flushes >= least(5 * cases) && exact >= least(cases) && hitless >= least(cases / 4));
    assert!(dropped_leaves >= least(20 * cases) && dropped_uppers >= least(cases));
    assert!(live || through_blocked >= least(cases / 2));
}

fn levels(all: &[u8]) -> LevelSet {
    let mut set = LevelSet::default();
    all.iter().for_each(|level| set.insert(*level));
    set
}

/// Unmaps that are one range in the end ask for one, in whatever order they come.
fn a_gather_joins_what_a_later_unmap_connects<K: Kind>() {
    let memory = common::memory();
    let mut table = K::table(&memory);
    for order in [[0, 1, 2, 3], [0, 2, 1, 3], [3, 1, 0, 2], [3, 2, 1, 0], [0, 3, 1, 2], [2, 0, 3, 1]] {
        let at = 5 * K::LARGE - 2 * K::PAGE;
        common::map::<K, _>(&mut table, at, &[run(K::PAGE, 4 * K::PAGE)], Prot::READ).unwrap();
        let mut gather = Gather::new();
        for page in order {
            common::unmap::<K, _>(&mut table, range(at + page * K::PAGE, K::PAGE), &mut gather).unwrap();
        }
        let all = Touched { range: range(at, 4 * K::PAGE), leaves: levels(&[0]), tables: levels(&[]) };
        assert_eq!(gather.touched().collect::<Vec<_>>(), [all], "{order:?}");
    }
}

fn a_gather_with_too_many_ranges_covers_them<K: Kind>() {
    for (how, everything) in K::memories().iter().flat_map(|how| [(*how, false), (*how, true)]) {
        let memory = common::memory_for(how);
        let mut table = K::table_in(&memory, how);
        let mut iotlb = Iotlb::new::<K>(K::raw(how), table.root(), false, Random(1));
        // Pages, large leaves and whole tables, all of them apart.
        let parts: Vec<_> = (0..30u64)
            .map(|part| match part % 3 {
                0 => (part * 2 * K::LARGE + 7 * K::PAGE, K::PAGE),
                1 => (part * 2 * K::LARGE, K::LARGE),
                _ => (part * 2 * K::LARGE, if part < 6 { K::LARGE } else { 2 * K::PAGE }),
            })
            .map(|(at, len)| (at, run(at + if at % (4 * K::LARGE) == 0 { 0 } else { 32 * K::PAGE }, len)))
            .collect();
        let mut flat = Flat::default();
        for (at, extent) in &parts {
            common::map::<K, _>(&mut table, *at, &[*extent], Prot::READ).unwrap();
            flat.map(*at, &[*extent], Prot::READ);
        }
        iotlb.allow(&flat);
        iotlb.interest = parts.iter().flat_map(|(at, extent)| [*at, at + extent.len - 1]).collect();
        let mut hardware = Hardware::new(&memory, iotlb);
        (0..8).for_each(|_| hardware.iotlb().look_around(&memory));
        let (leaves, uppers) = hardware.iotlb().len();
        assert!(leaves >= parts.len() && uppers >= parts.len() / 2);
        let mut gather = Gather::new();
        // From both ends, and the middle last.
        let order = (0..10).flat_map(|n| [n, 29 - n, 10 + n]);
        for (at, extent) in order.map(|part| parts[part]) {
            common::unmap::<K, _>(&mut table, range(at, extent.len), &mut gather).unwrap();
        }
        assert!(table.retired() != 0 && gather.tables_changed());
        if everything {
            gather.add_everything();
        }
        hardware.flush(&gather).unwrap();
        common::flush::<K, _>(&table, &mut gather);
        assert_eq!((hardware.iotlb().len().0, table.retired()), (0, 0));
        hardware.iotlb().check_nothing_stale(&memory, &[]);
    }
}

/// What the flushes of an operation were for.
fn asked<K: Kind>(
    table: &mut PageTable<&TestMemory, K::F>,
    operation: impl FnOnce(&mut Claim<'_, &TestMemory, K::F>, &mut Unit<'_>),
) -> Vec<Vec<Touched>> {
    let mut unit = Unit::default();
    operation(&mut table.exclusive(), &mut unit);
    unit.asked.into_iter().map(|flushed| flushed.touched).collect()
}

fn no_more_is_asked_for_than_changed<K: Kind>() {
    let memory = common::memory();
    let mut table = K::table(&memory);
    let table = &mut table;
    let only = |range, leaves: &[u8], tables: &[u8]| {
        vec![vec![Touched { range, leaves: levels(leaves), tables: levels(tables) }]]
    };
    let (at, all) = (6 * K::LARGE, range(6 * K::LARGE, K::LARGE));
    // Pages that never become groups, the table not full.
    let extent = run(K::PAGE, 12 * K::PAGE);
    assert!(
        asked::<K>(table, |claim, unit| claim.map(iova(at), &[extent], Prot::READ_WRITE, unit).unwrap()).is_empty()
    );
    let some = range(at + 3 * K::PAGE, 5 * K::PAGE);
    let protect = asked::<K>(table, |claim, unit| _ = claim.protect(some, Prot::READ, unit).unwrap());
    assert_eq!(protect, only(some, &[0], &[]));
    // Nothing to change.
    assert!(asked::<K>(table, |claim, unit| _ = claim.protect(some, Prot::READ, unit).unwrap()).is_empty());
    assert!(asked::<K>(table, |claim, unit| _ = claim.merge(all, unit).unwrap()).is_empty());
    assert!(asked::<K>(table, |claim, unit| _ = claim.cut(all, K::PAGE, unit).unwrap()).is_empty());
    // All of it, one page at a time: the table stays, and goes with the large leaf.
    let mut gather = Gather::new();
    for page in 0..12 {
        common::unmap::<K, _>(table, range(at + page * K::PAGE, K::PAGE), &mut gather).unwrap();
    }
    let gone = only(range(at, 12 * K::PAGE), &[0], &[]);
    assert_eq!(gather.touched().collect::<Vec<_>>(), gone[0]);
    let extent = run(K::LARGE, K::LARGE);
    let collapse = asked::<K>(table, |claim, unit| claim.map(iova(at), &[extent], Prot::READ_WRITE, unit).unwrap());
    assert_eq!(collapse, only(all, &[], &[0]));
    let cut = asked::<K>(table, |claim, unit| _ = claim.cut(all, K::PAGE, unit).unwrap());
    assert_eq!(cut, only(all, &[1], &[]));
    let merge = asked::<K>(table, |claim, unit| _ = claim.merge(all, unit).unwrap());
    let groups = K::sizes().iter().filter(|size| **size < K::LARGE).count() != 1;
    match groups {
        // Straight to the large leaf.
        false => assert_eq!(merge, only(all, &[0], &[0])),
        // Groups may come first, on the way.
        true => assert!(merge.iter().flatten().all(|touched| all.covers(touched.range)), "{merge:x?}"),
    }
    let huge = range(2 * K::HUGE, K::HUGE);
    if K::sizes().contains(&K::HUGE) {
        // Tables far apart that the one above covers.
        for offset in [0, 7 * K::PAGE, 9 * K::LARGE, 9 * K::LARGE + K::PAGE, 99 * K::LARGE] {
            let page = range(2 * K::HUGE + offset, K::PAGE);
            common::map::<K, _>(table, page.start().get(), &[run(0, K::PAGE)], Prot::READ).unwrap();
            common::unmap::<K, _>(table, page, &mut Gather::new()).unwrap();
        }
        let extent = run(0, K::HUGE);
        let collapse = asked::<K>(table, |claim, unit| claim.map(huge.start(), &[extent], Prot::READ, unit).unwrap());
        assert_eq!(collapse, only(huge, &[], &[0, 1]));
    }
    if K::RAW.tracked {
        let mut claim = table.exclusive();
        claim.cut(range(at + 8 * K::PAGE, K::PAGE), K::PAGE, &mut Unit::default()).unwrap();
        assert!(common::write_through::<K>(&memory, table.root(), at + 8 * K::PAGE));
        let mut dirty = Vec::new();
        gather.clear();
        table.read_and_clear_dirty(all, &mut gather, &mut |range| dirty.push(range)).unwrap();
        assert_eq!(dirty, [range(at + 8 * K::PAGE, K::PAGE)]);
        assert_eq!(gather.touched().collect::<Vec<_>>(), only(dirty[0], &[0], &[])[0]);
    }
}

/// All that devices wrote, and hardware noted, is dirty in the table or was handed out as dirty.
fn writes_during_an_operation_are_not_lost<K: Kind>() {
    let mut written = 0;
    cases::run(10, 80, |steps, trace| {
        let memory = common::memory();
        let mut table = K::table(&memory);
        let mut random = Random(steps[0]);
        let all = range(0, 4 * K::LARGE);
        let mut iotlb = Iotlb::new::<K>(K::RAW, table.root(), random.one_in(2), random.clone());
        let mut flat = Flat::default();
        iotlb.writing = true;
        let mut hardware = Hardware::new(&memory, iotlb);
        for step in &steps[1..] {
            let mut random = Random(*step);
            let mut known: Vec<IovaRange> = Vec::new();
            let interest = (0..12).map(|_| match random.below(3) {
                0 => random.below(4 * K::LARGE),
                // Close together, so that what is changed first or last is among it.
                1 => random.below(20) * K::PAGE,
                _ => 4 * K::LARGE - 1 - random.below(20) * K::PAGE,
            });
            hardware.iotlb().interest = interest.collect();
            let mut gather = Gather::new();
            let mut claim = table.exclusive();
            let choice = random.below(6);
            if flat.is_empty() {
                let phys = if random.one_in(2) { 0 } else { K::PAGE };
                flat.map(0, &[run(phys, 4 * K::LARGE)], Prot::READ_WRITE);
                hardware.iotlb().allow_only(&flat);
                claim.map(iova(0), &[run(phys, 4 * K::LARGE)], Prot::READ_WRITE, &mut hardware).unwrap();
            }
            hardware.iotlb().look_around(&memory);
            let sizes = K::sizes();
            let size = random.pick(&sizes).min(K::LARGE);
            let at = random.below(4 * K::LARGE) & !(size - 1);
            let (part, prot) = (range(at, size), if random.one_in(3) { Prot::READ } else { Prot::READ_WRITE });
            if trace {
                eprintln!("{choice} on {part}, or with {prot}");
            }
            match choice {
                0 | 1 => _ = claim.cut(part, random.pick(&sizes), &mut hardware).unwrap(),
                2 => _ = claim.merge(all, &mut hardware).unwrap(),
                3 => {
                    let mut new = flat.clone();
                    new.protect(part, prot);
                    hardware.iotlb().allow(&new);
                    // Refused where it would split a leaf.
                    if claim.protect(part, prot, &mut hardware).is_ok() {
                        flat = new;
                    }
                }
                4 => claim.read_and_clear_dirty(all, &mut gather, &mut |range| known.push(range)).unwrap(),
                _ => {
                    let kept = |removed: &Removed| range(removed.iova.get(), removed.extent.len);
                    let mut sink = |removed: &Removed| known.extend(removed.dirty.then(|| kept(removed)));
                    claim.unmap(all, &mut gather, &mut sink).unwrap();
                    flat = Flat::default();
                }
            }
            hardware.flush(&gather).unwrap();
            // SAFETY: the hardware has just forgotten it.
            unsafe { claim.free_gathered(&mut gather) };
            gather.clear();
            hardware.iotlb().allow_only(&flat);
            hardware.iotlb().check_nothing_stale(&memory, &[]);
            let read = |phys| memory.device_read64(PhysAddr::new(phys));
            let leaves = K::RAW.scan(&read, K::RAW.root(table.root().get())).unwrap().0;
            assert!(flat.is_mapped_by(&leaves));
            for at in std::mem::take(&mut hardware.iotlb().writes) {
                let leaf = leaves.iter().find(|leaf| leaf.iova <= at && at - leaf.iova < leaf.size);
                let handed_out = known.iter().any(|range| range.contains(iova(at)));
                assert!(handed_out || leaf.is_some_and(|leaf| leaf.dirty), "the write to {at:#x} was lost");
                written += 1;
            }
        }
    });
    println!("{written} writes");
    assert!(written >= 2000);
}
