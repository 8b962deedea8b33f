use super::*;
use crate::test_pci::{at, bridge, conventional, express, q35};
use crate::test_tables::{self, atsr, dmar, drhd, rmrr, satc, scope, sidp, with_flags};
use crate::topology::{Function, PcieType};
use alloc::vec::Vec;
use proptest::prelude::*;

const ENDPOINT: u8 = 1;
const BRIDGE: u8 = 2;
const NAMESPACE: u8 = 5;

/// Root port 00:01.0 to a switch 01:00.0 with ports 02:03.0 (bus 3) and 02:04.0 (buses 4 to 6, with a PCIe-to-PCI
/// bridge at 04:00.0 to bus 5, and a conventional bridge there to bus 6); endpoints on the root bus and at the ends.
fn machine() -> Vec<Function> {
    Vec::from([
        conventional(at(0, 2, 0)),
        conventional(at(0, 7, 0)),
        bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 6),
        bridge(at(1, 0, 0), Some(PcieType::UpstreamPort), 2, 6),
        bridge(at(2, 3, 0), Some(PcieType::DownstreamPort), 3, 3),
        bridge(at(2, 4, 0), Some(PcieType::DownstreamPort), 4, 6),
        express(at(3, 0, 0)),
        bridge(at(4, 0, 0), Some(PcieType::PcieToPciBridge), 5, 6),
        conventional(at(5, 1, 0)),
        conventional(at(5, 2, 0)),
        bridge(at(5, 3, 0), None, 6, 6),
        conventional(at(6, 1, 0)),
    ])
}

fn topology() -> Topology {
    Topology::new(machine()).unwrap()
}

/// For each function, the index of the unit that serves it.
fn units(structures: &[Vec<u8>]) -> Vec<(Sbdf, Option<usize>)> {
    let (dmar, topology) = (Dmar::parse(&dmar(structures)).unwrap(), topology());
    topology.functions().map(|function| (function.sbdf, unit_of(&dmar, &topology, function.sbdf))).collect()
}

/// Those of `units` that `unit` serves.
fn served_by(units: &[(Sbdf, Option<usize>)], unit: Option<usize>) -> Vec<Sbdf> {
    units.iter().filter(|(_, by)| *by == unit).map(|(sbdf, _)| *sbdf).collect()
}

/// A path resolved in the test's machine.
fn lead(start_bus: u8, path: &[(u8, u8)]) -> Result<Sbdf, UnresolvedCause> {
    let table = dmar(&[drhd(0, 0, 0, 0x1000, &[scope(ENDPOINT, 0, start_bus, path)])]);
    let dmar = Dmar::parse(&table).unwrap();
    resolve(&dmar.drhds()[0].scopes[0], 0, &topology())
}

#[test]
fn a_path_follows_secondary_buses() {
    assert_eq!(lead(0, &[(2, 0)]), Ok(at(0, 2, 0)));
    assert_eq!(lead(0, &[(1, 0), (0, 0)]), Ok(at(1, 0, 0)));
    assert_eq!(lead(0, &[(1, 0), (0, 0), (4, 0), (0, 0), (2, 0)]), Ok(at(5, 2, 0)));
    assert_eq!(lead(2, &[(3, 0), (0, 0)]), Ok(at(3, 0, 0)));
    // The last step need not be there.
    assert_eq!(lead(0, &[(1, 0), (9, 0)]), Ok(at(1, 9, 0)));
}

#[test]
fn a_path_that_does_not_lead_on() {
    assert_eq!(lead(0, &[(9, 0), (0, 0)]), Err(UnresolvedCause::NoFunction { at: at(0, 9, 0) }));
    assert_eq!(lead(0, &[(1, 0), (0, 0), (3, 0), (0, 0), (0, 0)]), {
        Err(UnresolvedCause::NotABridge { at: at(3, 0, 0) })
    });
}

#[test]
fn a_path_made_by_hand_may_be_impossible() {
    let mut scope = Scope { kind: ScopeKind::Endpoint, flags: 0, enumeration_id: 0, start_bus: 0, path: Vec::new() };
    assert_eq!(resolve(&scope, 0, &topology()), Err(UnresolvedCause::NoPath));
    scope.path.push(crate::dmar::PathHop { device: 32, function: 0 });
    assert_eq!(resolve(&scope, 0, &topology()), Err(UnresolvedCause::NoPath));
}

