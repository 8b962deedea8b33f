use super::*;
use crate::OutOfBounds;
use crate::TableError;
use crate::test_tables::{
    QEMU_DMAR, andd, atsr, dmar, drhd, include_all, large, put, rhsa, rmrr, satc, scope, seal, sidp, structure, table,
    with_flags,
};
use alloc::vec;
use iommu_core::addr::PhysAddr;
use proptest::prelude::*;

/// Where the first structure begins, and the first scope of a DRHD and of an RMRR there.
const FIRST: usize = 48;
const DRHD_SCOPE: usize = FIRST + 16;
const RMRR_SCOPE: usize = FIRST + 24;

fn hop(device: u8, function: u8) -> PathHop {
    PathHop { device, function }
}

/// Parses `table` after writing `bytes` at `at` and making its checksum right.
fn parse_with(mut table: Vec<u8>, at: usize, bytes: &[u8]) -> Result<Dmar, DmarError> {
    put(&mut table, at, bytes);
    seal(&mut table);
    Dmar::parse(&table)
}

#[test]
fn one_unit_for_everything() {
    let dmar = Dmar::parse(&include_all()).unwrap();
    assert_eq!(dmar.host_address_bits(), 39);
    assert!(dmar.interrupt_remapping() && !dmar.x2apic_opt_out() && !dmar.dma_control_opt_in());
    let [unit] = dmar.drhds() else { panic!("one unit") };
    assert_eq!((unit.segment, unit.base.get(), unit.register_bytes), (0, 0xfed9_0000, 0x1000));
    assert!(unit.include_pci_all);
    let io_apic =
        Scope { kind: ScopeKind::IoApic, flags: 0, enumeration_id: 0, start_bus: 0xff, path: vec![hop(0, 0)] };
    assert_eq!(unit.scopes, [io_apic]);
    assert_eq!(dmar.rmrrs(), []);
}

#[test]
fn the_table_of_qemu() {
    let dmar = Dmar::parse(&QEMU_DMAR).unwrap();
    assert_eq!((dmar.host_address_bits(), dmar.interrupt_remapping()), (48, true));
    let [unit] = dmar.drhds() else { panic!("one unit") };
    assert_eq!((unit.segment, unit.base.get(), unit.register_bytes), (0, 0xfed9_0000, 0x1000));
    assert!(!unit.include_pci_all);
    let scopes: Vec<_> = unit.scopes.iter().map(|s| (s.kind, s.start_bus, s.path.as_slice())).collect();
    let expected = [
        (ScopeKind::IoApic, 0xff, &[hop(0, 0)][..]),
        (ScopeKind::Endpoint, 0, &[hop(0, 0)]),
        (ScopeKind::Endpoint, 0, &[hop(2, 0)]),
        (ScopeKind::Bridge, 0, &[hop(5, 0)]),
        (ScopeKind::Endpoint, 0, &[hop(0x1f, 0)]),
        (ScopeKind::Endpoint, 0, &[hop(0x1f, 2)]),
        (ScopeKind::Endpoint, 0, &[hop(0x1f, 3)]),
    ];
    assert_eq!(scopes, expected);
    assert_eq!((dmar.count(StructureKind::Atsr), dmar.unknown()), (1, 0));
}

#[test]
fn a_table_with_everything() {
    let dmar = Dmar::parse(&large()).unwrap();
    let units: Vec<_> = dmar.drhds().iter().map(|d| (d.segment, d.base.get(), d.register_bytes)).collect();
    let expected = [
        (0, 0xfed9_0000, 0x1000),
        (0, 0xfed9_2000, 0x2000),
        (0, 0xfed9_4000, 0x1000),
        (1, 0x1_fed9_0000, 0x1000),
        (1, 0x2_0000_0000, 0x800_0000),
    ];
    assert_eq!(units, expected);
    let all: Vec<_> = dmar.drhds().iter().map(|d| d.include_pci_all).collect();
    assert_eq!(all, [false, false, true, false, true]);
    let scopes = &dmar.drhds()[1].scopes;
    assert_eq!((scopes[0].kind, scopes[0].path.as_slice()), (ScopeKind::Bridge, &[hop(1, 0)][..]));
    assert_eq!(scopes[1].path, [hop(0x1c, 4), hop(0, 0), hop(3, 1)]);
    let kinds: Vec<_> = dmar.drhds()[2].scopes.iter().map(|s| (s.kind, s.enumeration_id)).collect();
    assert_eq!(kinds, [(ScopeKind::IoApic, 8), (ScopeKind::Hpet, 0)]);
    assert_eq!(dmar.drhds()[4].scopes[0].kind, ScopeKind::Namespace);
    let regions: Vec<_> =
        dmar.rmrrs().iter().map(|r| (r.segment, r.start.get(), r.last.get(), r.scopes.len())).collect();
    assert_eq!(regions, [(0, 0x7b80_0000, 0x7fff_ffff, 1), (1, 0, 0xfff, 2)]);
    let counts = StructureKind::ALL.map(|kind| dmar.count(kind));
    assert_eq!((counts, dmar.unknown()), ([5, 2, 1, 1, 1, 1, 1], 1));
}

