use super::*;
use crate::madt::Madt;
use crate::streams::{HardwareUpdates, Interrupts, Model, Msi, StreamRange, Streams, Uncontrolled};
use crate::test_tables::{
    arm_server, at, iort, iort as make, its, its_group, madt, mapping, named_component, node, put, rmr, root_complex,
    seal, smmu_v3, table,
};
use crate::{Sbdf, TableError};
use alloc::vec;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Prot, RequesterId, StreamId};
use iommu_core::region::{RegionKind, ReservedRegion};
use proptest::prelude::*;
use std::string::ToString;

/// Where the first node begins.
const FIRST: usize = 48;

fn function(segment: u16, id: u16) -> Sbdf {
    Sbdf::new(segment, RequesterId::new(id))
}

/// Parses `table` after writing `bytes` at `at` and making its checksum right.
fn parse_with(mut table: Vec<u8>, at: usize, bytes: &[u8]) -> Result<Iort, IortError> {
    put(&mut table, at, bytes);
    seal(&mut table);
    Iort::parse(&table)
}

/// What follows from a table.
fn streams(table: &[u8]) -> Result<Streams, IortError> {
    Streams::from_iort(&Iort::parse(table)?, None)
}

/// A unit at offset 48, and root complexes behind it, the next from 116 on, with these mappings.
fn behind_one(complexes: &[(u32, &[Vec<u8>])]) -> Result<Streams, IortError> {
    let mut nodes = vec![smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[])];
    nodes.extend(complexes.iter().map(|(segment, mappings)| root_complex(*segment, 0, 0, mappings)));
    streams(&iort(&nodes))
}

const UNIT: u32 = FIRST as u32;
const COMPLEX: usize = FIRST + 68;

#[test]
fn a_table_with_everything() {
    let iort = Iort::parse(&arm_server()).unwrap();
    assert_eq!((NodeKind::ALL.map(|kind| iort.count(kind)), iort.unknown()), ([1, 1, 4, 1, 2, 1, 2], 1));
    assert_eq!(iort.its_groups()[0].ids, [7, 9]);
    let [first, second] = iort.smmus() else { panic!("two units") };
    assert_eq!(first.registers, PhysExtent::new(PhysAddr::new(0x4000_0000), 0x2_0000));
    assert_eq!((first.coherent, first.updates, first.model), (true, HardwareUpdates::AccessAndDirty, Model::Generic));
    assert_eq!((first.msi_mapping, first.proximity_domain), (Some(1), Some(3)));
    assert!(first.interrupts.is_none());
    assert_eq!(
        (second.coherent, second.updates, second.model),
        (false, HardwareUpdates::Access, Model::HiSiliconHi161x)
    );
    assert_eq!((second.msi_mapping, second.proximity_domain), (None, None));
    let lines = Interrupts { event: Some(74), error: Some(77), ..Interrupts::default() };
    assert_eq!(second.interrupts, lines);
    let of = |complex: &RootComplex| (complex.segment, complex.ats, complex.page_requests, complex.pasid_bits);
    let complexes: Vec<_> = iort.root_complexes().iter().map(of).collect();
    assert_eq!(complexes, [(0, true, true, 20), (5, false, false, 0), (6, true, false, 0), (7, true, false, 0)]);
    assert_eq!((iort.root_complexes()[0].coherent, iort.root_complexes()[0].address_bits), (true, 48));
    let component = &iort.named_components()[0];
    assert_eq!((component.name.as_str(), component.can_stall, component.pasid_bits), ("\\_SB.SATA", true, 0x15));
    assert_eq!((component.coherent, component.address_bits), (true, 40));
    let all: Vec<_> = iort.rmrs().iter().map(|rmr| (rmr.relaxable, rmr.privileged, rmr.attributes)).collect();
    assert_eq!(all, [(false, false, 0), (true, true, 0xc5)]);
    let last = |rmr: &Rmr| rmr.descriptors.iter().map(|run| (run.start.get(), run.last.get())).collect::<Vec<_>>();
    assert_eq!(last(&iort.rmrs()[0]), [(0x9000_0000, 0x9001_ffff), (0xa000_0000, 0xa000_ffff)]);
}

