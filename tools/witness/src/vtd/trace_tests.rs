use super::*;
use crate::event::Stage;

fn in_scalable(text: &str) -> Trace {
    read(text, Mode::Scalable(Stage::Second))
}

fn events(text: &str) -> Vec<What> {
    let trace = in_scalable(text);
    assert_eq!(trace.problems, Vec::<String>::new());
    trace.events.iter().map(|event| event.what).collect()
}

#[test]
fn a_translation_takes_two_lines() {
    let found = events(
        "vtd_iotlb_cc_hit IOTLB context hit bus 0x1 devfn 0x0 high 0x0 low 0x7ffd3001 gen 1
vtd_iotlb_page_hit IOTLB page hit sid 0x108 iova 0x2063456780 slpte 0x100000083 domain 0x2
vtd_dmar_translate dev 01:01.00 iova 0x2040000000 -> gpa 0x100000000 mask 0x3fffffff
",
    );
    let block = Span { first: 0x20_4000_0000, last: 0x20_7fff_ffff };
    let expected = Translation {
        source: 0x108,
        iova: 0x20_6345_6780,
        block,
        phys: 0x1_0000_0000,
        domain: 2,
        readable: true,
        writable: true,
        cached: true,
    };
    assert_eq!(found, [What::Access(Access::Translated(expected))]);
    assert_eq!(expected.leads_to(expected.iova), 0x1_2345_6780);
}

#[test]
fn faults_as_they_happen_and_as_they_are_recorded() {
    let found = events(
        "vtd_dmar_fault sid 0x20 fault 113 addr 0x2000600004 write 0
vtd_frr_new index 0 high 0x4000007180000020 low 0x2000600000
",
    );
    let fault = Fault { source: 0x20, address: 0x20_0060_0004, code: 0x71, direction: Direction::Read, pasid: None };
    let page = Fault { address: 0x20_0060_0000, ..fault };
    assert_eq!(found, [What::Access(Access::Fault(fault)), What::Recorded(page)]);
    // Of a kind that is neither a read nor a write.
    assert_eq!(in_scalable("vtd_frr_new index 0 high 0x10000020 low 0x0\n").problems.len(), 1);
}

#[test]
fn descriptors_traced_or_not() {
    let head = "vtd_inv_qi_head read head 1\n";
    let tlb = "vtd_inv_desc invalidate desc type iotlb high 0x0 low 0x200e2\n";
    let pasid = "vtd_inv_desc invalidate desc type pasid-cache high 0x0 low 0x20017\n";
    let wait = "vtd_inv_desc invalidate desc type wait high 0x36a000 low 0x100000025
vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data 0x1\n";
    let removes =
        What::Invalidation(Invalidation::Tlb { domains: Domains::One(2), stage: None, range: None, pasid: None });
    let unseen = What::Invalidation(UNSEEN);
    let named = What::Invalidation(Invalidation::PasidCache { domains: Domains::One(2), pasid: Some(0) });
    assert_eq!(events(&format!("{head}{head}{tlb}{head}{wait}")), [unseen, removes, What::Wait(1)]);
    assert_eq!(events(&format!("{head}{tlb}{head}{wait}")), [removes, What::Wait(1)]);
    assert_eq!(events(&format!("{head}{tlb}{head}")), [removes, unseen], "the last one");
    // Where QEMU traces them, a descriptor without a trace is none.
    assert_eq!(events(&format!("{head}{head}{pasid}{head}{wait}")), [named, What::Wait(1)]);
    // Those of the first stage.
    let of_first = What::Invalidation(Invalidation::Tlb {
        domains: Domains::One(2),
        stage: Some(Stage::First),
        range: None,
        pasid: Some(0),
    });
    assert_eq!(events("vtd_inv_desc invalidate desc type p-iotlb high 0x0 low 0x20026\n"), [of_first]);
}

#[test]
fn stamped_lines() {
    let line = "vtd_dmar_enable enable 1\n";
    let enabled = [What::Setup(Setup::Translation(true))];
    assert_eq!(events(line), enabled);
    assert_eq!(events(&format!("12345@1700000000.123456:{line}")), enabled);
    assert_eq!(events(&format!("2026-01-31T12:00:00.123456Z {line}")), enabled);
}

#[test]
fn lines_that_contradict_each_other() {
    let entry = "vtd_iotlb_page_update IOTLB page update sid 0x20 iova 0x1010 slpte 0x370003 domain 0x2\n";
    let leads = "vtd_dmar_translate dev 00:04.00 iova 0x1000 -> gpa 0x370000 mask 0xfff\n";
    assert!(in_scalable(&format!("{entry}{leads}")).problems.is_empty());
    for wrong in [
        leads.to_owned(),
        entry.to_owned(),
        format!("{entry}{entry}{leads}"),
        format!("{entry}{leads}{leads}"),
        format!("{entry}{}", leads.replace("00:04", "00:05")),
        format!("{entry}{}", leads.replace("iova 0x1000", "iova 0x2000")),
        format!("{entry}{}", leads.replace("gpa 0x370000", "gpa 0x371000")),
        format!("{entry}{}", leads.replace("mask 0xfff", "mask 0x1fff")),
    ] {
        assert_eq!(in_scalable(&wrong).problems.len(), 1, "{wrong}");
    }
}

#[test]
fn lines_that_make_no_sense() {
    for wrong in [
        "vtd_dmar_fault sid 0x20 fault 1 addr 0x1000",
        "vtd_dmar_fault",
        "vtd_iotlb_page_hit IOTLB page hit sid 0x20 iova 0x1000 slpte 0x370003",
        "vtd_iotlb_page_hit IOTLB page hit sid 0x20 iova 0x1000 slpte 0x370003 domain 0x10000",
        "vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data 0x100000000",
        "vtd_inv_desc_wait_sw wait invalidate status write addr 0x36a000 data",
        "vtd_switch_address_space Device 00:40.0 switching address space (iommu enabled=1)",
    ] {
        assert_eq!(in_scalable(&format!("{wrong}\n")).problems.len(), 1, "{wrong}");
    }
}