#[test]
fn what_may_cache_translations() {
    let table = dmar(&[
        atsr(1, 0, &[]),
        atsr(0xfe, 3, &[scope(2, 0, 0, &[(1, 0)]), scope(2, 0, 0, &[(2, 0)])]),
        satc(1, 2, &[scope(1, 0, 0, &[(0x14, 0)])]),
        satc(0xfe, 0, &[]),
        sidp(5, &[with_flags(scope(1, 0, 0, &[(0x15, 0)]), 0b1_0010), scope(1, 0, 0, &[(0x16, 0)])]),
    ]);
    let dmar = Dmar::parse(&table).unwrap();
    let atsrs: Vec<_> = dmar.atsrs().iter().map(|a| (a.segment, a.all_ports, a.scopes.len())).collect();
    assert_eq!(atsrs, [(0, true, 0), (3, false, 2)]);
    assert_eq!(dmar.atsrs()[1].scopes[1].path, [hop(2, 0)]);
    let satcs: Vec<_> = dmar.satcs().iter().map(|s| (s.segment, s.required, s.scopes.len())).collect();
    assert_eq!(satcs, [(2, true, 1), (0, false, 0)]);
    let sidps: Vec<_> = dmar.sidps().iter().map(|s| (s.segment, s.scopes.len())).collect();
    assert_eq!(sidps, [(5, 2)]);
    assert_eq!(dmar.sidps()[0].scopes.iter().map(|scope| scope.flags).collect::<Vec<_>>(), [0b1_0010, 0]);
}

#[test]
fn every_property_is_a_bit_of_its_own() {
    let all = |raw| {
        let p = DeviceProperties::new(raw);
        [p.no_nested_rid(), p.no_walk_snoop(), p.no_page_snoop(), p.hardened_cache(), p.cache_required()]
    };
    for bit in 0..8 {
        let mut expected = [false; 5];
        expected.iter_mut().enumerate().for_each(|(at, set)| *set = at == bit);
        assert_eq!(all(1 << bit), expected);
    }
    assert_eq!(DeviceProperties::new(0xff), DeviceProperties::new(0x1f));
    assert_eq!(DeviceProperties::new(1) | DeviceProperties::new(8), DeviceProperties::new(9));
}

#[test]
fn units_have_a_place_in_memory() {
    let table = dmar(&[
        drhd(0, 0, 0, 0x1000, &[]),
        drhd(1, 0, 0, 0x2000, &[]),
        rhsa(0x2000, 0x0102_0304),
        rhsa(0x9000, 7),
        rhsa(0x2000, 9),
    ]);
    let dmar = Dmar::parse(&table).unwrap();
    assert_eq!(dmar.rhsas()[1], Rhsa { base: PhysAddr::new(0x9000), proximity_domain: 7 });
    let places: Vec<_> = dmar.drhds().iter().map(|unit| dmar.proximity_of(unit)).collect();
    assert_eq!(places, [None, Some(0x0102_0304)]);
}

