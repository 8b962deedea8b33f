//! What VT-d alone has of the lives of domains: the descriptors by which hardware forgets an id, and the bit that says how
//! tables are read. When frames and ids come back is tested over both drivers, in `both`.

use iommu_core::hw::{Stage, Target, Unit as _};
use iommu_models::vtd::{Descriptor, Granularity};
use iommu_tests::bench::{Bench, stream};
use iommu_tests::case::Case;
use std::collections::BTreeSet;

const RED: u16 = 0x0108;

/// All that is cached of a domain.
fn is_all_of(case: &Case, domain: u16, descriptor: &Descriptor) -> bool {
    match (case.stage, *descriptor) {
        (Stage::First, Descriptor::PasidIotlb(granularity)) => granularity == Granularity::Pasid { domain, pasid: 0 },
        (Stage::Second, Descriptor::Iotlb { granularity, .. }) => granularity == Granularity::Domain(domain),
        _ => false,
    }
}

#[test]
fn a_domain_id_comes_back_only_after_all_of_it_is_invalidated() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let mut ids = BTreeSet::new();
        for round in 0..4 {
            let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
            // Some never see a stream: hardware never knew of them.
            if round % 2 == 0 {
                bench.attach(RED, &*domain);
            } else {
                bench.unit.attach(stream(RED), Target::Paging(&*domain)).unwrap();
                bench.detach(RED);
                bench.attach(RED, &*domain);
            }
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
            let id = bench.domain_id(RED);
            assert!(id >= 2);
            ids.insert(id);
            bench.invalidations();
            drop(domain);
            let log = bench.invalidations();
            // All of the domain's PASIDs and translations, when no entry leads to it any more.
            let last = log.iter().rposition(|it| matches!(it, Descriptor::ContextCache(_))).expect("a detach");
            let rest = &log[last + 1..];
            assert!(rest.contains(&Descriptor::PasidCache(Granularity::Domain(id))), "{}: {rest:?}", case.name);
            assert!(rest.iter().any(|one| is_all_of(&case, id, one)), "{}: {rest:?}", case.name);
        }
        assert_eq!(ids.len(), 4, "an id that was flushed rests until all others had their turn");
        bench.check();
    }
}

#[test]
fn page_walks_are_asked_to_snoop_where_they_can() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x3000);
        bench.attach(RED, &*domain);
        assert_eq!(bench.entry(RED)[1] >> 23 & 1 == 1, case.snoops_walks(), "{}: PWSNP", case.name);
        bench.check();
    }
}
