//! Streams with a PASID: entries, invalidations and faults of their own.

use super::{Kind, NEW, OLD, Run, kinds};

const RED: u64 = 0x1_2345;
const BLUE: u64 = 0xf_2345;

/// The function is attached (domain 2), then a PASID of it (domain 3) and another (domain 4): each is used; memory of
/// the second is unmapped, the first moves to domain 4 and is detached.
fn good(kind: Kind) -> Run {
    let mut run = Run::start(kind, "adi");
    if kind.first_stage {
        run.check("state", "option fsts=on", "", ("true", "true"), None);
    }
    if kind.caching_mode {
        run.check("state", "option caching-mode=on", "", ("true", "true"), None);
    }
    run.comes_up(1);
    run.wait(1);
    if kind.caching_mode {
        run.descriptor(0x20_0000_0031, 0);
        run.pasid_cache(2);
        run.descriptor(0xe2, 0);
        run.descriptor(0x2_0026, 0);
    }
    run.wait(2);
    run.change("attach", "whole", (1, 2));
    run.moved("without", (3, 4), "read", 0x1000, 8, &[(0x1000, 0x37_0000, 0xfff, 2)]);

    run.pasid = Some(RED);
    run.refused("early", (5, 6), "write", 0x1000, 0x51);
    for (pasid, domain, at) in [(RED, 3, 7), (BLUE, 4, 9)] {
        run.pasid = Some(pasid);
        run.wait(at);
        if kind.caching_mode {
            pasid_cache(&mut run, pasid, domain);
            run.descriptor(pasid << 32 | domain << 16 | 0x26, 0);
        }
        run.wait(at + 1);
        run.change("attach", &format!("part {pasid:#x}"), (at as u32, at as u32 + 1));
    }
    run.pasid = Some(RED);
    run.moved("red", (11, 12), "write", 0x1000, 8, &[(0x1000, 0x37_3000, 0xfff, 3)]);
    run.pasid = Some(BLUE);
    run.moved("blue", (13, 14), "write", 0x1000, 8, &[(0x1000, 0x37_4000, 0xfff, 4)]);

    run.wait(15);
    if kind.first_stage {
        run.descriptor(BLUE << 32 | 0x4_0036, 0x1000);
    } else {
        run.descriptor(0x4_00f2, 0x1000);
    }
    run.wait(16);
    let area =
        format!(r#"{},"iova":"0x1000","length":4096,"frames":[{{"phys":"0x374000","length":4096}}]"#, run.stream());
    run.check("unmap", "unmap", &area, ("invalidated", "invalidated"), Some((15, 16)));
    run.refused("gone", (17, 18), "write", 0x1000, if kind.first_stage { 0x71 } else { 5 });
    run.moved("again", (19, 20), "read", 0x2000, 8, &[(0x2000, 0x37_5000, 0xfff, 4)]);

    run.pasid = Some(RED);
    run.wait(21);
    gone(&mut run, RED, 3);
    if kind.caching_mode {
        pasid_cache(&mut run, RED, 4);
        run.descriptor(RED << 32 | 0x4_0026, 0);
    }
    run.wait(22);
    run.change("attach", "move", (21, 22));
    run.moved("moved", (23, 24), "read", 0x2000, 8, &[(0x2000, 0x37_5000, 0xfff, 4)]);
    run.wait(25);
    gone(&mut run, RED, 4);
    run.wait(26);
    run.change("detach", "detach", (25, 26));
    run.refused("detached", (27, 28), "read", 0x2000, 0x5b);
    run.pasid = Some(BLUE);
    run.moved("still", (29, 30), "read", 0x2000, 8, &[(0x2000, 0x37_5000, 0xfff, 4)]);
    run.ends();
    run
}

fn pasid_cache(run: &mut Run, pasid: u64, domain: u64) {
    if run.kind.old {
        run.lines(&["vtd_inv_qi_head read head 1"]);
    } else {
        run.descriptor(pasid << 32 | domain << 16 | 0x17, 0);
    }
}

/// What follows a PASID entry that went away.
fn gone(run: &mut Run, pasid: u64, domain: u64) {
    pasid_cache(run, pasid, domain);
    if run.kind.first_stage {
        run.descriptor(pasid << 32 | domain << 16 | 0x26, 0);
    } else {
        run.descriptor(domain << 16 | 0xe2, 0);
    }
}

#[test]
fn a_run_that_is_right() {
    for kind in kinds() {
        good(kind).is_right();
    }
}

const ORDER: &str = "detach: expected for 0x20 PASID 0x12345, in this order: PASID-cache invalidation of domain 0x4, \
                     IOTLB invalidation of domain 0x4, wait; the trace shows no ";

/// A run with the lines of its detach changed.
fn detach(kind: Kind, old: &str, new: &str) -> Run {
    let mut run = good(kind);
    let at = run.trace.find("data 0x19\n").expect("the detach");
    let (before, after) = run.trace.split_at(at);
    assert!(after.contains(old), "{old}: {after}");
    run.trace = format!("{before}{}", after.replacen(old, new, 1));
    run
}

#[test]
fn detach_of_another() {
    let pasid = format!("{ORDER}PASID-cache invalidation of domain 0x4");
    let caught = |old: &str, new: &str, words: &str| detach(NEW, old, new).is_caught(words);
    caught("low 0x1234500040017", "low 0x234500040017", &pasid); // only the lower 16 bits
    caught("low 0x1234500040017", "low 0xf234500040017", &pasid); // another PASID
    caught("low 0x1234500040017", "low 0x40017", &pasid); // the requests without one
    caught("low 0x1234500040017", "low 0x1234500030017", &pasid); // another domain
    caught("low 0x400e2", "low 0x300e2", &format!("{ORDER}IOTLB invalidation of domain 0x4"));
    let right = |old: &str, new: &str| detach(NEW, old, new).is_right();
    right("low 0x1234500040017", "low 0x40007"); // all PASIDs of the domain
    right("low 0x1234500040017", "low 0x37"); // all
    // Without a word about it, as 10.0 has it.
    detach(OLD, "vtd_inv_qi_head read head 1\nvtd_inv_qi_head read head 1\n", "vtd_inv_qi_head read head 1\n")
        .is_caught(&pasid);
}

#[test]
fn detach_of_a_first_stage() {
    let kind = Kind { first_stage: true, ..NEW };
    let words = "the trace shows no PASID-based IOTLB invalidation of domain 0x4";
    for wrong in ["low 0xf234500040026", "low 0x234500040026", "low 0x40026", "low 0x1234500030026"] {
        detach(kind, "low 0x1234500040026", wrong).is_caught(words);
    }
    detach(kind, "low 0x1234500040026", "low 0x400e2").is_right();
}

#[test]
fn unmap_for_each_pasid() {
    let kind = Kind { first_stage: true, ..NEW };
    let words = "unmap: expected an IOTLB invalidation of domain 0x4";
    for wrong in ["low 0x1234500040036", "low 0x40036", "low 0xf234500030036"] {
        good(kind).traced("low 0xf234500040036", wrong).is_caught(words);
    }
    // Two that lead to the same domain: both are to forget.
    for kind in [NEW, kind] {
        let mut run = good(kind);
        let end = run.records.rfind("{\"kind\":\"end\"").expect("an end");
        run.records.truncate(end);
        run.pasid = None;
        run.wait(31);
        gone(&mut run, 0, 2);
        run.wait(32);
        run.change("attach", "whole to blue", (31, 32));
        run.moved("both", (33, 34), "read", 0x2000, 8, &[(0x2000, 0x37_5000, 0xfff, 4)]);
        run.wait(35);
        run.descriptor(if kind.first_stage { 0x4_0036 } else { 0x4_00f2 }, 0x2000);
        let of_part = "vtd_inv_desc invalidate desc type some high 0x2000 low 0xf234500040036";
        if kind.first_stage {
            run.lines(&[of_part]);
        }
        run.wait(36);
        let area = r#""stream":"0x20","iova":"0x2000","length":4096,"frames":[{"phys":"0x375000","length":4096}]"#;
        run.check("unmap", "of both", area, ("invalidated", "invalidated"), Some((35, 36)));
        run.ends();
        run.is_right();
        if kind.first_stage {
            run.traced(of_part, "").is_caught("before the wait (trace line");
        }
    }
}

#[test]
fn attach_in_caching_mode() {
    for first_stage in [false, true] {
        let kind = Kind { caching_mode: true, first_stage, ..NEW };
        let words = "part 0x12345: expected for 0x20 PASID 0x12345, in this order: PASID-cache invalidation, \
                     PASID-based IOTLB invalidation, wait";
        good(kind).traced("low 0x1234500030017", "low 0xf234500030017").is_caught(words);
        good(kind).traced("low 0x1234500030026", "low 0x30026").is_caught(words);
    }
}

#[test]
fn memory_of_another_part() {
    // By the domain that the other has, although the memory is right: whose table it is counts.
    let run = good(NEW)
        .traced("sid 0x20 iova 0x2000 slpte 0x375003 domain 0x4", "sid 0x20 iova 0x2000 slpte 0x375003 domain 0x3");
    run.is_caught("again: expected the domain that it was attached to, as seen before");
    let red = "slpte 0x373003 domain 0x3\nvtd_dmar_translate dev 00:04.00 iova 0x1000 -> gpa 0x373000";
    let blue = "slpte 0x374003 domain 0x3\nvtd_dmar_translate dev 00:04.00 iova 0x1000 -> gpa 0x374000";
    good(NEW).traced(red, blue).is_caught("red: expected it to lead to 0x373000");
    // A PASID that nobody was given.
    let stolen = good(NEW).recorded(
        r#""check":"still","stream":"0x20","pasid":"0xf2345""#,
        r#""check":"still","stream":"0x20","pasid":"0x2345""#,
    );
    stolen.is_caught("still: 0x20 PASID 0x2345 is attached to nothing");
    let plain = good(NEW)
        .recorded(r#""check":"detach","stream":"0x20","pasid":"0x12345""#, r#""check":"detach","stream":"0x20""#);
    plain.is_caught("detach: expected for 0x20, in this order: context-cache invalidation");
}

#[test]
fn faults_record_what_qemu_knows_of_a_pasid() {
    // With the tables of pages reached: 16 bits of it.
    let gone = "high 0x23450580000020";
    good(NEW).traced(gone, "high 0x500000020").is_caught("gone: expected blocked: write of 0x20 PASID 0x2345");
    good(NEW).traced(gone, "high 0x23460580000020").is_caught("gone: expected blocked: write of 0x20 PASID 0x2345");
    // Without: none, and one that is there nonetheless is another fault.
    let early = "high 0x5100000020";
    good(NEW).traced(early, "high 0x23455180000020").is_caught("early: expected blocked: write of 0x20 at 0x1000");
    // PASID 0 of a record is none.
    good(NEW).traced(early, "high 0x5180000020").is_right();
}
