use super::*;

const SETUP: &str = "smmuv3_write_mmio addr: 0x90 val:0x400000004036f008 size: 0x8(0)\n";
const CONFIG: &str = "smmuv3_config_cache_miss Config cache MISS for sid=0x20 (hits=0, misses=65, hit rate=0)
smmuv3_find_ste sid=0x20 features:0x1, sid_split:0x8
smmuv3_get_ste STE addr: 0x4039c800\n";
const MISS: &str = "smmu_iotlb_lookup_miss IOTLB cache MISS asid=1 vmid=0 addr=0x2000200010 hit=0 miss=2 hit rate=0\n";
const BLOCK: &str = "smmu_ptw_block_pte stage=1 level=2 base@=0x40387000 pte@=0x40387008 pte=0x60000040400f41 iova=0x2000200010 block address = 0x40400000 block size = 2 MiB\n";
const INSERT: &str = "smmu_iotlb_insert IOTLB ++ asid=1 vmid=0 addr=0x2000200000 tg=1 level=2\n";
const SUCCESS: &str = "smmuv3_translate_success smmuv3-iommu-memory-region-32-2 sid=0x20 iova=0x2000200010 translated=0x40400010 perm=0x3 stage=1\n";
const HIT: &str = "smmu_iotlb_lookup_hit IOTLB cache HIT asid=1 vmid=0 addr=0x2000200010 hit=1 miss=2 hit rate=33\n";

fn events_of(stage: Stage, text: &str) -> Vec<What> {
    let trace = read(text, Regime::One(stage));
    assert_eq!(trace.problems, Vec::<String>::new());
    trace.events.iter().map(|event| event.what).collect()
}

fn events(text: &str) -> Vec<What> {
    events_of(Stage::First, text)
}

#[test]
fn a_walk_and_a_hit() {
    let found = Translation {
        source: 0x20,
        iova: 0x20_0020_0010,
        block: Span { first: 0x20_0020_0000, last: 0x20_003f_ffff },
        phys: 0x4040_0000,
        domain: 1,
        readable: true,
        writable: true,
        cached: false,
    };
    let walk = format!("{CONFIG}{MISS}{BLOCK}{INSERT}{SUCCESS}");
    let hit = Translation { cached: true, ..found };
    let text = format!("{walk}{CONFIG}{HIT}{SUCCESS}");
    assert_eq!(events(&text), [found, hit].map(|found| What::Access(Access::Translated(found))));
    // A line may be stamped.
    assert_eq!(events(&walk.replace("smmu_iotlb", "2026-01-31T12:00:00.123456Z smmu_iotlb")).len(), 1);
    // A hit that comes to nothing.
    let text = format!("{walk}{CONFIG}{HIT}");
    let refusal =
        Refusal { source: 0x20, address: Some(hit.iova), code: None, direction: None, domain: Some(1), fetch: false };
    assert_eq!(events(&text)[1], What::Access(Access::Refused(refusal)));
}

#[test]
fn events_of_both_versions() {
    for name in ["smmuv3_record_event", "smmuv3_propagate_event"] {
        let refusal =
            Refusal { source: 0x20, address: None, code: Some(2), direction: None, domain: None, fetch: false };
        let text = format!("{CONFIG}{name} SMMU_EVT_C_BAD_STREAMID sid=0x20\n");
        assert_eq!(events(&text), [What::Access(Access::Refused(refusal))]);
        let refusal = Refusal { address: Some(0x20_0020_0010), code: Some(0x10), domain: Some(1), ..refusal };
        let text = format!("{CONFIG}{MISS}{name} SMMU_EVT_F_TRANSLATION sid=0x20\n");
        assert_eq!(events(&text), [What::Access(Access::Refused(refusal))]);
        // Of a page that is read-only.
        let text = format!("{CONFIG}{MISS}{}{name} SMMU_EVT_F_PERMISSION sid=0x20\n", BLOCK.replace("f41", "fc1"));
        let refusal = Refusal { code: Some(0x13), direction: Some(Direction::Write), ..refusal };
        assert_eq!(events(&text), [What::Access(Access::Refused(refusal))]);
    }
}

