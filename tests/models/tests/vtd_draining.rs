//! Requests that are on their way: an invalidation drains them, where it is asked to, and is done only then.

mod common;

use common::*;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::vtd::{Config, Execution, InFlight};

const DRAIN: u64 = 3 << 6;
const OTHER: u64 = 6;

/// One write and one read on their way to page 3.
fn up(config: Config) -> Bench {
    let bench = Bench::up(config);
    bench.map(3, 0x5000);
    bench.model.linger(true);
    assert_eq!((bench.write_at(0x3123), bench.read_at(0x3456)), (Ok(0x5123), Ok(0x5456)));
    bench
}

fn left(bench: &Bench) -> [usize; 2] {
    let all = bench.model.in_flight();
    let writes = all.iter().filter(|request| request.write).count();
    [writes, all.len() - writes]
}

#[test]
fn the_flags_say_what_is_drained() {
    let config = Config::second_stage();
    let bench = up(config);
    let (iova, phys) = (Iova::new(0x3000), PhysAddr::new(0x5000));
    let request = |write| InFlight { requester: RID, domain: DOMAIN as u16, pasid: Some(0), iova, phys, write };
    assert_eq!(bench.model.in_flight(), [request(true), request(false)]);
    for (config, flags, expected) in [
        (config, 0, [1, 1]),
        (config, 1 << 6, [0, 1]),
        (config, 1 << 7, [1, 0]),
        (config, DRAIN, [0, 0]),
        // A unit that cannot does not, one of version 2 always does.
        (config.cap_bits(3 << 54, false), DRAIN, [1, 1]),
        (Config { version: 0x20, ..config }, 0, [0, 0]),
    ] {
        let mut bench = up(config);
        bench.submit(DOMAIN << 16 | flags | 2 << 4 | 2, 0);
        assert_eq!(left(&bench), [1, 1], "not before the wait");
        assert!(bench.wait(1));
        assert_eq!(left(&bench), expected, "{flags:#x}");
    }
}

#[test]
fn only_what_is_covered_is_drained() {
    for (low, high, drained) in [
        (0x12, 0, true),
        (DOMAIN << 16 | 2 << 4 | 2, 0, true),
        (OTHER << 16 | 2 << 4 | 2, 0, false),
        (DOMAIN << 16 | 3 << 4 | 2, 0x3000, true),
        (DOMAIN << 16 | 3 << 4 | 2, 0x2001, true),
        (DOMAIN << 16 | 3 << 4 | 2, 0x4000, false),
        (OTHER << 16 | 3 << 4 | 2, 0x3000, false),
    ] {
        let mut bench = up(Config::second_stage());
        bench.submit(low | DRAIN, high);
        assert!(bench.wait(1));
        assert_eq!(left(&bench), if drained { [0, 0] } else { [1, 1] }, "{low:#x} {high:#x}");
    }
}

#[test]
fn type_6_always_drains() {
    for (low, high, drained) in [
        (DOMAIN << 16 | 2 << 4 | 6, 0, true),
        (1 << 32 | DOMAIN << 16 | 2 << 4 | 6, 0, false),
        (DOMAIN << 16 | 3 << 4 | 6, 0x3000, true),
        (DOMAIN << 16 | 3 << 4 | 6, 0x4000, false),
    ] {
        let mut bench = up(Config::first_stage());
        bench.submit(low, high);
        assert!(bench.wait(1));
        assert_eq!(left(&bench), if drained { [0, 0] } else { [1, 1] }, "{low:#x} {high:#x}");
    }
}

#[test]
fn a_late_invalidation_drains_late() {
    let mut bench = up(Config::second_stage());
    bench.model.set_execution(Execution::Late);
    bench.submit(DOMAIN << 16 | DRAIN | 2 << 4 | 2, 0);
    // What comes after it was queued, and before it is executed, is drained as well.
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    assert!(bench.wait(1));
    assert_eq!(left(&bench), [0, 0]);
    assert_eq!(bench.model.violations(), []);
    // Without the switch nothing is kept.
    bench.model.linger(false);
    assert_eq!(bench.write_at(0x3000), Ok(0x5000));
    assert_eq!(bench.model.in_flight(), []);
}