#[test]
fn ids_travel_from_root_complex_to_unit_to_service() {
    let services = madt(&[its(9, 0x5000_0000), its(7, 0x6000_0000)]);
    let (iort, madt) = (Iort::parse(&arm_server()).unwrap(), Madt::parse(&services).unwrap());
    let streams = Streams::from_iort(&iort, Some(&madt)).unwrap();
    let stream = |unit, stream| Ok((unit, StreamId::new(stream)));
    let rows = [
        (0, 0, stream(0, 0), Some(0x10_0000)),
        (0, 0x3fff, stream(0, 0x3fff), Some(0x10_3fff)),
        (0, 0x4000, Err(()), None),
        // The second unit says nothing of messages.
        (0, 0x8010, stream(1, 0x1_0010), None),
        // Behind an SMMUv2.
        (0, 0x9000, Err(()), None),
        (5, 0xffff, stream(0, 0x1_ffff), Some(0x11_ffff)),
        // All as one.
        (6, 0, stream(0, 0x5_0000), Some(0x15_0000)),
        (6, 0xffff, stream(0, 0x5_0000), Some(0x15_0000)),
        // Behind no unit.
        (7, 0xff, Err(()), None),
        (7, 0x1ff, Err(()), Some(0x20_00ff)),
        (1, 0, Err(()), None),
    ];
    for (segment, id, expected, device_id) in rows {
        let function = function(segment, id);
        assert_eq!(streams.of(function), expected.map_err(|()| Uncontrolled(function)), "{function}");
        assert_eq!(streams.msi_of(function), device_id.map(|device_id| Msi { group: 0, device_id }), "{function}");
    }
    let of =
        |segment| streams.host_of(function(segment, 0x100)).map(|host| (host.ats, host.page_requests, host.pasid_bits));
    assert_eq!(of(0), Some((true, true, Some(20))));
    assert_eq!((of(5), of(7), of(8)), (Some((false, false, Some(0))), Some((true, false, Some(0))), None));
    assert_eq!(streams.units()[0].msi, Some(Msi { group: 0, device_id: 0x7777 }));
    assert_eq!(streams.units()[1].msi, None);
    // In the group's order, the second frame of each.
    let pages: Vec<_> = streams.doorbells(0).iter().map(|page| (page.start.get(), page.len)).collect();
    assert_eq!(pages, [(0x6001_0000, 0x1_0000), (0x5001_0000, 0x1_0000)]);
    assert!(streams.doorbells(1).is_empty());
    let [device] = streams.devices() else { panic!("one device") };
    let range = |unit, first, last| StreamRange { unit, first: StreamId::new(first), last: StreamId::new(last) };
    assert_eq!(device.streams, [range(0, 0x6_0000, 0x6_0000), range(1, 0x40, 0x43)]);
    assert_eq!((device.name.as_str(), device.can_stall, device.pasid_bits), ("\\_SB.SATA", true, 20));
    // Reserved memory is of the streams that come out of its mappings, and of no other.
    let direct = RegionKind::Direct { prot: Prot::READ_WRITE };
    let relaxable = RegionKind::DirectRelaxable { prot: Prot::READ_WRITE };
    let region = |start, len, kind| ReservedRegion { range: IovaRange::from_len(Iova::new(start), len).unwrap(), kind };
    let all = [
        region(0x9000_0000, 0x2_0000, direct),
        region(0xa000_0000, 0x1_0000, direct),
        region(0x9001_0000, 0x2_0000, relaxable),
    ];
    let kept = |unit, stream| streams.reserved_for(unit, StreamId::new(stream)).collect::<Vec<_>>();
    assert_eq!((kept(0, 0xf), kept(0, 0x10), kept(0, 0x1e)), (vec![], all[..2].to_vec(), all[..2].to_vec()));
    assert_eq!((kept(1, 0x10), kept(1, 0x1f)), (vec![], vec![]), "of the other unit");
    assert_eq!((kept(0, 0x1f), kept(0, 0x20), kept(1, 0x41)), (all.to_vec(), vec![], all[2..].to_vec()));
    // Without a MADT nothing is known of doorbells; one that lacks a service is no MADT for this table.
    assert!(Streams::from_iort(&iort, None).unwrap().doorbells(0).is_empty());
    let other = Madt::parse(&crate::test_tables::madt(&[its(7, 0x6000_0000)])).unwrap();
    let unknown = IortError::UnknownService { offset: FIRST, id: 9 };
    assert_eq!(Streams::from_iort(&iort, Some(&other)), Err(unknown));
}