#[test]
fn one_unit_for_everything() {
    let topology = Topology::new(q35()).unwrap();
    let dmar = Dmar::parse(&test_tables::include_all()).unwrap();
    assert!(topology.functions().all(|function| unit_of(&dmar, &topology, function.sbdf) == Some(0)));
    assert_eq!(unit_of(&dmar, &topology, at(9, 0, 0)), None);
    assert_eq!(unit_of(&dmar, &topology, Sbdf { segment: 1, ..at(0, 2, 0) }), None);
}

#[test]
fn the_unit_of_qemu_serves_what_it_names() {
    let topology = Topology::new(q35()).unwrap();
    let dmar = Dmar::parse(&test_tables::QEMU_DMAR).unwrap();
    // That machine has no functions at 00:03.0 and 00:04.0; the one behind the bridge goes with it.
    for function in topology.functions() {
        let named = function.sbdf != at(0, 3, 0) && function.sbdf != at(0, 4, 0);
        assert_eq!(unit_of(&dmar, &topology, function.sbdf), named.then_some(0));
    }
    assert_eq!(unresolved_scopes(&dmar, &topology).count(), 0);
}

#[test]
fn endpoint_before_bridge_before_everything() {
    let units = units(&[
        drhd(0, 0, 0, 0x1000, &[scope(BRIDGE, 0, 0, &[(1, 0), (0, 0), (4, 0)])]),
        drhd(
            0,
            0,
            0,
            0x2000,
            &[scope(ENDPOINT, 0, 0, &[(2, 0)]), scope(ENDPOINT, 0, 0, &[(1, 0), (0, 0), (4, 0), (0, 0), (2, 0)])],
        ),
        drhd(1, 0, 0, 0x3000, &[]),
    ]);
    // The bridge itself and all below it, but for the function that is named.
    assert_eq!(served_by(&units, Some(0)), [at(2, 4, 0), at(4, 0, 0), at(5, 1, 0), at(5, 3, 0), at(6, 1, 0)]);
    assert_eq!(served_by(&units, Some(1)), [at(0, 2, 0), at(5, 2, 0)]);
    assert_eq!(served_by(&units, Some(2)), [at(0, 1, 0), at(0, 7, 0), at(1, 0, 0), at(2, 3, 0), at(3, 0, 0)]);
    assert_eq!(served_by(&units, None), []);
}

#[test]
fn the_nearest_of_several_bridges() {
    for swap in [false, true] {
        let outer = drhd(0, 0, 0, 0x1000, &[scope(BRIDGE, 0, 0, &[(1, 0)])]);
        let inner = drhd(0, 0, 0, 0x2000, &[scope(BRIDGE, 0, 0, &[(1, 0), (0, 0), (3, 0)])]);
        let units = units(&if swap { [inner, outer] } else { [outer, inner] });
        assert_eq!(served_by(&units, Some(usize::from(!swap))), [at(2, 3, 0), at(3, 0, 0)]);
        // Without INCLUDE_PCI_ALL the others have no unit.
        assert_eq!(served_by(&units, None), [at(0, 2, 0), at(0, 7, 0)]);
    }
}

#[test]
fn an_endpoint_scope_does_not_cover_what_is_below() {
    let units = units(&[drhd(0, 0, 0, 0x1000, &[scope(ENDPOINT, 0, 0, &[(1, 0)])])]);
    assert_eq!(served_by(&units, Some(0)), [at(0, 1, 0)]);
}

#[test]
fn interrupt_sources_and_unknown_scopes_claim_nothing() {
    let path = [(2, 0)];
    let claims = |kind| served_by(&units(&[drhd(0, 0, 0, 0x1000, &[scope(kind, 0, 0, &path)])]), Some(0));
    for kind in [0, 3, 4, 6, 0xff] {
        assert_eq!(claims(kind), []);
    }
    assert_eq!(claims(NAMESPACE), [at(0, 2, 0)]);
}

