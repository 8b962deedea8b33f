//! How many commands and doorbells operations take: the same everywhere, and therefore a test. The benchmark `queue` prints
//! all of them.

#[path = "../benches/queue/costs.rs"]
mod costs;

use costs::{Cost, all};

#[test]
fn an_unmap_takes_one_doorbell_and_few_descriptors() {
    let rows = all();
    assert!(rows.len() >= 8, "every kind of unit: {rows:?}");
    for row in rows {
        let [page, gib, leaves, scattered, attach, detach] = row.costs;
        println!("{}: {:?}", row.name, row.costs);
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
    }
}
