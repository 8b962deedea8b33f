//! Protected memory regions: what they keep out, and their registers.

mod common;

use common::*;
use iommu_core::addr::PhysAddr;
use iommu_models::vtd::{Blocked, Config, FaultCode, Violation};

const PMEN: usize = 0x64;
const PLMBASE: usize = 0x68;
const PLMLIMIT: usize = 0x6c;
const PHMBASE: usize = 0x70;
const PHMLIMIT: usize = 0x78;
const EPM: u32 = 1 << 31;
const REGIONS: u64 = 3 << 5;

fn protecting(config: Config) -> Config {
    config.cap_bits(REGIONS, true)
}

#[test]
fn whatever_goes_there_is_blocked_and_nobody_is_told() {
    for translating in [false, true] {
        let bench = if translating {
            Bench::up(protecting(Config::server()))
        } else {
            Bench::new(protecting(Config::server()))
        };
        let page = |phys: u64| {
            if translating {
                bench.map(0, phys);
                // Device TLBs and IOTLB aside: a new page each time.
                let used = bench.model.cached()[2] as u64 + 8;
                bench.map(used, phys);
                bench.write_at(used << 12)
            } else {
                bench.write_at(phys)
            }
        };
        bench.write32(PLMBASE, 0x20_0000);
        bench.write32(PLMLIMIT, 0x40_0000);
        bench.write64(PHMBASE, 0x1_0000_0000);
        bench.write64(PHMLIMIT, 0x1_0000_0000);
        assert_eq!(page(0x30_0000), Ok(0x30_0000), "off");
        bench.write32(PMEN, EPM);
        assert_eq!(bench.read32(PMEN), EPM | 1);
        for (phys, free) in [
            (0x1f_f000, true),
            (0x20_0000, false),
            // The limit's low bits count as ones.
            (0x5f_f000, false),
            (0x60_0000, true),
            (0xffff_f000, true),
            (0x1_0000_0000, false),
            (0x1_001f_f000, false),
            (0x1_0020_0000, true),
        ] {
            assert_eq!(page(phys), if free { Ok(phys) } else { Err(FaultCode::NONE) }, "{phys:#x}");
        }
        bench.write32(PMEN, 0);
        assert_eq!((bench.read32(PMEN), page(0x20_0000)), (0, Ok(0x20_0000)));
        assert_eq!((bench.read32(FSTS), bench.model.take_faults()), (0, vec![]));
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn requests_that_come_translated_are_kept_out_too() {
    let mut bench = Bench::up(protecting(Config::server()));
    bench.set(bench.context_entry(RID), bench.directory | 1 << 2 | 1);
    bench.context_device(RID);
    bench.write64(PHMBASE, 0x1_0000_0000);
    bench.write64(PHMLIMIT, 0x1_0000_0000);
    bench.write32(PLMBASE, 0x20_0000);
    bench.write32(PMEN, EPM);
    let translated = |phys| bench.model.endpoint(RID).translated(PhysAddr::new(phys), true);
    assert_eq!(translated(0x1_0020_0000), Ok(()));
    assert!(matches!(translated(0x1_0000_0000), Err(Blocked { reported: false, .. })));
    assert_eq!(translated(0x20_0000), Ok(()), "a limit below the base is no region");
}

#[test]
fn the_registers_keep_to_their_rules() {
    let bench = Bench::new(protecting(Config::server()));
    for (offset, width) in [(PLMBASE, 4), (PLMLIMIT, 4), (PHMBASE, 8), (PHMLIMIT, 8)] {
        if width == 4 {
            bench.write32(offset, u32::MAX);
            assert_eq!(bench.read32(offset), 0xffe0_0000);
        } else {
            bench.write64(offset, u64::MAX);
            assert_eq!(bench.read64(offset), 0x3fff_ffe0_0000);
        }
    }
    bench.write32(PMEN, EPM | 1);
    bench.write32(PLMBASE, 0);
    bench.write64(PHMLIMIT, 0);
    bench.write32(PMEN, EPM | 2);
    assert_eq!((bench.read32(PLMBASE), bench.read64(PHMLIMIT)), (0xffe0_0000, 0x3fff_ffe0_0000));
    assert_eq!(
        bench.model.violations(),
        [
            Violation::ProtectedRegionMoved { offset: PLMBASE, value: 0 },
            Violation::ProtectedRegionMoved { offset: PHMLIMIT, value: 0 },
            Violation::ReservedBits { offset: PMEN, bits: 2 },
        ]
    );
}

#[test]
fn the_status_follows_late_or_never() {
    let bench = Bench::new(protecting(Config::server()));
    bench.model.answer_after(2);
    bench.write32(PMEN, EPM);
    bench.write32(PMEN, 0);
    assert_eq!(bench.model.take_violations(), [Violation::WriteWhilePending { offset: PMEN, value: 0 }]);
    bench.write32(PMEN, EPM);
    assert_eq!([(); 3].map(|()| bench.read32(PMEN)), [EPM, EPM, EPM | 1]);
    bench.model.answer_after(0);
    bench.model.never_protect(true);
    bench.write32(PMEN, 0);
    assert!((0..50).all(|_| bench.read32(PMEN) == 1));
    assert_eq!(bench.write_at(0), Err(FaultCode::NONE), "still protected");
    bench.model.never_protect(false);
    assert_eq!(bench.read32(PMEN), 0);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_unit_without_regions_has_no_such_registers() {
    let bench = Bench::new(Config::server());
    bench.write32(PMEN, EPM);
    bench.write32(PLMBASE, 0x20_0000);
    bench.write64(PHMBASE, 0x20_0000);
    assert_eq!((bench.read32(PMEN), bench.read32(PLMBASE), bench.read64(PHMBASE)), (0, 0, 0));
    assert_eq!(
        bench.model.violations(),
        [
            Violation::ReadOnly { offset: PMEN, value: EPM.into() },
            Violation::ReadOnly { offset: PLMBASE, value: 0x20_0000 },
            Violation::ReadOnly { offset: PHMBASE, value: 0x20_0000 },
        ]
    );
    // One of the two: the other, whose registers read 0, protects nothing.
    let bench = Bench::new(Config::server().cap_bits(1 << 5, true));
    bench.write32(PLMBASE, 0x20_0000);
    bench.write32(PLMLIMIT, 0x20_0000);
    bench.write32(PMEN, EPM);
    assert_eq!((bench.write_at(0x1000), bench.write_at(0x20_1000)), (Ok(0x1000), Err(FaultCode::NONE)));
    bench.write64(PHMBASE, 0);
    assert_eq!(bench.model.violations(), [Violation::ReadOnly { offset: PHMBASE, value: 0 }]);
}
