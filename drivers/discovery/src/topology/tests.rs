use super::*;
use crate::test_pci::{at, bridge, conventional, express, q35};
use alloc::vec::Vec;
use proptest::prelude::*;

fn aliases(topology: &Topology, sbdf: Sbdf) -> Vec<RequesterId> {
    topology.aliases(sbdf).collect()
}

#[test]
fn functions_are_found_by_address() {
    let mut functions = q35();
    functions.reverse();
    let topology = Topology::new(functions).unwrap();
    assert_eq!(topology.functions().len(), 9);
    assert!(topology.functions().map(|function| function.sbdf).is_sorted());
    assert_eq!(topology.get(at(1, 4, 0)).map(|function| function.sbdf), Some(at(1, 4, 0)));
    assert_eq!(topology.get(at(1, 5, 0)), None);
    assert_eq!(topology.get(Sbdf { segment: 1, ..at(1, 4, 0) }), None);
}

#[test]
fn a_parent_is_the_innermost_bridge() {
    let root = bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 4);
    let up = bridge(at(1, 0, 0), Some(PcieType::UpstreamPort), 2, 4);
    let down = [3, 4].map(|bus| bridge(at(2, bus, 0), Some(PcieType::DownstreamPort), bus, bus));
    let functions = [root, up, down[0], down[1], express(at(3, 0, 0)), express(at(0, 9, 0))];
    let topology = Topology::new(functions).unwrap();
    let parent = |sbdf| topology.parent(sbdf).map(|function| function.sbdf);
    assert_eq!(parent(at(3, 0, 0)), Some(at(2, 3, 0)));
    assert_eq!(parent(at(4, 0, 0)), Some(at(2, 4, 0)));
    assert_eq!(parent(at(2, 4, 0)), Some(at(1, 0, 0)));
    assert_eq!(parent(at(1, 0, 0)), Some(at(0, 1, 0)));
    assert_eq!(parent(at(0, 9, 0)), None);
    // Another segment has buses of its own.
    assert_eq!(parent(Sbdf { segment: 1, ..at(3, 0, 0) }), None);
}

#[test]
fn a_bus_no_bridge_leads_to_is_the_enclosing_bridges_or_a_root_bus() {
    let topology = Topology::new([bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 3)]).unwrap();
    assert_eq!(topology.parent(at(2, 0, 0)).map(|function| function.sbdf), Some(at(0, 1, 0)));
    assert_eq!(topology.parent(at(4, 0, 0)), None);
}

#[test]
fn ports_hand_on_the_functions_own_id() {
    let root = bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 3);
    let up = bridge(at(1, 0, 0), Some(PcieType::UpstreamPort), 2, 3);
    let down = bridge(at(2, 0, 0), Some(PcieType::DownstreamPort), 3, 3);
    let topology = Topology::new([root, up, down, express(at(3, 0, 1))]).unwrap();
    assert_eq!(aliases(&topology, at(3, 0, 1)), [at(3, 0, 1).id]);
    assert_eq!(topology.dma_id(at(3, 0, 1)), at(3, 0, 1).id);
}

#[test]
fn a_pcie_to_pci_bridge_speaks_for_its_secondary_bus() {
    let topology = Topology::new(q35()).unwrap();
    assert_eq!(aliases(&topology, at(1, 4, 0)), [at(1, 4, 0).id, at(1, 0, 0).id]);
    assert_eq!(topology.dma_id(at(1, 4, 0)), at(1, 0, 0).id);
    // The bridge itself, and functions beside it, are themselves.
    assert_eq!(aliases(&topology, at(0, 5, 0)), [at(0, 5, 0).id]);
    assert_eq!(aliases(&topology, at(0, 2, 0)), [at(0, 2, 0).id]);
}

#[test]
fn device_zero_behind_a_pcie_to_pci_bridge_has_one_id() {
    let above = bridge(at(0, 5, 0), Some(PcieType::PcieToPciBridge), 1, 1);
    let topology = Topology::new([above, conventional(at(1, 0, 0))]).unwrap();
    assert_eq!(aliases(&topology, at(1, 0, 0)), [at(1, 0, 0).id]);
}

#[test]
fn conventional_bridges_speak_in_their_own_name() {
    for port in [None, Some(PcieType::PciToPcieBridge)] {
        let topology = Topology::new([bridge(at(0, 0x1e, 0), port, 1, 1), conventional(at(1, 4, 0))]).unwrap();
        assert_eq!(aliases(&topology, at(1, 4, 0)), [at(1, 4, 0).id, at(0, 0x1e, 0).id]);
    }
}