#[test]
fn devices_of_the_name_space_have_numbers() {
    let names: [&[u8]; 2] = [b"\\_SB.PCI0.I2C0\0\0\0", b"^UAR1\0"];
    let table = dmar(&[
        drhd(1, 0, 0, 0x1000, &[scope(5, 9, 0, &[(0x15, 0)]), scope(1, 9, 0, &[(2, 0)])]),
        andd(4, names[0]),
        andd(9, names[1]),
    ]);
    let dmar = Dmar::parse(&table).unwrap();
    let found: Vec<_> = dmar.andds().iter().map(|andd| (andd.number, andd.name.as_str())).collect();
    assert_eq!(found, [(4, "\\_SB.PCI0.I2C0"), (9, "^UAR1")]);
    let scopes = &dmar.drhds()[0].scopes;
    assert_eq!(dmar.namespace_device(&scopes[0]).map(|andd| andd.number), Some(9));
    assert_eq!(dmar.namespace_device(&scopes[1]), None);
}

#[test]
fn names_end_and_are_paths() {
    let parse = |name: &[u8]| Dmar::parse(&dmar(&[andd(1, name)])).map(|dmar| dmar.andds().len());
    let offset = FIRST;
    for endless in [&b""[..], b"\\_SB.X"] {
        assert_eq!(parse(endless), Err(DmarError::NameUnterminated { offset }));
    }
    assert_eq!(parse(b"\0"), Err(DmarError::NameEmpty { offset }));
    assert_eq!(parse(b"\\_SB\xff\0"), Err(DmarError::NameCharacter { offset: FIRST + 8 + 4, byte: 0xff }));
    assert_eq!(parse(b"a b\0"), Err(DmarError::NameCharacter { offset: FIRST + 8 + 1, byte: b' ' }));
    assert_eq!(parse(b"\x1b[2J\0"), Err(DmarError::NameCharacter { offset: FIRST + 8, byte: 0x1b }));
    // What is behind the end is not looked at.
    assert_eq!(parse(b"A\0\xff\xff"), Ok(1));
    let twice = Dmar::parse(&dmar(&[andd(1, b"A\0"), andd(2, b"B\0"), andd(1, b"C\0")]));
    assert_eq!(twice, Err(DmarError::NumberTaken { offset: FIRST + 2 * 10, number: 1 }));
}

#[test]
fn scopes_of_every_structure_are_checked() {
    let short = vec![1, 5, 0, 0, 0, 0];
    type Makes = fn(&[Vec<u8>]) -> Vec<u8>;
    let makes: [Makes; 3] = [|s| atsr(0, 0, s), |s| satc(0, 0, s), |s| sidp(0, s)];
    for make in makes {
        let error = DmarError::ScopeTooShort { offset: FIRST + 8, length: 5 };
        assert_eq!(Dmar::parse(&dmar(&[make(core::slice::from_ref(&short))])), Err(error));
    }
}

#[test]
fn there_is_a_limit_to_units() {
    let units = |count: u64| (1..=count).map(|n| drhd(0, 0, 0, n << 12, &[])).collect::<Vec<_>>();
    assert_eq!(Dmar::parse(&dmar(&units(1024))).map(|dmar| dmar.drhds().len()), Ok(1024));
    assert_eq!(Dmar::parse(&dmar(&units(1025))), Err(DmarError::TooManyUnits { offset: FIRST + 1024 * 16 }));
}

#[test]
fn bytes_after_the_table_are_not_looked_at() {
    let mut bytes = include_all();
    bytes.extend_from_slice(&[0xff; 100]);
    assert_eq!(Dmar::parse(&bytes), Dmar::parse(&include_all()));
}

#[test]
fn every_flag_is_a_bit_of_its_own() {
    let flags = |raw| {
        let dmar = parse_with(include_all(), FLAGS_AT, &[raw]).unwrap();
        (dmar.interrupt_remapping(), dmar.x2apic_opt_out(), dmar.dma_control_opt_in())
    };
    assert_eq!(flags(1), (true, false, false));
    assert_eq!(flags(2), (false, true, false));
    assert_eq!(flags(4), (false, false, true));
}

#[test]
fn a_table_without_structures_is_empty() {
    let dmar = Dmar::parse(&dmar(&[])).unwrap();
    assert!(dmar.drhds().is_empty() && dmar.rmrrs().is_empty());
}

#[test]
fn another_signature() {
    let found = *b"DMAS";
    let error = TableError::Signature { found, expected: *b"DMAR" };
    assert_eq!(parse_with(include_all(), 0, &found), Err(DmarError::Table(error)));
}

