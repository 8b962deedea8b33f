//! What the tables of real firmware say, exactly: see `README.md` beside this file.

use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::StreamId;
use iommu_core::region::{RegionKind, ReservedRegion};
use iommu_discovery::Sbdf;
use iommu_discovery::ats::{AtsPolicy, AtsRefusal, ats_allowed_smmu};
use iommu_discovery::devicetree::DeviceTree;
use iommu_discovery::iort::{IdMapping, Iort, MappingTarget, NodeKind};
use iommu_discovery::madt::{Its, Madt};
use iommu_discovery::mcfg::{EcamRegion, Mcfg};
use iommu_discovery::regions::{RegionError, required_regions_smmu};
use iommu_discovery::streams::{HardwareUpdates, Interrupts, Model, Msi, Smmu, Streams, Uncontrolled};
use iommu_discovery::topology::{Function, FunctionKind, Topology};

/// The tables of a machine: IORT, MADT, MCFG.
type Tables = [&'static [u8]; 3];

macro_rules! tables {
    ($name:literal) => {
        [
            include_bytes!(concat!("data/", $name, ".iort")),
            include_bytes!(concat!("data/", $name, ".apic")),
            include_bytes!(concat!("data/", $name, ".mcfg")),
        ]
    };
}

const QEMU_10: Tables = tables!("qemu-10");
const QEMU_10_BYPASS: Tables = tables!("qemu-10-bypass");
const QEMU_11: Tables = tables!("qemu-11");

fn at(bus: u8, device: u8) -> Sbdf {
    Sbdf::from_parts(0, bus, device, 0).unwrap()
}

fn read([iort, apic, _]: Tables) -> (Iort, Streams) {
    let iort = Iort::parse(iort).unwrap();
    let streams = Streams::from_iort(&iort, Some(&Madt::parse(apic).unwrap())).unwrap();
    (iort, streams)
}

/// A unit as QEMU describes it: registers at `base`, four wired interrupts from `first` on.
fn unit(base: u64, first: u32) -> Smmu {
    Smmu {
        registers: PhysExtent::new(PhysAddr::new(base), 0x2_0000),
        coherent: true,
        updates: Some(HardwareUpdates::None),
        model: Model::Generic,
        // In this order of numbers: event, page request, sync, error.
        interrupts: Interrupts {
            event: Some(first),
            page_request: Some(first + 1),
            sync: Some(first + 2),
            error: Some(first + 3),
        },
        msi: None,
        proximity_domain: None,
    }
}

/// A mapping of the ids from `first` to `last` to themselves.
fn same(first: u32, last: u32, target: MappingTarget) -> IdMapping {
    IdMapping { first, last, output: first, single: false, target }
}

const ITS: MappingTarget = MappingTarget::ItsGroup(0);
const DOORBELL: u64 = 0x809_0000;

#[test]
fn qemu_10_has_one_unit_for_both_root_buses() {
    let (iort, streams) = read(QEMU_10);
    let kinds = [NodeKind::ItsGroup, NodeKind::SmmuV3, NodeKind::RootComplex, NodeKind::NamedComponent, NodeKind::Rmr];
    assert_eq!(kinds.map(|kind| iort.count(kind)), [1, 1, 1, 0, 0]);
    assert_eq!((iort.unknown(), &iort.its_groups()[0].ids[..]), (0, &[0][..]));
    let complex = &iort.root_complexes()[0];
    assert_eq!((complex.segment, complex.coherent, complex.address_bits), (0, true, 64));
    assert_eq!((complex.ats, complex.page_requests, complex.pasid_bits), (false, false, 0));
    let smmu = MappingTarget::Smmu(0);
    let mappings =
        [same(0, 0xff, smmu), same(0x4000, 0x40ff, smmu), same(0x100, 0x3fff, ITS), same(0x4100, 0xffff, ITS)];
    assert_eq!(complex.mappings, mappings);
    // All interrupts are wired, so that the index of the unit's own mapping, 0, means nothing.
    assert_eq!((&iort.smmus()[0].mappings[..], iort.smmus()[0].msi_mapping), (&[same(0, 0xffff, ITS)][..], None));

    assert_eq!(streams.units(), [unit(0x905_0000, 0x6a)]);
    assert_eq!(streams.of(at(0, 4)), Ok((0, StreamId::new(0x20))));
    assert_eq!(streams.of(at(0x40, 1)), Ok((0, StreamId::new(0x4008))));
    // No bus had these numbers when firmware asked for the table.
    assert_eq!(streams.of(at(1, 0)), Err(Uncontrolled(at(1, 0))));
    assert_eq!(streams.of(at(0xff, 31)), Err(Uncontrolled(at(0xff, 31))));
    let other = Sbdf::from_parts(1, 0, 4, 0).unwrap();
    assert_eq!(streams.of(other), Err(Uncontrolled(other)));
    // Whether by way of the unit or not, an id is one device of the same service.
    for (function, device_id) in [(at(0, 4), 0x20), (at(0x40, 1), 0x4008), (at(1, 0), 0x100), (at(0xff, 31), 0xfff8)] {
        assert_eq!(streams.msi_of(function), Some(Msi { group: 0, device_id }), "{function}");
    }
    assert_eq!(streams.doorbells(0), [PhysExtent::new(PhysAddr::new(DOORBELL), 0x1_0000)]);
    assert!(streams.reserved().is_empty() && streams.devices().is_empty());
}

#[test]
fn what_bypasses_the_unit_is_uncontrolled() {
    let (iort, streams) = read(QEMU_10_BYPASS);
    let complex = &iort.root_complexes()[0];
    assert_eq!(complex.mappings, [same(0, 0xff, MappingTarget::Smmu(0)), same(0x100, 0xffff, ITS)]);
    assert_eq!(streams.units(), [unit(0x905_0000, 0x6a)]);
    assert_eq!(streams.of(at(0, 4)), Ok((0, StreamId::new(0x20))));
    assert_eq!(streams.of(at(0x40, 1)), Err(Uncontrolled(at(0x40, 1))));
    assert_eq!(streams.msi_of(at(0x40, 1)), Some(Msi { group: 0, device_id: 0x4008 }));
    let topology = machine();
    let uncontrolled = RegionError::Uncontrolled { function: at(0x40, 1) };
    assert_eq!(required_regions_smmu(&streams, &topology, at(0x40, 1)), Err(uncontrolled));
    assert_eq!(ats_allowed_smmu(&streams, &topology, at(0x40, 1)), AtsPolicy::Refused(AtsRefusal::Uncontrolled));
}

#[test]
fn qemu_11_has_a_unit_for_each_root_bus() {
    let (iort, streams) = read(QEMU_11);
    assert_eq!((iort.count(NodeKind::SmmuV3), iort.count(NodeKind::RootComplex), iort.unknown()), (2, 1, 0));
    assert_eq!(streams.units(), [unit(0xc00_0000, 0x90), unit(0xc02_0000, 0x94)]);
    let complex = &iort.root_complexes()[0];
    let units = [same(0, 0xff, MappingTarget::Smmu(0)), same(0x4000, 0x40ff, MappingTarget::Smmu(1))];
    assert_eq!(complex.mappings[..2], units);
    assert_eq!(complex.mappings[2..], [same(0x100, 0x3fff, ITS), same(0x4100, 0xffff, ITS)]);
    assert_eq!(streams.of(at(0, 4)), Ok((0, StreamId::new(0x20))));
    assert_eq!(streams.of(at(0x40, 1)), Ok((1, StreamId::new(0x4008))));
    assert_eq!(streams.of(at(0x41, 0)), Err(Uncontrolled(at(0x41, 0))));
    for function in [at(0, 4), at(0x40, 1), at(0x41, 0)] {
        assert_eq!(streams.msi_of(function), Some(Msi { group: 0, device_id: function.id.get().into() }));
    }
}

/// A function on each root bus.
fn machine() -> Topology {
    let function = |sbdf| Function {
        sbdf,
        class: 0xff_0000,
        kind: FunctionKind::Endpoint,
        port: None,
        multifunction: false,
        acs: None,
    };
    Topology::new([function(at(0, 4)), function(at(0x40, 1))]).unwrap()
}

#[test]
fn functions_need_their_doorbell_and_get_no_translation_services() {
    let topology = machine();
    for tables in [QEMU_10, QEMU_11] {
        let (_, streams) = read(tables);
        for function in [at(0, 4), at(0x40, 1)] {
            let range = IovaRange::from_len(Iova::new(DOORBELL), 0x1_0000).unwrap();
            let doorbell = ReservedRegion { range, kind: RegionKind::SoftwareMsi };
            assert_eq!(required_regions_smmu(&streams, &topology, function), Ok(vec![doorbell]));
            let refused = AtsPolicy::Refused(AtsRefusal::RootComplex);
            assert_eq!(ats_allowed_smmu(&streams, &topology, function), refused);
        }
    }
}

#[test]
fn interrupt_services_and_configuration_space() {
    for [_, apic, mcfg] in [QEMU_10, QEMU_10_BYPASS, QEMU_11] {
        assert_eq!(Madt::parse(apic).unwrap().services(), [Its { id: 0, base: PhysAddr::new(0x808_0000) }]);
        let base = PhysAddr::new(0x40_1000_0000);
        assert_eq!(
            Mcfg::parse(mcfg).unwrap().regions(),
            [EcamRegion { segment: 0, base, start_bus: 0, end_bus: 0xff }]
        );
    }
}

#[test]
fn devicetrees_say_the_same_of_what_they_have() {
    let trees: [(&[u8], Smmu); 3] = [
        (include_bytes!("data/qemu-10.dtb"), unit(0x905_0000, 0x6a)),
        (include_bytes!("data/qemu-11.dtb"), unit(0x905_0000, 0x6a)),
        // The second unit is left out.
        (include_bytes!("data/qemu-11-units.dtb"), unit(0xc00_0000, 0x90)),
    ];
    for (tree, unit) in trees {
        let streams = Streams::read(&DeviceTree::parse(tree).unwrap()).unwrap();
        // What a devicetree has no property for the unit's registers say.
        assert_eq!(streams.units(), [Smmu { updates: None, ..unit }]);
        assert_eq!(streams.doorbells(0), [PhysExtent::new(PhysAddr::new(DOORBELL), 0x1_0000)]);
        for function in [at(0, 4), at(0x40, 1), at(0xff, 31)] {
            let id = function.id.get().into();
            assert_eq!(streams.of(function), Ok((0, StreamId::new(id))));
            assert_eq!(streams.msi_of(function), Some(Msi { group: 0, device_id: id }));
        }
        assert!(!streams.hosts()[0].ats && streams.devices().is_empty() && streams.reserved().is_empty());
    }
}

#[test]
fn every_byte_is_under_the_checksum() {
    for [iort, apic, _] in [QEMU_10, QEMU_10_BYPASS, QEMU_11] {
        for at in 0..iort.len() {
            let mut bytes = iort.to_vec();
            bytes[at] ^= 1;
            assert!(Iort::parse(&bytes).is_err() && Iort::parse(&iort[..at]).is_err());
        }
        for at in 0..apic.len() {
            let mut bytes = apic.to_vec();
            bytes[at] ^= 1;
            assert!(Madt::parse(&bytes).is_err() && Madt::parse(&apic[..at]).is_err());
        }
    }
}
