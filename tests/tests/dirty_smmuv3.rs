//! What is written through domains of SMMUv3, recorded by hardware: both stages, every granule and width of addresses.

use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_core::hw::{Domain, DomainConfig, Gather, HwError, Stage, Unit as _};
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{Config, FaultCode};
use iommu_tests::smmuv3::bench::{Bench, map, range};
use iommu_tests::smmuv3::case::Case;
use std::sync::Arc;

/// Units with one granule each, by the bit of SMMU_IDR5 and the address bits inside of a page, and each width of addresses.
fn cases(httu: u32) -> Vec<(Case, u64)> {
    let mut all = Vec::new();
    for stage in [Stage::First, Stage::Second] {
        for (gran, page_bits) in [(4, 12), (5, 14), (6, 16)] {
            for oas in 0..6 {
                let nested = Config::nested().idr0_bits(3 << 6, false).idr0_bits(httu << 6, true);
                let config = Config { idr5: oas | 1 << gran, ..nested };
                let name = format!("{stage:?}, pages of {} KiB, OAS {oas}", (1 << page_bits) >> 10);
                all.push((Case { name, config, ..Case::nested(stage) }, 1 << page_bits));
            }
        }
    }
    all
}

/// With tables below 4 GiB, where every unit reaches them.
fn up(case: &Case) -> Bench {
    Bench::up_on(case, Arc::new(TestMemory::new(PhysAddr::new(0x1000_0000), 1024)))
}

fn dirty(domain: &dyn Domain, whole: IovaRange) -> Vec<IovaRange> {
    let mut found = Vec::new();
    domain.read_dirty(whole, &mut |range| found.push(range)).unwrap();
    found
}

#[test]
fn every_granule_and_width_leads_where_it_says() {
    for (case, page) in cases(0) {
        let bench = up(&case);
        let domain = bench.domain();
        assert_eq!(domain.geometry().page_sizes.mask() & page.wrapping_neg(), domain.geometry().page_sizes.mask());
        let end = domain.geometry().aperture.last().get() + 1;
        bench.attach(8, &*domain);
        for at in [0, 5 * page, end - 2 * page] {
            map(&*domain, at, 0x5000_0000, 2 * page);
            assert_eq!(domain.translate(Iova::new(at + page)).unwrap().phys.get(), 0x5000_0000 + page);
            bench.expect(8, at + page + 0x123, Ok(0x5000_0000 + page + 0x123));
            let mut gather = Gather::new();
            domain.unmap(range(at, 2 * page), &mut gather).unwrap();
            domain.flush(&mut gather).unwrap();
            bench.expect(8, at + page, Err(FaultCode::F_TRANSLATION));
        }
        bench.check();
    }
}

#[test]
fn what_is_written_is_found_once_and_again_when_it_is_written_again() {
    for (case, page) in cases(2) {
        let bench = up(&case);
        let config = DomainConfig { dirty_tracking: true, ..DomainConfig::new(case.stage) };
        let domain = bench.unit.create_domain(&config).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let whole = range(4 * page, 4 * page);
        map(&*domain, 4 * page, 0x5000_0000 + page, 4 * page);
        bench.attach(8, &*domain);
        assert_eq!(dirty(&*domain, whole), [], "{}", case.name);
        bench.read(8, 5 * page).unwrap();
        assert_eq!(dirty(&*domain, whole), [], "{}: reads are no writes", case.name);
        for _ in 0..2 {
            bench.write(8, 6 * page + 8).unwrap();
            assert_eq!(dirty(&*domain, whole), [range(6 * page, page)], "{}", case.name);
            let (mut gather, mut found) = (Gather::new(), Vec::new());
            domain.read_and_clear_dirty(whole, &mut gather, &mut |range| found.push(range)).unwrap();
            assert_eq!(found, [range(6 * page, page)], "{}", case.name);
            domain.flush(&mut gather).unwrap();
            assert_eq!(dirty(&*domain, whole), [], "{}", case.name);
        }
        assert_eq!((domain.set_dirty_tracking(true), domain.set_dirty_tracking(false)), (Ok(()), Ok(())));
        bench.check();
    }
}

#[test]
fn without_updates_of_dirty_state_or_without_having_asked_there_is_none() {
    for httu in [0, 1] {
        for (case, page) in cases(httu) {
            let bench = up(&case);
            let config = DomainConfig { dirty_tracking: true, ..DomainConfig::new(case.stage) };
            match bench.unit.create_domain(&config).err() {
                Some(HwError::Missing(lacking)) => assert_eq!(lacking.field, "SMMU_IDR0.HTTU"),
                other => panic!("{}: {other:?}", case.name),
            }
            let plain = bench.domain();
            assert!(matches!(plain.read_dirty(range(0, page), &mut |_| ()), Err(HwError::Unsupported(_))));
            assert!(matches!(plain.set_dirty_tracking(true), Err(HwError::Unsupported(_))));
        }
    }
}
