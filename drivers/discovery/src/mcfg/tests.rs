use super::*;
use crate::TableError;
use crate::test_tables::{QEMU_MCFG, table};
use proptest::prelude::*;

fn entry(base: u64, segment: u16, start: u8, end: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&base.to_le_bytes());
    bytes.extend_from_slice(&segment.to_le_bytes());
    bytes.extend_from_slice(&[start, end, 0, 0, 0, 0]);
    bytes
}

fn parse(entries: &[Vec<u8>]) -> Result<Mcfg, McfgError> {
    Mcfg::parse(&table(b"MCFG", &[0; 8], entries))
}

#[test]
fn regions_are_read() {
    let mcfg = parse(&[entry(0xb000_0000, 0, 0, 255), entry(0x10_0000_0000, 1, 0x40, 0x7f)]).unwrap();
    let [first, second] = mcfg.regions() else { panic!("two regions") };
    assert_eq!((first.segment, first.base.get(), first.len_bytes()), (0, 0xb000_0000, 256 << 20));
    assert_eq!((second.segment, second.start_bus, second.end_bus), (1, 0x40, 0x7f));
    // The base is bus 0's, though the region begins at bus 0x40.
    assert_eq!((second.start().get(), second.len_bytes()), (0x10_0400_0000, 64 << 20));
}

#[test]
fn the_table_of_qemu() {
    let mcfg = Mcfg::parse(&QEMU_MCFG).unwrap();
    let region = EcamRegion { segment: 0, base: PhysAddr::new(0xb000_0000), start_bus: 0, end_bus: 255 };
    assert_eq!(mcfg.regions(), [region]);
}

#[test]
fn configuration_space_is_found_by_bus_device_function() {
    let mcfg = parse(&[entry(0xb000_0000, 0, 1, 2)]).unwrap();
    let at = |bus, device, function| {
        let id = RequesterId::from_parts(bus, device, function).unwrap();
        mcfg.regions()[0].config_space(id).map(PhysAddr::get)
    };
    assert_eq!(at(2, 0x1f, 7), Some(0xb000_0000 + (2 << 20) + (0x1f << 15) + (7 << 12)));
    assert_eq!(at(0, 0, 0), None);
    assert_eq!(at(3, 0, 0), None);
}

#[test]
fn bad_entries() {
    let base = 0xb000_0000;
    let error = McfgError::BusesReversed { offset: 60, start: 2, end: 1 };
    assert_eq!(parse(&[entry(base, 1, 0, 0), entry(base, 0, 2, 1)]), Err(error));
    let base = 0xb000_1000;
    assert_eq!(parse(&[entry(base, 0, 0, 1)]), Err(McfgError::BaseMisaligned { offset: 44, base }));
    assert_eq!(parse(&[entry(0, 0, 0, 1)]), Err(McfgError::BaseOutOfRange { offset: 44, base: 0 }));
    let base = 0xffff_ffff_fff0_0000;
    assert_eq!(parse(&[entry(base, 0, 0, 1)]), Err(McfgError::BaseOutOfRange { offset: 44, base }));
    assert!(parse(&[entry(base, 0, 0, 0)]).is_ok());
    let overlapping = [entry(0x1000_0000, 3, 0, 8), entry(0x2000_0000, 3, 8, 9)];
    assert_eq!(parse(&overlapping), Err(McfgError::Overlap { offset: 60, segment: 3, bus: 8 }));
    let overlapping = [entry(0x1000_0000, 3, 8, 9), entry(0x2000_0000, 3, 0, 8)];
    assert_eq!(parse(&overlapping), Err(McfgError::Overlap { offset: 60, segment: 3, bus: 8 }));
    let stray = [entry(0x1000_0000, 3, 0, 8), Vec::from([0; 15])];
    assert_eq!(parse(&stray), Err(McfgError::TrailingBytes { offset: 60, count: 15 }));
}

#[test]
fn a_bad_table() {
    let mut bytes = table(b"MCFG", &[0; 8], &[]);
    bytes[9] = bytes[9].wrapping_add(1);
    assert_eq!(Mcfg::parse(&bytes), Err(McfgError::Table(TableError::Checksum { sum: 1 })));
    let short = table(b"MCFG", &[0; 7], &[]);
    assert_eq!(Mcfg::parse(&short), Err(McfgError::Table(TableError::TooShort { length: 43, least: 44 })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_entries_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Mcfg::parse(&bytes);
        for region in parse(&[bytes]).iter().flat_map(Mcfg::regions) {
            let last = region.start().checked_add(region.len_bytes() - 1);
            prop_assert!(last.is_some());
        }
    }
}
