//! Ranges that were not taken away as the demo says.

use super::{FIRST, Kind, SECOND, good, kinds};

fn expected(kind: Kind) -> &'static str {
    if kind.stage2 {
        "unmap: expected a TLB invalidation of VMID 0x2 that covers 0x100000..=0x101fff; the trace shows none of "
    } else {
        "unmap: expected a TLB invalidation of ASID 0x2 that covers 0x100000..=0x101fff; the trace shows none of "
    }
}

#[test]
fn no_invalidation() {
    for kind in kinds() {
        good(kind).changed("unmap", &kind.pages(2, 0x10_0000, 2), "").is_caught(expected(kind));
    }
}

#[test]
fn after_the_wait() {
    for kind in kinds() {
        let pages = kind.pages(2, 0x10_0000, 2);
        good(kind).changed("unmap", &pages, "").inside("gone", &pages).is_caught(expected(kind));
    }
}

#[test]
fn of_something_else() {
    for kind in kinds() {
        let pages = kind.pages(2, 0x10_0000, 2);
        let caught = |new: &str| good(kind).changed("unmap", &pages, new).is_caught(expected(kind));
        let other = Kind { stage2: !kind.stage2, ..kind };
        caught(&kind.pages(3, 0x10_0000, 2));
        caught(&kind.all_of(3).1);
        caught(&kind.pages(2, 0x10_0000, 1));
        caught(&kind.pages(2, 0x10_1000, 1));
        caught(&kind.pages(2, 0x20_0000, 2));
        caught(&other.pages(2, 0x10_0000, 2));
        caught(&other.all_of(2).1);
        caught("smmuv3_cmdq_cfgi_ste streamid= 0x20\n");
        // Without a range: one page.
        caught(&pages.replace("tg=1 num_pages=0x2", "tg=0 num_pages=0x1"));
    }
    let pages = FIRST.pages(2, 0x10_0000, 2);
    good(FIRST).changed("unmap", &pages, &pages.replace("vmid=0", "vmid=1")).is_caught(expected(FIRST));
}

#[test]
fn of_more() {
    for kind in kinds() {
        let pages = kind.pages(2, 0x10_0000, 2);
        let right = |new: &str| good(kind).changed("unmap", &pages, new).is_right();
        right(&kind.pages(2, 0, 0x200));
        right(&(kind.pages(2, 0x10_1000, 1) + &kind.pages(2, 0x10_0000, 1)));
        right(&kind.all_of(2).1);
        right("smmu_iotlb_inv_all IOTLB invalidate all\n");
        let one = |first| kind.pages(2, first, 1).replace("tg=1", "tg=0");
        right(&(one(0x10_0000) + &one(0x10_1000)));
    }
    // Of all ASIDs.
    let pages = FIRST.pages(2, 0x10_0000, 2);
    good(FIRST).changed("unmap", &pages, &pages.replace("asid=2", "asid=-1")).is_right();
}

#[test]
fn while_dma_goes_on() {
    for kind in kinds() {
        let lines = kind.unmapped(0x20, 2, 0x10_0000);
        good(kind)
            .inside("unmap", &lines)
            .is_caught("unmap: expected no DMA; the trace shows 0x20 refused at 0x100000");
    }
}

#[test]
fn still_reachable() {
    for kind in kinds() {
        // As a translation where a refusal was due.
        let stale = kind.cached(0x20, 2, 0x10_0000, 0x37_7000, 3);
        let run = good(kind).changed("gone", &kind.unmapped(0x20, 2, 0x10_0000), &stale);
        run.is_caught("gone: expected an event, write of 0x20 at 0x100000, reason 0x10; the trace shows 0x20 translated from 0x100000 to 0x377000");
        // As the old memory where the new one was due.
        let new = kind.walked(0x20, 2, 0x10_0000, 0x37_3000, 3);
        let run = good(kind).changed("remapped", &new, &stale);
        run.is_caught("remapped: expected it to lead to 0x373000 from 0x100000; the trace shows 0x20 translated from 0x100000 to 0x377000");
        let line = run.verdict().lines.remove(0);
        assert!(line.ends_with(r#": a mapping that was taken away by "unmap""#), "{line}");
    }
}

#[test]
fn mapped_again_to_the_same_frame() {
    let (old, new) = (SECOND.walked(0x20, 2, 0x10_0000, 0x37_3000, 3), SECOND.walked(0x20, 2, 0x10_0000, 0x37_7000, 3));
    good(SECOND).changed("remapped", &old, &new).recorded(r#""phys":"0x373000""#, r#""phys":"0x377000""#).is_right();
}