#[test]
fn aborts() {
    let abort = "smmuv3_translate_abort region sid=0x20 abort on iova:0x1000 is_write=0\n";
    let refusal =
        Refusal { source: 0x20, address: Some(0x1000), code: None, direction: None, domain: None, fetch: false };
    assert_eq!(events(&format!("{CONFIG}{abort}")), [What::Access(Access::Refused(refusal))]);
    assert!(matches!(events(abort)[..], [What::Access(Access::Odd(_))]));
    let bypass = "smmuv3_translate_bypass region sid=0x20 STE bypass iova:0x1000 is_write=0\n";
    assert!(matches!(
        events(&format!("{CONFIG}{bypass}"))[..],
        [What::Access(Access::Odd(_)), What::Access(Access::Odd(_))]
    ));
}

#[test]
fn commands() {
    let tlb = |domains, stage, range| What::Invalidation(Invalidation::Tlb { domains, stage, range, pasid: None });
    let (first, second) = (Some(Stage::First), Some(Stage::Second));
    let pages = |len| Span::from_len(0x20_0060_0000, len);
    for (line, expected) in [
        (
            "smmuv3_cmdq_cfgi_ste streamid= 0x108",
            vec![What::Invalidation(Invalidation::StreamCache { id: 0x108, ignored: 0, domains: Domains::All })],
        ),
        ("smmuv3_cmdq_cfgi_cd sid=0x20", vec![What::Invalidation(Invalidation::PasidCacheOf { id: 0x20, ignored: 0 })]),
        (
            "smmuv3_cmdq_cfgi_ste_range start=0x20 - end=0x27",
            vec![What::Invalidation(Invalidation::StreamCache { id: 0x20, ignored: 7, domains: Domains::All })],
        ),
        ("smmu_iotlb_inv_all IOTLB invalidate all", vec![tlb(Domains::All, None, None)]),
        ("smmu_iotlb_inv_asid_vmid IOTLB invalidate asid=7 vmid=0", vec![tlb(Domains::One(7), first, None)]),
        ("smmu_iotlb_inv_asid_vmid IOTLB invalidate asid=7 vmid=1", vec![]),
        ("smmu_iotlb_inv_vmid IOTLB invalidate vmid=7", vec![tlb(Domains::One(7), second, None)]),
        (
            "smmu_iotlb_inv_vmid IOTLB invalidate vmid=0",
            vec![tlb(Domains::One(0), second, None), tlb(Domains::All, first, None)],
        ),
        ("smmu_iotlb_inv_vmid_s1 IOTLB invalidate vmid=0", vec![tlb(Domains::All, first, None)]),
        ("smmu_iotlb_inv_vmid_s1 IOTLB invalidate vmid=1", vec![]),
        (
            "smmuv3_range_inval vmid=0 asid=1 addr=0x2000600000 tg=1 num_pages=0x200 ttl=2 leaf=1 stage=1",
            vec![tlb(Domains::One(1), first, pages(0x20_0000))],
        ),
        (
            "smmuv3_range_inval vmid=0 asid=-1 addr=0x2000600000 tg=1 num_pages=0x1 ttl=3 leaf=1 stage=1",
            vec![tlb(Domains::All, first, pages(0x1000))],
        ),
        ("smmuv3_range_inval vmid=3 asid=1 addr=0x2000600000 tg=1 num_pages=0x1 ttl=3 leaf=1 stage=1", vec![]),
        (
            "smmuv3_range_inval vmid=3 asid=-1 addr=0x2000600000 tg=3 num_pages=0x2 ttl=0 leaf=0 stage=2",
            vec![tlb(Domains::One(3), second, pages(0x2_0000))],
        ),
        (
            "smmuv3_range_inval vmid=3 asid=-1 addr=0x2000600000 tg=0 num_pages=0x1 ttl=0 leaf=0 stage=2",
            vec![tlb(Domains::One(3), second, pages(0x1000))],
        ),
        ("smmuv3_some_new_event 1 2 3", vec![]),
    ] {
        assert_eq!(events(&format!("{line}\n")), expected, "{line}");
    }
}

