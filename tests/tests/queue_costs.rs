//! How many commands and doorbells operations take: the same everywhere, and therefore a test. The benchmark `queue` prints
//! all of them.

#[path = "../benches/queue/costs.rs"]
mod costs;

use costs::{Cost, all};
use iommu_tests::house::{Smmuv3, Vtd};

#[test]
fn an_unmap_takes_one_doorbell_and_few_descriptors() {
    let rows = all::<Vtd>();
    assert!(rows.len() >= 8, "every kind of unit: {rows:?}");
    for row in rows {
        let [sync, page, gib, leaves, scattered, attach, replace, detach] = row.costs;
        println!("{}: {:?}", row.name, row.costs);
        assert_eq!(sync, Cost { commands: 0, waits: 1, doorbells: 1, accesses: 0 }, "{}", row.name);
        // One invalidation and the wait. With a device TLB that has one more; behind a first stage, and a fence.
        let device = if row.name.contains("device TLB") { 1 } else { 0 };
        let fence = if device == 1 && row.name.contains("first stage") { 1 } else { 0 };
        let one = Cost { commands: 1 + device, waits: 1 + fence, doorbells: 1, accesses: 0 };
        assert_eq!((page, gib, leaves), (one, one, one), "{}", row.name);
        assert_eq!(page.commands + page.waits, 2 + device + fence);
        // 512 pages in as many ranges as a gather keeps.
        let one = Cost { commands: scattered.commands, ..one };
        assert_eq!(scattered, one, "{}", row.name);
        assert!((1..=8 * (1 + device)).contains(&scattered.commands), "{}: {scattered:?}", row.name);
        for (what, cost) in [("attach", attach), ("detach", detach)] {
            assert!(cost.doorbells <= 1 && cost.commands <= 8 && cost.accesses == 0, "{}: {what} {cost:?}", row.name);
        }
        assert!(replace.doorbells <= 2 && replace.commands <= 16 && replace.accesses == 0, "{}: {replace:?}", row.name);
    }
}

#[test]
fn on_smmuv3_an_unmap_takes_one_doorbell_and_few_commands() {
    let rows = all::<Smmuv3>();
    assert_eq!(rows.len(), 20, "every kind of unit: {rows:?}");
    for row in rows {
        let [sync, page, gib, leaves, scattered, attach, replace, detach] = row.costs;
        println!("{}: {:?}", row.name, row.costs);
        let has = |what| row.name.contains(what);
        let ranges = !has("without ranges");
        // Each doorbell's CMD_SYNC is looked for once in the consumer index, which a message makes needless.
        let doorbells = |cost: Cost, count: usize| {
            let accesses = if has("messages") { 0 } else { count };
            assert_eq!((cost.doorbells, cost.accesses), (count, accesses), "{}: {cost:?}", row.name);
        };
        doorbells(sync, 1);
        assert_eq!((sync.commands, sync.waits), (0, 1), "{}", row.name);
        // One TLBI and the CMD_SYNC; CMD_ATC_INV waits for a CMD_SYNC before it.
        let device = usize::from(has("device TLB"));
        for cost in [page, gib, leaves] {
            doorbells(cost, 1);
            assert_eq!((cost.commands, cost.waits), (1 + device, 1 + device), "{}: {cost:?}", row.name);
        }
        // 512 pages in as many ranges as a gather keeps: of some more than one TLBI. Without ranges it is all of the tag.
        doorbells(scattered, 1);
        let most = if ranges { 8 + 4 } else { 1 } + 8 * device;
        assert!((1 + device..=most).contains(&scattered.commands), "{}: {scattered:?}", row.name);
        assert_eq!(scattered.waits, 1 + device, "{}", row.name);
        // The words that an entry does not use yet, then the one that makes it lead somewhere (section 3.21.3). From stage
        // 2 to stage 2 more than one word differs.
        doorbells(attach, 2);
        doorbells(replace, if has("stage 1") { 1 } else { 3 });
        doorbells(detach, 1);
        for cost in [attach, replace, detach] {
            assert!(cost.commands <= 5, "{}: {cost:?}", row.name);
        }
    }
}
