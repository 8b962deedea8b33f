//! Levels of either stage follow what the unit reports: entries say what the tables are, the last address that fits is
//! reached, and the next one is refused.

use iommu_core::addr::Iova;
use iommu_core::hw::{DomainConfig, HwError, Prot, Stage, Unit as _};
use iommu_models::vtd::{Config, FaultCode};
use iommu_tests::bench::{Bench, extent, map};
use iommu_tests::case::Case;

const RED: u16 = 0x0108;
const PAGE: u64 = 0x1000;

fn case(name: &str, config: Config, stage: Stage) -> Case {
    Case { name: name.into(), config, stage, non_coherent: false }
}

/// [`Config::server`] with these SAGAW bits, guest addresses of `bits` bits, and 5-level first stages or none.
fn unit(sagaw: u64, bits: u64, five: bool) -> Config {
    let config = Config::server();
    let cap = config.cap & !(0x1f << 8 | 0x3f << 16) | sagaw << 8 | (bits - 1) << 16;
    Config { cap, ..config }.cap_bits(Config::CAP_FS5LP, five)
}

/// The first page, and the last one below 2^`bits`, are reached; what lies beyond is refused by domain and unit.
fn check(case: &Case, bits: u32, beyond: FaultCode) -> Bench {
    let bench = Bench::up(case);
    let domain = bench.domain();
    let end = 1u64 << bits;
    assert_eq!(domain.geometry().aperture.last().get(), end - 1, "{}", case.name);
    map(&*domain, 0, 0x5000_0000, PAGE);
    map(&*domain, end - PAGE, 0x5000_1000, PAGE);
    let refused = domain.map(Iova::new(end), &[extent(0x5000_2000, PAGE)], Prot::READ);
    assert!(matches!(refused, Err(HwError::OutOfRange { .. })), "{}: {refused:?}", case.name);
    bench.attach(RED, &*domain);
    bench.expect(RED, 0, Ok(0x5000_0000));
    bench.expect(RED, end - 1, Ok(0x5000_1fff));
    bench.expect(RED, end, Err(beyond));
    let entry = bench.entry(RED);
    // PGTT, bits 8:6; AW, bits 4:2; FSPM, bits 131:130.
    match case.stage {
        Stage::Second => {
            let depth = [(39, 1), (48, 2), (57, 3)].into_iter().find(|(width, code)| {
                case.config.cap >> (8 + code) & 1 != 0 && (*width >= bits || case.config.cap >> (9 + code) & 7 == 0)
            });
            assert_eq!((entry[0] >> 6 & 7, entry[0] >> 2 & 7), (2, depth.unwrap().1), "{}", case.name);
        }
        Stage::First => {
            let five = u64::from(case.config.cap & Config::CAP_FS5LP != 0 && case.config.cap >> 16 & 0x3f >= 48);
            assert_eq!((entry[0] >> 6 & 7, entry[2] >> 2 & 3), (1, five), "{}", case.name);
        }
    }
    bench.check();
    drop(domain);
    bench.check();
    bench
}

#[test]
fn second_stages_are_as_deep_as_addresses_ask_for() {
    // SAGAW: bit 1 is 3 levels, bit 2 is 4, bit 3 is 5. The shallowest that holds all, else the deepest.
    for (sagaw, guest, bits) in [
        (0b0010, 39, 39),
        (0b0110, 39, 39),
        (0b0100, 39, 39),
        (0b0110, 48, 48),
        (0b0010, 48, 39),
        (0b1110, 57, 57),
        (0b1110, 48, 48),
        (0b1000, 48, 48),
        (0b0110, 57, 48),
        (0b1110, 52, 52),
    ] {
        let name = format!("SAGAW {sagaw:#b}, MGAW {guest}");
        check(&case(&name, unit(sagaw, guest, false), Stage::Second), bits, FaultCode::BEYOND_WIDTH);
    }
}

#[test]
fn first_stages_have_five_levels_where_they_are_of_use() {
    for (guest, five, bits) in [(48, false, 47), (57, false, 47), (57, true, 56), (48, true, 47)] {
        let name = format!("MGAW {guest}, FS5LP {five}");
        check(&case(&name, unit(0b1110, guest, five), Stage::First), bits, FaultCode::NOT_CANONICAL);
    }
}

#[test]
fn without_any_width_there_is_no_second_stage() {
    let bench = Bench::up(&case("SAGAW 0", unit(0, 48, false), Stage::First));
    match bench.unit.create_domain(&DomainConfig::new(Stage::Second)).err() {
        Some(HwError::Missing(capability)) => assert_eq!(capability.field, "CAP.SAGAW"),
        other => panic!("{other:?}"),
    }
    assert!(!bench.unit.capabilities().second_stage);
}
