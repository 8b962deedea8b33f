//! DMAR tables of firmware that is broken or hostile: what must hold of whatever bytes.
//!
//! [`check`] reads them a second time, by nothing of the reader's own, and compares: the reader takes a table exactly if
//! this one does, and every field of every structure is the same. Then every question is asked of a machine, for every
//! function of it. The suite `hostile_dmar` does so with tables that a random number has mutated, the fuzz target `dmar`
//! with what a fuzzer comes up with.

pub use crate::hostile::Outcome;
use crate::hostile::{self, Kind, reseal, u16_at, u32_at, u64_at, whole};
use crate::random::Random;
use iommu_core::addr::IovaRange;
use iommu_core::region::RegionKind;
use iommu_discovery::Sbdf;
use iommu_discovery::ats::{AtsPolicy, AtsRefusal, ats_allowed};
use iommu_discovery::dmar::{Dmar, Scope, ScopeKind, StructureKind};
use iommu_discovery::regions::{RegionError, required_regions};
use iommu_discovery::scope::{properties_of, reserved_regions, resolve, unit_of, unresolved_scopes};
use iommu_discovery::topology::{Function, FunctionKind, PcieType, Topology};

/// Length of the fixed part of a table, in bytes.
const FIXED: usize = 48;

/// A structure as its bytes are: type, where it begins, all of it.
type Raw<'a> = (u16, usize, &'a [u8]);

/// The structures of the table that `bytes` begins with; `None` where it is none, or breaks a rule.
fn read(bytes: &[u8]) -> Option<Vec<Raw<'_>>> {
    let table = whole(bytes, b"DMAR", FIXED)?;
    if table[36] > 63 {
        return None;
    }
    let length = table.len();
    let mut structures = Vec::new();
    let mut at = FIXED;
    while at < length {
        if length - at < 4 {
            return None;
        }
        let (kind, len) = (u16_at(table, at), usize::from(u16_at(table, at + 2)));
        if len < 4 || len > length - at {
            return None;
        }
        structures.push((kind, at, &table[at..at + len]));
        at += len;
    }
    obeys(&structures).then_some(structures)
}

