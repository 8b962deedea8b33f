//! Guests' own stages 1 on top of stage 2: a run that is right in everything, and what must be caught of walks and requests.

use super::{Builder, FIRST, Kind, NEW, Run, abort, cfgi, config, read_up_to};

/// The guest's ASID and the VMID beneath, as look-ups and invalidations name them.
const GUEST: &str = "asid=7 vmid=2";
/// Stage 2 alone.
const BENEATH: &str = "asid=-1 vmid=2";

/// Leaves of 4 KiB of either stage that let all through, and of stage 2 for reads only.
const LEAF: u64 = 0xf43;
const LEAF_2: u64 = 0x40_0000_0000_07ff;
const READ_ONLY_2: u64 = 0x40_0000_0000_077f;

fn lookup(hit: bool, tag: &str, at: u64) -> String {
    let (name, state) = if hit { ("hit", "HIT") } else { ("miss", "MISS") };
    format!("smmu_iotlb_lookup_{name} IOTLB cache {state} {tag} addr={at:#x} hit=1 miss=1 hit rate=50\n")
}

fn page(stage: u64, at: u64, leaf: u64, phys: u64) -> String {
    let leaf = leaf | phys;
    format!(
        "smmu_ptw_page_pte stage={stage} level=3 iova={at:#x} base@=0x404db000 pte@=0x404db008 pte={leaf:#x} page address = {phys:#x}\n"
    )
}

fn insert(tag: &str, at: u64) -> String {
    format!("smmu_iotlb_insert IOTLB ++ {tag} addr={:#x} tg=1 level=3\n", at & !0xfff)
}

fn success(stage: u64, at: u64, to: u64) -> String {
    format!("smmuv3_translate_success region sid=0x20 iova={at:#x} translated={to:#x} perm=0x3 stage={stage}\n")
}

/// Of a walk of stage 1: a table of it, looked up in stage 2.
fn table() -> String {
    lookup(false, BENEATH, 0x7_0100)
        + &page(2, 0x7_0100, LEAF_2, 0x4d_9000)
        + &insert(BENEATH, 0x7_0100)
        + "smmu_get_pte baseaddr=0x404d9000 index=0x140, pteaddr=0x404d9a00, pte=0x2000702003\n"
}

/// A look-up of `at` up to the leaf of stage 1, a page that leads to `ipa`.
fn first(at: u64, ipa: u64) -> String {
    config(0x20) + &lookup(false, GUEST, at) + &table() + &page(3, at, LEAF, ipa)
}

/// A walk of both stages to a page.
fn walked(at: u64, ipa: u64, phys: u64, leaf: u64) -> String {
    let inside = at & 0xfff;
    first(at, ipa) + &page(2, ipa + inside, leaf, phys) + &insert(GUEST, at) + &success(3, at, phys + inside)
}

/// One through a block of 2 MiB of stage 1 that leads to pages of stage 2.
fn through_a_block() -> String {
    let block = "smmu_ptw_block_pte stage=3 level=2 base@=0x404da000 pte@=0x404da008 pte=0x200f41 iova=0x5000203010 block address = 0x200000 block size = 2 MiB\n";
    config(0x20)
        + &lookup(false, GUEST, 0x50_0020_3010)
        + &table()
        + block
        + &page(2, 0x20_3010, LEAF_2, 0x51_2000)
        + &insert(GUEST, 0x50_0020_3010)
        + &success(3, 0x50_0020_3010, 0x51_2010)
}

/// The way to a context descriptor in stage 2, which the guest does not have.
fn no_context(kind: Kind) -> String {
    "smmuv3_config_cache_miss Config cache MISS for sid=0x20 (hits=1, misses=1, hit rate=50)\n".to_owned()
        + "smmuv3_get_ste STE addr: 0x404f0800\nsmmuv3_get_cd CD addr: 0x3000000000\n"
        + &lookup(false, BENEATH, 0x30_0000_0000)
        + "smmu_ptw_invalid_pte stage=2 level=1 base@=0x404d1000 pte@=0x404d1600 offset=192 pte=0x0\n"
        + &kind.event("F_TRANSLATION", 0x20)
}

