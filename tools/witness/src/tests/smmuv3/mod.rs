//! The same for SMMUv3: a run that is right in everything, and every way to go wrong that a check must catch.

mod changes;
mod nested;
mod run;
mod transfers;
mod unmaps;

use super::{NEW, Run};

/// Which stage, and which QEMU.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    stage2: bool,
    /// QEMU 10.0 names events otherwise.
    old: bool,
    /// log2 of the command queue's slots.
    slots: u32,
}

const FIRST: Kind = Kind { stage2: false, old: false, slots: 8 };
const SECOND: Kind = Kind { stage2: true, ..FIRST };

/// Every combination.
fn kinds() -> impl Iterator<Item = Kind> {
    (0..4).map(|bits| Kind { stage2: bits & 1 != 0, old: bits & 2 != 0, ..FIRST })
}

/// Read-only and read-write in a leaf of either stage; bits that are no address.
const READ_ONLY: u64 = 1;
const READ_WRITE: u64 = 3;

impl Kind {
    fn domain(self, domain: u64) -> String {
        if self.stage2 { format!("asid=-1 vmid={domain}") } else { format!("asid={domain} vmid=0") }
    }

    fn stage(self) -> u64 {
        1 + u64::from(self.stage2)
    }

    fn leaf(self, phys: u64, permissions: u64) -> u64 {
        phys | match (self.stage2, permissions) {
            (false, READ_WRITE) => 0x60_0000_0000_0f43,
            (false, _) => 0x60_0000_0000_0fc3,
            (true, READ_WRITE) => 0x40_0000_0000_07ff,
            (true, _) => 0x40_0000_0000_077f,
        }
    }

    fn event(self, name: &str, source: u64) -> String {
        let event = if self.old { "smmuv3_record_event" } else { "smmuv3_propagate_event" };
        format!("{event} SMMU_EVT_{name} sid={source:#x}\n")
    }

    fn lookup(self, hit: bool, source: u64, domain: u64, iova: u64) -> String {
        let (name, state) = if hit { ("hit", "HIT") } else { ("miss", "MISS") };
        let tag = self.domain(domain);
        let config = config(source);
        format!("{config}smmu_iotlb_lookup_{name} IOTLB cache {state} {tag} addr={iova:#x} hit=1 miss=1 hit rate=50\n")
    }

    fn success(self, source: u64, iova: u64, to: u64, permissions: u64) -> String {
        let stage = self.stage();
        format!(
            "smmuv3_translate_success smmuv3-iommu-memory-region-32-2 sid={source:#x} iova={iova:#x} translated={to:#x} perm={permissions:#x} stage={stage}\n"
        )
    }

    fn page(self, iova: u64, phys: u64, permissions: u64) -> String {
        let (stage, leaf) = (self.stage(), self.leaf(phys, permissions));
        format!(
            "smmu_ptw_page_pte stage={stage} level=3 iova={iova:#x} base@=0x40383000 pte@=0x40383008 pte={leaf:#x} page address = {phys:#x}\n"
        )
    }

    /// An access that found a 4 KiB page in the tables.
    fn walked(self, source: u64, domain: u64, iova: u64, phys: u64, permissions: u64) -> String {
        let tag = self.domain(domain);
        let (miss, page) = (self.lookup(false, source, domain, iova), self.page(iova, phys, permissions));
        let insert = format!("smmu_iotlb_insert IOTLB ++ {tag} addr={:#x} tg=1 level=3\n", iova & !0xfff);
        let to = phys + (iova & 0xfff);
        format!(
            "{miss}smmu_get_pte baseaddr=0x40383000 index=0x1, pteaddr=0x40383008, pte=0x3\n{page}{insert}{}",
            self.success(source, iova, to, permissions)
        )
    }

    /// One that found a cached entry.
    fn cached(self, source: u64, domain: u64, iova: u64, to: u64, permissions: u64) -> String {
        self.lookup(true, source, domain, iova) + &self.success(source, iova, to, permissions)
    }

    /// One that found nothing mapped.
    fn unmapped(self, source: u64, domain: u64, iova: u64) -> String {
        let (miss, stage, event) =
            (self.lookup(false, source, domain, iova), self.stage(), self.event("F_TRANSLATION", source));
        format!(
            "{miss}smmu_ptw_invalid_pte stage={stage} level=3 base@=0x40389000 pte@=0x40389880 offset=272 pte=0x0\n{event}"
        )
    }