#[test]
fn each_bridge_on_the_way_adds_its_alias() {
    let functions = [
        bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 3),
        bridge(at(1, 0, 0), Some(PcieType::PcieToPciBridge), 2, 3),
        bridge(at(2, 6, 0), None, 3, 3),
        conventional(at(3, 7, 1)),
    ];
    let topology = Topology::new(functions).unwrap();
    assert_eq!(aliases(&topology, at(3, 7, 1)), [at(3, 7, 1).id, at(2, 6, 0).id, at(2, 0, 0).id]);
    assert_eq!(topology.dma_id(at(3, 7, 1)), at(2, 0, 0).id);
}

#[test]
fn an_address_twice() {
    let functions = [conventional(at(0, 1, 0)), conventional(at(0, 2, 0)), express(at(0, 1, 0))];
    assert_eq!(Topology::new(functions).err(), Some(TopologyError::Duplicate { sbdf: at(0, 1, 0) }));
    let elsewhere = Function { sbdf: Sbdf { segment: 1, ..at(0, 1, 0) }, ..functions[2] };
    assert!(Topology::new([functions[0], functions[1], elsewhere]).is_ok());
}

#[test]
fn a_bridge_that_leads_up() {
    for secondary in [0, 2, 3] {
        let up = bridge(at(3, 0, 0), None, secondary, 9);
        let error = TopologyError::Cycle { bridge: at(3, 0, 0), secondary };
        assert_eq!(Topology::new([up]).err(), Some(error));
    }
    // Two that lead to each other.
    let circle = [bridge(at(1, 0, 0), None, 2, 2), bridge(at(2, 0, 0), None, 1, 1)];
    let error = TopologyError::Cycle { bridge: at(2, 0, 0), secondary: 1 };
    assert_eq!(Topology::new(circle).err(), Some(error));
}

#[test]
fn a_bridge_with_reversed_buses() {
    let error = TopologyError::BusesReversed { bridge: at(0, 1, 0), secondary: 5, subordinate: 4 };
    assert_eq!(Topology::new([bridge(at(0, 1, 0), None, 5, 4)]).err(), Some(error));
}

#[test]
fn siblings_that_overlap() {
    let overlap = |first: (u8, u8), second: (u8, u8)| {
        let siblings = [bridge(at(0, 1, 0), None, first.0, first.1), bridge(at(0, 2, 0), None, second.0, second.1)];
        Topology::new(siblings).err()
    };
    let error = |bridge, other, bus| Some(TopologyError::Overlap { bridge, other, bus });
    let (one, two) = (at(0, 1, 0), at(0, 2, 0));
    assert_eq!(overlap((1, 4), (4, 5)), error(two, one, 4));
    assert_eq!(overlap((4, 5), (1, 4)), error(one, two, 4));
    assert_eq!(overlap((1, 4), (2, 3)), error(two, one, 2));
    assert_eq!(overlap((1, 1), (1, 1)), error(two, one, 1));
    assert_eq!(overlap((1, 4), (5, 9)), None);
}

#[test]
fn a_bridge_that_claims_more_than_the_one_above() {
    let outer = bridge(at(0, 1, 0), None, 1, 3);
    let error = TopologyError::LeavesParent { bridge: at(1, 0, 0), parent: at(0, 1, 0), subordinate: 4 };
    assert_eq!(Topology::new([outer, bridge(at(1, 0, 0), None, 2, 4)]).err(), Some(error));
    assert_eq!(Topology::new([outer, bridge(at(1, 0, 0), None, 4, 4)]).err(), Some(error));
    assert!(Topology::new([outer, bridge(at(1, 0, 0), None, 2, 3)]).is_ok());
}

#[test]
fn a_bridge_inside_a_cousins_range() {
    let functions = [
        bridge(at(0, 1, 0), None, 1, 9),
        bridge(at(1, 1, 0), None, 2, 4),
        bridge(at(1, 2, 0), None, 5, 7),
        bridge(at(5, 0, 0), None, 6, 6),
        bridge(at(1, 3, 0), None, 6, 6),
    ];
    let error = TopologyError::Overlap { bridge: at(1, 3, 0), other: at(1, 2, 0), bus: 6 };
    assert_eq!(Topology::new(functions).err(), Some(error));
    assert!(Topology::new(functions.into_iter().take(4)).is_ok());
}

#[test]
fn the_deepest_tree_there_is() {
    let chain = (0..255).map(|bus| bridge(at(bus, 0, 0), None, bus + 1, 255));
    let topology = Topology::new(chain.chain([conventional(at(255, 1, 0))])).unwrap();
    assert_eq!(topology.aliases(at(255, 1, 0)).count(), 256);
    assert_eq!(topology.dma_id(at(255, 1, 0)), at(0, 0, 0).id);
    assert_eq!(topology.groups().unwrap().len(), 1);
}