#[test]
fn segments_have_units_of_their_own() {
    let there = |function: Function| Function { sbdf: Sbdf { segment: 1, ..function.sbdf }, ..function };
    let topology = Topology::new(machine().into_iter().flat_map(|f| [f, there(f)])).unwrap();
    let dmar = Dmar::parse(&dmar(&[
        drhd(0, 0, 1, 0x1000, &[scope(ENDPOINT, 0, 0, &[(2, 0)])]),
        drhd(1, 0, 0, 0x2000, &[]),
        drhd(1, 0, 1, 0x3000, &[]),
    ]))
    .unwrap();
    let unit = |segment, function: Sbdf| unit_of(&dmar, &topology, Sbdf { segment, ..function });
    assert_eq!([unit(0, at(0, 2, 0)), unit(1, at(0, 2, 0))], [Some(1), Some(0)]);
    assert_eq!([unit(0, at(6, 1, 0)), unit(1, at(6, 1, 0))], [Some(1), Some(2)]);
}

/// Where the reserved regions of `sbdf` begin.
fn reserved(structures: &[Vec<u8>], sbdf: Sbdf) -> Vec<u64> {
    let (dmar, topology) = (Dmar::parse(&dmar(structures)).unwrap(), topology());
    reserved_regions(&dmar, &topology, sbdf).map(|rmrr| rmrr.start.get()).collect()
}

#[test]
fn reserved_regions_of_a_function() {
    let regions = [
        rmrr(0, 0x1000, 0x1fff, &[scope(ENDPOINT, 0, 0, &[(7, 0)]), scope(ENDPOINT, 0, 0, &[(2, 0)])]),
        rmrr(0, 0x2000, 0x2fff, &[scope(BRIDGE, 0, 0, &[(1, 0), (0, 0), (3, 0)])]),
        rmrr(0, 0x3000, 0x3fff, &[scope(ENDPOINT, 0, 0, &[(2, 0)])]),
        rmrr(1, 0x4000, 0x4fff, &[scope(ENDPOINT, 0, 0, &[(2, 0)])]),
        rmrr(0, 0x5000, 0x5fff, &[scope(3, 0, 0, &[(2, 0)])]),
    ];
    assert_eq!(reserved(&regions, at(0, 2, 0)), [0x1000, 0x3000]);
    assert_eq!(reserved(&regions, at(0, 7, 0)), [0x1000]);
    assert_eq!(reserved(&regions, at(3, 0, 0)), [0x2000]);
    assert_eq!(reserved(&regions, at(5, 1, 0)), []);
}

#[test]
fn who_shares_an_id_shares_reserved_regions() {
    let path = [(1, 0), (0, 0), (4, 0), (0, 0), (1, 0)];
    let regions = [
        rmrr(0, 0x1000, 0x1fff, &[scope(ENDPOINT, 0, 0, &path)]),
        rmrr(0, 0x2000, 0x2fff, &[scope(ENDPOINT, 0, 0, &[(1, 0)])]),
    ];
    // All behind the PCIe-to-PCI bridge are seen as 05:00.0.
    for sbdf in [at(5, 1, 0), at(5, 2, 0), at(5, 3, 0), at(6, 1, 0)] {
        assert_eq!(reserved(&regions, sbdf), [0x1000]);
    }
    // A PCI Express port above lends no name, neither up nor down.
    assert_eq!(reserved(&regions, at(0, 1, 0)), [0x2000]);
    assert_eq!(reserved(&regions, at(4, 0, 0)), []);
    assert_eq!(reserved(&regions, at(3, 0, 0)), []);
}

