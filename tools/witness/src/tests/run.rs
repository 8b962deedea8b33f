//! What must hold for a run as a whole.

use super::{NEW, Run, kinds};

const FAULT: &str = "vtd_dmar_fault sid 0x28 fault 2 addr 0x1000 write 0";
const WAIT: &str = "vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data ";

#[test]
fn dma_outside_of_any_check() {
    for kind in kinds() {
        // Between two checks, before the first and after the last.
        Run::good(kind)
            .after(2, FAULT)
            .is_caught("DMA outside of any check: a fault of 0x28: read at 0x1000, reason 0x2, and 0 more");
        let translation = "vtd_iotlb_page_hit IOTLB page hit sid 0x28 iova 0x1000 slpte 0x37e003 domain 0x3
vtd_dmar_translate dev 00:05.00 iova 0x1000 -> gpa 0x37e000 mask 0xfff";
        Run::good(kind)
            .after(14, translation)
            .is_caught("DMA outside of any check: 0x28 translated from 0x1000 to 0x37e000");
        Run::good(kind).after(30, &format!("{FAULT}\n{FAULT}")).is_caught("and 1 more");
        let on = "vtd_dmar_enable enable 1\n";
        Run::good(kind).traced(on, &format!("{on}{FAULT}\n")).is_caught("DMA outside of any check");
    }
}