#[test]
fn the_table_as_a_whole() {
    let good = arm_server();
    let mut other = good.clone();
    put(&mut other, 0, b"DMAR");
    assert!(matches!(Iort::parse(&other), Err(IortError::Table(TableError::Signature { .. }))));
    let short = table(b"IORT", &[0; 8], &[]);
    let too_short = TableError::TooShort { length: 44, least: 48 };
    assert_eq!(Iort::parse(&short), Err(IortError::Table(too_short)));
    assert_eq!(Iort::parse(&iort(&[])).map(|iort| iort.smmus().len()), Ok(0));
    let outside = |value: u32| Err(IortError::NodesOutside { offset: 40, value });
    let beyond = good.len() as u32 + 1;
    for value in [0, 47, beyond, u32::MAX] {
        assert_eq!(parse_with(good.clone(), 40, &value.to_le_bytes()), outside(value), "{value:#x}");
    }
    for (count, found) in [(14u32, 13), (u32::MAX, 13)] {
        let missing = Err(IortError::NodesMissing { expected: count, found });
        assert_eq!(parse_with(good.clone(), 36, &count.to_le_bytes()), missing);
    }
    // What follows the last node is not looked at.
    assert!(parse_with(good.clone(), 36, &12u32.to_le_bytes()).is_ok());
    let mut longer = good.clone();
    longer.extend([0xaa; 9]);
    assert_eq!(Iort::parse(&longer), Iort::parse(&good));
}

#[test]
fn nodes_hold_what_they_must() {
    let table = || iort(&[its_group(&[1])]);
    for length in [0u16, 15] {
        let short = IortError::NodeTooShort { offset: FIRST, kind: 0, length: length.into(), least: 16 };
        assert_eq!(parse_with(table(), FIRST + 1, &length.to_le_bytes()), Err(short));
    }
    let overlong = IortError::NodeOverlong { offset: FIRST, kind: 0, length: 25, room: 24 };
    assert_eq!(parse_with(table(), FIRST + 1, &25u16.to_le_bytes()), Err(overlong));
    let stray = iort(&[its_group(&[]), vec![0; 15]]);
    assert_eq!(Iort::parse(&stray), Err(IortError::TrailingBytes { offset: FIRST + 20, count: 15 }));
    for (kind, least) in [(0u8, 20), (1, 29), (2, 32), (4, 60), (6, 28)] {
        let of = |len: usize| Iort::parse(&iort(&[node(kind, 0, &vec![0; len - 16], &[])]));
        let short = IortError::NodeTooShort { offset: FIRST, kind, length: least - 1, least };
        assert_eq!(of(least - 1), Err(short));
        assert!(!matches!(of(least), Err(IortError::NodeTooShort { .. })));
    }
    for count in [2u32, u32::MAX] {
        let outside = IortError::ServicesOutside { offset: FIRST, count };
        assert_eq!(parse_with(table(), FIRST + 16, &count.to_le_bytes()), Err(outside));
    }
    let component = |name: &[u8]| Iort::parse(&iort(&[named_component(0, name, &[])])).map(|_| ());
    assert_eq!(component(b"_SB\0rest"), Ok(()));
    assert_eq!(component(b"_SB"), Err(IortError::NameUnterminated { offset: FIRST }));
    assert_eq!(component(b"\0"), Err(IortError::NameEmpty { offset: FIRST }));
    assert_eq!(component(b"_S!\0"), Err(IortError::NameCharacter { offset: FIRST + 31, byte: b'!' }));
    let segment = Iort::parse(&iort(&[root_complex(0x1_0000, 0, 0, &[])]));
    assert_eq!(segment, Err(IortError::BadSegment { offset: FIRST, segment: 0x1_0000 }));
}

#[test]
fn a_name_ends_before_the_mappings() {
    let own = mapping(0, 0, 0, UNIT, 1);
    let nodes = [smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]), named_component(0, b"_SB", &[own])];
    assert_eq!(Iort::parse(&iort(&nodes)), Err(IortError::NameUnterminated { offset: COMPLEX }));
}

