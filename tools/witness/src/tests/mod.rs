//! Whole runs, written by hand: one that is right in everything, and every way to go wrong that a check must catch.

mod changes;
mod legacy;
mod pasids;
mod run;
mod smmuv3;
mod transfers;
mod unmaps;

use crate::matching::Verdict;
use crate::{Arguments, judge};

/// Which QEMU, and which stage.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    first_stage: bool,
    /// QEMU 10.0: PASID-cache descriptors are fetched but not traced.
    old: bool,
    caching_mode: bool,
}

const NEW: Kind = Kind { first_stage: false, old: false, caching_mode: false };
const OLD: Kind = Kind { old: true, ..NEW };

/// Every combination.
fn kinds() -> impl Iterator<Item = Kind> {
    (0..8).map(|bits| Kind { first_stage: bits & 1 != 0, old: bits & 2 != 0, caching_mode: bits & 4 != 0 })
}

/// One run: what the demo recorded and what QEMU traced.
#[derive(Clone)]
struct Run {
    kind: Kind,
    scenario: &'static str,
    records: String,
    trace: String,
    guest_ended_well: bool,
    checks: u64,
    /// Of the requests that are recorded next.
    pasid: Option<u64>,
}

impl Run {
    /// A run in which everything is right: refused, attached, moved, unmapped, remapped, read-only, to another domain,
    /// detached. Function 00:04.0 is stream 0x20; its domains are 2 and then 3.
    fn good(kind: Kind) -> Self {
        let mut run = Self::start(kind, if kind.first_stage { "first-stage" } else { "second-stage" });
        if kind.caching_mode {
            run.check("state", "option caching-mode=on", "", ("true", "true"), None);
        }
        run.comes_up(1);
        run.refused("early", (1, 2), "write", 0x37_0ffc, 1);

        run.wait(3);
        if kind.caching_mode {
            run.descriptor(0x20_0000_0031, 0);
            run.pasid_cache(2);
            run.descriptor(0xe2, 0);
            run.descriptor(0x2_0026, 0);
        }
        run.wait(4);
        run.change("attach", "attach", (3, 4));

        run.moved("fill", (5, 6), "read", 0x1000, 0x1000, &[(0x1000, 0x37_0000, 0xfff, 2)]);
        let pages = [(0x10_0ff0, 0x37_7000, 0xfff, 2), (0x10_1000, 0x50_1000, 0xfff, 2)];
        run.moved("scatter", (7, 8), "write", 0x10_0ff0, 0x20, &pages);

        run.wait(9);
        run.invalidate_pages(2, 0x10_0000, 1);
        run.wait(10);
        let area = r#""stream":"0x20","iova":"0x100000","length":8192,"frames":[{"phys":"0x377000","length":4096},{"phys":"0x501000","length":4096}]"#;
        run.check("unmap", "unmap", area, ("invalidated", "invalidated"), Some((9, 10)));

        run.refused("gone", (11, 12), "write", 0x10_0000, if kind.first_stage { 0x71 } else { 5 });
        run.moved("remapped", (13, 14), "write", 0x10_0000, 0x40, &[(0x10_0000, 0x37_3000, 0xfff, 2)]);
        run.moved("large", (15, 16), "read", 0x30_0800, 0x1000, &[(0x30_0800, 0x40_0000, 0x1f_ffff, 2)]);
        run.moved("warm", (17, 18), "read", 0x18_0000, 8, &[(0x18_0000, 0x37_2000, 0xfff, 2)]);
        run.trace = run.trace.replace("slpte 0x372003", "slpte 0x372001");
        run.dropped("dropped", (19, 20), 0x18_0000, 0x37_2001);

        run.wait(21);
        run.pasid_cache(2);
        run.invalidate_domain(2);
        run.wait(22);
        if kind.caching_mode {
            run.pasid_cache(3);
            run.descriptor(0x3_0026, 0);
        }
        run.wait(23);
        run.change("attach", "move", (21, 23));
        run.moved("moved", (24, 25), "write", 0x1000, 0x1000, &[(0x1000, 0x37_e000, 0xfff, 3)]);

        run.wait(26);
        run.descriptor(0x20_0000_0031, 0);
        run.pasid_cache(3);
        run.invalidate_domain(3);
        run.wait(27);
        run.wait(28);
        run.change("detach", "detach", (26, 28));
        run.refused("detached", (29, 30), "read", 0x1000, 2);
        run.check("state", "looked at", "", ("true", "true"), None);
        run.ends();
        run
    }

    /// The unit is set up, in scalable mode or not.
    fn comes_up(&mut self, scalable: u8) {
        self.lines(&[
            "vtd_context_cache_reset ",
            "vtd_switch_address_space Device 00:04.0 switching address space (iommu enabled=0)",
            "vtd_inv_qi_setup addr 0x369000 size 128",
            &format!("vtd_reg_dmar_root addr 0x36b000 scalable {scalable}"),
            "vtd_dmar_enable enable 1",
            "vtd_switch_address_space Device 00:04.0 switching address space (iommu enabled=1)",
        ]);
    }

