//! Random operations of every kind, on every format and configuration: after each, what was returned and handed out is
//! compared with an oracle, and what the table says with a flat map of addresses; from time to time all that raw entries
//! say is.

#[path = "common/actions.rs"]
mod actions;
#[path = "common/cases.rs"]
mod cases;
mod common;
#[path = "common/live.rs"]
mod live;
#[path = "common/oracle.rs"]
mod oracle;

use actions::{Action, Came, Owner, Places, Weights};
use common::{Flat, Kind, Unit};
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{HwError, Transition};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Claim, Format, PageTable};
use oracle::{Random, between, ends};
use std::cell::Cell;
use std::collections::BTreeMap;

for_each_kind!(random_operations_agree_with_a_flat_map);
for_each_live_kind!(random_operations_agree_with_a_flat_map);

/// Operations in each case.
const OPERATIONS: usize = 200;

/// Cases for each format and configuration: fewer where tables are larger.
const fn cases(entries: u64) -> usize {
    match entries {
        512 => 26,
        2048 => 15,
        _ => 8,
    }
}

/// With pages of 4 KiB there are 18 formats and configurations at least, with pages of 16 KiB 3, with pages of 64 KiB 4.
const _: () = assert!(OPERATIONS * (18 * cases(512) + 3 * cases(2048) + 4 * cases(8192)) >= 100_000);

/// Operations between two looks at all raw entries.
const PATIENCE: usize = 40;

/// How often what happened, so that a test that tries nothing fails.
type Tally = BTreeMap<&'static str, usize>;

/// A table, and the oracle beside it.
struct Rig<'m, K: Kind> {
    memory: &'m TestMemory,
    how: WalkerMemory,
    table: PageTable<&'m TestMemory, K::F>,
    owner: Owner<'m>,
    places: Places,
    random: Random,
}

impl<'m, K: Kind> Rig<'m, K> {
    fn new(memory: &'m TestMemory, how: WalkerMemory, random: Random) -> Self {
        let mut rig = Self {
            memory,
            how,
            table: K::table_in(memory, how),
            owner: Owner::new::<K>(Some(memory)),
            places: Places {
                borders: Vec::new(),
                within: between(0, K::TOP - 1),
                weights: weights::<K>(),
                recent: Cell::new(None),
            },
            random,
        };
        // Borders of what each size of leaf and each table maps; the bottom and the top.
        let sizes = K::sizes().into_iter().chain((2..=K::RAW.levels).map(|level| K::RAW.entry_size(level)));
        let spans: Vec<u64> = sizes.filter(|size| *size < K::TOP).collect();
        for _ in 0..2 {
            let span = rig.random.pick(&spans);
            let border = span * (1 + rig.random.below((K::TOP / span).min(40)));
            rig.places.borders.push(border);
        }
        let end = if rig.random.one_in(2) { 0 } else { K::TOP };
        rig.places.borders.push(end);
        rig
    }