const REQUEST: &str = "smmuv3_range_inval vmid=2 asid=7 addr=0x5000001000 tg=0 num_pages=0x1 ttl=0 leaf=1 stage=1\n";
const BENEATH_RANGE: &str = "smmuv3_range_inval vmid=2 asid=-1 addr=0x1000 tg=1 num_pages=0x1 ttl=3 leaf=1 stage=2\n";
const ALL_OF_GUESTS: &str = "smmu_iotlb_inv_vmid_s1 IOTLB invalidate vmid=2\n";
const ALL: &str = "smmu_iotlb_inv_vmid IOTLB invalidate vmid=2\n";

impl Builder {
    /// A range taken away from either stage.
    fn taken(&mut self, kind: &str, name: &str, at: u64, commands: &[(&str, &str)]) {
        let begin = self.begin(name);
        commands.iter().for_each(|(name, lines)| self.command(name, lines));
        let end = self.sync();
        let area =
            format!(r#""stream":"0x20","iova":"{at:#x}","length":4096,"frames":[{{"phys":"0x370000","length":4096}}]"#);
        self.run.check(kind, name, &area, ("invalidated", "invalidated"), Some((begin, end)));
    }

    fn leaves(&mut self) {
        self.command("CFGI_STE", &cfgi("CFGI_STE", 0x20));
        self.command("CFGI_CD_ALL", &cfgi("CFGI_CD", 0x20));
        self.sync();
        self.command("TLBI_S12_VMALL", ALL);
        self.sync();
    }

    /// A write of four bytes that is refused for want of a context descriptor, of which a read is told.
    fn without_context(&mut self) {
        let begin = self.begin("context");
        let kind = self.kind;
        self.lines(&no_context(kind));
        self.events += 1;
        self.lines(&read_up_to(self.events));
        let end = self.end("context");
        let words = "blocked: read of 0x20 at 0x5000000000, reason 0x10";
        let fields = r#""stream":"0x20","iova":"0x5000000000","length":4,"access":"write","frames":[],"fault":{"stream":"0x20","iova":"0x5000000000","code":"0x10","access":"read"}"#;
        self.run.check("dma", "context", fields, (words, words), Some((begin, end)));
    }
}

/// A run in which everything is right: attached, moved through both stages, taken away by the hypervisor and by the guest,
/// without a context descriptor, aborted and led around stage 1 by the guest's entry, detached.
fn good(old: bool) -> Run {
    let kind = Kind { old, ..FIRST };
    let mut run = Builder { run: Run::start(NEW, "nested"), kind, commands: 0, events: 0 };
    run.bring_up();
    let begin = run.begin("attach");
    run.attach(0x20);
    run.change("attach", "attach", begin);

    let at = 0x50_0000_1010;
    run.transfer("moved", "write", at, 16, &[(0x37_0010, 16)], &walked(at, 0x1000, 0x37_0000, LEAF_2));
    let cached = config(0x20) + &lookup(true, GUEST, at) + &success(3, at, 0x37_0010);
    run.transfer("cached", "read", at, 16, &[(0x37_0010, 16)], &cached);
    run.transfer("block", "read", 0x50_0020_3010, 16, &[(0x51_2010, 16)], &through_a_block());
    let read_only = walked(0x50_0000_2000, 0x2000, 0x37_2000, READ_ONLY_2);
    run.transfer("read-only", "read", 0x50_0000_2000, 8, &[(0x37_2000, 8)], &read_only);
    run.refused("beneath", "write", 0x50_0000_2000, Some(0x13), |at| {
        config(0x20) + &lookup(true, GUEST, at) + &kind.event("F_PERMISSION", 0x20)
    });

    run.taken("unmap", "unmap", 0x1000, &[("TLBI_S2_IPA", BENEATH_RANGE), ("TLBI_NH_ALL", ALL_OF_GUESTS)]);
    run.refused("gone", "write", 0x50_0000_1000, Some(0x10), |at| {
        first(at, 0x1000) + &kind.event("F_TRANSLATION", 0x20)
    });
    run.transfer("back", "write", at, 16, &[(0x37_0010, 16)], &walked(at, 0x1000, 0x37_0000, LEAF_2));
    run.taken("forget", "forget", 0x50_0000_1000, &[("TLBI_NH_VA", REQUEST)]);
    run.refused("forgotten", "read", 0x50_0000_1000, Some(0x10), |at| {
        config(0x20) + &lookup(false, GUEST, at) + &table() + &kind.event("F_TRANSLATION", 0x20)
    });
    run.without_context();

    let begin = run.begin("aborts");
    run.leaves();
    run.change("attach", "aborts", begin);
    run.dropped("aborted", 0x20, 0x50_0000_1000, |at| abort(0x20, at));
    let begin = run.begin("bypasses");
    run.leaves();
    run.change("attach", "bypasses", begin);
    let around = config(0x20)
        + &lookup(false, BENEATH, 0x1010)
        + &page(2, 0x1010, LEAF_2, 0x37_0000)
        + &insert(BENEATH, 0x1010)
        + &success(2, 0x1010, 0x37_0010);
    run.transfer("bypassed", "write", 0x1010, 16, &[(0x37_0010, 16)], &around);
    let begin = run.begin("detach");
    run.leaves();
    run.change("detach", "detach", begin);
    run.dropped("detached", 0x20, 0x50_0000_1000, |at| abort(0x20, at));
    let passed = run.run.checks;
    run.run.record(&format!(r#"{{"kind":"end","passed":{passed},"failed":0}}"#));
    run.run
}

fn command(name: &str, lines: &str) -> String {
    format!("smmuv3_cmdq_opcode <--- SMMU_CMD_{name}\n{lines}")
}

fn nothing() -> String {
    command("PREFETCH_CONFIG", "")
}

#[test]
fn a_run_that_is_right() {
    good(false).is_right();
    good(true).is_right();
}

#[test]
fn what_the_hypervisor_takes_away_goes_with_all_of_the_guest_s() {
    let caught = |old: &str, new: &str, words: &str| good(false).changed("unmap", old, new).is_caught(words);
    caught(ALL_OF_GUESTS, "", "unmap: expected a TLB invalidation of stage 1 under VMID 0x2 that covers 0x0..=");
    caught(ALL_OF_GUESTS, REQUEST, "unmap: expected a TLB invalidation of stage 1 under VMID 0x2");
    caught(
        ALL_OF_GUESTS,
        "smmu_iotlb_inv_vmid_s1 IOTLB invalidate vmid=3\n",
        "unmap: expected a TLB invalidation of stage 1",
    );
    caught(BENEATH_RANGE, "", "unmap: expected a TLB invalidation of VMID 0x2 that covers 0x1000..=0x1fff");
    caught("vmid=2 asid=-1", "vmid=3 asid=-1", "unmap: expected a TLB invalidation of VMID 0x2 that covers");
    caught("addr=0x1000 tg=1", "addr=0x2000 tg=1", "unmap: expected a TLB invalidation of VMID 0x2 that covers");
    good(false).changed("unmap", BENEATH_RANGE, ALL).changed("unmap", ALL_OF_GUESTS, "").is_right();
}

#[test]
fn what_a_guest_takes_away_is_dropped_of_its_own() {
    let caught = |new: &str| {
        good(false).changed("forget", REQUEST, new).is_caught(
            "forget: expected a TLB invalidation of stage 1 under VMID 0x2 that covers 0x5000001000..=0x5000001fff",
        );
    };
    caught("");
    caught(&REQUEST.replace("vmid=2", "vmid=3"));
    // Nothing was ever seen of this ASID.
    caught(&REQUEST.replace("asid=7", "asid=8"));
    caught(&REQUEST.replace("0x5000001000", "0x5000002000"));
    caught(BENEATH_RANGE);
    for more in [
        ALL_OF_GUESTS,
        ALL,
        "smmu_iotlb_inv_asid_vmid IOTLB invalidate asid=7 vmid=2\n",
        &REQUEST.replace("asid=7", "asid=-1"),
    ] {
        good(false).changed("forget", REQUEST, more).is_right();
    }
}

#[test]
fn both_stages_lead_where_the_record_says() {
    let wrong = |check: &str, old: &str, new: &str| {
        let run = good(false).changed(check, old, new);
        assert!(run.verdict().failed > 0, "{check}: {new}");
    };
    // The leaf of stage 2 is not that behind the leaf of stage 1; the memory is not that behind both.
    wrong("moved", "stage=2 level=3 iova=0x1010", "stage=2 level=3 iova=0x2010");
    wrong("moved", &page(2, 0x1010, LEAF_2, 0x37_0000), &page(2, 0x1010, LEAF_2, 0x37_1000));
    wrong("moved", &page(3, 0x50_0000_1010, LEAF, 0x1000), &page(3, 0x50_0000_1010, LEAF, 0x2000));
    wrong("moved", "translated=0x370010", "translated=0x371010");
    wrong("moved", "page address = 0x370000", "page address = 0x371000");
    wrong("moved", "stage=3\n", "stage=2\n");
    wrong("moved", "perm=0x3", "perm=0x1");
    wrong("block", "addr=0x5000203000 tg=1 level=3", "addr=0x5000200000 tg=1 level=2");
    wrong("cached", "translated=0x370010", "translated=0x380010");
    wrong("bypassed", "translated=0x370010", "translated=0x380010");
    // A write through what stage 2 lets be read only.
    let run = good(false).recorded(
        r#""iova":"0x5000002000","length":8,"access":"read""#,
        r#""iova":"0x5000002000","length":8,"access":"write""#,
    );
    run.is_caught("read-only: expected an entry that permits a write");
    // Another VMID than before.
    let run = good(false).changed(
        "cached",
        &lookup(true, GUEST, 0x50_0000_1010),
        &lookup(true, "asid=7 vmid=3", 0x50_0000_1010),
    );
    assert!(run.verdict().failed > 0);
}

#[test]
fn a_refusal_on_the_way_to_the_tables_is_no_other() {
    // Of the access itself.
    let run = good(false).changed("context", "smmuv3_get_cd CD addr: 0x3000000000\n", "");
    run.is_caught("context: ");
    let run = good(false).recorded(
        r#""iova":"0x5000000000","code":"0x10","access":"read""#,
        r#""iova":"0x5000000000","code":"0x10","access":"write""#,
    );
    run.is_caught("context: ");
    // And what is refused as an access is not that.
    let miss = config(0x20) + &lookup(false, GUEST, 0x50_0000_1000);
    good(false)
        .changed("forgotten", &miss, &(config(0x20) + "smmuv3_get_cd CD addr: 0x1000\n"))
        .is_caught("forgotten: ");
}

#[test]
fn entries_that_change_and_go() {
    for check in ["aborts", "bypasses", "detach"] {
        let order = format!("{check}: expected for 0x20, in this order: ");
        for missing in [
            command("CFGI_STE", &cfgi("CFGI_STE", 0x20)),
            command("CFGI_CD_ALL", &cfgi("CFGI_CD", 0x20)),
            command("TLBI_S12_VMALL", ALL),
            command("SYNC", ""),
        ] {
            good(false).changed(check, &missing, &nothing()).is_caught(&order);
        }
        // What is cached of guests' stages 1 alone is not all.
        let of_guests = command("TLBI_NH_ALL", ALL_OF_GUESTS);
        good(false).changed(check, &command("TLBI_S12_VMALL", ALL), &of_guests).is_caught(&order);
    }
    let ste = command("CFGI_STE", &cfgi("CFGI_STE", 0x20));
    good(false).changed("attach", &ste, &nothing()).is_caught("attach: expected for 0x20, in this order: ");
}
