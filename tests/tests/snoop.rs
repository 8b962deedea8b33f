//! Coherency that is enforced: every access of such a domain snoops, whatever the device asks for, and units that cannot
//! do that refuse it.

use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, DomainConfig, HwError, Stage, Target, Unit as _};
use iommu_models::vtd::{Config, Request};
use iommu_tests::bench::{Bench, map, stream};
use iommu_tests::case::Case;

const RED: u16 = 0x0108;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

fn enforced(stage: Stage) -> DomainConfig {
    DomainConfig { enforce_coherency: true, ..DomainConfig::new(stage) }
}

fn fill(domain: &dyn Domain) {
    for len in [0x1000, LARGE, HUGE] {
        map(domain, len, 8 * HUGE + len, len);
    }
}

/// Whether accesses through a leaf of each size snoop, which must be the same for all.
#[track_caller]
fn snoops(bench: &Bench) -> bool {
    let found = [0x1000, LARGE, HUGE].map(|iova| {
        let done = bench.model.request(&Request::new(RED, None, Iova::new(iova), true)).expect("mapped");
        assert_eq!((done.phys.get(), done.size), (8 * HUGE + iova, iova));
        done.snoop
    });
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
    found[0]
}

#[test]
fn accesses_snoop_where_that_is_enforced_and_only_there() {
    let legacy = Config::legacy().ecap_bits(Config::ECAP_SC, true);
    for (config, stage) in
        [(Config::server(), Stage::First), (Config::server(), Stage::Second), (legacy, Stage::Second)]
    {
        let case = Case { name: format!("{stage:?}"), config, stage, non_coherent: false };
        let bench = Bench::up(&case);
        assert!(bench.unit.capabilities().enforce_coherency);
        let (plain, snooping) = (bench.domain(), bench.unit.create_domain(&enforced(stage)).unwrap());
        fill(&*plain);
        fill(&*snooping);
        for _ in 0..2 {
            bench.attach(RED, &*plain);
            assert!(!snoops(&bench), "{stage:?}");
            bench.attach(RED, &*snooping);
            assert!(snoops(&bench), "{stage:?}");
        }
        // What is mapped while it is used, too.
        map(&*snooping, 4 * HUGE, 0x5000_0000, 0x1000);
        let done = bench.model.request(&Request::new(RED, None, Iova::new(4 * HUGE), false)).unwrap();
        assert!(done.snoop);
        snooping.split(Iova::new(LARGE + 0x1000)).unwrap();
        let done = bench.model.request(&Request::new(RED, None, Iova::new(LARGE), false)).unwrap();
        assert!(done.snoop && done.size < LARGE, "pieces of a leaf snoop as it did");
        bench.check();
    }
}

#[test]
fn units_without_snoop_control_refuse_it() {
    for case in Case::all() {
        let without = Case { config: case.config.ecap_bits(Config::ECAP_SC, false), ..case };
        let bench = Bench::up(&without);
        assert!(!bench.unit.capabilities().enforce_coherency);
        let before = bench.memory.in_use();
        match bench.unit.create_domain(&enforced(without.stage)).err() {
            Some(HwError::Missing(capability)) => assert_eq!(capability.field, "ECAP.SC"),
            other => panic!("{}: {other:?}", without.name),
        }
        assert_eq!(bench.memory.in_use(), before);
        // The bit is reserved there: a domain that does not ask for it must not have it.
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.unit.attach(stream(RED), Target::Paging(&*domain)).unwrap();
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        bench.check();
    }
}