    /// One operation, of the owner of all or of some part that holds it.
    fn step(&mut self, tally: &mut Tally, trace: bool) {
        let action = self.places.action::<K>(&self.owner.oracle, &mut self.random);
        let part = self.random.one_in(4).then(|| part(&action, &mut self.random)).flatten();
        let shortage = match action {
            Action::Map { .. } | Action::Cut(..) if self.random.one_in(3) => Some(self.random.below(3) as usize),
            _ => None,
        };
        if trace {
            eprintln!("{action:x?} by the owner of {part:x?}, memory for {shortage:?}");
        }
        if let Some(allocations) = shortage {
            self.memory.fail_after(allocations);
        }
        let mut unit = Unit::default();
        let mut claim = claim(&mut self.table, part);
        let came = self.owner.act(&action, &mut claim, &mut unit, shortage.is_some());
        self.owner.compare_around(&claim, &action);
        self.memory.fail_never();
        assert_eq!(self.memory.take_stale_reads(), []);
        self.memory.take_maintenance();
        if let Action::Leaves(range) = &action {
            self.compare_leaves(*range);
        }
        let mut count = |what| *tally.entry(what).or_default() += 1;
        count("operations");
        let flushed = unit.flushes != 0;
        match (&action, came) {
            (_, Came::Refused(HwError::OutOfMemory)) => count("out of memory"),
            (_, Came::Refused(HwError::AlreadyMapped { .. })) => count("mapped already"),
            (_, Came::Refused(HwError::NotMapped { .. })) => count("holes"),
            (_, Came::Refused(HwError::SplitsLeaf { .. })) => count("splits"),
            (_, Came::Refused(HwError::OutOfRange { .. })) => count("out of range"),
            (_, Came::Refused(_)) => count("other mistakes"),
            (Action::Map { .. }, _) if flushed => count("mapped over empty tables"),
            (Action::Map { .. }, Came::Done(0)) => count("mapped nothing"),
            (Action::Map { .. }, _) => count("mapped"),
            (Action::Unmap(_), _) => count("unmapped"),
            (Action::Protect(..), Came::Through(Transition::ThroughBlocked, _)) => count("protected through blocked"),
            (Action::Protect(..), _) => count("protected"),
            (Action::Cut(..), Came::Through(_, 0)) => count("cut nothing"),
            (Action::Cut(..), _) => count("cut"),
            (Action::Merge(_), Came::Through(_, 0)) => count("merged nothing"),
            (Action::Merge(_), _) => count("merged"),
            (Action::ReadDirty(_), _) => count("read what is dirty"),
            (Action::ClearDirty(_), _) => count("cleared what is dirty"),
            (Action::Leaves(_), _) => count("went through leaves"),
            (Action::Flush, _) => count("flushed"),
        }
    }

    /// A device writes through a few addresses, and hardware notes it.
    fn write(&mut self, tally: &mut Tally) {
        for _ in 0..self.random.below(4) {
            let near = self.random.pick(&self.places.borders);
            let at = near.wrapping_add(self.random.below(4 * K::LARGE)).wrapping_sub(2 * K::LARGE);
            let Some((start, cell)) = self.owner.oracle.leaves.range(at..).next().map(|(at, cell)| (*at, *cell)) else {
                continue;
            };
            let at = start + self.random.below(cell.size);
            let allowed = self.owner.oracle.write(at);
            assert_eq!(common::write_through::<K>(self.memory, self.table.root(), at), allowed, "{at:#x}");
            *tally.entry("written through").or_default() += usize::from(allowed);
        }
    }

    /// Compares what the table says of the leaves of `range` with the oracle.
    fn compare_leaves(&self, range: IovaRange) {
        let told = self.table.leaves(range).map(|leaf| (leaf.iova.get(), leaf.phys.get(), leaf.size, leaf.prot));
        let (first, last) = ends(range);
        let inside = between(first.min(K::TOP - 1), last.min(K::TOP - 1));
        let expected = self.owner.oracle.within(inside).filter(|(start, cell)| start + (cell.size - 1) >= first);
        assert!(told.eq(expected.map(|(start, cell)| (start, cell.phys, cell.size, cell.prot))), "leaves of {range}");
    }

    /// Compares all that raw entries say with the oracle, and what the table says at both ends of every stretch.
    fn compare(&mut self) {
        let leaves = common::leaves_in::<K, _>(self.memory, &self.table, self.how);
        assert!(self.owner.flat.is_mapped_by(&leaves), "raw entries lead elsewhere than the flat map");
        assert!(self.owner.oracle.is_mapped_by(&leaves), "the leaves are others than the oracle's: {leaves:x?}");
        assert_eq!(Flat::of(&leaves), self.owner.flat);
        let claim = self.table.exclusive();
        for (start, run) in self.owner.flat.runs() {
            for at in [start.wrapping_sub(1), start, start + (run.len - 1), start + run.len] {
                self.owner.compare_at(&claim, at);
            }
        }
    }
}

/// What each operation's share is.
fn weights<K: Kind>() -> Weights {
    let dirty = if K::RAW.tracked { 4 } else { 1 };
    [30, 16, 9, 10, 10, dirty, dirty, 2, 4]
}

