//! Ranges that were not taken away as the demo says.

use super::{NEW, OLD, Run, kinds};

/// The invalidation of the unmap: its low and high half.
const LOW: &str = "high 0x100001 low 0x200f2";

#[test]
fn no_invalidation() {
    for kind in kinds() {
        let low = if kind.first_stage { "0x20036" } else { "0x200f2" };
        let line = format!("vtd_inv_desc invalidate desc type some high 0x100001 low {low}\n");
        let run = Run::good(kind);
        // On 10.0 the descriptor must not even be fetched, or it passes for one of the PASID cache.
        let run = run.traced(&format!("vtd_inv_qi_head read head 1\n{line}"), "");
        run.is_caught("unmap: expected an IOTLB invalidation of domain 0x2 that covers 0x100000..=0x101fff; the trace shows none of 0x100000 before the wait");
    }
}

#[test]
fn an_untraced_descriptor_is_no_invalidation_of_the_iotlb() {
    let line = format!("vtd_inv_desc invalidate desc type some {LOW}\n");
    Run::good(OLD).traced(&line, "").is_caught("unmap: expected an IOTLB invalidation");
}

#[test]
fn after_the_wait() {
    let line = format!("vtd_inv_desc invalidate desc type some {LOW}\n");
    let run = Run::good(NEW).traced(&line, "").after(10, &line);
    run.is_caught("unmap: expected an IOTLB invalidation of domain 0x2");
}

#[test]
fn of_something_else() {
    let good = || Run::good(NEW);
    for other in [
        "high 0x100001 low 0x300f2", // another domain
        "high 0x0 low 0x300e2",      // all of another domain
        "high 0x100001 low 0x20036", // entries of the first stage
        "high 0x200001 low 0x200f2", // another range
        "high 0x0 low 0x20017",      // the PASID cache
        "high 0x0 low 0x2000000031", // the context cache
    ] {
        good().traced(LOW, other).is_caught("unmap: expected an IOTLB invalidation of domain 0x2");
    }
    good().traced(LOW, "high 0x100000 low 0x200f2").is_caught("the trace shows none of 0x101000 before the wait");
    good().traced(LOW, "high 0x101000 low 0x200f2").is_caught("the trace shows none of 0x100000 before the wait");
}

#[test]
fn of_more() {
    let good = || Run::good(NEW);
    for wider in ["high 0x0 low 0x200e2", "high 0x0 low 0xd2", "high 0x3f low 0x200f2", "high 0x100004 low 0x200f2"] {
        good().traced(LOW, wider).is_right();
    }
    // In two parts.
    let two = "high 0x101000 low 0x200f2\nvtd_inv_desc invalidate desc type some high 0x100000 low 0x200f2";
    good().traced(LOW, two).is_right();
    // First stage: by type 2 only whole domains.
    let first = super::Kind { first_stage: true, ..NEW };
    Run::good(first).traced("high 0x100001 low 0x20036", "high 0x0 low 0x200e2").is_right();
    Run::good(first).traced("high 0x100001 low 0x20036", "high 0x100001 low 0x200f2").is_caught("unmap: expected");
    Run::good(first).traced("low 0x20036", "low 0x100020036").is_caught("unmap: expected");
}

#[test]
fn while_dma_goes_on() {
    let fault = "vtd_dmar_fault sid 0x20 fault 5 addr 0x1000 write 0";
    Run::good(NEW).after(9, fault).is_caught("unmap: expected no DMA; the trace shows a fault");
}

#[test]
fn never_used_before() {
    // Without the transfers before it the witness can not know the domain.
    let mut run = Run::good(NEW);
    let drop = |text: &str, from: &str, to: &str| {
        let (from, to) = (text.find(from), text.find(to));
        let (Some(from), Some(to)) = (from, to) else { panic!("no such part") };
        format!("{}{}", &text[..from], &text[to..])
    };
    run.trace = drop(
        &run.trace,
        "vtd_iotlb_page_update IOTLB page update sid 0x20 iova 0x1000",
        "vtd_inv_desc invalidate desc type some high 0x100001",
    );
    // The waits in between went as well: put those of the unmap back.
    let begin = "vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data 0x9\n";
    run = run.traced(
        "vtd_inv_desc invalidate desc type some high 0x100001",
        &format!("{begin}vtd_inv_desc invalidate desc type some high 0x100001"),
    );
    run.records = drop(&run.records, r#"{"kind":"dma","check":"fill""#, r#"{"kind":"unmap""#);
    let (all, left) = (format!(r#""passed":{},"#, run.checks), format!(r#""passed":{},"#, run.checks - 2));
    run.recorded(&all, &left).is_caught("unmap: no translation of 0x20 so far shows its domain");
}

#[test]
fn still_reachable() {
    // As a translation where a refusal was due.
    let run = Run::good(NEW);
    let fault = "vtd_dmar_fault sid 0x20 fault 5 addr 0x100000 write 1";
    let stale = "vtd_iotlb_page_hit IOTLB page hit sid 0x20 iova 0x100000 slpte 0x377003 domain 0x2
vtd_dmar_translate dev 00:04.00 iova 0x100000 -> gpa 0x377000 mask 0xfff";
    run.traced(fault, stale).is_caught("gone: expected a fault, write of 0x20 at 0x100000, reason 0x5; the trace shows 0x20 translated from 0x100000 to 0x377000");
    // As the old frame where the new one was due.
    let run = Run::good(NEW).traced("slpte 0x373003", "slpte 0x377003").traced("gpa 0x373000", "gpa 0x377000");
    run.is_caught("remapped: expected it to lead to 0x373000 from 0x100000; the trace shows 0x20 translated from 0x100000 to 0x377000 in domain 0x2 (trace line");
    let line = run.verdict().lines.remove(0);
    assert!(line.ends_with(r#": a mapping that was taken away by "unmap""#), "{line}");
}

#[test]
fn still_in_an_entry() {
    // The transfer itself is right, but the entry that it used holds a page that was taken away.
    let run = Run::good(NEW)
        .traced("iova 0x100000 -> gpa 0x373000 mask 0xfff", "iova 0x0 -> gpa 0x400000 mask 0x1fffff")
        .traced("slpte 0x373003", "slpte 0x400003")
        .recorded(r#""phys":"0x373000""#, r#""phys":"0x500000""#);
    run.is_caught(
        r#"remapped: expected nothing of what "unmap" took away to be left; the trace shows an entry for 0x0..=0x1fffff"#,
    );
}

#[test]
fn mapped_again_to_the_same_frame() {
    let run = Run::good(NEW)
        .traced("slpte 0x373003", "slpte 0x377003")
        .traced("gpa 0x373000", "gpa 0x377000")
        .recorded(r#""phys":"0x373000""#, r#""phys":"0x377000""#);
    run.is_right();
}