    /// The scenario has ended well.
    fn ends(&mut self) {
        let passed = self.checks;
        self.record(&format!(r#"{{"kind":"end","passed":{passed},"failed":0}}"#));
    }

    /// A run that has only begun.
    fn start(kind: Kind, scenario: &'static str) -> Self {
        let (records, trace) = (String::new(), String::new());
        let mut run = Self { kind, scenario, records, trace, guest_ended_well: true, checks: 0, pasid: None };
        run.record(&format!(r#"{{"kind":"start","scenario":"{scenario}"}}"#));
        run
    }

    fn record(&mut self, record: &str) {
        self.records += record;
        self.records += "\n";
    }

    fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.trace += line;
            self.trace += "\n";
        }
    }

    fn check(&mut self, kind: &str, name: &str, fields: &str, outcome: (&str, &str), markers: Option<(u32, u32)>) {
        let (expected, seen) = outcome;
        let comma = if fields.is_empty() { "" } else { "," };
        let markers = markers.map_or(String::new(), |(begin, end)| format!(r#","begin":{begin},"end":{end}"#));
        let passed = expected == seen;
        self.record(&format!(
            r#"{{"kind":"{kind}","check":"{name}"{comma}{fields},"expected":"{expected}","seen":"{seen}"{markers},"passed":{passed}}}"#
        ));
        self.checks += 1;
    }

    fn descriptor(&mut self, low: u64, high: u64) {
        let line = format!("vtd_inv_desc invalidate desc type some high {high:#x} low {low:#x}");
        self.lines(&["vtd_inv_qi_head read head 1", &line]);
    }

    fn wait(&mut self, data: u64) {
        self.descriptor(data << 32 | 0x25, 0x36_a000);
        self.lines(&[&format!("vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data {data:#x}")]);
    }

    fn pasid_cache(&mut self, domain: u64) {
        if self.kind.old {
            self.lines(&["vtd_inv_qi_head read head 1"]);
        } else {
            self.descriptor(domain << 16 | 0x17, 0);
        }
    }

    fn invalidate_domain(&mut self, domain: u64) {
        self.descriptor(domain << 16 | if self.kind.first_stage { 0x26 } else { 0xe2 }, 0);
    }

    fn invalidate_pages(&mut self, domain: u64, address: u64, mask: u64) {
        self.descriptor(domain << 16 | if self.kind.first_stage { 0x36 } else { 0xf2 }, address | mask);
    }

    fn change(&mut self, kind: &str, name: &str, markers: (u32, u32)) {
        let stream = self.stream();
        self.check(kind, name, &stream, ("done", "done"), Some(markers));
    }

    /// The fields of a record that say whose requests it is about.
    fn stream(&self) -> String {
        let pasid = self.pasid.map_or(String::new(), |pasid| format!(r#","pasid":"{pasid:#x}""#));
        format!(r#""stream":"0x20"{pasid}"#)
    }

    /// A transfer of eight bytes that is refused.
    fn refused(&mut self, name: &str, markers: (u32, u32), access: &str, iova: u64, code: u64) {
        let write = u64::from(access == "write");
        self.wait(markers.0.into());
        let fault = |at: u64| format!("vtd_dmar_fault sid 0x20 fault {code} addr {at:#x} write {write}");
        // QEMU's records hold 16 bits of a PASID, where it came to the tables of pages.
        let pasid = self.pasid.filter(|_| !matches!(code, 1..=3 | 0x40..=0x6f)).map(|pasid| pasid & 0xffff);
        let high = (1 - write) << 62 | code << 32 | pasid.map_or(0, |pasid| pasid << 40 | 1 << 31) | 0x20;
        let page = iova & !0xfff;
        let recorded = format!("vtd_frr_new index 0 high {high:#x} low {page:#x}");
        self.lines(&[&fault(iova), &recorded, "vtd_fsts_ppf FSTS PPF bit set to 1", &fault(iova + 4)]);
        self.wait(markers.1.into());
        let words = pasid.map_or(String::new(), |pasid| format!(" PASID {pasid:#x}"));
        let words = format!("blocked: {access} of 0x20{words} at {page:#x}, reason {code:#x}");
        let (stream, pasid) = (self.stream(), pasid.map_or(String::new(), |pasid| format!(r#""pasid":"{pasid:#x}","#)));
        let fields = format!(
            r#"{stream},"iova":"{iova:#x}","length":8,"access":"{access}","frames":[],"fault":{{"stream":"0x20",{pasid}"iova":"{page:#x}","code":"{code:#x}","access":"{access}"}}"#
        );
        self.check("dma", name, &fields, (&words, &words), Some(markers));
    }

    /// A transfer that is let through, by entries (address looked up, memory behind the block, mask, domain).
    fn moved(
        &mut self,
        name: &str,
        markers: (u32, u32),
        access: &str,
        iova: u64,
        len: u64,
        entries: &[(u64, u64, u64, u64)],
    ) {
        self.wait(markers.0.into());
        let (mut frames, mut left) = (Vec::new(), len);
        for (at, phys, mask, domain) in entries {
            let (bits, base) = (phys | 3, at & !mask);
            self.lines(&[
                &format!(
                    "vtd_iotlb_page_update IOTLB page update sid 0x20 iova {at:#x} slpte {bits:#x} domain {domain:#x}"
                ),
                &format!("vtd_dmar_translate dev 00:04.00 iova {base:#x} -> gpa {phys:#x} mask {mask:#x}"),
            ]);
            let part = left.min((at | mask) - at + 1);
            frames.push(format!(r#"{{"phys":"{:#x}","length":{part}}}"#, phys + (at & mask)));
            left -= part;
        }
        self.wait(markers.1.into());
        let (stream, frames) = (self.stream(), frames.join(","));
        let fields = format!(
            r#"{stream},"iova":"{iova:#x}","length":{len},"access":"{access}","frames":[{frames}],"fault":null"#
        );
        self.check("dma", name, &fields, ("moved", "moved"), Some(markers));
    }

    /// A write of eight bytes that a cached entry does not permit.
    fn dropped(&mut self, name: &str, markers: (u32, u32), iova: u64, entry: u64) {
        self.wait(markers.0.into());
        for at in [iova, iova + 4] {
            self.lines(&[
                &format!("vtd_iotlb_page_hit IOTLB page hit sid 0x20 iova {at:#x} slpte {entry:#x} domain 0x2"),
                &format!("vtd_dmar_translate dev 00:04.00 iova {iova:#x} -> gpa {:#x} mask 0xfff", entry & !0xfff),
            ]);
        }
        self.wait(markers.1.into());
        let fields = format!(r#""stream":"0x20","iova":"{iova:#x}","length":8,"access":"write""#);
        let words = "dropped without a fault";
        self.check("dma", name, &fields, (words, words), Some(markers));
    }

    /// The same with the first `old` in the trace replaced by `new`.
    fn traced(mut self, old: &str, new: &str) -> Self {
        assert!(self.trace.contains(old), "the trace has no {old}");
        self.trace = self.trace.replacen(old, new, 1);
        self
    }

    /// The same with the first `old` in the records replaced by `new`.
    fn recorded(mut self, old: &str, new: &str) -> Self {
        assert!(self.records.contains(old), "the records have no {old}");
        self.records = self.records.replacen(old, new, 1);
        self
    }

    /// The same with lines added to the trace right after wait `data`.
    fn after(self, data: u32, lines: &str) -> Self {
        let wait = format!("data {data:#x}\n");
        self.traced(&wait, &format!("{wait}{lines}\n"))
    }

    fn verdict(&self) -> Verdict {
        let arguments = Arguments {
            scenario: self.scenario.into(),
            iommu: if matches!(self.scenario, "stage-1" | "stage-2" | "nested") { "arm-smmuv3" } else { "intel-iommu" }
                .into(),
            jsonl: String::new(),
            trace: String::new(),
            guest_ended_well: self.guest_ended_well,
            options: Vec::new(),
        };
        judge(&arguments, &self.records, &self.trace)
    }

    /// Nothing is wrong with it.
    #[track_caller]
    fn is_right(&self) {
        let verdict = self.verdict();
        assert_eq!((verdict.lines, verdict.failed), (Vec::<String>::new(), 0));
        assert_eq!(verdict.passed, self.checks);
    }

    /// Exactly one thing is wrong with it, and `words` are in the line about it.
    #[track_caller]
    fn is_caught(&self, words: &str) {
        let verdict = self.verdict();
        assert_eq!(verdict.failed, 1, "{:#?}", verdict.lines);
        assert!(verdict.lines.len() == 1 && verdict.lines[0].contains(words), "{words}: {:#?}", verdict.lines);
    }

    /// As many things are wrong as there are `words`, and each is in the line about one, in order.
    #[track_caller]
    fn all_caught(&self, words: &[&str]) {
        let verdict = self.verdict();
        assert_eq!(verdict.failed, words.len() as u64, "{:#?}", verdict.lines);
        assert_eq!(verdict.lines.len(), words.len(), "{:#?}", verdict.lines);
        for (line, words) in verdict.lines.iter().zip(words) {
            assert!(line.contains(words), "{words}: {line}");
        }
    }
}

#[test]
fn a_run_that_is_right() {
    for kind in kinds() {
        Run::good(kind).is_right();
    }
}

#[test]
fn the_arguments() {
    let parse = |line: &str| Arguments::parse(line.split_whitespace().map(str::to_owned));
    let all = "--scenario a --iommu i --jsonl b --trace c --guest-status ok --option=caching-mode=on --option x=y";
    let arguments = parse(all).unwrap_or_else(|error| panic!("{error}"));
    assert!(arguments.guest_ended_well);
    assert_eq!((arguments.scenario.as_str(), arguments.options.join(" ").as_str()), ("a", "caching-mode=on x=y"));
    for wrong in [
        "",
        "--scenario a --iommu i --jsonl b --trace c",
        "--scenario a --jsonl b --trace c --guest-status ok",
        "--scenario a --iommu i --jsonl b --trace c --guest-status maybe",
        "--scenario a --iommu i --jsonl b --trace c --guest-status",
        "--scenario a --iommu i --jsonl b --trace c --guest-status ok --more 1",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