#[test]
fn no_bytes_at_all() {
    let error = |offset| Err(DmarError::Table(TableError::OutOfBounds(OutOfBounds { offset, len: 4 })));
    assert_eq!(Dmar::parse(&[]), error(0));
    assert_eq!(Dmar::parse(b"DMAR\x40\0"), error(4));
}

#[test]
fn a_length_shorter_than_the_fixed_part() {
    for length in [0u32, 35, 36, 47] {
        let error = TableError::TooShort { length, least: 48 };
        assert_eq!(parse_with(include_all(), 4, &length.to_le_bytes()), Err(DmarError::Table(error)));
    }
}

#[test]
fn a_length_beyond_the_bytes() {
    for length in [73, u32::MAX] {
        let error = TableError::TooLong { length, given: 72 };
        assert_eq!(parse_with(include_all(), 4, &length.to_le_bytes()), Err(DmarError::Table(error)));
    }
}

#[test]
fn a_wrong_checksum() {
    let mut bytes = include_all();
    bytes[9] = bytes[9].wrapping_add(3);
    assert_eq!(Dmar::parse(&bytes), Err(DmarError::Table(TableError::Checksum { sum: 3 })));
}

#[test]
fn an_impossible_address_width() {
    assert_eq!(parse_with(include_all(), 36, &[63]).map(|dmar| dmar.host_address_bits()), Ok(64));
    assert_eq!(parse_with(include_all(), 36, &[64]), Err(DmarError::AddressWidth { offset: 36, value: 64 }));
}

#[test]
fn stray_bytes_at_the_end() {
    let bytes = dmar(&[structure(2, &[0; 4]), vec![0, 0, 16]]);
    assert_eq!(Dmar::parse(&bytes), Err(DmarError::TrailingBytes { offset: FIRST + 8, count: 3 }));
}

#[test]
fn a_structure_of_length_zero() {
    let error = Err(DmarError::StructureZeroLength { offset: FIRST, kind: 0 });
    assert_eq!(parse_with(include_all(), FIRST + 2, &[0, 0]), error);
}

#[test]
fn a_structure_shorter_than_its_header() {
    for length in 1..4 {
        let error = DmarError::StructureTooShort { offset: FIRST, kind: 0, length: length.into(), least: 4 };
        assert_eq!(parse_with(include_all(), FIRST + 2, &[length, 0]), Err(error));
    }
}

#[test]
fn a_structure_shorter_than_its_type_needs() {
    for (kind, least) in [(0u16, 16usize), (1, 24), (2, 8), (3, 20), (4, 8), (5, 8), (6, 8)] {
        let short = dmar(&[structure(kind, &vec![0; least - 5])]);
        let error = DmarError::StructureTooShort { offset: FIRST, kind, length: least - 1, least };
        assert_eq!(Dmar::parse(&short), Err(error));
    }
}

#[test]
fn a_structure_beyond_the_table() {
    let error = DmarError::StructureOverlong { offset: FIRST, kind: 0, length: 25, room: 24 };
    assert_eq!(parse_with(include_all(), FIRST + 2, &[25, 0]), Err(error));
    let bytes = dmar(&[structure(0x99, &[]), vec![0x99, 0, 0xff, 0xff]]);
    let error = DmarError::StructureOverlong { offset: FIRST + 4, kind: 0x99, length: 0xffff, room: 4 };
    assert_eq!(Dmar::parse(&bytes), Err(error));
}

#[test]
fn a_scope_shorter_than_six_bytes() {
    for length in 0..6 {
        let error = DmarError::ScopeTooShort { offset: DRHD_SCOPE, length: length.into() };
        assert_eq!(parse_with(include_all(), DRHD_SCOPE + 1, &[length]), Err(error));
    }
    // A structure that ends within a scope's fixed part.
    let bytes = dmar(&[drhd(1, 0, 0, 0x1000, &[vec![1, 8, 0, 0, 0]])]);
    assert_eq!(Dmar::parse(&bytes), Err(DmarError::ScopeTooShort { offset: DRHD_SCOPE, length: 5 }));
}

