//! Device TLBs on SMMUv3: let through and refused by one word of a live entry, told of everything that is taken away, and of a
//! guest's requests to its own alone.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    DeviceTlb, DomainConfig, HwError, Invalidation, Pasid, Stage, Stream, StreamId, Target, Unit as _,
};
use iommu_models::smmuv3::{Command, Config};
use iommu_tests::smmuv3::bench::{Bench, map, stream, unmap};
use iommu_tests::smmuv3::case::Case;

const NEAR: u32 = 8;
const TLB: DeviceTlb = DeviceTlb { queue_depth: 32, physical: StreamId::new(NEAR), global_invalidate: true };
const SYNC: Command = Command::Sync { signal: 0, message: None };

fn cases() -> Vec<Case> {
    let of = |stage| Case { config: Config::server(), name: format!("server, {stage:?}"), ..Case::nested(stage) };
    vec![of(Stage::First), of(Stage::Second)]
}

/// Whether translation requests of the device are answered.
fn answered(bench: &Bench, iova: u64) -> bool {
    bench.model.ats_request(NEAR, None, Iova::new(iova), true).is_ok()
}

#[test]
fn a_live_entry_lets_them_through_and_refuses_them_again() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x2000);
        bench.attach(NEAR, &*domain);
        assert!(!answered(&bench, 0x1000), "{}", case.name);
        bench.commands();
        let (entry, all) = (Command::ConfigSte { sid: NEAR, leaf: true }, |command: &Command| {
            matches!(command, Command::AtcInvalidate { sid: NEAR, ssid: None, address: 52, global: false })
        });
        bench.unit.set_device_tlb(StreamId::new(NEAR), Some(TLB)).unwrap();
        assert_eq!(bench.commands(), [entry, SYNC]);
        assert!(answered(&bench, 0x1000));
        bench.expect(NEAR, 0x1000, Ok(0x5000_0000));
        // What is unmapped it is told of, after the TLB.
        bench.commands();
        unmap(&*domain, 0x1000, 0x1000);
        let log = bench.commands();
        let at = log.iter().position(|it| matches!(it, Command::AtcInvalidate { sid: NEAR, .. })).expect("told");
        assert!(log[..at].contains(&SYNC) && log[at..].contains(&SYNC), "{log:?}");
        // A domain that it leaves is forgotten as a whole.
        let other = bench.domain_with(0x1000, 0x6000_0000, 0x1000);
        bench.attach(NEAR, &*other);
        assert!(bench.commands().iter().any(all), "{}", case.name);
        assert!(answered(&bench, 0x1000));
        // First everything is forgotten, then nothing is let through any more.
        bench.commands();
        bench.unit.set_device_tlb(StreamId::new(NEAR), None).unwrap();
        let log = bench.commands();
        assert!(all(&log[0]) && log[1..] == [SYNC, entry, SYNC], "{log:?}");
        assert!(!answered(&bench, 0x1000));
        bench.commands();
        unmap(&*other, 0x1000, 0x1000);
        assert!(!bench.commands().iter().any(|it| matches!(it, Command::AtcInvalidate { .. })), "not asked any more");
        bench.check();
    }
}

#[test]
fn what_comes_later_finds_it_there() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.unit.set_device_tlb(StreamId::new(NEAR), Some(TLB)).unwrap();
        bench.unit.attach(stream(NEAR), Target::Identity).unwrap();
        assert!(!answered(&bench, 0x1000), "what is not translated has no translations");
        bench.attach(NEAR, &*domain);
        assert!(answered(&bench, 0x1000), "{}", case.name);
        drop(domain);
        assert!(!answered(&bench, 0x1000));
        bench.check();
    }
}

#[test]
fn a_guest_reaches_its_own_device_and_what_is_wrong_is_named() {
    for case in cases() {
        let bench = Bench::up(&case);
        let ask = |words| bench.unit.invalidate_device(StreamId::new(NEAR), &Invalidation { kind: 0x534d_4d43, words });
        assert!(matches!(ask([0x40, 52]), Err(HwError::Hardware(_))), "there is none");
        bench.unit.set_device_tlb(StreamId::new(NEAR), Some(TLB)).unwrap();
        bench.commands();
        ask([0x40 | 0x77 << 32, 0x5000]).unwrap();
        let one = Command::AtcInvalidate { sid: NEAR, ssid: None, address: 0x5000, global: false };
        assert_eq!(bench.commands(), [one, SYNC]);
        assert!(matches!(ask([0x10, 0]), Err(HwError::Hardware(_))));
        for queue_depth in [0, 33] {
            let tlb = DeviceTlb { queue_depth, ..TLB };
            assert!(matches!(bench.unit.set_device_tlb(StreamId::new(NEAR), Some(tlb)), Err(HwError::Hardware(_))));
        }
        bench.check();
    }
    let none = Bench::up(&Case::nested(Stage::First));
    assert!(matches!(none.unit.set_device_tlb(StreamId::new(NEAR), Some(TLB)), Err(HwError::Missing(_))));
    assert_eq!(none.unit.set_device_tlb(StreamId::new(NEAR), None), Ok(()));
}

