//! Streams whose changes the hardware was not told of as it must be.

use super::{Kind, NEW, Run, kinds};

/// Line by line, the invalidations of the detach.
const CONTEXT: &str = "vtd_inv_qi_head read head 1\nvtd_inv_desc invalidate desc type some high 0x0 low 0x2000000031\n";
const PASID: &str = "vtd_inv_qi_head read head 1\nvtd_inv_desc invalidate desc type some high 0x0 low 0x30017\n";
const IOTLB: &str = "vtd_inv_qi_head read head 1\nvtd_inv_desc invalidate desc type some high 0x0 low 0x300e2\n";

const ORDER: &str = "detach: expected for 0x20, in this order: context-cache invalidation, PASID-cache invalidation of \
                     domain 0x3, IOTLB invalidation of domain 0x3, wait; the trace shows no ";

#[test]
fn detach_without() {
    let missing = |line: &str, what: &str| {
        Run::good(NEW).traced(line, "").is_caught(&format!("{ORDER}{what} from there on"));
    };
    missing(CONTEXT, "context-cache invalidation");
    missing(PASID, "PASID-cache invalidation of domain 0x3");
    missing(IOTLB, "IOTLB invalidation of domain 0x3");
}

#[test]
fn detach_without_in_every_kind() {
    for kind in kinds() {
        let run = Run::good(kind);
        let (before, detach) = run.trace.split_at(run.trace.find("data 0x1a\n").unwrap_or_else(|| panic!("no wait")));
        let iotlb = if kind.first_stage { "low 0x30026" } else { "low 0x300e2" };
        let pasid = if kind.old { "vtd_inv_qi_head read head 1\nvtd_inv_qi_head read head 1\n" } else { PASID };
        for (old, new) in [
            (CONTEXT, ""),
            (pasid, if kind.old { "vtd_inv_qi_head read head 1\n" } else { "" }),
            (iotlb, "low 0x400e2"),
        ] {
            let mut run = run.clone();
            assert!(detach.contains(old), "{old}");
            run.trace = format!("{before}{}", detach.replacen(old, new, 1));
            run.is_caught("detach: expected for 0x20, in this order");
        }
    }
}

#[test]
fn detach_of_something_else() {
    let good = || Run::good(NEW);
    let caught = |old: &str, new: &str| good().traced(old, new).is_caught(ORDER);
    caught("low 0x2000000031", "low 0x2800000031"); // another stream
    caught("low 0x2000000031", "low 0x2000000021"); // by domain: ignored in scalable mode
    caught("low 0x30017", "low 0x20017"); // another domain
    caught("low 0x30017", "low 0x100030017"); // another PASID
    caught("low 0x300e2", "low 0x200e2"); // another domain
    caught("high 0x0 low 0x300e2", "high 0x1001 low 0x300f2"); // some pages
    caught("low 0x300e2", "low 0x30026"); // entries of the first stage
}

#[test]
fn detach_of_more() {
    let right = |old: &str, new: &str| Run::good(NEW).traced(old, new).is_right();
    right("low 0x2000000031", "low 0x11"); // all streams
    right("low 0x2000000031", "low 0x3002700000031"); // all functions of the device
    right("low 0x30017", "low 0x37"); // all domains
    right("low 0x30017", "low 0x30007"); // all PASIDs of the domain
    right("low 0x300e2", "low 0xd2"); // everything
}

#[test]
fn detach_in_another_order() {
    let good = || Run::good(NEW);
    let all = format!("{CONTEXT}{PASID}{IOTLB}");
    let wait = "vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data 0x99\n";
    for wrong in [
        format!("{PASID}{CONTEXT}{IOTLB}"),
        format!("{CONTEXT}{IOTLB}{PASID}"),
        format!("{IOTLB}{CONTEXT}{PASID}"),
        format!("{PASID}{IOTLB}{CONTEXT}"),
        format!("{IOTLB}{wait}{CONTEXT}{PASID}"),
        format!("{PASID}{IOTLB}{wait}{CONTEXT}"),
    ] {
        good().traced(&all, &wrong).is_caught(ORDER);
    }
    // A wait after each.
    good().traced(&all, &format!("{CONTEXT}{wait}{PASID}{IOTLB}")).is_right();
}

#[test]
fn detach_after_its_end() {
    let run = Run::good(NEW).traced(IOTLB, "").after(28, IOTLB.trim_end());
    run.is_caught(ORDER);
}

#[test]
fn move_without() {
    let order = "move: expected for 0x20, in this order: PASID-cache invalidation of domain 0x2, IOTLB invalidation of domain 0x2, wait";
    let good = || Run::good(NEW);
    let (pasid, iotlb) = ("some high 0x0 low 0x20017\n", "some high 0x0 low 0x200e2\n");
    good().traced(pasid, "some high 0x0 low 0x30017\n").is_caught(order);
    good().traced(iotlb, "some high 0x0 low 0x300e2\n").is_caught(order);
    let swapped = good().traced(pasid, "X").traced(iotlb, pasid).traced("X", iotlb);
    swapped.is_caught(order);
}

#[test]
fn attach_in_caching_mode() {
    let kind = Kind { caching_mode: true, ..NEW };
    let good = || Run::good(kind);
    let context =
        "attach: expected for 0x20, in this order: context-cache invalidation, IOTLB invalidation of domain 0x0, wait";
    let pasid =
        "attach: expected for 0x20, in this order: PASID-cache invalidation, PASID-based IOTLB invalidation, wait";
    good().traced("low 0x2000000031", "low 0x2800000031").is_caught(context);
    good().traced("some high 0x0 low 0xe2\n", "some high 0x0 low 0x200e2\n").is_caught(context);
    good().traced("low 0x20017", "low 0x25").is_caught(pasid);
    good().traced("low 0x20026", "low 0x25").is_caught(pasid);
    // A stream that had a domain: the new PASID entry, too.
    good().traced("low 0x30017", "low 0x25").is_caught("move: expected for 0x20, in this order");
    good().traced("low 0x30026", "low 0x25").is_caught("move: expected for 0x20, in this order");
}

#[test]
fn caching_mode_as_told() {
    // Nobody says so: nothing is called for.
    let mut run = Run::good(NEW);
    run.is_right();
    // The guest says so.
    run.records = run.records.replace(r#""check":"looked at""#, r#""check":"option caching-mode=on""#);
    run.all_caught(&["attach: expected for 0x20", "move: expected for 0x20"]);
}

#[test]
fn while_dma_goes_on() {
    let fault = "vtd_dmar_fault sid 0x30 fault 2 addr 0x1000 write 0";
    for (marker, check) in [(3, "attach"), (21, "move"), (26, "detach")] {
        Run::good(NEW)
            .after(marker, fault)
            .is_caught(&format!("{check}: expected no DMA; the trace shows a fault of 0x30"));
    }
}

#[test]
fn blocked_outside_of_any_check() {
    // As at the end of a partition: the stream has nothing then, so a later attach is a first one.
    let all = format!("{CONTEXT}{PASID}{IOTLB}");
    let wait = "vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data 0x99\n";
    let mut run = Run::good(NEW).traced(&all, "").after(25, &format!("{all}{wait}"));
    run = run.recorded(r#"{"kind":"detach","check":"detach""#, r#"{"kind":"attach","check":"again""#);
    run.is_right();
}
