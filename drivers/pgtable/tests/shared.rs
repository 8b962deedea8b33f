//! A table that any CPU may change at any time: what shares no address goes on side by side, what does waits for its turn.

mod common;
#[path = "shared/hooked.rs"]
mod hooked;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "shared/random.rs"]
mod random;
#[path = "shared/split.rs"]
mod split;

use common::{Kind, Unit, iova, range, run};
use hooked::{Hooked, at_alloc, at_relax};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_pgtable::SharedTable;
use random::threads_come_with_any_ranges;
use split::{a_split_leaves_nothing_that_reaches_across, what_a_split_refuses};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

for_each_kind!(
    a_map_that_waits_for_memory_holds_up_only_its_own_range,
    a_map_that_waits_for_hardware_holds_up_only_its_own_range,
    errors_are_those_of_a_claim_on_everything,
    threads_come_with_any_ranges,
    a_split_leaves_nothing_that_reaches_across,
    what_a_split_refuses,
);

type Table<K> = Arc<SharedTable<Hooked, <K as Kind>::F>>;

fn shared<K: Kind>(hal: &Hooked) -> Table<K> {
    Arc::new(SharedTable::new(K::table(hal.clone())))
}

/// What is tried while a map of one table of smallest pages, from `LARGE` on, is under way.
#[derive(Clone, Copy, Debug)]
enum Try {
    Map(IovaRange),
    Unmap(IovaRange),
    Translate(u64),
    Split(u64),
    Claim(IovaRange),
}

impl Try {
    /// Does it. What comes of it is not what matters here.
    fn run<K: Kind>(self, table: &SharedTable<Hooked, K::F>) {
        match self {
            Self::Map(range) => {
                let page = run(range.start().get(), range.len().unwrap());
                let _ = table.map(range.start(), &[page], Prot::READ, &mut Unit::default());
            }
            Self::Unmap(range) => _ = table.unmap(range, &mut Gather::new(), &mut |_| ()),
            Self::Translate(at) => _ = table.translate(iova(at)),
            Self::Split(at) => _ = table.split(iova(at), &mut Unit::default()),
            Self::Claim(range) => table.with_claim(range, |claim| assert!(claim.range().covers(range))),
        }
    }
}

/// Tries all that has nothing to do with the range that is being mapped: on another CPU, which must not wait.
fn others_go_on<K: Kind + 'static>(table: &Table<K>) {
    let (page, large) = (K::PAGE, K::LARGE);
    let table = table.clone();
    let other = std::thread::spawn(move || {
        at_relax(|| panic!("a CPU waits for one that works elsewhere"));
        for part in [range(large - page, page), range(0, page), range(2 * large, page), range(3 * large, large)] {
            Try::Map(part).run::<K>(&table);
            assert_eq!(table.translate(part.start()).map(|to| to.phys.get()), Some(part.start().get()));
            table.unmap(part, &mut Gather::new(), &mut |_| ()).unwrap();
            assert_eq!(table.translate(part.start()), None);
        }
        for other in [Try::Translate(large - 1), Try::Translate(2 * large), Try::Claim(range(0, large))] {
            other.run::<K>(&table);
        }
        // Nothing reaches across these, which is seen without a claim on what lies around.
        [Try::Split(large - page), Try::Split(2 * large)].iter().for_each(|other| other.run::<K>(&table));
    });
    other.join().expect("nothing of that waits");
}

/// Starts all that has to do with the range, each on a CPU of its own, and returns once all of them wait.
fn others_wait<K: Kind + 'static>(table: &Table<K>, done: &Sender<Try>) {
    let (page, large) = (K::PAGE, K::LARGE);
    let all = [
        Try::Translate(large),
        Try::Translate(2 * large - 1),
        Try::Unmap(range(large, page)),
        Try::Unmap(range(large - page, 2 * page)),
        Try::Map(range(2 * large - page, 2 * page)),
        Try::Map(range(large, large)),
        Try::Split(large + page),
        Try::Claim(IovaRange::new(iova(0), iova(K::TOP - 1)).unwrap()),
        Try::Claim(range(large + 1, 1)),
    ];
    for work in all {
        let (table, done) = (table.clone(), done.clone());
        let (say, waits) = channel();
        std::thread::spawn(move || {
            let mut relaxed = 0;
            let tell = say.clone();
            at_relax(move || {
                relaxed += 1;
                if relaxed == 20 {
                    tell.send(true).unwrap();
                }
                std::thread::yield_now();
            });
            work.run::<K>(&table);
            // Nobody listens any more where it has waited.
            let _ = say.send(false);
            done.send(work).unwrap();
        });
        assert!(waits.recv().unwrap(), "{work:?} did not wait");
    }
}