#[test]
fn mappings_lie_within_their_node_and_lead_somewhere() {
    let good = || iort(&[smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]), root_complex(0, 0, 0, &[mapping(1, 2, 3, UNIT, 0)])]);
    assert!(Iort::parse(&good()).is_ok());
    let outside = |at, count| Err(IortError::MappingsOutside { offset: COMPLEX, at, count });
    for count in [2u32, u32::MAX] {
        assert_eq!(parse_with(good(), COMPLEX + 8, &count.to_le_bytes()), outside(40, count));
    }
    for at in [0u32, 31, 41, u32::MAX] {
        assert_eq!(parse_with(good(), COMPLEX + 12, &at.to_le_bytes()), outside(at, 1));
    }
    // The offset of none means nothing.
    assert!(parse_with(good(), COMPLEX + 8, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_ok());
    let offset = COMPLEX + 40;
    for reference in [0, UNIT + 4, offset as u32, u32::MAX] {
        let unknown = IortError::UnknownReference { offset, reference };
        assert_eq!(parse_with(good(), offset + 12, &reference.to_le_bytes()), Err(unknown));
    }
    // To itself: no root complex is behind another.
    let reference = COMPLEX as u32;
    let bad = IortError::BadReference { offset, reference, kind: 2 };
    assert_eq!(parse_with(good(), offset + 12, &reference.to_le_bytes()), Err(bad));
    // Ids that do not fit.
    for (first, more, output) in [(u32::MAX, 1, 0), (0, 1, u32::MAX), (1, u32::MAX, 0)] {
        let table = |flags| {
            let mapping = mapping(first, more, output, UNIT, flags);
            Iort::parse(&iort(&[smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]), root_complex(0, 0, 0, &[mapping])]))
        };
        assert_eq!(table(0), Err(IortError::IdsWrap { offset, first, output, more }));
        assert!(table(1).is_ok(), "of one id the number means nothing");
    }
}

#[test]
fn nodes_lead_to_later_kinds_only() {
    // From each kind to each, the other node first.
    let other = |kind: u8| match kind {
        0 => its_group(&[]),
        1 => named_component(0, b"_SB\0", &[]),
        2 => root_complex(0, 0, 0, &[]),
        4 => smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]),
        6 => rmr(0, &[], &[]),
        kind => node(kind, 0, &[], &[]),
    };
    let lead = |from: u8, to: u8| {
        let mapping = [mapping(0, 0, 0, FIRST as u32, 0)];
        let node = match from {
            1 => named_component(0, b"_SB\0", &mapping),
            2 => root_complex(0, 0, 0, &mapping),
            4 => smmu_v3(0x10_0000, 0, 0, [0; 4], 0, &mapping),
            _ => rmr(0, &[], &mapping),
        };
        match Iort::parse(&iort(&[other(to), node])) {
            Ok(_) => true,
            Err(IortError::BadReference { kind, reference: 48, .. }) if kind == to => false,
            Err(error) => panic!("{from} to {to}: {error}"),
        }
    };
    let allowed: [(u8, &[u8]); 4] = [(1, &[0, 3, 4, 7]), (2, &[0, 3, 4, 7]), (4, &[0, 7]), (6, &[3, 4])];
    for (from, to) in allowed {
        let found: Vec<u8> = (0..8).filter(|kind| lead(from, *kind)).collect();
        assert_eq!(found, to, "from {from}");
    }
}

#[test]
fn units_that_make_no_sense_are_refused() {
    let unit = |base| Iort::parse(&iort(&[smmu_v3(base, 0, 0, [0; 4], 0, &[])])).map(|_| ());
    for base in [0, 0x1_1000, 0x8000] {
        assert_eq!(unit(base), Err(IortError::BadRegisterBase { offset: FIRST, base }));
    }
    let top = u64::MAX - 0xffff;
    assert_eq!(unit(top), Err(IortError::RegistersWrap { offset: FIRST, base: top }));
    assert_eq!(unit(top - 0x1_0000), Ok(()));
    let two = |first, second, model| {
        let unit = |base| smmu_v3(base, 0, model, [0; 4], 0, &[]);
        Iort::parse(&iort(&[unit(first), unit(second)])).map(|_| ())
    };
    for (first, second) in [(0x10_0000, 0x10_0000), (0x10_0000, 0x11_0000), (0x11_0000, 0x10_0000)] {
        assert_eq!(two(first, second, 0), Err(IortError::RegistersTaken { offset: COMPLEX, base: second }));
    }
    assert_eq!((two(0x10_0000, 0x12_0000, 0), two(0x12_0000, 0x10_0000, 0)), (Ok(()), Ok(())));
    // Of this one all registers are in one page.
    assert_eq!(two(0x10_0000, 0x11_0000, 2), Ok(()));
    let many: Vec<_> = (1..=1025).map(|n| smmu_v3(n << 17, 0, 0, [0; 4], 0, &[])).collect();
    assert!(Iort::parse(&iort(&many[1..])).is_ok());
    assert_eq!(Iort::parse(&iort(&many)), Err(IortError::TooManyUnits { offset: FIRST + 1024 * 68 }));
}