/// A bridge's segment, own bus, secondary and subordinate bus.
fn range(function: &Function) -> Option<(u16, u8, u8, u8)> {
    match function.kind {
        FunctionKind::Bridge { secondary, subordinate } => {
            Some((function.sbdf.segment, function.sbdf.id.bus(), secondary, subordinate))
        }
        FunctionKind::Endpoint => None,
    }
}

/// Whether `functions` are a tree, by comparing all pairs.
fn is_tree(functions: &[Function]) -> bool {
    let pairs = || functions.iter().enumerate().flat_map(|(i, a)| functions.iter().skip(i + 1).map(move |b| (a, b)));
    let single = |(_, own, secondary, subordinate): (u16, u8, u8, u8)| own < secondary && secondary <= subordinate;
    // `b` lies wholly below `a`, with its own bus there too.
    let below = |a: (u16, u8, u8, u8), b: (u16, u8, u8, u8)| a.2 <= b.1 && b.1 <= a.3 && a.2 < b.2 && b.3 <= a.3;
    // `b` has nothing to do with `a`: neither its own bus nor the buses below it.
    let apart = |a: (u16, u8, u8, u8), b: (u16, u8, u8, u8)| !(a.2 <= b.1 && b.1 <= a.3) && (b.3 < a.2 || a.3 < b.2);
    functions.iter().filter_map(range).all(single)
        && pairs().all(|(a, b)| a.sbdf != b.sbdf)
        && pairs()
            .filter_map(|(a, b)| range(a).zip(range(b)))
            .all(|(a, b)| a.0 != b.0 || below(a, b) || below(b, a) || (apart(a, b) && apart(b, a)))
}

/// Addresses are few enough that bridges often have something below them, and sometimes meet.
fn any_function() -> impl Strategy<Value = Function> {
    let kind = prop_oneof![
        6 => Just(None),
        9 => (0u8..4, 0u8..3).prop_map(|(down, more)| Some((down, more))),
    ];
    let acs = prop::option::of((0u16..0x80, 0u16..0x80));
    (0u16..4, 0u8..6, 0u8..32, 0u8..2, kind, prop::option::of(0u8..12), any::<bool>(), acs).prop_map(
        |(segment, bus, device, function, kind, port, multifunction, acs)| Function {
            sbdf: Sbdf::from_parts(segment / 3, bus, device, function).unwrap(),
            class: 0,
            kind: match kind {
                None => FunctionKind::Endpoint,
                Some((down, more)) => FunctionKind::Bridge { secondary: bus + down, subordinate: bus + down + more },
            },
            port: port.map(PcieType::new),
            multifunction,
            acs: acs.map(|(capable, enabled)| Acs { capable: AcsFlags::new(capable), enabled: AcsFlags::new(enabled) }),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_and_nothing_else_are_accepted(functions in prop::collection::vec(any_function(), 0..8)) {
        prop_assert_eq!(Topology::new(functions.iter().copied()).is_ok(), is_tree(&functions));
    }

    /// Of whatever is accepted: walks end, aliases differ, groups are a partition, and whoever shares an alias or a
    /// conventional bus shares a group.
    #[test]
    fn accepted_trees_hold_together(functions in prop::collection::vec(any_function(), 0..20)) {
        // Keeps those that fit with the ones kept before.
        let mut kept = Vec::new();
        for function in functions {
            kept.push(function);
            if Topology::new(kept.iter().copied()).is_err() {
                kept.pop();
            }
        }
        let topology = Topology::new(kept.iter().copied()).unwrap();
        let groups = topology.groups().unwrap();
        let grouped: usize = groups.iter().map(|group| group.members.len()).sum();
        prop_assert_eq!(grouped, kept.len());
        for function in topology.functions() {
            let mine = aliases(&topology, function.sbdf);
            prop_assert_eq!(mine.first(), Some(&function.sbdf.id));
            prop_assert_eq!(mine.last(), Some(&topology.dma_id(function.sbdf)));
            let mut unique = mine.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), mine.len());
            prop_assert!(groups.of(function.sbdf).is_some());
            for other in topology.functions().filter(|other| other.sbdf.segment == function.sbdf.segment) {
                let shared = topology.aliases(other.sbdf).any(|id| mine.contains(&id));
                prop_assert!(!shared || groups.of(other.sbdf) == groups.of(function.sbdf));
            }
            if let Some(parent) = topology.parent(function.sbdf) {
                prop_assert!(parent.sbdf.id.bus() < function.sbdf.id.bus());
                prop_assert!(parent.port.is_some() || groups.of(parent.sbdf) == groups.of(function.sbdf));
            }
        }
    }
}
