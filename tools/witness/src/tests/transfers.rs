//! Transfers that the trace shows otherwise than the demo does.

use super::{NEW, Run, kinds};

/// A fault as QEMU traces it.
const FAULT: &str = "vtd_dmar_fault sid 0x20 fault 5 addr 0x1000 write 0";
/// A translation as QEMU traces it.
const TRANSLATION: &str = "vtd_iotlb_page_hit IOTLB page hit sid 0x20 iova 0x1000 slpte 0x370003 domain 0x2
vtd_dmar_translate dev 00:04.00 iova 0x1000 -> gpa 0x370000 mask 0xfff";
const OTHER_SOURCE: &str = "vtd_iotlb_page_hit IOTLB page hit sid 0x28 iova 0x1000 slpte 0x37e003 domain 0x3
vtd_dmar_translate dev 00:05.00 iova 0x1000 -> gpa 0x37e000 mask 0xfff";

#[test]
fn to_a_foreign_frame() {
    let run = Run::good(NEW).traced("slpte 0x370003", "slpte 0x37e003").traced("gpa 0x370000", "gpa 0x37e000");
    run.is_caught(
        "fill: expected it to lead to 0x370000 from 0x1000; the trace shows 0x20 translated from 0x1000 to 0x37e000",
    );
    // The second page of two; and inside of a large block.
    let run = Run::good(NEW).traced("slpte 0x501003", "slpte 0x376003").traced("gpa 0x501000", "gpa 0x376000");
    run.is_caught("scatter: expected it to lead to 0x501000 from 0x101000");
    let run = Run::good(NEW).traced("slpte 0x400003", "slpte 0x600003").traced("gpa 0x400000", "gpa 0x600000");
    run.is_caught("large: expected it to lead to 0x500800 from 0x300800");
}

#[test]
fn not_whole() {
    let run = Run::good(NEW).traced(
        "vtd_iotlb_page_update IOTLB page update sid 0x20 iova 0x101000 slpte 0x501003 domain 0x2
vtd_dmar_translate dev 00:04.00 iova 0x101000 -> gpa 0x501000 mask 0xfff\n",
        "",
    );
    run.is_caught("scatter: expected a translation of 0x20 at 0x101000; the trace shows none before");
    // A block said to be smaller than it is used.
    let run = Run::good(NEW)
        .traced("iova 0x200000 -> gpa 0x400000 mask 0x1fffff", "iova 0x300000 -> gpa 0x500000 mask 0xfff");
    let run = run.traced("slpte 0x400003", "slpte 0x500003");
    run.is_caught("large: expected a translation of 0x20 at 0x301000");
}

#[test]
fn more_than_it_says() {
    Run::good(NEW)
        .traced("0x370000 mask 0xfff\n", &format!("0x370000 mask 0xfff\n{TRANSLATION}\n"))
        .is_caught("fill: expected nothing beyond 0x1fff");
    Run::good(NEW)
        .traced("0x370000 mask 0xfff\n", &format!("0x370000 mask 0xfff\n{FAULT}\n"))
        .is_caught("fill: expected nothing beyond 0x1fff; the trace shows a fault of 0x20");
    Run::good(NEW).after(5, FAULT).is_caught("fill: expected a translation of 0x20 at 0x1000; the trace shows a fault");
    Run::good(NEW)
        .after(5, OTHER_SOURCE)
        .is_caught("fill: expected a translation of 0x20 at 0x1000; the trace shows 0x28");
    Run::good(NEW)
        .after(5, "vtd_frr_new index 0 high 0x100000028 low 0x1000")
        .is_caught("fill: expected no fault on record");
    Run::good(NEW).after(5, "vtd_translate_pt source id 0x20, iova 0x1000").is_caught("passed through untranslated");
}

#[test]
fn by_another_source() {
    let run = Run::good(NEW).traced("sid 0x20 iova 0x1000", "sid 0x28 iova 0x1000");
    let run = run.traced("dev 00:04.00 iova 0x1000", "dev 00:05.00 iova 0x1000");
    run.is_caught("fill: expected a translation of 0x20 at 0x1000; the trace shows 0x28");
}

#[test]
fn without_permission() {
    Run::good(NEW)
        .traced("slpte 0x377003", "slpte 0x377001")
        .is_caught("scatter: expected an entry that permits a write; the trace shows one that does not");
    Run::good(NEW).traced("slpte 0x370003", "slpte 0x370002").is_caught("fill: expected an entry that permits a read");
}

#[test]
fn in_a_domain_that_nobody_gave_it() {
    Run::good(NEW)
        .traced("iova 0x101000 slpte 0x501003 domain 0x2", "iova 0x101000 slpte 0x501003 domain 0x3")
        .is_caught("scatter: expected the domain that it was attached to");
}