#[test]
fn a_scope_beyond_its_structure() {
    // There are further bytes in the table, but they are the next structure's.
    let bytes = dmar(&[drhd(1, 0, 0, 0x1000, &[scope(1, 0, 0, &[(2, 0)])]), structure(0x99, &[0; 20])]);
    let error = DmarError::ScopeOverlong { offset: DRHD_SCOPE, length: 10, room: 8 };
    assert_eq!(parse_with(bytes, DRHD_SCOPE + 1, &[10]), Err(error));
}

#[test]
fn a_path_of_an_odd_length() {
    let odd = vec![1, 9, 0, 0, 0, 0, 2, 0, 1];
    let error = DmarError::ScopeOddPath { offset: RMRR_SCOPE, path_bytes: 3 };
    assert_eq!(Dmar::parse(&dmar(&[rmrr(0, 0, 0xfff, &[odd])])), Err(error));
}

#[test]
fn a_scope_without_a_path() {
    let second = DRHD_SCOPE + 8;
    let bytes = dmar(&[drhd(0, 0, 0, 0x1000, &[scope(1, 0, 0, &[(2, 0)]), scope(1, 0, 0, &[])])]);
    assert_eq!(Dmar::parse(&bytes), Err(DmarError::ScopeEmptyPath { offset: second }));
}

#[test]
fn a_path_with_impossible_numbers() {
    for (device, function) in [(32, 0), (0, 8), (0xff, 0xff)] {
        let bytes = dmar(&[drhd(0, 0, 0, 0x1000, &[scope(2, 0, 0, &[(31, 7), (device, function)])])]);
        let error = DmarError::ScopePathEntry { offset: DRHD_SCOPE + 8, device, function };
        assert_eq!(Dmar::parse(&bytes), Err(error));
    }
}

#[test]
fn a_unit_with_an_impossible_base() {
    let parse = |base, size| Dmar::parse(&dmar(&[drhd(1, size, 0, base, &[])]));
    assert_eq!(parse(0, 0), Err(DmarError::RegisterBaseZero { offset: FIRST }));
    for base in [1, 0xfed9_0800, 0xfed9_0fff] {
        assert_eq!(parse(base, 0), Err(DmarError::RegisterBaseMisaligned { offset: FIRST, base }));
    }
    let base = u64::MAX - 0xfff;
    assert!(parse(base, 0).is_ok());
    assert_eq!(parse(base, 1), Err(DmarError::RegistersWrap { offset: FIRST, base }));
    // Only bits 3:0 are the size.
    assert_eq!(parse(0x1000, 0xf1).map(|dmar| dmar.drhds()[0].register_bytes), Ok(0x2000));
}

#[test]
fn two_units_at_one_base() {
    for segment in [0, 1] {
        let bytes = dmar(&[drhd(0, 0, 0, 0x1000, &[]), drhd(1, 0, segment, 0x1000, &[])]);
        let error = DmarError::RegisterBaseTaken { offset: FIRST + 16, base: 0x1000 };
        assert_eq!(Dmar::parse(&bytes), Err(error));
    }
}

#[test]
fn two_units_for_everything() {
    let bytes = dmar(&[drhd(1, 0, 7, 0x1000, &[]), drhd(1, 0, 7, 0x2000, &[])]);
    assert_eq!(Dmar::parse(&bytes), Err(DmarError::SecondIncludeAll { offset: FIRST + 16, segment: 7 }));
}

#[test]
fn a_unit_after_the_one_for_everything() {
    let bytes = dmar(&[drhd(1, 0, 7, 0x1000, &[]), drhd(0, 0, 6, 0x2000, &[]), drhd(0, 0, 7, 0x3000, &[])]);
    assert_eq!(Dmar::parse(&bytes), Err(DmarError::AfterIncludeAll { offset: FIRST + 32, segment: 7 }));
}

#[test]
fn a_reserved_region_with_impossible_ends() {
    let parse = |base, limit| Dmar::parse(&dmar(&[rmrr(0, base, limit, &[])]));
    let (base, limit) = (0x2000, 0x1fff);
    assert_eq!(parse(base, limit), Err(DmarError::ReservedReversed { offset: FIRST, base, limit }));
    for (base, limit) in [(0x1800, 0x1fff), (0x1000, 0x2000), (0x1000, 0x1ffe)] {
        assert_eq!(parse(base, limit), Err(DmarError::ReservedMisaligned { offset: FIRST, base, limit }));
    }
    assert_eq!(parse(0, u64::MAX).map(|dmar| dmar.rmrrs()[0].last), Ok(PhysAddr::new(u64::MAX)));
}

