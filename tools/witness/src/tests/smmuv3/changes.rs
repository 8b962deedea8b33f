//! Streams whose changes the hardware was not told of as it must be.

use super::{FIRST, Kind, Run, SECOND, abort, cfgi, config, good, kinds};

const DETACH: &str = "detach: expected for 0x20, in this order: ";

/// The lines of a command from its name on.
fn command(name: &str, lines: &str) -> String {
    format!("smmuv3_cmdq_opcode <--- SMMU_CMD_{name}\n{lines}")
}

/// A command of no matter in its place: the queue goes on.
fn nothing() -> String {
    command("PREFETCH_CONFIG", "")
}

fn ste() -> String {
    command("CFGI_STE", &cfgi("CFGI_STE", 0x20))
}

fn cd() -> String {
    command("CFGI_CD", &cfgi("CFGI_CD", 0x20))
}

fn all_of(kind: Kind, domain: u64) -> String {
    let (name, lines) = kind.all_of(domain);
    command(name, &lines)
}

#[test]
fn detach_without() {
    for kind in kinds() {
        let missing = |old: &str, what: &str| {
            let run = good(kind).changed("detach", old, &nothing());
            run.is_caught(&format!("the trace shows no {what} from there on"));
            run.is_caught(DETACH);
        };
        missing(&ste(), "CMD_CFGI_STE");
        missing(
            &all_of(kind, 3),
            if kind.stage2 { "TLB invalidation of VMID 0x3" } else { "TLB invalidation of ASID 0x3" },
        );
        if !kind.stage2 {
            missing(&cd(), "CMD_CFGI_CD");
        }
    }
}

#[test]
fn detach_of_something_else() {
    let caught = |kind: Kind, old: &str, new: &str| good(kind).changed("detach", old, new).is_caught(DETACH);
    for kind in kinds() {
        caught(kind, "streamid= 0x20", "streamid= 0x28");
        // Named, but no device has the stream.
        caught(kind, &ste(), &command("CFGI_STE", ""));
        caught(kind, &all_of(kind, 3), &all_of(kind, 2));
        caught(kind, &all_of(kind, 3), &command("TLBI", &kind.pages(3, 0x1000, 1)));
    }
    caught(FIRST, "cfgi_cd sid=0x20", "cfgi_cd sid=0x28");
    caught(FIRST, "IOTLB invalidate asid=3 vmid=0", "IOTLB invalidate asid=3 vmid=1");
    caught(FIRST, &all_of(FIRST, 3), &all_of(SECOND, 3));
    caught(SECOND, &all_of(SECOND, 3), &all_of(FIRST, 3));
}

#[test]
fn detach_of_more() {
    let right = |kind: Kind, old: &str, new: &str| good(kind).changed("detach", old, new).is_right();
    let range =
        |last: u64| command("CFGI_STE_RANGE", &format!("smmuv3_cmdq_cfgi_ste_range start=0x0 - end={last:#x}\n"));
    for kind in kinds() {
        right(kind, &ste(), &range(0xffff_ffff));
        right(kind, &ste(), &range(0xff));
        right(kind, &all_of(kind, 3), &command("TLBI_NSNH_ALL", "smmu_iotlb_inv_all IOTLB invalidate all\n"));
        good(kind).changed("detach", &ste(), &range(0x1f)).is_caught(DETACH);
    }
    right(FIRST, &cd(), &range(0xffff_ffff));
    good(FIRST).changed("detach", &cd(), &range(0xff)).is_caught(DETACH);
    right(FIRST, &all_of(FIRST, 3), &command("TLBI_NH_ALL", "smmu_iotlb_inv_vmid_s1 IOTLB invalidate vmid=0\n"));
    right(FIRST, &all_of(FIRST, 3), &all_of(SECOND, 0));
    good(FIRST)
        .changed(
            "detach",
            &all_of(FIRST, 3),
            &command("TLBI_NH_ALL", "smmu_iotlb_inv_vmid_s1 IOTLB invalidate vmid=3\n"),
        )
        .is_caught(DETACH);
}

/// Exchanges two commands after a check has begun.
fn exchanged(run: Run, check: &str, one: &str, other: &str) -> Run {
    run.changed(check, one, "X").changed(check, other, one).changed(check, "X", other)
}

#[test]
fn detach_in_another_order() {
    for kind in kinds() {
        // Translations first; and without the CMD_SYNC in the middle.
        exchanged(good(kind), "detach", &ste(), &all_of(kind, 3)).is_caught(DETACH);
        good(kind).changed("detach", &command("SYNC", ""), &nothing()).is_caught(DETACH);
    }
    exchanged(good(FIRST), "detach", &cd(), &all_of(FIRST, 3)).is_caught(DETACH);
    exchanged(good(FIRST), "detach", &ste(), &cd()).is_right();
}

#[test]
fn detach_after_its_end() {
    for kind in kinds() {
        let late = kind.all_of(3).1;
        let run = good(kind).changed("detach", &all_of(kind, 3), &nothing());
        run.inside("detached", &late).is_caught(DETACH);
    }
}

#[test]
fn attach_without() {
    for kind in kinds() {
        let run = good(kind).changed("attach", &ste(), &nothing());
        run.is_caught("attach: expected for 0x20, in this order: CMD_CFGI_STE, CMD_SYNC, CMD_CFGI_STE, CMD_SYNC; the trace shows no CMD_CFGI_STE");
        good(kind).changed("attach", "streamid= 0x20", "streamid= 0x28").is_caught("attach: expected for 0x20");
        good(kind).changed("attach", &command("SYNC", ""), &nothing()).is_caught("attach: expected for 0x20");
    }
}

#[test]
fn move_without() {
    for kind in kinds() {
        let order = "move: expected for 0x20, in this order: CMD_CFGI_STE, CMD_SYNC, TLB invalidation of ";
        good(kind).changed("move", &ste(), &nothing()).is_caught(order);
        good(kind).changed("move", &all_of(kind, 2), &nothing()).is_caught(order);
        good(kind).changed("move", &all_of(kind, 2), &all_of(kind, 3)).is_caught(order);
        exchanged(good(kind), "move", &ste(), &all_of(kind, 2)).is_caught(order);
    }
    let order = "move: expected for 0x20, in this order: CMD_CFGI_CD, CMD_SYNC, TLB invalidation of ASID 0x2";
    good(FIRST).changed("move", &cd(), &nothing()).is_caught(order);
}

#[test]
fn while_dma_goes_on() {
    for kind in kinds() {
        for check in ["attach", "move", "detach"] {
            let lines = abort(0x30, 0x1000);
            good(kind)
                .inside(check, &lines)
                .is_caught(&format!("{check}: expected no DMA; the trace shows 0x30 refused"));
            let lines = config(0x30);
            good(kind)
                .inside(check, &lines)
                .is_caught(&format!("{check}: expected no DMA; the trace shows an access that came"));
        }
    }
}
