//! From the bytes of a DMAR table to units that are up: each function is served by the right one, reserved memory is
//! reported, and a bad table touches nothing.

use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::hw::{DomainConfig, HwError, Prot, Stage, Stream, Target, Unit as _};
use iommu_discovery::Sbdf;
use iommu_discovery::dmar::{Dmar, DmarError};
use iommu_discovery::scope::{reserved_regions, unit_of, unresolved_scopes};
use iommu_discovery::topology::{Function, FunctionKind, PcieType, Topology};
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::vtd::{Config, FaultCode, Model};
use iommu_tests::bench::{TIMEOUT, TestUnit, memory};
use iommu_tests::spy::*;
use iommu_tests::tables::{dmar, drhd, rmrr, scope, seal};
use iommu_vtd::Unit;
use std::sync::Arc;

const FIRST: u64 = 0xfed9_0000;
const SECOND: u64 = 0xfed9_1000;

fn at(bus: u8, device: u8, function: u8) -> Sbdf {
    Sbdf::from_parts(0, bus, device, function).unwrap()
}

fn function(sbdf: Sbdf, kind: FunctionKind, port: Option<PcieType>) -> Function {
    Function { sbdf, class: 0xff_0000, kind, port, multifunction: false, acs: None }
}

/// Root bus: a device at 2, a root port at 1 to bus 1, a bridge to conventional PCI at 7 to bus 2, a device at 4.
fn topology() -> Topology {
    let bridge = |bus| FunctionKind::Bridge { secondary: bus, subordinate: bus };
    Topology::new([
        function(at(0, 2, 0), FunctionKind::Endpoint, Some(PcieType::Endpoint)),
        function(at(0, 4, 0), FunctionKind::Endpoint, None),
        function(at(0, 1, 0), bridge(1), Some(PcieType::RootPort)),
        function(at(1, 0, 0), FunctionKind::Endpoint, Some(PcieType::Endpoint)),
        function(at(0, 7, 0), bridge(2), Some(PcieType::PcieToPciBridge)),
        function(at(2, 5, 0), FunctionKind::Endpoint, None),
    ])
    .unwrap()
}

/// The first unit serves what is below the root port and the function behind the other bridge, named through it; the
/// second all the rest.
fn table() -> Vec<u8> {
    dmar(
        46,
        &[
            drhd(false, FIRST, &[scope(2, &[(1, 0)]), scope(1, &[(7, 0), (5, 0)])]),
            drhd(true, SECOND, &[]),
            rmrr(0x7b80_0000, 0x7b8f_ffff, &[scope(1, &[(1, 0), (0, 0)])]),
        ],
    )
}

/// The machine's units, by the address of their registers; firmware has left them translating with nothing attached.
fn machine() -> Vec<(u64, Arc<Model>, Arc<Spy>)> {
    let unit = |base| {
        let model = Arc::new(Model::new(Config::server(), memory(false)));
        let request = FrameRequest::single(46, WalkerMemory::Coherent);
        let root = model.memory().alloc_frames(request).unwrap().get();
        model.write64(RTADDR, root | 1 << 10);
        model.write32(GCMD, SRTP);
        model.write32(GCMD, TE);
        (base, model.clone(), Arc::new(Spy::new(model)))
    };
    vec![unit(SECOND), unit(FIRST)]
}

/// What an embedder does at start.
fn start(bytes: &[u8], machine: &[(u64, Arc<Model>, Arc<Spy>)]) -> Result<(Dmar, Vec<TestUnit>), DmarError> {
    let dmar = Dmar::parse(bytes)?;
    let units = dmar.drhds().iter().map(|drhd| {
        let (_, model, spy) = machine.iter().find(|(base, ..)| *base == drhd.base.get()).expect("registers");
        assert!(drhd.register_bytes as usize >= spy.len());
        let config = iommu_vtd::Config { host_bits: dmar.host_address_bits(), timeout: TIMEOUT, ..Default::default() };
        Unit::bring_up(model.memory().clone(), spy.clone(), config).expect("a unit")
    });
    let units = units.collect();
    Ok((dmar, units))
}