/// Section 5.2: with S2S there is no ATS.
#[test]
fn a_stage_2_that_stalls_and_a_device_tlb_exclude_each_other() {
    for case in cases() {
        let bench = Bench::up(&case);
        let config = DomainConfig { stall: true, ..DomainConfig::new(case.stage) };
        let domain = bench.unit.create_domain(&config).unwrap();
        map(&*domain, 0x1000, 0x5000_0000, 0x1000);
        bench.attach(NEAR, &*domain);
        bench.expect(NEAR, 0x1000, Ok(0x5000_0000));
        bench.commands();
        let told = bench.unit.set_device_tlb(StreamId::new(NEAR), Some(TLB));
        if case.stage == Stage::First {
            // Stage 1 has no such rule.
            assert_eq!(told, Ok(()));
            assert!(answered(&bench, 0x1000));
            bench.unit.set_device_tlb(StreamId::new(NEAR), None).unwrap();
            continue;
        }
        assert!(matches!(told, Err(HwError::Unsupported(_))), "{told:?}");
        assert_eq!(bench.commands(), []);
        bench.expect(NEAR, 0x1000, Ok(0x5000_0000));
        assert!(!answered(&bench, 0x1000));
        // The other way round.
        let plain = bench.domain_with(0x1000, 0x6000_0000, 0x1000);
        bench.attach(NEAR, &*plain);
        bench.unit.set_device_tlb(StreamId::new(NEAR), Some(TLB)).unwrap();
        assert!(answered(&bench, 0x1000));
        bench.commands();
        let moved = bench.unit.attach(stream(NEAR), Target::Paging(&*domain));
        assert!(matches!(moved, Err(HwError::Unsupported(_))), "{moved:?}");
        assert_eq!(bench.commands(), []);
        bench.expect(NEAR, 0x1000, Ok(0x6000_0000));
        assert!(answered(&bench, 0x1000), "as it was");
        bench.unit.set_device_tlb(StreamId::new(NEAR), None).unwrap();
        bench.attach(NEAR, &*domain);
        bench.expect(NEAR, 0x1000, Ok(0x5000_0000));
        bench.check();
    }
}

/// Sections 3.9.1 and 5.2: a stream that bypasses without any stage is given no translations, and its requests that say that
/// they are translated are refused. Where it has substreams it bypasses by S1DSS, and is given what it has, 1:1; its substreams
/// have a stage 1 each, identity too.
#[test]
fn what_passes_untranslated_is_given_no_translations_and_its_parts_are() {
    let case = cases().remove(0);
    let bench = Bench::up(&case);
    let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
    let part = |pasid| Stream { id: StreamId::new(NEAR), pasid: Pasid::new(pasid) };
    let endpoint = bench.model.endpoint(NEAR);
    let given = |pasid, iova| {
        let found = endpoint.translate(pasid, Iova::new(iova), true).ok()?;
        found.map(|held| held.phys.get())
    };
    bench.unit.set_device_tlb(StreamId::new(NEAR), Some(TLB)).unwrap();
    for parts in [false, true] {
        if parts {
            bench.unit.attach(part(5), Target::Paging(&*domain)).unwrap();
            bench.unit.attach(part(6), Target::Identity).unwrap();
        }
        bench.unit.attach(stream(NEAR), Target::Identity).unwrap();
        bench.expect(NEAR, 0x7000, Ok(0x7000));
        let own = given(None, 0x7000);
        if parts {
            assert!(own.is_none_or(|phys| phys <= 0x7000), "{own:x?}");
            assert!(endpoint.dma(None, Iova::new(0x7008), 1, true).is_ok_and(|to| to[0].start.get() == 0x7008));
            assert_eq!((given(Some(5), 0x1000), given(Some(5), 0x7000)), (Some(0x5000_0000), None));
            // A block of the identity's.
            assert!(given(Some(6), 0x7000).is_some_and(|phys| phys <= 0x7000));
            let through = endpoint.dma(Some(6), Iova::new(0x7008), 1, true).unwrap();
            assert_eq!(through[0].start.get(), 0x7008);
            unmap(&*domain, 0x1000, 0x1000);
            let held = |pasid| endpoint.cached().iter().any(|held| held.pasid == pasid);
            assert!(!held(Some(5)) && held(Some(6)), "by its part alone: {:x?}", endpoint.cached());
            bench.unit.detach(part(6)).unwrap();
            assert!(!held(Some(6)));
        } else {
            assert_eq!(own, None);
            assert!(endpoint.translated(PhysAddr::new(0x7000), true).is_err(), "nobody is believed");
        }
    }
    bench.unit.detach(part(5)).unwrap();
    bench.unit.set_device_tlb(StreamId::new(NEAR), None).unwrap();
    bench.check();
}