#[test]
fn scopes_that_name_nothing_are_reported() {
    let (dmar, topology) = (
        Dmar::parse(&dmar(&[
            drhd(0, 0, 0, 0x1000, &[scope(ENDPOINT, 0, 0, &[(2, 0)]), scope(ENDPOINT, 0, 0, &[(9, 0)])]),
            drhd(0, 0, 0, 0x2000, &[scope(BRIDGE, 0, 0, &[(7, 0)]), scope(ENDPOINT, 0, 0, &[(1, 0)])]),
            // Interrupt controllers and name-space devices need not be PCI functions.
            drhd(1, 0, 0, 0x3000, &[scope(3, 0, 0xff, &[(0, 0)]), scope(NAMESPACE, 1, 0, &[(0x15, 0)])]),
            rmrr(0, 0x1000, 0x1fff, &[scope(BRIDGE, 0, 0, &[(2, 0), (0, 0)])]),
            rmrr(1, 0x1000, 0x1fff, &[scope(ENDPOINT, 0, 0, &[(2, 0)])]),
        ]))
        .unwrap(),
        topology(),
    );
    let found: Vec<_> = unresolved_scopes(&dmar, &topology).map(|found| (found.owner, found.cause)).collect();
    let elsewhere = Sbdf { segment: 1, ..at(0, 2, 0) };
    let expected = [
        (ScopeOwner::Drhd(0), UnresolvedCause::NoFunction { at: at(0, 9, 0) }),
        (ScopeOwner::Drhd(1), UnresolvedCause::NotABridge { at: at(0, 7, 0) }),
        (ScopeOwner::Drhd(1), UnresolvedCause::NotAnEndpoint { at: at(0, 1, 0) }),
        (ScopeOwner::Rmrr(0), UnresolvedCause::NotABridge { at: at(0, 2, 0) }),
        (ScopeOwner::Rmrr(1), UnresolvedCause::NoFunction { at: elsewhere }),
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_structures_scopes_are_looked_up() {
    let nowhere = || scope(ENDPOINT, 0, 0, &[(9, 0)]);
    let table = dmar(&[
        atsr(0, 0, &[scope(BRIDGE, 0, 0, &[(1, 0)]), nowhere()]),
        satc(0, 0, &[scope(ENDPOINT, 0, 0, &[(2, 0)]), nowhere()]),
        sidp(0, &[nowhere()]),
    ]);
    let (dmar, topology) = (Dmar::parse(&table).unwrap(), topology());
    let owners: Vec<_> = unresolved_scopes(&dmar, &topology).map(|found| found.owner).collect();
    assert_eq!(owners, [ScopeOwner::Atsr(0), ScopeOwner::Satc(0), ScopeOwner::Sidp(0)]);
}

#[test]
fn properties_add_up() {
    let at_two = |flags| with_flags(scope(ENDPOINT, 0, 0, &[(2, 0)]), flags);
    let table = dmar(&[
        sidp(0, &[at_two(1), with_flags(scope(ENDPOINT, 0, 0, &[(7, 0)]), 2)]),
        sidp(0, &[at_two(8)]),
        sidp(1, &[at_two(16)]),
    ]);
    let (dmar, mut topology) = (Dmar::parse(&table).unwrap(), topology());
    let of = |topology: &Topology, sbdf| properties_of(&dmar, topology, sbdf);
    assert_eq!(of(&topology, at(0, 2, 0)), DeviceProperties::new(9));
    assert_eq!(of(&topology, at(0, 7, 0)), DeviceProperties::new(2));
    assert_eq!(of(&topology, at(3, 0, 0)), DeviceProperties::NONE);
    // A virtual function has its physical one's.
    assert!(topology.set_physical(at(0, 7, 0), at(0, 2, 0)));
    assert_eq!(of(&topology, at(0, 7, 0)), DeviceProperties::new(9));
}

#[test]
fn a_virtual_function_is_its_physical_ones_units() {
    // Virtual functions of 03:00.0 on its own bus and on the next, which only the port's range covers.
    let port = bridge(at(0, 1, 0), Some(PcieType::RootPort), 3, 4);
    let all = [port, express(at(0, 2, 0)), express(at(3, 0, 0)), express(at(3, 0x10, 1)), express(at(4, 0, 2))];
    let mut topology = Topology::new(all).unwrap();
    let table = dmar(&[
        drhd(0, 0, 0, 0x1000, &[scope(ENDPOINT, 0, 0, &[(1, 0), (0, 0)])]),
        // What it names by number is another function's place.
        drhd(0, 0, 0, 0x2000, &[scope(ENDPOINT, 0, 3, &[(0x10, 1)]), scope(ENDPOINT, 0, 4, &[(0, 2)])]),
        drhd(1, 0, 0, 0x3000, &[]),
    ]);
    let dmar = Dmar::parse(&table).unwrap();
    let unit = |topology: &Topology, sbdf| unit_of(&dmar, topology, sbdf);
    assert_eq!(unit(&topology, at(4, 0, 2)), Some(1));
    for function in [at(3, 0x10, 1), at(4, 0, 2)] {
        assert!(topology.set_physical(function, at(3, 0, 0)));
        assert_eq!((unit(&topology, function), topology.physical(function)), (Some(0), Some(at(3, 0, 0))));
    }
    // Nothing that makes no sense is noted.
    assert!(!topology.set_physical(at(3, 0, 0), at(3, 0, 0)), "its own");
    assert!(!topology.set_physical(at(0, 2, 0), at(4, 0, 2)), "of a virtual one");
    assert!(!topology.set_physical(at(3, 0, 0), at(0, 2, 0)), "a physical one");
    assert!(!topology.set_physical(at(3, 0, 1), at(0, 2, 0)) && !topology.set_physical(at(0, 2, 0), at(9, 0, 0)));
    assert_eq!((topology.physical(at(3, 0, 0)), topology.physical(at(0, 2, 0))), (None, None));
}

#[test]
fn functions_above_seven_are_where_function_0_is() {
    let port = bridge(at(0, 1, 0), Some(PcieType::RootPort), 3, 3);
    let topology =
        Topology::new([port, express(at(3, 0, 0)), express(at(3, 0, 1)), express(at(3, 1, 0)), express(at(3, 2, 3))]);
    let topology = topology.unwrap();
    let table = dmar(&[
        drhd(0, 0, 0, 0x1000, &[scope(ENDPOINT, 0, 0, &[(1, 0), (0, 0)])]),
        drhd(0, 0, 0, 0x2000, &[scope(ENDPOINT, 0, 0, &[(1, 0), (2, 3)])]),
        drhd(1, 0, 0, 0x3000, &[]),
    ]);
    let dmar = Dmar::parse(&table).unwrap();
    let units = [at(3, 0, 0), at(3, 0, 1), at(3, 1, 0), at(3, 2, 3)].map(|sbdf| unit_of(&dmar, &topology, sbdf));
    // Functions up to 7 are named one by one; so may those above be.
    assert_eq!(units, [Some(0), Some(2), Some(0), Some(1)]);
}

#[test]
fn ports_of_a_switch_are_not_functions_of_one_device() {
    let units = units(&[
        drhd(0, 0, 0, 0x1000, &[scope(ENDPOINT, 0, 0, &[(1, 0), (0, 0), (0, 0)])]),
        drhd(1, 0, 0, 0x2000, &[]),
    ]);
    // The path leads to 02:00.0, where there is nothing.
    assert_eq!(served_by(&units, Some(0)), []);
}

#[test]
fn a_non_transparent_bridge_is_named_as_a_bridge() {
    let other_bridge = Function { class: 0x06_8000, ..express(at(0, 2, 0)) };
    let topology = Topology::new([other_bridge]).unwrap();
    let dmar = Dmar::parse(&dmar(&[drhd(0, 0, 0, 0x1000, &[scope(BRIDGE, 0, 0, &[(2, 0)])])])).unwrap();
    assert_eq!(unresolved_scopes(&dmar, &topology).count(), 0);
    assert_eq!(unit_of(&dmar, &topology, at(0, 2, 0)), Some(0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// However long or strange the paths, every question is answered.
    #[test]
    fn arbitrary_scopes_never_panic(
        scopes in prop::collection::vec(
            (0u8..7, 0u8..8, prop::collection::vec((0u8..8, 0u8..2), 1..7)), 0..12,
        ),
    ) {
        let scopes: Vec<_> = scopes.iter().map(|(kind, bus, path)| scope(*kind, 0, *bus, path)).collect();
        let half = scopes.len() / 2;
        let table = dmar(&[
            drhd(0, 0, 0, 0x1000, &scopes[..half]),
            drhd(1, 0, 0, 0x2000, &[]),
            rmrr(0, 0x1000, 0x1fff, &scopes[half..]),
        ]);
        let (dmar, topology) = (Dmar::parse(&table).unwrap(), topology());
        for function in topology.functions() {
            // With INCLUDE_PCI_ALL nothing is left over.
            prop_assert!(unit_of(&dmar, &topology, function.sbdf).is_some_and(|unit| unit < 2));
            prop_assert!(reserved_regions(&dmar, &topology, function.sbdf).count() <= 1);
        }
        prop_assert!(unresolved_scopes(&dmar, &topology).count() <= scopes.len());
    }
}