#[test]
fn each_function_is_served_by_its_unit_and_by_no_other() {
    let (machine, topology) = (machine(), topology());
    let (dmar, units) = start(&table(), &machine).unwrap();
    assert_eq!((dmar.drhds().len(), dmar.host_address_bits()), (2, 46));
    assert_eq!(unresolved_scopes(&dmar, &topology).count(), 0);
    let model_of = |unit: usize| {
        let base = dmar.drhds()[unit].base.get();
        &machine.iter().find(|(at, ..)| *at == base).unwrap().1
    };
    let rows = [(at(1, 0, 0), 0), (at(2, 5, 0), 0), (at(0, 2, 0), 1), (at(0, 4, 0), 1), (at(0, 7, 0), 1)];
    for (number, (sbdf, unit)) in rows.into_iter().enumerate() {
        assert_eq!(unit_of(&dmar, &topology, sbdf), Some(unit), "{sbdf}");
        // Behind the conventional bridge the unit sees the bridge's own id on its secondary bus.
        let requester = topology.dma_id(sbdf);
        let domain = units[unit].create_domain(&DomainConfig::new(Stage::Second)).unwrap();
        let phys = 0x5000_0000 + number as u64 * 0x1000;
        domain.map(Iova::new(0), &[PhysExtent::new(PhysAddr::new(phys), 0x1000)], Prot::READ_WRITE).unwrap();
        units[unit].attach(Stream::function(requester), Target::Paging(&*domain)).unwrap();
        let dma = |unit: usize| model_of(unit).dma(requester.get(), None, Iova::new(0x10), 16, true);
        assert_eq!(dma(unit).unwrap()[0].start.get(), phys + 0x10, "{sbdf}");
        let other = dma(1 - unit).unwrap_err();
        assert!(other.code <= FaultCode::CONTEXT_NOT_PRESENT, "{sbdf}: {other:?}");
        // And a domain of one unit is none of the other's.
        let refused = units[1 - unit].attach(Stream::function(requester), Target::Paging(&*domain));
        assert_eq!(refused, Err(HwError::ForeignDomain));
    }
    assert_eq!(topology.dma_id(at(2, 5, 0)), at(2, 0, 0).id);
    machine.iter().for_each(|(_, model, _)| assert_eq!(model.violations(), []));
}

#[test]
fn reserved_memory_is_reported_and_works_when_it_is_mapped_to_itself() {
    let (machine, topology) = (machine(), topology());
    let (dmar, units) = start(&table(), &machine).unwrap();
    let sbdf = at(1, 0, 0);
    assert!(
        [at(0, 2, 0), at(0, 4, 0), at(2, 5, 0)].iter().all(|it| reserved_regions(&dmar, &topology, *it).count() == 0)
    );
    let regions: Vec<_> = reserved_regions(&dmar, &topology, sbdf).collect();
    let [region] = regions[..] else { panic!("{regions:?}") };
    assert_eq!((region.start.get(), region.last.get()), (0x7b80_0000, 0x7b8f_ffff));
    let unit = unit_of(&dmar, &topology, sbdf).unwrap();
    let domain = units[unit].create_domain(&DomainConfig::new(Stage::First)).unwrap();
    let memory = PhysExtent::new(region.start, region.last.get() - region.start.get() + 1);
    domain.map(Iova::new(region.start.get()), &[memory], Prot::READ_WRITE).unwrap();
    units[unit].attach(Stream::function(sbdf.id), Target::Paging(&*domain)).unwrap();
    let model = &machine.iter().find(|(base, ..)| *base == FIRST).unwrap().1;
    for iova in [region.start.get(), region.last.get()] {
        assert_eq!(model.dma(sbdf.id.get(), None, Iova::new(iova), 1, true).unwrap()[0].start.get(), iova);
    }
    for iova in [region.start.get() - 1, region.last.get() + 1] {
        model.dma(sbdf.id.get(), None, Iova::new(iova), 1, true).unwrap_err();
    }
    assert_eq!(model.violations(), []);
}

#[test]
fn a_bad_table_is_an_error_and_touches_nothing() {
    let broken = |at: usize, value: u8, reseal: bool| {
        let mut bytes = table();
        bytes[at] = value;
        if reseal {
            seal(&mut bytes);
        }
        bytes
    };
    // A checksum; structures of length 0, too long and too short; a scope of length 0; a base of 0; a cut table.
    let mut cut = table();
    cut.truncate(60);
    let tables = [
        ("checksum", broken(9, table()[9] ^ 1, false)),
        ("zero length", broken(50, 0, true)),
        ("overlong", broken(51, 0xff, true)),
        ("short", broken(50, 3, true)),
        ("scope of length zero", broken(48 + 16 + 1, 0, true)),
        ("signature", broken(0, b'X', true)),
        ("cut", cut),
        ("empty", Vec::new()),
    ];
    for (name, bytes) in tables {
        let machine = machine();
        assert!(start(&bytes, &machine).is_err(), "{name}");
        for (_, model, spy) in machine {
            assert_eq!((spy.take_writes(), spy.take_reads()), (vec![], 0), "{name}");
            // As firmware left it: blocked.
            for requester in [0x10, 0x100, 0x228] {
                model.dma(requester, None, Iova::new(0x1000), 8, true).unwrap_err();
            }
        }
    }
    let checksum = Dmar::parse(&broken(9, table()[9] ^ 1, false)).unwrap_err();
    assert!(matches!(checksum, DmarError::Table(_)), "{checksum:?}");
    let zero = Dmar::parse(&broken(50, 0, true)).unwrap_err();
    assert!(matches!(zero, DmarError::StructureZeroLength { offset: 48, kind: 0 }), "{zero:?}");
}