/// Whether each structure, and all together, obey the rules that [`iommu_discovery::dmar`] states.
fn obeys(structures: &[Raw<'_>]) -> bool {
    let mut bases = Vec::new();
    let mut closed = Vec::new();
    let mut numbers = Vec::new();
    for &(kind, _, raw) in structures {
        let least = [16, 24, 8, 20, 8, 8, 8];
        let Some(least) = least.get(usize::from(kind)) else { continue };
        if raw.len() < *least {
            return false;
        }
        if scopes_at(kind).is_some_and(|at| raw_scopes(&raw[at..]).is_none()) {
            return false;
        }
        match kind {
            0 => {
                let (base, segment) = (u64_at(raw, 8), u16_at(raw, 6));
                let bytes = 4096u64 << (raw[5] & 15);
                if base == 0 || base % 4096 != 0 || base.checked_add(bytes - 1).is_none() {
                    return false;
                }
                if bases.contains(&base) || closed.contains(&segment) || bases.len() == 1024 {
                    return false;
                }
                bases.push(base);
                if raw[4] & 1 != 0 {
                    closed.push(segment);
                }
            }
            1 => {
                let (base, limit) = (u64_at(raw, 8), u64_at(raw, 16));
                if base > limit || base % 4096 != 0 || limit % 4096 != 4095 {
                    return false;
                }
            }
            4 => {
                let Some(end) = raw[8..].iter().position(|byte| *byte == 0) else { return false };
                let name = &raw[8..8 + end];
                if name.is_empty() || !name.iter().all(|b| b.is_ascii_alphanumeric() || b"_\\^.".contains(b)) {
                    return false;
                }
                if numbers.contains(&raw[7]) {
                    return false;
                }
                numbers.push(raw[7]);
            }
            _ => {}
        }
    }
    true
}

/// Where the scopes of a structure of this type begin.
fn scopes_at(kind: u16) -> Option<usize> {
    match kind {
        0 => Some(16),
        1 => Some(24),
        2 | 5 | 6 => Some(8),
        _ => None,
    }
}

/// The scopes that fill `bytes`; `None` where one of them is none.
fn raw_scopes(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut scopes = Vec::new();
    while !bytes.is_empty() {
        if bytes.len() < 6 {
            return None;
        }
        let len = usize::from(bytes[1]);
        if len < 8 || len % 2 != 0 || len > bytes.len() {
            return None;
        }
        let (scope, rest) = bytes.split_at(len);
        if scope[6..].chunks(2).any(|hop| hop[0] > 31 || hop[1] > 7) {
            return None;
        }
        scopes.push(scope);
        bytes = rest;
    }
    Some(scopes)
}

/// Whether `scopes` are those in `raw`, field by field.
fn same_scopes(scopes: &[Scope], raw: &[u8]) -> bool {
    let raw = raw_scopes(raw).expect("the structure was read before");
    let same = |(scope, raw): (&Scope, &&[u8])| {
        let kind = match scope.kind {
            ScopeKind::Endpoint => 1,
            ScopeKind::Bridge => 2,
            ScopeKind::IoApic => 3,
            ScopeKind::Hpet => 4,
            ScopeKind::Namespace => 5,
            ScopeKind::Unknown(kind) => kind,
        };
        let path: Vec<u8> = scope.path.iter().flat_map(|hop| [hop.device, hop.function]).collect();
        [kind, scope.flags, scope.enumeration_id, scope.start_bus] == [raw[0], raw[2], raw[4], raw[5]]
            && path == raw[6..]
    };
    scopes.len() == raw.len() && scopes.iter().zip(&raw).all(same)
}

/// Whether everything in `dmar` is what `structures` say, in their order, and nothing is missing.
fn same(dmar: &Dmar, structures: &[Raw<'_>]) {
    let of = |kind: StructureKind| structures.iter().filter(move |raw| raw.0 == kind as u16).map(|raw| raw.2);
    macro_rules! compare {
        ($kind:ident, $all:ident, |$it:ident, $raw:ident| $same:expr) => {
            assert_eq!(dmar.$all().len(), of(StructureKind::$kind).count());
            assert_eq!(dmar.$all().len(), dmar.count(StructureKind::$kind) as usize);
            for ($it, $raw) in dmar.$all().iter().zip(of(StructureKind::$kind)) {
                assert!($same, "{:?} is not {:02x?}", $it, $raw);
            }
        };
    }
    compare!(Drhd, drhds, |unit, raw| unit.segment == u16_at(raw, 6)
        && unit.base.get() == u64_at(raw, 8)
        && unit.register_bytes == 4096 << (raw[5] & 15)
        && unit.include_pci_all == (raw[4] & 1 == 1)
        && same_scopes(&unit.scopes, &raw[16..]));
    compare!(Rmrr, rmrrs, |rmrr, raw| rmrr.segment == u16_at(raw, 6)
        && rmrr.start.get() == u64_at(raw, 8)
        && rmrr.last.get() == u64_at(raw, 16)
        && same_scopes(&rmrr.scopes, &raw[24..]));
    compare!(Atsr, atsrs, |atsr, raw| atsr.segment == u16_at(raw, 6)
        && atsr.all_ports == (raw[4] & 1 == 1)
        && same_scopes(&atsr.scopes, &raw[8..]));
    compare!(Rhsa, rhsas, |rhsa, raw| rhsa.base.get() == u64_at(raw, 8) && rhsa.proximity_domain == u32_at(raw, 16));
    compare!(Andd, andds, |andd, raw| andd.number == raw[7]
        && raw[8..].strip_prefix(andd.name.as_bytes()).is_some_and(|rest| rest[0] == 0));
    compare!(Satc, satcs, |satc, raw| satc.segment == u16_at(raw, 6)
        && satc.required == (raw[4] & 1 == 1)
        && same_scopes(&satc.scopes, &raw[8..]));
    compare!(Sidp, sidps, |sidp, raw| sidp.segment == u16_at(raw, 6) && same_scopes(&sidp.scopes, &raw[8..]));
    assert_eq!(dmar.unknown() as usize, structures.iter().filter(|raw| raw.0 > 6).count());
}

/// Reads whatever `bytes` are, and asks everything about `topology` of it.
///
/// # Panics
///
/// Where an answer is wrong.
pub fn check(bytes: &[u8], topology: &Topology) -> Outcome {
    let read = read(bytes);
    let dmar = match Dmar::parse(bytes) {
        Ok(dmar) => dmar,
        Err(error) => {
            assert!(read.is_none(), "refused: {error}");
            assert!(error.to_string().starts_with("DMAR: "));
            return Outcome::Refused;
        }
    };
    let structures = read.expect("taken, though it breaks a rule");
    assert_eq!(dmar.host_address_bits(), bytes[36] + 1);
    same(&dmar, &structures);
    let scopes = dmar.drhds().iter().map(|unit| unit.scopes.len()).sum::<usize>();
    let others = dmar.rmrrs().iter().map(|rmrr| rmrr.scopes.len()).sum::<usize>();
    let caches = dmar.atsrs().iter().map(|atsr| &atsr.scopes).chain(dmar.satcs().iter().map(|satc| &satc.scopes));
    let caches = caches.chain(dmar.sidps().iter().map(|sidp| &sidp.scopes)).map(Vec::len).sum::<usize>();
    assert!(unresolved_scopes(&dmar, topology).count() <= scopes + others + caches);
    dmar.drhds().iter().for_each(|unit| _ = dmar.proximity_of(unit));
    let all = dmar.drhds().iter().flat_map(|unit| unit.scopes.iter().map(|scope| (unit.segment, scope)));
    for (segment, scope) in all {
        let device = dmar.namespace_device(scope);
        assert!(device.is_none_or(|device| device.number == scope.enumeration_id));
        assert!(resolve(scope, segment, topology).is_ok_and(|at| at.segment == segment) || scope.path.len() > 1);
    }
    for function in topology.functions() {
        ask(&dmar, topology, function.sbdf);
    }
    Outcome::Accepted
}

/// Every question about one function.
fn ask(dmar: &Dmar, topology: &Topology, function: Sbdf) {
    let unit = unit_of(dmar, topology, function);
    let units = dmar.drhds();
    match unit {
        Some(unit) => assert_eq!(units[unit].segment, function.segment),
        None => assert!(units.iter().all(|unit| unit.segment != function.segment || !unit.include_pci_all)),
    }
    let physical = topology.physical(function);
    if let Some(physical) = physical {
        assert_eq!(unit, unit_of(dmar, topology, physical));
        assert_eq!(properties_of(dmar, topology, function), properties_of(dmar, topology, physical));
    }
    check_regions(dmar, topology, function);
    let is_port = topology.get(function).is_some_and(|function| function.kind != FunctionKind::Endpoint);
    match ats_allowed(dmar, topology, function) {
        AtsPolicy::Required => {
            let says = dmar.satcs().iter().any(|satc| satc.required && !satc.scopes.is_empty());
            assert!(says || properties_of(dmar, topology, function).cache_required());
            assert!(!topology.is_external(function) && !is_port);
        }
        AtsPolicy::Allowed => {
            assert!(!topology.is_external(function) && !is_port);
            let integrated = dmar.satcs().iter().any(|satc| !satc.scopes.is_empty());
            let vouched = dmar.atsrs().iter().any(|atsr| atsr.all_ports || !atsr.scopes.is_empty());
            assert!(topology.parent(function).is_none() || integrated || vouched);
        }
        AtsPolicy::Refused(AtsRefusal::External) => assert!(topology.is_external(function)),
        AtsPolicy::Refused(AtsRefusal::Bridge) => assert!(is_port),
        AtsPolicy::Refused(_) => assert!(topology.parent(function).is_some()),
    }
}

/// What every address space of `function` must have: all that firmware reserved for it, once each, and the interrupts.
fn check_regions(dmar: &Dmar, topology: &Topology, function: Sbdf) {
    let reserved: Vec<_> = reserved_regions(dmar, topology, function).collect();
    let beyond = |last: u64| dmar.host_address_bits() < 64 && last >> dmar.host_address_bits() != 0;
    let regions = match required_regions(dmar, topology, function) {
        Ok(regions) => regions,
        Err(RegionError::Interrupts { region }) => {
            assert!(region.start().get() <= 0xfeef_ffff && region.last().get() >= 0xfee0_0000);
            return;
        }
        Err(RegionError::BeyondHost { region, .. }) => return assert!(beyond(region.last().get())),
        Err(error) => panic!("{error}"),
    };
    let direct = |range: &IovaRange| {
        let around = |region: &&iommu_core::region::ReservedRegion| region.range.covers(*range);
        regions.iter().filter(around).all(|region| matches!(region.kind, RegionKind::Direct { .. }))
            && regions.iter().filter(around).count() == 1
    };
    for rmrr in reserved {
        let (start, last) = (rmrr.start.get(), rmrr.last.get());
        let range = IovaRange::new(iommu_core::addr::Iova::new(start), iommu_core::addr::Iova::new(last)).unwrap();
        assert!(direct(&range) && !beyond(last));
    }
    assert_eq!(regions.iter().filter(|region| region.kind == RegionKind::Msi).count(), 1);
    assert!(regions.windows(2).all(|two| two[0].range.last() < two[1].range.start()));
}

/// A machine with most of what there is, in two segments: integrated functions, ports that lead outside and inside, a
/// switch, bridges from and to conventional PCI, virtual functions, functions above 7.
pub fn machine() -> Topology {
    let at = |segment, bus, device, function| Sbdf::from_parts(segment, bus, device, function).unwrap();
    let endpoint = |sbdf, port| Function {
        sbdf,
        class: 0xff_0000,
        kind: FunctionKind::Endpoint,
        port,
        multifunction: false,
        acs: None,
    };
    let bridge = |sbdf, port, secondary, subordinate| Function {
        class: 0x06_0400,
        kind: FunctionKind::Bridge { secondary, subordinate },
        ..endpoint(sbdf, port)
    };
    let (express, root) = (Some(PcieType::Endpoint), Some(PcieType::RootPort));
    let mut functions = Vec::new();
    for segment in [0, 1] {
        let at = |bus, device, function| at(segment, bus, device, function);
        functions.extend([
            endpoint(at(0, 2, 0), Some(PcieType::IntegratedEndpoint)),
            endpoint(at(0, 7, 0), None),
            bridge(at(0, 1, 0), root, 1, 6),
            bridge(at(1, 0, 0), Some(PcieType::UpstreamPort), 2, 6),
            bridge(at(2, 3, 0), Some(PcieType::DownstreamPort), 3, 3),
            bridge(at(2, 4, 0), Some(PcieType::DownstreamPort), 4, 6),
            endpoint(at(3, 0, 0), express),
            endpoint(at(3, 1, 1), express),
            bridge(at(4, 0, 0), Some(PcieType::PcieToPciBridge), 5, 6),
            endpoint(at(5, 1, 0), None),
            bridge(at(5, 3, 0), None, 6, 6),
            endpoint(at(6, 1, 0), None),
            bridge(at(0, 3, 0), root, 7, 8),
            endpoint(at(7, 0, 0), express),
            endpoint(at(7, 0, 4), express),
            endpoint(at(8, 0, 0), express),
            bridge(at(0, 4, 0), root, 9, 9),
            endpoint(at(9, 0, 0), express),
        ]);
    }
    let mut topology = Topology::new(functions).expect("a tree");
    for segment in [0, 1] {
        let at = |bus, device, function| at(segment, bus, device, function);
        assert!(topology.set_physical(at(7, 0, 4), at(7, 0, 0)) && topology.set_physical(at(8, 0, 0), at(7, 0, 0)));
        assert!(topology.set_external(at(0, 4, 0)));
    }
    topology
}

fn structure(kind: u16, body: &[u8], scopes: &[Vec<u8>]) -> Vec<u8> {
    let scopes = scopes.concat();
    let len = (4 + body.len() + scopes.len()) as u16;
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), body, &scopes].concat()
}