/// A part of all addresses that holds what `action` is about, or nearly.
fn part(action: &Action, random: &mut Random) -> Option<IovaRange> {
    let (first, last) = action.ends()?;
    if matches!(action, Action::Leaves(_)) {
        return None;
    }
    let beside = |random: &mut Random| if random.one_in(2) { 0 } else { random.below(1 << 22) };
    let part = between(first.saturating_sub(beside(random)), last.saturating_add(beside(random)));
    match random.below(20) {
        0 if first != last => Some(between(first + 1, last)),
        1 if first != last => Some(between(first, last - 1)),
        _ => Some(part),
    }
}

/// The claim on all addresses, or on those of `part`.
fn claim<'t, 'm, F: Format>(
    table: &'t mut PageTable<&'m TestMemory, F>,
    part: Option<IovaRange>,
) -> Claim<'t, &'m TestMemory, F> {
    let aperture = table.geometry().aperture;
    let whole = table.exclusive();
    let Some(part) = part.filter(|part| aperture.contains(part.start())) else { return whole };
    let (_, from_start) = whole.split_at(part.start());
    let end = Iova::new(part.last().get().wrapping_add(1));
    let claim = if end.get() == 0 { from_start } else { from_start.and_then(|claim| claim.split_at(end).0) };
    let claim = claim.expect("both ends lie in the aperture, or the claim ends with it");
    assert_eq!(claim.range(), between(part.start().get(), part.last().min(aperture.last()).get()));
    claim
}

fn random_operations_agree_with_a_flat_map<K: Kind>() {
    let mut tally = Tally::new();
    cases::run(cases(K::ENTRIES), OPERATIONS, |steps, trace| {
        let how = K::memories()[steps[0] as usize % K::memories().len()];
        let memory = common::memory_for(how);
        let mut rig = Rig::<K>::new(&memory, how, Random(steps[0]));
        if trace {
            eprintln!("in {how:?} memory, close to {:x?}", rig.places.borders);
        }
        for (number, step) in steps[1..].iter().enumerate() {
            rig.random = Random(*step);
            rig.step(&mut tally, trace);
            if K::RAW.tracked {
                rig.write(&mut tally);
            }
            if number % PATIENCE == PATIENCE - 1 {
                rig.compare();
            }
        }
        rig.compare();
        drop(rig);
        assert_eq!(memory.in_use(), 0);
        memory.check_freed();
    });
    println!("{tally:?}");
    check_tally::<K>(&tally);
}

/// Whether enough of everything was tried.
fn check_tally<K: Kind>(tally: &Tally) {
    let operations = cases(K::ENTRIES) * OPERATIONS;
    // So many in a thousand operations, about a quarter of what is usual.
    let usual = [
        ("mapped", 40),
        ("mapped already", 4),
        ("mapped nothing", 4),
        ("mapped over empty tables", 1),
        ("unmapped", 35),
        ("holes", 10),
        ("splits", 1),
        ("out of range", 15),
        ("out of memory", 2),
        ("other mistakes", 5),
        ("protected", 15),
        ("cut", 2),
        ("cut nothing", 5),
        ("merged", 1),
        ("merged nothing", 10),
        ("went through leaves", 5),
        ("flushed", 10),
    ];
    let groups = (1..=K::RAW.top_leaf_level())
        .any(|level| K::RAW.sizes & (K::RAW.entry_size(level) * K::RAW.group(level)) != 0 && K::RAW.group(level) != 1);
    let more = [
        (K::RAW.tracked, "read what is dirty", 10),
        (K::RAW.tracked, "cleared what is dirty", 10),
        (K::RAW.tracked, "written through", 100),
        (groups, "protected through blocked", 2),
    ];
    let more = more.into_iter().filter(|(there, ..)| *there).map(|(_, what, least)| (what, least));
    assert_eq!(tally.get("operations").copied(), Some(operations));
    for (what, least) in usual.into_iter().chain(more) {
        let count = tally.get(what).copied().unwrap_or(0);
        // Few operations, because tables are large: what is rare happens once or not at all.
        let least = if K::ENTRIES == 512 { least } else { least / 4 };
        assert!(count * 1000 >= least * operations, "{what}: {count} times, of {operations} operations: {tally:?}");
    }
}