#[test]
fn which_mapping_is_of_the_units_own_messages() {
    let its = FIRST as u32;
    let [single, plain] = [mapping(0, 0, 0x33, its, 1), mapping(0, 0xff, 0, its, 0)];
    let unit = |revision: u8, flags, lines, index, mappings: &[Vec<u8>]| {
        let mut unit = smmu_v3(0x1_0000, flags, 0, lines, index, mappings);
        unit[3] = revision;
        Iort::parse(&iort(&[its_group(&[]), unit])).map(|iort| iort.smmus()[0].msi_mapping)
    };
    let both = [plain.clone(), single.clone()];
    let bad = |index| Err(IortError::BadMsiMapping { offset: FIRST + 20, index });
    let (wired, none) = ([1, 2, 3, 4], [0; 4]);
    // From revision 5 on a flag says whether there is one.
    assert_eq!(unit(5, 0x10, wired, 1, &both), Ok(Some(1)));
    assert_eq!(unit(5, 0, none, 1, &both), Ok(None));
    assert_eq!((unit(5, 0x10, none, 0, &both), unit(5, 0x10, none, 2, &both)), (bad(0), bad(2)));
    assert_eq!(unit(5, 0x10, none, u32::MAX, &[]), bad(u32::MAX));
    // Before, there is one unless all interrupts are wired; what the field then names need not be one.
    assert_eq!((unit(4, 0, none, 1, &both), unit(4, 0, [1, 0, 3, 4], 1, &both)), (Ok(Some(1)), Ok(Some(1))));
    assert_eq!((unit(4, 0, wired, 1, &both), unit(4, 0, none, 0, &both)), (Ok(None), Ok(None)));
    assert_eq!((unit(4, 0, none, 9, &both), unit(0, 0x10, none, 1, &both)), (Ok(None), Ok(None)));
}

