//! Several CPUs on one table, each with a claim on addresses of its own: real threads, each with an oracle; and the
//! orders of their steps that a scheduler tries, see [`stepped`] for what a step is.

#[path = "common/actions.rs"]
mod actions;
mod common;
#[path = "concurrent/hardware.rs"]
mod hardware;
#[path = "common/live.rs"]
mod live;
#[path = "concurrent/looks.rs"]
mod looks;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "concurrent/schedules.rs"]
mod schedules;
#[path = "concurrent/stepped.rs"]
mod stepped;
#[path = "concurrent/threads.rs"]
mod threads;

use common::raw::{Entry, Leaf};
use common::{Kind, run};
use hardware::hardware_notes_writes_while_leaves_change;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_hal::{Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Claim, Format};
use looks::nothing_is_found_while_a_neighbour_puts_in_tables;
use threads::{neighbours_put_in_the_same_tables_at_once, owners_of_disjoint_ranges_work_side_by_side};

for_each_kind!(
    owners_of_disjoint_ranges_work_side_by_side,
    neighbours_put_in_the_same_tables_at_once,
    nothing_is_found_while_a_neighbour_puts_in_tables,
);
for_each_live_kind!(owners_of_disjoint_ranges_work_side_by_side);
for_each_tracked_kind!(hardware_notes_writes_while_leaves_change);

const COHERENT: WalkerMemory = WalkerMemory::Coherent;
const NON_COHERENT: WalkerMemory = WalkerMemory::NonCoherent;

/// Claims on these ranges, which rise.
fn parts<'t, H: Hal, F: Format>(all: Claim<'t, H, F>, ranges: &[IovaRange]) -> Vec<Claim<'t, H, F>> {
    let mut rest = Some(all);
    let each = ranges.iter().map(|range| {
        let (_, from) = rest.take().unwrap().split_at(range.start());
        let (part, above) = from.unwrap().split_at(Iova::new(range.last().get() + 1));
        rest = above;
        part.unwrap()
    });
    each.collect()
}

/// What hardware finds at `at`.
fn find<K: Kind>(memory: &TestMemory, root: PhysAddr, how: WalkerMemory, at: u64) -> Option<Leaf> {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let raw = K::raw(how);
    raw.walk(&read, raw.root(root.get()), at).unwrap()
}

/// The table of smallest pages that translates `at`.
fn leaf_table<K: Kind>(memory: &TestMemory, root: PhysAddr, at: u64) -> Option<u64> {
    let mut table = root.get();
    for level in (2..=K::RAW.levels).rev() {
        let index = at / K::RAW.entry_size(level) % K::RAW.entries(level);
        let entry = memory.read64(PhysAddr::new(table + 8 * index));
        let Entry::Table(next) = K::raw(NON_COHERENT).entry(entry, level).unwrap() else { return None };
        table = next;
    }
    Some(table)
}

/// The page that is mapped at `at`.
fn page_at<K: Kind>(at: u64) -> PhysExtent {
    run(at & ((1 << 40) - 1), K::PAGE)
}