#[test]
fn errors_name_the_place_and_the_value() {
    let error = DmarError::RegisterBaseMisaligned { offset: 0x30, base: 0xfed9_0800 };
    assert_eq!(std::format!("{error}"), "DMAR: unit at 0x30 has misaligned register base 0xfed90800");
    let error = DmarError::Table(TableError::Signature { found: *b"AB\0C", expected: *b"DMAR" });
    assert_eq!(std::format!("{error}"), "DMAR: signature is AB\\x00C, not DMAR");
}

/// What must hold of whatever was accepted.
fn check_accepted(dmar: &Dmar, bytes: &[u8]) {
    let scopes = |scopes: &[Scope]| {
        for scope in scopes {
            assert!(!scope.path.is_empty() && scope.path.iter().all(|hop| hop.device < 32 && hop.function < 8));
        }
    };
    assert!(bytes.len() >= 48 + 16 * dmar.drhds().len() + 24 * dmar.rmrrs().len());
    for (index, unit) in dmar.drhds().iter().enumerate() {
        assert!(unit.base.get() != 0 && unit.base.is_aligned(4096) && unit.register_bytes >= 4096);
        let later = &dmar.drhds()[index + 1..];
        assert!(later.iter().all(|other| other.base != unit.base));
        assert!(!unit.include_pci_all || later.iter().all(|other| other.segment != unit.segment));
        scopes(&unit.scopes);
    }
    for region in dmar.rmrrs() {
        assert!(region.start <= region.last && region.start.is_aligned(4096));
        scopes(&region.scopes);
    }
    dmar.atsrs().iter().for_each(|atsr| scopes(&atsr.scopes));
    dmar.satcs().iter().for_each(|satc| scopes(&satc.scopes));
    dmar.sidps().iter().for_each(|sidp| scopes(&sidp.scopes));
    for (index, andd) in dmar.andds().iter().enumerate() {
        assert!(!andd.name.is_empty() && andd.name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(dmar.andds()[index + 1..].iter().all(|other| other.number != andd.number));
    }
    let lens = [dmar.drhds().len(), dmar.rmrrs().len(), dmar.atsrs().len(), dmar.rhsas().len()];
    let lens = lens.into_iter().chain([dmar.andds().len(), dmar.satcs().len(), dmar.sidps().len()]);
    let counts = StructureKind::ALL.map(|kind| dmar.count(kind) as usize);
    assert_eq!(lens.collect::<Vec<_>>(), counts);
}

/// What an error says must lie inside the table, so that it can be looked up there.
fn check_refused(error: DmarError, bytes: &[u8]) {
    let text = std::format!("{error}");
    assert!(text.starts_with("DMAR: "));
    if let DmarError::StructureOverlong { offset, .. } | DmarError::ScopeOverlong { offset, .. } = error {
        assert!(offset < bytes.len());
    }
}

fn check_any(bytes: &[u8]) {
    match Dmar::parse(bytes) {
        Ok(dmar) => check_accepted(&dmar, bytes),
        Err(error) => check_refused(error, bytes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_any(&bytes);
    }

    #[test]
    fn arbitrary_bytes_in_a_whole_table_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_any(&table(b"DMAR", &[38; 12], &[bytes]));
    }

    #[test]
    fn arbitrary_structures_never_panic(
        structures in prop::collection::vec((0u16..8, prop::collection::vec(0u8..12, 0..40)), 0..12),
    ) {
        let structures: Vec<_> = structures.iter().map(|(kind, body)| structure(*kind, body)).collect();
        check_any(&dmar(&structures));
    }

    #[test]
    fn a_mutated_table_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        sealed in any::<bool>(),
    ) {
        let mut bytes = large();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if sealed {
            seal(&mut bytes);
        }
        check_any(&bytes);
        check_any(&bytes[..cut.index(bytes.len())]);
    }
}