    /// What drops all of a domain, without the place in the queue.
    fn all_of(self, domain: u64) -> (&'static str, String) {
        if self.stage2 {
            (
                "TLBI_S12_VMALL",
                format!(
                    "smmuv3_cmdq_tlbi_s12_vmid vmid={domain}\nsmmu_iotlb_inv_vmid IOTLB invalidate vmid={domain}\n"
                ),
            )
        } else {
            (
                "TLBI_NH_ASID",
                format!(
                    "smmuv3_cmdq_tlbi_nh_asid asid={domain}\nsmmu_iotlb_inv_asid_vmid IOTLB invalidate asid={domain} vmid=0\n"
                ),
            )
        }
    }

    fn pages(self, domain: u64, first: u64, pages: u64) -> String {
        let (stage, tag) = (
            self.stage(),
            if self.stage2 { format!("vmid={domain} asid=-1") } else { format!("vmid=0 asid={domain}") },
        );
        format!("smmuv3_range_inval {tag} addr={first:#x} tg=1 num_pages={pages:#x} ttl=3 leaf=1 stage={stage}\n")
    }
}

fn config(source: u64) -> String {
    format!("smmuv3_config_cache_hit Config cache HIT for sid={source:#x} (hits=1, misses=1, hit rate=50)\n")
}

fn cfgi(what: &str, source: u64) -> String {
    match what {
        "CFGI_STE" => format!("smmuv3_cmdq_cfgi_ste streamid= {source:#x}\n"),
        _ => format!("smmuv3_cmdq_cfgi_cd sid={source:#x}\n"),
    }
}

/// An access that was aborted.
fn abort(source: u64, iova: u64) -> String {
    let config = config(source);
    format!(
        "{config}smmuv3_translate_abort smmuv3-iommu-memory-region-32-2 sid={source:#x} abort on iova:{iova:#x} is_write=0\n"
    )
}

/// The guest's read position in its event queue.
fn read_up_to(events: u64) -> String {
    format!("smmuv3_write_mmio addr: 0xac val:{:#x} size: 0x4(0)\n", events & 0x1ff)
}

/// A run on its way: what it is so far, and where its queues stand.
struct Builder {
    run: Run,
    kind: Kind,
    commands: u32,
    events: u64,
}

