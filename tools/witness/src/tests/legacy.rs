//! VT-d without scalable mode: contexts are tagged with domains, and there are no PASIDs.

use super::{NEW, Run};
use crate::record::Record;

/// Refused, attached, moved, unmapped, to another domain, detached. Stream 0x20 has domains 2 and then 3.
fn good(caching_mode: bool) -> Run {
    let mut run = Run::start(super::Kind { caching_mode, ..NEW }, "legacy");
    if caching_mode {
        run.check("state", "option caching-mode=on", "", ("true", "true"), None);
    }
    run.comes_up(0);
    run.refused("early", (1, 2), "write", 0x37_0ffc, 1);
    run.wait(3);
    if caching_mode {
        run.descriptor(0x20_0000_0031, 0);
        run.descriptor(0x2_00e2, 0);
    }
    run.wait(4);
    run.change("attach", "attach", (3, 4));
    run.moved("fill", (5, 6), "read", 0x1000, 0x1000, &[(0x1000, 0x37_0000, 0xfff, 2)]);

    run.wait(9);
    run.descriptor(0x2_00f2, 0x1000);
    run.wait(10);
    let area = r#""stream":"0x20","iova":"0x1000","length":4096,"frames":[{"phys":"0x370000","length":4096}]"#;
    run.check("unmap", "unmap", area, ("invalidated", "invalidated"), Some((9, 10)));
    run.refused("gone", (11, 12), "write", 0x1000, 5);

    run.wait(21);
    run.descriptor(0x20_0002_0031, 0);
    run.descriptor(0x2_00e2, 0);
    run.wait(22);
    if caching_mode {
        run.descriptor(0x20_0000_0031, 0);
        run.descriptor(0x3_00e2, 0);
    }
    run.wait(23);
    run.change("attach", "move", (21, 23));
    run.moved("moved", (24, 25), "write", 0x1000, 0x1000, &[(0x1000, 0x37_e000, 0xfff, 3)]);

    run.wait(26);
    run.descriptor(0x20_0003_0031, 0);
    run.descriptor(0x3_00e2, 0);
    run.wait(27);
    run.change("detach", "detach", (26, 27));
    run.refused("detached", (29, 30), "read", 0x1000, 2);
    run.ends();
    run
}

const DETACH: &str = "some high 0x0 low 0x2000030031\n";
const MOVE: &str = "some high 0x0 low 0x2000020031\n";

#[test]
fn a_run_that_is_right() {
    good(false).is_right();
    good(true).is_right();
}

#[test]
fn a_domain_that_the_context_does_not_have() {
    let order = "detach: expected for 0x20, in this order: context-cache invalidation of domain 0x3, IOTLB invalidation \
                 of domain 0x3, wait; the trace shows no context-cache invalidation of domain 0x3";
    good(false).traced(DETACH, "some high 0x0 low 0x2000020031\n").is_caught(order);
    good(false).traced(DETACH, "some high 0x0 low 0x2000000031\n").is_caught(order);
    good(false).traced(DETACH, "some high 0x0 low 0x2800030031\n").is_caught(order);
    // By domain, which legacy hardware does; and all.
    good(false).traced(DETACH, "some high 0x0 low 0x30021\n").is_right();
    good(false).traced(DETACH, "some high 0x0 low 0x11\n").is_right();
    good(false).traced(DETACH, "some high 0x0 low 0x20021\n").is_caught(order);
    good(false).traced(MOVE, "some high 0x0 low 0x25\n").is_caught("move: expected for 0x20, in this order");
}

#[test]
fn without_the_iotlb() {
    let iotlb = "some high 0x0 low 0x300e2\n";
    let expected = "the trace shows no IOTLB invalidation of domain 0x3";
    good(false).traced(iotlb, "some high 0x0 low 0x200e2\n").is_caught(expected);
    good(false).traced(iotlb, "some high 0x1001 low 0x300f2\n").is_caught(expected);
    // Before the context cache, through which it would come back.
    let swapped = good(false).traced(DETACH, "X").traced(iotlb, DETACH).traced("X", iotlb);
    swapped.is_caught(expected);
    // Descriptors of scalable mode do nothing here.
    good(false).traced(iotlb, "some high 0x0 low 0x30026\n").is_caught(expected);
    let pages = "some high 0x1000 low 0x200f2\n";
    good(false).traced(pages, "some high 0x1000 low 0x20036\n").is_caught("unmap: expected an IOTLB invalidation");
}

#[test]
fn attach_in_caching_mode() {
    let order = "attach: expected for 0x20, in this order: context-cache invalidation of domain 0x0, IOTLB invalidation, \
                 wait";
    let context = "some high 0x0 low 0x2000000031\n";
    // Tagged with domain 0, whatever the new one is.
    good(true).traced(context, "some high 0x0 low 0x2000020031\n").is_caught(order);
    good(true).traced("some high 0x0 low 0x200e2\n", "some high 0x0 low 0x25\n").is_caught(order);
    let again = "some high 0x0 low 0x300e2\n";
    good(true).traced(again, "some high 0x0 low 0x25\n").is_caught("move: expected for 0x20");
    // As a unit that caches none the same run would do.
    let mut run = good(true);
    run.records = run.records.replace("option caching-mode=on", "looked at");
    run.is_right();
}

#[test]
fn a_root_table_of_scalable_mode() {
    let run = good(false).traced("scalable 0", "scalable 1");
    run.all_caught(&["a root table of another mode", "DMA before the unit had a root table"]);
    let mut run = Run::good(NEW).traced("scalable 1", "scalable 0");
    run.all_caught(&["a root table of another mode", "DMA before the unit had a root table"]);
    // Nor is a run in legacy mode one of another scenario.
    run = good(false);
    run.records = run.records.replace("\"legacy\"", "\"second-stage\"");
    run.scenario = "second-stage";
    assert!(run.verdict().failed > 0);
    assert!(run.records.lines().all(|line| Record::parse(line).is_ok()));
}