#[test]
fn set_up_and_what_the_guest_takes() {
    let text = format!(
        "smmuv3_write_mmio addr: 0x80 val:0x40370000 size: 0x8(0)\n{SETUP}\
         smmuv3_write_mmio addr: 0xa0 val:0x400000004037800a size: 0x8(0)
smmuv3_write_mmio addr: 0xac val:0x0 size: 0x4(0)
smmuv3_write_mmio addr: 0x20 val:0xd size: 0x4(0)
smmuv3_cmdq_consume prod=1 cons=0 prod.wrap=0 cons.wrap=0
smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC
smmuv3_cmdq_consume_out prod:1, cons:1, prod_wrap:0, cons_wrap:0 
smmuv3_write_mmio addr: 0xac val:0x7ff size: 0x4(0)
smmuv3_write_mmio addr: 0xac val:0x1 size: 0x4(0)\n"
    );
    let setup = [Setup::Tables, Setup::Queue, Setup::Faults, Setup::Translation(true)].map(What::Setup);
    let expected = [&setup[..], &[What::Wait(1), What::Taken(0x7ff), What::Taken(2)]].concat();
    assert_eq!(events(&text), expected);
}

#[test]
fn lines_that_contradict_each_other() {
    let walk = format!("{CONFIG}{MISS}{BLOCK}{INSERT}{SUCCESS}");
    assert!(read(&walk, Regime::One(Stage::First)).problems.is_empty());
    let event = "smmuv3_record_event SMMU_EVT_F_TRANSLATION sid=0x20\n";
    for wrong in [
        SUCCESS.to_owned(),
        event.to_owned(),
        format!("{CONFIG}{event}{event}"),
        format!("{CONFIG}{}", event.replace("0x20", "0x28")),
        format!("{CONFIG}{}", event.replace("F_TRANSLATION", "F_NOVEL")),
        format!("{CONFIG}{SUCCESS}"),
        format!("{CONFIG}{MISS}{SUCCESS}"),
        format!("{CONFIG}{HIT}{SUCCESS}"),
        format!("{CONFIG}{MISS}{BLOCK}{SUCCESS}"),
        walk.replace("translated=0x40400010", "translated=0x40401010"),
        walk.replace("perm=0x3", "perm=0x1"),
        walk.replace("perm=0x3 stage=1", "perm=0x3 stage=2"),
        walk.replace("iova=0x2000200010 translated", "iova=0x2000200000 translated"),
        walk.replace("region-32-2 sid=0x20", "region-32-2 sid=0x28"),
    ] {
        assert_eq!(read(&wrong, Regime::One(Stage::First)).problems.len(), 1, "{wrong}");
    }
    for wrong in [
        walk.replace("IOTLB ++ asid=1", "IOTLB ++ asid=2"),
        walk.replace("tg=1 level=2", "tg=1 level=3"),
        walk.replace("block address = 0x40400000", "block address = 0x40600000"),
        walk.replace("iova=0x2000200010 block", "iova=0x2000200000 block"),
        walk.replace("vmid=0", "vmid=1"),
    ] {
        assert!(!read(&wrong, Regime::One(Stage::First)).problems.is_empty(), "{wrong}");
    }
    assert!(!read(&walk, Regime::One(Stage::Second)).problems.is_empty(), "the other stage");
}

#[test]
fn lines_that_make_no_sense() {
    for wrong in [
        "smmuv3_config_cache_hit Config cache HIT for sid=0x20",
        "smmuv3_cmdq_consume prod=1 cons=0",
        "smmuv3_cmdq_consume_out prod:1, cons:1, prod_wrap:0, cons_wrap:0 ",
        "smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC",
        "smmuv3_cmdq_cfgi_ste streamid= ",
        "smmuv3_cmdq_cfgi_ste_range start=0x0 - end=0x6",
        "smmuv3_cmdq_cfgi_ste_range start=0x4 - end=0xb",
        "smmuv3_write_mmio addr: 0xac val:0x1 size: 0x4(0)",
        "smmuv3_write_mmio addr: 0x9c val:0x1 size: 0x4(0)",
        "smmuv3_range_inval vmid=0 asid=1 addr=0x2000600000 tg=4 num_pages=0x1 ttl=3 leaf=1 stage=1",
        "smmuv3_range_inval vmid=0 asid=1 addr=0x2000600000 tg=1 num_pages=0x1 ttl=3 leaf=1 stage=3",
        "smmuv3_translate_abort region sid=0x20",
    ] {
        assert_eq!(read(&format!("{wrong}\n"), Regime::One(Stage::First)).problems.len(), 1, "{wrong}");
    }
}