#[test]
fn by_a_stream_that_has_nothing() {
    let run = Run::good(NEW).recorded(r#""check":"attach","stream":"0x20""#, r#""check":"attach","stream":"0x28""#);
    let verdict = run.verdict();
    assert!(
        verdict.lines.iter().any(|line| line.starts_with("fill: 0x20 is attached to nothing")),
        "{:?}",
        verdict.lines
    );
}

#[test]
fn refused_otherwise() {
    for kind in kinds() {
        let good = || Run::good(kind);
        // The first fault, and the second.
        good()
            .traced("fault 1 addr 0x370ffc", "fault 2 addr 0x370ffc")
            .is_caught("early: expected a fault, write of 0x20 at 0x370ffc, reason 0x1");
        good()
            .traced("fault 1 addr 0x371000", "fault 2 addr 0x371000")
            .is_caught("early: expected a fault, write of 0x20 at 0x371000, reason 0x1");
        good().traced("sid 0x20 fault 1", "sid 0x28 fault 1").is_caught("early: expected a fault");
        good().traced("addr 0x370ffc write 1", "addr 0x370ffc write 0").is_caught("early: expected a fault");
        good().traced("addr 0x371000 write 1", "addr 0x380000 write 1").is_caught("early: expected a fault");
        good()
            .traced("vtd_dmar_fault sid 0x20 fault 1 addr 0x371000 write 1\n", "")
            .is_caught("nothing more before the check's end");
        good().after(1, FAULT).is_caught(
            "early: expected a fault, write of 0x20 at 0x370ffc, reason 0x1; the trace shows a fault of 0x20: read",
        );
        good().after(1, OTHER_SOURCE).is_caught("early: expected a fault");
        good()
            .after(1, "vtd_fault_disabled Fault processing disabled for context entry")
            .is_caught("early: expected a fault");
        good()
            .traced("addr 0x371000 write 1\n", &format!("addr 0x371000 write 1\n{FAULT}\n"))
            .is_caught("no further access of 0x20");
    }
}

#[test]
fn refused_but_translated() {
    let run = Run::good(NEW).traced("vtd_dmar_fault sid 0x20 fault 2 addr 0x1000 write 0", TRANSLATION);
    run.is_caught("detached: expected a fault, read of 0x20 at 0x1000, reason 0x2; the trace shows 0x20 translated");
}

#[test]
fn recorded_otherwise() {
    let good = || Run::good(NEW);
    let record = "vtd_frr_new index 0 high 0x100000020 low 0x370000";
    for other in [
        "vtd_frr_new index 0 high 0x200000020 low 0x370000",
        "vtd_frr_new index 0 high 0x100000028 low 0x370000",
        "vtd_frr_new index 0 high 0x4000000100000020 low 0x370000",
        "vtd_frr_new index 0 high 0x100000020 low 0x371000",
    ] {
        good().traced(record, other).is_caught("early: expected blocked: write of 0x20 at 0x370000, reason 0x1; the");
    }
    good().traced(&format!("{record}\n"), "").is_caught("early: expected a fault on record; the trace shows none");
    good().traced(record, &format!("{record}\n{record}")).is_caught("early: expected one fault on record");
}

#[test]
fn read_otherwise_by_the_guest() {
    let good = || Run::good(NEW);
    // Its words, and its fault in each field.
    let words = "blocked: write of 0x20 at 0x370000, reason 0x1";
    for other in [
        "blocked: write of 0x20 at 0x370000, reason 0x2",
        "blocked: write of 0x28 at 0x370000, reason 0x1",
        "blocked: read of 0x20 at 0x370000, reason 0x1",
        "blocked: write of 0x20 at 0x371000, reason 0x1",
        "blocked: write of 0x20 at 0x370000",
    ] {
        good().recorded(words, other).recorded(words, other).is_caught("early: ");
    }
    let fault = r#"{"stream":"0x20","iova":"0x370000","code":"0x1","access":"write"}"#;
    for other in [
        r#"{"stream":"0x28","iova":"0x370000","code":"0x1","access":"write"}"#,
        r#"{"stream":"0x20","iova":"0x371000","code":"0x1","access":"write"}"#,
        r#"{"stream":"0x20","iova":"0x370000","code":"0x2","access":"write"}"#,
        r#"{"stream":"0x20","iova":"0x370000","code":"0x1","access":"read"}"#,
    ] {
        good()
            .recorded(fault, other)
            .is_caught("as the guest read it; the trace shows a fault of 0x20: write at 0x370000");
    }
    good().recorded(fault, "null").is_caught("early: expected no fault, as the guest read none");
}

#[test]
fn dropped_otherwise() {
    let good = || Run::good(NEW);
    let hit = "hit sid 0x20 iova 0x180000 slpte 0x372001";
    good()
        .traced(hit, "hit sid 0x20 iova 0x180000 slpte 0x372003")
        .is_caught("dropped: expected a cached entry without permission");
    good()
        .traced(&format!("{hit} domain 0x2"), &format!("{hit} domain 0x3"))
        .is_caught("dropped: expected a cached entry");
    good()
        .traced(hit, "hit sid 0x20 iova 0x180040 slpte 0x372001")
        .is_caught("dropped: expected a cached entry without permission");
    good()
        .traced(
            &format!("vtd_iotlb_page_hit IOTLB page {hit}"),
            "vtd_iotlb_page_update IOTLB page update sid 0x20 iova 0x180000 slpte 0x372001",
        )
        .is_caught("dropped: expected a cached entry without permission");
    good().after(19, FAULT).is_caught("dropped: expected a cached entry without permission");
    good().after(19, OTHER_SOURCE).is_caught("dropped: expected a cached entry without permission");
    good()
        .after(19, "vtd_frr_new index 0 high 0x500000020 low 0x180000")
        .is_caught("dropped: expected no fault on record");
}

#[test]
fn an_outcome_without_a_rule() {
    let good = Run::good(NEW);
    let (old, new) = (r#""expected":"moved","seen":"moved""#, r#""expected":"wrong bytes","seen":"wrong bytes""#);
    good.recorded(old, new).is_caught("fill: no rule for what it expects: wrong bytes");
}

#[test]
fn nothing_said_of_the_memory() {
    let good = Run::good(NEW);
    good.recorded(r#""frames":[{"phys":"0x370000","length":4096}]"#, r#""frames":[]"#)
        .is_caught("fill: the record does not say");
}
