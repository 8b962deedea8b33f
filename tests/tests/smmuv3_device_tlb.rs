//! Device TLBs on SMMUv3: let through and refused by one word of a live entry, told of everything that is taken away, and of a
//! guest's requests to its own alone.

use iommu_core::hw::{DeviceTlb, HwError, Invalidation, Stage, StreamId, Target, Unit as _};
use iommu_models::smmuv3::{Command, Config};
use iommu_tests::smmuv3::bench::{Bench, stream, unmap};
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
    bench.model.ats_request(NEAR, None, iommu_core::addr::Iova::new(iova), true).is_ok()
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