fn scope(kind: u8, flags: u8, id: u8, bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    let mut bytes = vec![kind, 6 + 2 * path.len() as u8, flags, 0, id, bus];
    path.iter().for_each(|(device, function)| bytes.extend([*device, *function]));
    bytes
}

fn unit(flags: u8, segment: u8, base: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(0, &[&[flags, 0, segment, 0][..], &base.to_le_bytes()].concat(), scopes)
}

fn reserved(segment: u8, base: u64, limit: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(1, &[&[0, 0, segment, 0][..], &base.to_le_bytes(), &limit.to_le_bytes()].concat(), scopes)
}

/// Makes length and checksum right.
pub fn repair(table: &mut [u8]) {
    if table.len() >= FIXED {
        reseal(table, b"DMAR");
    }
}

/// Tables as firmware writes them: of a laptop, a server with two segments, QEMU, and one without anything.
pub fn good() -> Vec<Vec<u8>> {
    let laptop = [
        unit(0, 0, 0xfed9_0000, &[scope(1, 0, 0, 0, &[(2, 0)])]),
        unit(1, 0, 0xfed9_1000, &[scope(3, 0, 2, 0xf0, &[(0x1f, 0)]), scope(4, 0, 0, 0, &[(0x1f, 0)])]),
        reserved(0, 0x7b80_0000, 0x7fff_ffff, &[scope(1, 0, 0, 0, &[(2, 0)])]),
        reserved(0, 0x7a00_0000, 0x7a01_ffff, &[scope(1, 0, 0, 0, &[(7, 0)])]),
        structure(4, b"\0\0\0\x01\\_SB.PCI0.I2C0\0", &[]),
        structure(5, &[1, 0, 0, 0], &[scope(1, 0, 0, 0, &[(2, 0)])]),
        structure(6, &[0, 0, 0, 0], &[scope(1, 0x12, 0, 0, &[(2, 0)]), scope(1, 8, 0, 0, &[(7, 0)])]),
    ];
    let deep = [(1, 0), (0, 0), (4, 0), (0, 0), (3, 0), (1, 0)];
    let server = [
        unit(0, 1, 0x1_fbff_c000, &[scope(2, 0, 0, 0, &[(1, 0)]), scope(1, 0, 0, 0, &[(2, 0)])]),
        unit(1, 1, 0x1_fbff_d000, &[scope(5, 0, 1, 0, &[(0x15, 0)])]),
        unit(0, 0, 0xd37f_c000, &[scope(2, 0, 0, 0, &[(3, 0)]), scope(2, 0, 0, 0, &[(1, 0), (0, 0), (3, 0)])]),
        unit(1, 0, 0xe0ff_c000, &[scope(3, 0, 8, 0, &[(5, 4)])]),
        reserved(0, 0x6f99_0000, 0x6f99_2fff, &[scope(1, 0, 0, 0, &deep), scope(1, 0, 0, 0, &[(7, 0)])]),
        reserved(0, 0x6f99_2000, 0x6f99_4fff, &[scope(1, 0, 0, 0, &[(7, 0)])]),
        structure(2, &[0, 0, 0, 0], &[scope(2, 0, 0, 0, &[(1, 0)]), scope(2, 0, 0, 0, &[(3, 0)])]),
        structure(2, &[1, 0, 1, 0], &[]),
        structure(3, &[&[0; 4][..], &0xd37f_c000u64.to_le_bytes(), &1u32.to_le_bytes()].concat(), &[]),
        structure(4, b"\0\0\0\x01\\_SB.UAR0\0\0", &[]),
        structure(5, &[0, 0, 0, 0], &[scope(1, 0, 0, 0, &[(3, 0), (0, 0)])]),
    ];
    let qemu = [
        unit(0, 0, 0xfed9_0000, &[scope(3, 0, 0, 0xff, &[(0, 0)]), scope(1, 0, 0, 0, &[(2, 0)])]),
        structure(2, &[1, 0, 0, 0], &[]),
    ];
    let all: [(u8, &[Vec<u8>]); 4] = [(38, &laptop), (51, &server), (47, &qemu), (38, &[])];
    let table = |(bits, structures): (u8, &[Vec<u8>])| {
        let mut bytes = vec![0; FIXED];
        bytes[36] = bits;
        structures.iter().for_each(|structure| bytes.extend(structure));
        repair(&mut bytes);
        bytes
    };
    all.into_iter().map(table).collect()
}

/// A table that came of a good one by a few changes.
pub fn mutated(random: &mut Random) -> Vec<u8> {
    let spans = |bytes: &[u8]| read(bytes).unwrap_or_default().iter().map(|raw| (raw.1, raw.2.len())).collect();
    hostile::mutated(random, &good(), &Kind { spans, length_at: 2, repair })
}