fn a_map_that_waits_for_memory_holds_up_only_its_own_range<K: Kind + 'static>() {
    let hal = Hooked::new();
    let table = shared::<K>(&hal);
    let whole = range(K::LARGE, K::LARGE);
    let (done, all_done) = channel();
    let inside = table.clone();
    at_alloc(move || {
        others_go_on::<K>(&inside);
        others_wait::<K>(&inside, &done);
    });
    // Pages, so that there is a table to make.
    let memory = run(K::LARGE + K::PAGE, K::LARGE);
    table.map(whole.start(), &[memory], Prot::READ_WRITE, &mut Unit::default()).unwrap();
    assert_eq!(all_done.iter().count(), 9);
    drop(table);
    assert_eq!(hal.memory().in_use(), 0);
    hal.memory().check_freed();
}

fn a_map_that_waits_for_hardware_holds_up_only_its_own_range<K: Kind + 'static>() {
    let hal = Hooked::new();
    let table = shared::<K>(&hal);
    // An empty table stands where the large leaf goes: it is taken out, and hardware has to confirm that.
    let at = range(K::LARGE, K::PAGE);
    table.map(at.start(), &[run(0, K::PAGE)], Prot::READ, &mut Unit::default()).unwrap();
    table.unmap(at, &mut Gather::new(), &mut |_| ()).unwrap();
    let (done, all_done) = channel();
    let inside = table.clone();
    let flushes = Box::new(move |_: &Gather| {
        others_go_on::<K>(&inside);
        others_wait::<K>(&inside, &done);
    });
    let mut unit = Unit { at_flush: Some(flushes), ..Unit::default() };
    table.map(at.start(), &[run(K::LARGE, K::LARGE)], Prot::READ_WRITE, &mut unit).unwrap();
    assert_eq!(unit.flushes, 1);
    drop(unit);
    assert_eq!(all_done.iter().count(), 9);
    drop(table);
    assert_eq!(hal.memory().in_use(), 0);
    hal.memory().check_freed();
}

/// What is wrong with an operation is told as by a claim on all of the table, whatever range is claimed for it.
fn errors_are_those_of_a_claim_on_everything<K: Kind>() {
    let (hal, page) = (Hooked::new(), K::PAGE);
    let table = SharedTable::<_, K::F>::new(K::table(hal.clone()));
    let mut whole = K::table(hal.clone());
    let unit = &mut Unit::default();
    let memory = [run(0x5000 * page, page)];
    table.map(iova(page), &memory, Prot::READ, unit).unwrap();
    whole.exclusive().map(iova(page), &memory, Prot::READ, unit).unwrap();
    let nothing = Prot { read: false, write: false };
    let maps = [
        (page, memory[0], Prot::READ),
        (0, run(0, 2 * page), Prot::READ),
        (K::TOP - page, run(0, 2 * page), Prot::READ),
        (K::TOP, run(0, page), Prot::READ),
        (u64::MAX - page + 1, run(0, page), Prot::READ),
        (u64::MAX - page + 1, run(0, 2 * page), Prot::READ),
        (K::TOP, run(0, 0), Prot::READ),
        (K::TOP, run(0, page), nothing),
        (2 * page, run(0, page), nothing),
        (2 * page + 1, run(0, page), Prot::READ),
        (2 * page, run(0, page - 1), Prot::READ),
        (2 * page, run(u64::MAX - page + 1, page), Prot::READ),
        (2 * page, run(0, u64::MAX), Prot::READ),
    ];
    for (at, extent, prot) in maps {
        let expected = whole.exclusive().map(iova(at), &[extent], prot, unit);
        assert!(expected.is_err() || extent.len == 0);
        assert_eq!(table.map(iova(at), &[extent], prot, unit), expected, "{at:#x} {extent:x?} {prot}");
    }
    let mut gather = Gather::new();
    let unmaps = [
        range(0, page),
        range(0, 2 * page),
        range(page, 2 * page),
        range(page + 1, page),
        range(page, page - 1),
        range(K::TOP - page, 2 * page),
        range(K::TOP, page),
        IovaRange::FULL,
    ];
    for part in unmaps {
        let expected = whole.exclusive().unmap(part, &mut gather, &mut |_| ());
        assert!(expected.is_err());
        assert_eq!(table.unmap(part, &mut gather, &mut |_| ()), expected, "{part:x?}");
    }
    assert!(gather.is_empty());
    assert_eq!((table.translate(iova(K::TOP)), table.translate(iova(u64::MAX))), (None, None));
    assert_eq!(table.translate(iova(2 * page - 1)), whole.translate(iova(2 * page - 1)));
    table.with_claim(range(K::TOP, page), |mut claim| {
        let outside = Err(HwError::OutOfRange { iova: iova(K::TOP), len: page });
        assert_eq!(claim.unmap(range(K::TOP, page), &mut Gather::new(), &mut |_| ()), outside);
    });
}