#[test]
fn reserved_memory_that_makes_no_sense_is_refused() {
    let of = |base, length| Iort::parse(&iort(&[rmr(0, &[(base, length)], &[])])).map(|_| ());
    for (base, length) in [
        (0x1_0000, 0),
        (0x1_1000, 0x1_0000),
        (0x1_0000, 0x1_1000),
        (u64::MAX - 0xffff, 0x2_0000),
        (0x2_0000, u64::MAX - 0xffff),
    ] {
        assert_eq!(of(base, length), Err(IortError::BadReservation { offset: FIRST + 28, base, length }));
    }
    assert_eq!((of(0, 0x1_0000), of(u64::MAX - 0xffff, 0x1_0000)), (Ok(()), Ok(())));
    let table = || iort(&[rmr(0, &[(0, 0x1_0000)], &[])]);
    let outside = |at, count| Err(IortError::DescriptorsOutside { offset: FIRST, at, count });
    for count in [2u32, u32::MAX] {
        assert_eq!(parse_with(table(), FIRST + 20, &count.to_le_bytes()), outside(28, count));
    }
    for at in [0u32, 27, 29, u32::MAX] {
        assert_eq!(parse_with(table(), FIRST + 24, &at.to_le_bytes()), outside(at, 1));
    }
    assert!(parse_with(table(), FIRST + 20, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_ok());
}

#[test]
fn numbers_that_are_one_too_many_are_put_right() {
    // 0x100 and 0x100 ids where it should be one less each: the first mapping has no 0x100.
    let complex = [mapping(0x100, 0x100, 0x1100, UNIT, 0), mapping(0, 0x100, 0x5000, UNIT, 0)];
    let streams = behind_one(&[(0, &complex)]).unwrap();
    let of = |id| streams.of(function(0, id)).ok().map(|(_, stream)| stream.get());
    assert_eq!([of(0xff), of(0x100), of(0x1ff), of(0x200)], [Some(0x50ff), Some(0x1100), Some(0x11ff), Some(0x1200)]);
    // Coming out: the last requester of the first would be the first stream of the other.
    let out = [mapping(0, 0x100, 0, UNIT, 0), mapping(0x1000, 0xff, 0x100, UNIT, 0)];
    let streams = behind_one(&[(0, &out[..1]), (1, &out[1..])]).unwrap();
    assert_eq!(streams.of(function(1, 0x1000)), Ok((0, StreamId::new(0x100))));
    assert_eq!(streams.of(function(0, 0x100)), Err(Uncontrolled(function(0, 0x100))));
    assert_eq!(streams.of(function(0, 0xff)), Ok((0, StreamId::new(0xff))));
    // More than one is no such mistake, nor is one of one.
    let overlap = |id| Err(IortError::OverlappingIds { offset: COMPLEX, id });
    let two = |one: (u32, u32), other: (u32, u32)| {
        behind_one(&[(0, &[mapping(one.0, one.1, 0, UNIT, 0), mapping(other.0, other.1, 0x10_0000, UNIT, 0)])])
    };
    assert_eq!((two((0, 5), (4, 9)), two((4, 9), (0, 5))), (overlap(4), overlap(4)));
    assert_eq!((two((5, 0), (5, 0)), two((5, 0), (5, 7)), two((0, 9), (3, 2))), (overlap(5), overlap(5), overlap(3)));
    assert!(two((0, 5), (6, 9)).is_ok());
    // Also where one leads to a unit and the other past it.
    let unit = smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]);
    let past = [mapping(0, 9, 0, UNIT, 0), mapping(5, 9, 0, UNIT + 68, 0)];
    let complex = root_complex(0, 0, 0, &past);
    let both = IortError::OverlappingIds { offset: FIRST + 68 + 20, id: 5 };
    assert_eq!(self::streams(&iort(&[unit, its_group(&[]), complex])), Err(both));
    let all = behind_one(&[(0, &[mapping(0, 0, 0, UNIT, 1), mapping(7, 1, 0x10_0000, UNIT, 0)])]);
    assert_eq!(all, overlap(7));
}

#[test]
fn nobody_has_anothers_requesters_or_streams() {
    let shared = |stream| Err(IortError::SharedStreams { offset: FIRST, stream });
    let two = |one: (u32, u32, u32), other: (u32, u32, u32), flags| {
        let map = |(first, more, output)| [mapping(first, more, output, UNIT, flags)];
        behind_one(&[(0, &map(one)), (1, &map(other))])
    };
    assert_eq!(two((0, 0xff, 0), (0, 0xff, 0), 0), shared(0));
    assert_eq!(
        (two((0, 0xff, 0), (0, 0xff, 0xfe), 0), two((0, 0xff, 0xfe), (0, 0xff, 0), 0)),
        (shared(0xfe), shared(0xfe))
    );
    assert_eq!((two((0, 0, 5), (0, 0, 5), 0), two((0, 0, 5), (0, 0, 5), 1)), (shared(5), shared(5)));
    assert!(two((0, 0xff, 0), (0, 0xff, 0x100), 0).is_ok());
    // Requesters end at 16 bits, so that a number too many there is none.
    let streams = two((0, 0x1_0000, 0), (0, 0x1_0000, 0x1_0000), 0).unwrap();
    assert_eq!(streams.of(function(0, 0xffff)), Ok((0, StreamId::new(0xffff))));
    assert_eq!(streams.of(function(1, 0)), Ok((0, StreamId::new(0x1_0000))));
    assert!(two((0x1_0000, 5, 0), (0, 5, 0), 0).is_ok());
    assert!(two((0, 0x5_0000, 0), (0, 0xffff, 0x1_0000), 0).is_ok());
    // Two root complexes of one segment.
    let same = |one: u32, other: u32| {
        behind_one(&[(3, &[mapping(one, 0xff, 0, UNIT, 0)]), (3, &[mapping(other, 0xff, 0x1000, UNIT, 0)])])
    };
    let requester = RequesterId::new(0x180);
    let twice = IortError::SameRequesters { offset: COMPLEX + 60, segment: 3, requester };
    assert_eq!(same(0x100, 0x180), Err(twice));
    let streams = same(0x100, 0x200).unwrap();
    assert_eq!(streams.of(function(3, 0x2ff)), Ok((0, StreamId::new(0x10ff))));
    // Of the two the one that knows a function answers for it.
    assert_eq!(streams.host_of(function(3, 0x200)), Some(&streams.hosts()[1]));
}