/// A run in which everything is right: refused, attached, moved, unmapped, remapped, read-only, to another domain,
/// detached. The stream is 0x20; its domains are 2 and then 3.
fn good(kind: Kind) -> Run {
    let run = Run::start(NEW, if kind.stage2 { "stage-2" } else { "stage-1" });
    let mut run = Builder { run, kind, commands: 0, events: 0 };
    run.bring_up();
    run.refused("early", "write", 0x37_0ffc, None, |_| config(0x20) + &kind.event("C_BAD_STREAMID", 0x20));

    let begin = run.begin("attach");
    run.attach(0x20);
    run.change("attach", "attach", begin);
    run.moved("fill", "read", 0x1000, &[(0x1000, 0x37_0000)], 0x1000, 2);
    run.moved("scatter", "write", 0x10_0ff0, &[(0x10_0ff0, 0x37_7000), (0x10_1000, 0x50_1000)], 0x20, 2);
    run.dropped("unassigned", 0x28, 0x37_0000, |at| abort(0x28, at));

    let begin = run.begin("unmap");
    run.command("TLBI", &kind.pages(2, 0x10_0000, 2));
    let end = run.sync();
    let area = r#""stream":"0x20","iova":"0x100000","length":8192,"frames":[{"phys":"0x377000","length":4096},{"phys":"0x501000","length":4096}]"#;
    run.run.check("unmap", "unmap", area, ("invalidated", "invalidated"), Some((begin, end)));
    run.refused("gone", "write", 0x10_0000, Some(0x10), |at| kind.unmapped(0x20, 2, at));
    run.moved("remapped", "write", 0x10_0000, &[(0x10_0000, 0x37_3000)], 0x40, 2);

    run.large();
    run.refused("cold", "write", 0x18_0000, Some(0x13), |at| {
        kind.lookup(false, 0x20, 2, at) + &kind.page(at, 0x37_2000, READ_ONLY) + &kind.event("F_PERMISSION", 0x20)
    });
    run.transfer(
        "warm",
        "read",
        0x18_0000,
        8,
        &[(0x37_2000, 8)],
        &kind.walked(0x20, 2, 0x18_0000, 0x37_2000, READ_ONLY),
    );
    run.transfer(
        "again",
        "read",
        0x18_0000,
        8,
        &[(0x37_2000, 8)],
        &kind.cached(0x20, 2, 0x18_0000, 0x37_2000, READ_ONLY),
    );
    if kind.stage2 {
        run.dropped("hot", 0x20, 0x18_0000, |at| kind.lookup(true, 0x20, 2, at));
    } else {
        run.refused("hot", "write", 0x18_0000, Some(0x13), |at| {
            kind.lookup(true, 0x20, 2, at) + &kind.event("F_PERMISSION", 0x20)
        });
    }

    let begin = run.begin("move");
    run.detach(0x20, 2);
    run.attach(0x20);
    run.change("attach", "move", begin);
    run.moved("moved", "write", 0x1000, &[(0x1000, 0x37_e000)], 0x1000, 3);
    let begin = run.begin("detach");
    run.detach(0x20, 3);
    run.change("detach", "detach", begin);
    run.dropped("detached", 0x20, 0x1000, |at| abort(0x20, at));
    run.run.check("state", "looked at", "", ("true", "true"), None);
    let passed = run.run.checks;
    run.run.record(&format!(r#"{{"kind":"end","passed":{passed},"failed":0}}"#));
    run.run
}

impl Builder {
    fn lines(&mut self, lines: &str) {
        self.run.trace += lines;
    }

    fn write(&mut self, register: u64, value: u64, size: u64) {
        self.lines(&format!("smmuv3_write_mmio addr: {register:#x} val:{value:#x} size: {size:#x}(0)\n"));
    }

    fn bring_up(&mut self) {
        let slots = u64::from(self.kind.slots);
        self.lines("smmu_reset_exit \n");
        self.write(0x44, 0x8010_1000, 4);
        self.write(0x80, 0x4000_0000_4037_0000, 8);
        self.write(0x90, 0x4000_0000_4036_f000 | slots, 8);
        self.write(0x9c, 0, 4);
        self.write(0x20, 0x8, 4);
        self.command("CFGI_STE_RANGE", "smmuv3_cmdq_cfgi_ste_range start=0x0 - end=0xffffffff\n");
        self.sync();
        self.command("TLBI_NSNH_ALL", "smmuv3_cmdq_tlbi_nsnh \nsmmu_iotlb_inv_all IOTLB invalidate all\n");
        self.sync();
        self.write(0xa0, 0x4000_0000_4037_8008, 8);
        self.write(0xac, 0, 4);
        self.write(0x20, 0xc, 4);
        self.write(0x20, 0xd, 4);
    }

    /// Index and wrap bit.
    fn place(&self) -> (u32, u32) {
        (self.commands & ((1 << self.kind.slots) - 1), self.commands >> self.kind.slots & 1)
    }

    fn command(&mut self, name: &str, lines: &str) {
        let (index, wrap) = self.place();
        self.lines(&format!("smmuv3_cmdq_consume prod={index} cons={index} prod.wrap={wrap} cons.wrap={wrap}\n"));
        self.lines(&format!("smmuv3_cmdq_opcode <--- SMMU_CMD_{name}\n{lines}"));
        self.commands += 1;
    }

    fn sync(&mut self) -> u32 {
        self.command("SYNC", "");
        let (index, wrap) = self.place();
        self.lines(&format!(
            "smmuv3_cmdq_consume_out prod:{index}, cons:{index}, prod_wrap:{wrap}, cons_wrap:{wrap} \n"
        ));
        self.commands
    }

    /// The beginning of a check, with a line of something else in the trace to find it by.
    fn begin(&mut self, name: &str) -> u32 {
        let begin = self.sync();
        self.lines(&format!("note begin of {name}\n"));
        begin
    }

    fn end(&mut self, name: &str) -> u32 {
        self.lines(&format!("note end of {name}\n"));
        self.sync()
    }

    fn configuration(&mut self, source: u64) {
        self.command("CFGI_STE", &cfgi("CFGI_STE", source));
        if !self.kind.stage2 {
            self.command("CFGI_CD", &cfgi("CFGI_CD", source));
        }
        self.sync();
    }

    fn attach(&mut self, source: u64) {
        self.command("CFGI_STE", &cfgi("CFGI_STE", source));
        self.sync();
        self.command("CFGI_STE", &cfgi("CFGI_STE", source));
        self.sync();
    }

    fn detach(&mut self, source: u64, domain: u64) {
        self.configuration(source);
        let (name, lines) = self.kind.all_of(domain);
        self.command(name, &lines);
        self.sync();
    }

    fn change(&mut self, kind: &str, name: &str, begin: u32) {
        let end = self.end(name);
        self.run.change(kind, name, (begin, end));
    }

    fn transfer(&mut self, name: &str, access: &str, iova: u64, len: u64, frames: &[(u64, u64)], lines: &str) {
        let begin = self.begin(name);
        self.lines(lines);
        let end = self.end(name);
        let frame = |(phys, len): &(u64, u64)| format!(r#"{{"phys":"{phys:#x}","length":{len}}}"#);
        let frames = frames.iter().map(frame).collect::<Vec<_>>().join(",");
        let fields = format!(
            r#""stream":"0x20","iova":"{iova:#x}","length":{len},"access":"{access}","frames":[{frames}],"fault":null"#
        );
        self.run.check("dma", name, &fields, ("moved", "moved"), Some((begin, end)));
    }

    /// A transfer that is let through, by pages (address looked up, memory behind the page).
    fn moved(&mut self, name: &str, access: &str, iova: u64, pages: &[(u64, u64)], len: u64, domain: u64) {
        let (mut lines, mut frames, mut left) = (String::new(), Vec::new(), len);
        for (at, phys) in pages {
            lines += &self.kind.walked(0x20, domain, *at, *phys, READ_WRITE);
            let part = left.min((at | 0xfff) - at + 1);
            frames.push((phys + (at & 0xfff), part));
            left -= part;
        }
        self.transfer(name, access, iova, len, &frames, &lines);
    }

    /// 2 MiB at once.
    fn large(&mut self) {
        let (kind, stage) = (self.kind, self.kind.stage());
        let leaf = kind.leaf(0x40_0000, READ_WRITE) & !2;
        let lines = format!(
            "{}smmu_ptw_block_pte stage={stage} level=2 base@=0x40387000 pte@=0x40387008 pte={leaf:#x} iova=0x300800 block address = 0x400000 block size = 2 MiB
smmu_iotlb_insert IOTLB ++ {} addr=0x200000 tg=1 level=2\n{}",
            kind.lookup(false, 0x20, 2, 0x30_0800),
            kind.domain(2),
            kind.success(0x20, 0x30_0800, 0x50_0800, READ_WRITE)
        );
        self.transfer("large", "read", 0x30_0800, 0x1000, &[(0x50_0800, 0x1000)], &lines);
    }

    /// A transfer of eight bytes that is refused, each half with an event that the guest takes.
    fn refused(&mut self, name: &str, access: &str, iova: u64, code: Option<u64>, lines: impl Fn(u64) -> String) {
        let begin = self.begin(name);
        let (first, second) = (lines(iova), lines(iova + 4));
        self.lines(&(first + &second));
        self.lines(&(read_up_to(self.events + 1) + &read_up_to(self.events + 2)));
        self.events += 2;
        let end = self.end(name);
        let (told, at, code) = code.map_or(("write", 0, 2), |code| (access, iova, code));
        let words = format!("blocked: {told} of 0x20 at {at:#x}, reason {code:#x}");
        let fields = format!(
            r#""stream":"0x20","iova":"{iova:#x}","length":8,"access":"{access}","frames":[],"fault":{{"stream":"0x20","iova":"{at:#x}","code":"{code:#x}","access":"{told}"}}"#
        );
        self.run.check("dma", name, &fields, (&words, &words), Some((begin, end)));
    }

    /// A write of eight bytes that comes to nothing, in silence.
    fn dropped(&mut self, name: &str, source: u64, iova: u64, lines: impl Fn(u64) -> String) {
        let begin = self.begin(name);
        self.lines(&(lines(iova) + &lines(iova + 4)));
        let end = self.end(name);
        let fields = format!(r#""stream":"{source:#x}","iova":"{iova:#x}","length":8,"access":"write""#);
        let words = "dropped without a fault";
        self.run.check("dma", name, &fields, (words, words), Some((begin, end)));
    }
}

impl Run {
    /// The same with lines added where a check begins.
    fn inside(self, check: &str, lines: &str) -> Self {
        let note = format!("note begin of {check}\n");
        self.traced(&note, &format!("{note}{lines}"))
    }

    /// The same with the first `old` replaced that comes after a check has begun.
    fn changed(mut self, check: &str, old: &str, new: &str) -> Self {
        let note = format!("note begin of {check}\n");
        let at = self.trace.find(&note).unwrap_or_else(|| panic!("no {check}"));
        let rest = self.trace.split_off(at);
        assert!(rest.contains(old), "{check} has no {old}");
        self.trace += &rest.replacen(old, new, 1);
        self
    }
}

#[test]
fn a_run_that_is_right() {
    for kind in kinds() {
        good(kind).is_right();
    }
}

#[test]
fn in_a_queue_that_wraps() {
    for slots in [1, 2, 3, 5] {
        good(Kind { slots, ..FIRST }).is_right();
        good(Kind { slots, ..SECOND }).is_right();
    }
}