#[test]
fn markers() {
    let good = || Run::good(NEW);
    // Missing: then its transfer belongs to no check.
    let lost = good().traced(&format!("{WAIT}0x5\n"), "");
    lost.all_caught(&["fill: marker 0x5 is not in the trace", "DMA outside of any check"]);
    // Twice.
    let twice = good().after(6, &format!("{WAIT}0x5"));
    twice.all_caught(&["wait status 0x5 was written a second time", "fill: expected marker 0x5 once", "DMA outside"]);
    // A marker of no check: still once only.
    good().after(22, &format!("{WAIT}0x16")).is_caught("wait status 0x16 was written a second time");
    // Swapped within a check, and between two.
    let (five, six) = (format!("{WAIT}0x5\n"), format!("{WAIT}0x6\n"));
    let swapped = good().traced(&five, "X").traced(&six, &five).traced("X", &six);
    swapped.all_caught(&["fill: expected marker 0x6 after marker 0x5", "DMA outside"]);
    let swapped = good().recorded(r#""begin":5,"end":6"#, r#""begin":7,"end":8"#).recorded(
        r#""begin":7,"end":8,"passed":true}
{"kind":"unmap""#,
        r#""begin":5,"end":6,"passed":true}
{"kind":"unmap""#,
    );
    let verdict = swapped.verdict();
    assert!(
        verdict.lines.iter().any(|line| line.starts_with("scatter: expected marker 0x5 after those")),
        "{:?}",
        verdict.lines
    );
    // Two checks that share a slice.
    let shared = good().recorded(r#""begin":7,"end":8"#, r#""begin":5,"end":6"#);
    assert!(shared.verdict().failed >= 2);
    // A check that claims something and can not be found.
    let nowhere = good().recorded(r#","begin":5,"end":6"#, "");
    nowhere.all_caught(&["fill: no markers", "DMA outside of any check"]);
}

#[test]
fn setup() {
    let good = || Run::good(NEW);
    good().traced("vtd_dmar_enable enable 1\n", "").is_caught("DMA before the unit had translation on");
    good().traced("vtd_reg_dmar_root addr 0x36b000 scalable 1\n", "").is_caught("DMA before the unit had a root table");
    good()
        .traced("vtd_inv_qi_setup addr 0x369000 size 128\n", "")
        .is_caught("DMA before the unit had an invalidation queue");
    let late = good().traced("vtd_dmar_enable enable 1\n", "").after(6, "vtd_dmar_enable enable 1");
    late.is_caught("DMA before the unit had translation on");
    good().after(6, "vtd_dmar_enable enable 0").is_caught("translation was turned off");
    good().after(30, "vtd_dmar_enable enable 0").is_right();
    let around = "vtd_switch_address_space Device 00:04.0 switching address space (iommu enabled=0)";
    good().after(6, around).is_caught("DMA of 0x20 was led around the IOMMU");
    good().after(6, "vtd_inv_desc_wait_write_fail wait fail").is_caught("a wait could not write its status");
}

#[test]
fn no_dma_at_all() {
    let mut run = Run::good(NEW);
    run.trace.clear();
    let verdict = run.verdict();
    assert!(verdict.lines.iter().any(|line| line == "witness: the trace shows no DMA at all"), "{:?}", verdict.lines);
    assert_eq!(verdict.passed, 1, "the one state");
    // Nor any claim to have seen some.
    run.records =
        "{\"kind\":\"start\",\"scenario\":\"second-stage\"}\n{\"kind\":\"end\",\"passed\":0,\"failed\":0}\n".into();
    run.all_caught(&["no check at all", "no DMA at all"]);
}

#[test]
fn functions_in_software_leave_nothing_in_the_trace() {
    let records = "{\"kind\":\"start\",\"scenario\":\"adi\"}\n\
                   {\"kind\":\"state\",\"check\":\"a\",\"expected\":\"x\",\"seen\":\"x\",\"passed\":true}\n\
                   {\"kind\":\"end\",\"passed\":1,\"failed\":0}\n";
    let judged = |iommu: &str, trace: &str| {
        let all = format!("--scenario adi --iommu {iommu} --jsonl b --trace c --guest-status ok");
        let arguments = crate::Arguments::parse(all.split_whitespace().map(str::to_owned));
        crate::judge(&arguments.unwrap_or_else(|error| panic!("{error}")), records, trace)
    };
    let (right, elsewhere) = (judged("arm-smmuv3", ""), judged("intel-iommu", ""));
    assert_eq!((right.passed, right.failed), (1, 0), "{:?}", right.lines);
    assert_eq!((elsewhere.passed, elsewhere.failed), (1, 1), "{:?}", elsewhere.lines);
    let dma = "smmuv3_translate_abort smmuv3-iommu-memory-region-32-2 sid=0x20 abort on iova:0x1000 is_write=0\n";
    let strayed = judged("arm-smmuv3", dma);
    assert!(strayed.failed >= 1 && strayed.lines.iter().any(|line| line.contains("all of it is in software")));
}

#[test]
fn the_guest_failed() {
    let mut run = Run::good(NEW);
    run.guest_ended_well = false;
    run.is_caught("the guest did not end with success");
}

#[test]
fn a_check_that_the_guest_failed() {
    let run =
        Run::good(NEW).recorded(r#""expected":"moved","seen":"moved""#, r#""expected":"moved","seen":"wrong bytes""#);
    let (passed, one) = (run.checks, "\"passed\":true");
    let at = run.records.find("wrong bytes").map_or(0, |at| at + run.records[at..].find(one).unwrap_or(0));
    let mut run = run;
    run.records.replace_range(at..at + one.len(), "\"passed\":false");
    let run =
        run.recorded(&format!(r#""passed":{passed},"failed":0"#), &format!(r#""passed":{},"failed":1"#, passed - 1));
    run.is_caught("fill: expected moved, the guest saw wrong bytes");
}

#[test]
fn records_that_are_cut_off() {
    let good = Run::good(NEW);
    // After any whole line, and in the middle of one.
    for (at, _) in good.records.match_indices('\n').rev().skip(1) {
        let mut run = good.clone();
        run.records.truncate(at + 1);
        let verdict = run.verdict();
        assert!(verdict.lines.iter().any(|line| line.contains("no end record")), "{at}: {:?}", verdict.lines);
        run.records.truncate(at - 3);
        let verdict = run.verdict();
        assert!(
            verdict.lines.iter().any(|line| line.starts_with("witness: record in line ")),
            "{at}: {:?}",
            verdict.lines
        );
    }
    let mut run = good.clone();
    run.records.clear();
    assert!(run.verdict().lines.iter().any(|line| line.contains("no start record")));
}

#[test]
fn records_that_do_not_add_up() {
    let good = || Run::good(NEW);
    let end = format!(r#"{{"kind":"end","passed":{},"failed":0}}"#, good().checks);
    good().recorded(&end, r#"{"kind":"end","passed":1,"failed":0}"#).is_caught("the end record counts 1 passed");
    good().recorded(&end, &end.replace(":0}", ":1}")).is_caught("the end record counts");
    good().recorded(&end, &format!("{end}\n{end}")).is_caught("it comes after the end");
    let start = "{\"kind\":\"start\",\"scenario\":\"second-stage\"}\n";
    good().recorded(start, "").is_caught("no start record");
    good().recorded(start, &format!("{start}{start}")).is_caught("a second start");
    good().recorded("second-stage", "first-stage").is_caught("scenario first-stage, where second-stage was run");
    // A check that is not there any more: what it was about belongs to none.
    let mut run = good();
    let fill =
        run.records.lines().find(|line| line.contains("\"fill\"")).map(|line| format!("{line}\n")).unwrap_or_default();
    run = run.recorded(&fill, "");
    run.all_caught(&["the end record counts", "DMA outside of any check"]);
}

#[test]
fn a_trace_that_is_cut_off() {
    let good = Run::good(NEW);
    let last = good.trace.rfind("vtd_inv_desc_wait_sw").unwrap_or(0);
    for at in (0..last).step_by(7) {
        let mut run = good.clone();
        run.trace.truncate(at);
        assert!(run.verdict().failed > 0, "cut at {at}");
    }
    let mut run = good.clone();
    run.trace.truncate(run.trace.len() - 1);
    run.is_caught("the trace stops in the middle of a line");
}

#[test]
fn a_line_that_makes_no_sense() {
    Run::good(NEW)
        .after(2, "vtd_inv_desc invalidate desc type wait")
        .is_caught("an event that does not read as it should");
    Run::good(NEW).after(2, "vtd_some_new_event 1 2 3").is_right();
}