#[test]
fn short_nodes_of_early_revisions_are_read() {
    let body: Vec<u8> = [0, 0, 1, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    let mut unit = smmu_v3(0x1_0000, 8, 0, [1; 4], 0, &[]);
    unit.truncate(60);
    put(&mut unit, 1, &[60, 0, 0]);
    let complex = node(2, 0, &body, &[mapping(0, 9, 0, UNIT, 0)]);
    let iort = Iort::parse(&iort(&[unit, complex])).unwrap();
    let complex = &iort.root_complexes()[0];
    // What follows belongs to the mapping.
    assert_eq!((complex.ats, complex.pasid_bits, complex.address_bits), (true, 0, 0));
    assert_eq!((iort.smmus()[0].proximity_domain, iort.smmus()[0].msi_mapping), (None, None));
    // Of SMMUv2 and counters nothing needs to be right.
    let skipped = [node(3, 9, &[0xff; 5], &[]), node(5, 9, &[], &[mapping(9, 9, 9, 9, 9)])];
    assert!(Iort::parse(&make(&skipped)).is_ok());
}

#[test]
fn reserved_values() {
    let unit = |flags, model| {
        let iort = Iort::parse(&iort(&[smmu_v3(0x1_0000, flags, model, [0; 4], 0, &[])])).unwrap();
        (iort.smmus()[0].updates, iort.smmus()[0].model)
    };
    assert_eq!(unit(6, 2), (HardwareUpdates::None, Model::CaviumCn99xx));
    assert_eq!(unit(0xffff_ff00, 3), (HardwareUpdates::None, Model::Unknown(3)));
    // PASIDs only where they pass.
    let bits =
        |ats, bits| Iort::parse(&iort(&[root_complex(0, ats, bits, &[])])).unwrap().root_complexes()[0].pasid_bits;
    assert_eq!((bits(3, 20), bits(4, 0xffe0 | 16), bits(4, 0x1f)), (0, 16, 31));
}

#[test]
fn errors_say_where() {
    let error = parse_with(arm_server(), at::COMPLEX as usize + 28, &[0, 0, 1, 0]).unwrap_err();
    assert_eq!(error.to_string(), "IORT: root complex at 0x10c: segment 0x10000");
}

/// Asks everything of a table; whatever the answers are, they must come.
fn ask_everything(bytes: &[u8]) {
    let Ok(iort) = Iort::parse(bytes) else { return };
    let Ok(streams) = Streams::from_iort(&iort, None) else { return };
    for segment in [0, 5, 6, 7] {
        for id in [0, 0xff, 0x100, 0x3fff, 0x8010, 0xffff] {
            if let Ok((unit, stream)) = streams.of(function(segment, id)) {
                assert!(unit < streams.units().len());
                let _ = streams.reserved_for(unit, stream).count();
            }
            let _ = (streams.msi_of(function(segment, id)), streams.host_of(function(segment, id)));
        }
    }
}

#[test]
fn no_single_changed_byte_makes_it_panic() {
    let original = arm_server();
    for at in 0..original.len() {
        for value in [0, 1, 0xff, original[at] ^ 0x80, original[at].wrapping_add(1)] {
            let mut bytes = original.clone();
            bytes[at] = value;
            seal(&mut bytes);
            ask_everything(&bytes);
        }
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        short in any::<bool>(),
    ) {
        let mut bytes = arm_server();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if short {
            bytes.truncate(cut.index(bytes.len()).max(48));
            let len = bytes.len() as u32;
            put(&mut bytes, 4, &len.to_le_bytes());
        }
        seal(&mut bytes);
        ask_everything(&bytes);
    }
}
