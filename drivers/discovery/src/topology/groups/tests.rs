use super::*;
use crate::test_pci::{ISOLATION, at, bridge, conventional, express, multi, q35, with_acs};
use crate::topology::{Acs, AcsFlags, Function, PcieType};
use alloc::vec;

/// The groups of `functions`, each a list of members.
fn groups(functions: &[Function]) -> Vec<Vec<Sbdf>> {
    let groups = Topology::new(functions.iter().copied()).unwrap().groups().unwrap();
    for (number, group) in groups.iter().enumerate() {
        assert_eq!(group.id.get(), number);
        assert_eq!(groups.get(group.id), Some(group));
        assert!(group.members.iter().all(|member| groups.of(*member) == Some(group)));
    }
    groups.iter().map(|group| group.members.clone()).collect()
}

fn root_port(acs: Option<u16>) -> Function {
    let port = bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 9);
    acs.map_or(port, |enabled| with_acs(port, enabled))
}

#[test]
fn the_demos_machine() {
    let expected = vec![
        vec![at(0, 0, 0)],
        vec![at(0, 2, 0)],
        vec![at(0, 3, 0)],
        vec![at(0, 4, 0)],
        vec![at(0, 5, 0), at(1, 4, 0)],
        vec![at(0, 0x1f, 0), at(0, 0x1f, 2), at(0, 0x1f, 3)],
    ];
    assert_eq!(groups(&q35()), expected);
}

#[test]
fn all_behind_one_pcie_to_pci_bridge_are_together() {
    let mut functions = q35().to_vec();
    functions.push(conventional(at(1, 5, 0)));
    assert!(groups(&functions).contains(&vec![at(0, 5, 0), at(1, 4, 0), at(1, 5, 0)]));
}

#[test]
fn a_function_behind_a_root_port_is_alone_only_with_access_control() {
    let below = express(at(1, 0, 0));
    let together = vec![vec![at(0, 1, 0), at(1, 0, 0)]];
    let apart = vec![vec![at(0, 1, 0)], vec![at(1, 0, 0)]];
    assert_eq!(groups(&[root_port(None), below]), together);
    assert_eq!(groups(&[root_port(Some(0)), below]), together);
    assert_eq!(groups(&[root_port(Some(ISOLATION)), below]), apart);
    // Each of the four is needed; translation blocking in its stead does not help.
    for missing in [0, 2, 3, 4] {
        assert_eq!(groups(&[root_port(Some(ISOLATION & !(1 << missing) | 2)), below]), together);
    }
}

#[test]
fn a_service_a_root_port_does_not_offer_is_not_needed_but_source_validation_is() {
    let port = |capable, enabled| {
        let acs = Acs { capable: AcsFlags::new(capable), enabled: AcsFlags::new(enabled) };
        Function { acs: Some(acs), ..root_port(None) }
    };
    let count = |port| groups(&[port, express(at(1, 0, 0))]).len();
    assert_eq!(count(port(0b1, 0b1)), 2);
    assert_eq!(count(port(0b101, 0b1)), 1);
    assert_eq!(count(port(0, 0)), 1);
    assert_eq!(count(port(0b1_1100, 0b1_1100)), 1);
}

/// A root port, a switch with two downstream ports, one endpoint below each.
fn switch(root: Option<u16>, down: [Option<u16>; 2]) -> [Function; 6] {
    let mut ports = [2, 3].map(|bus| bridge(at(2, bus, 0), Some(PcieType::DownstreamPort), bus + 1, bus + 1));
    for (port, enabled) in ports.iter_mut().zip(down) {
        *port = enabled.map_or(*port, |enabled| with_acs(*port, enabled));
    }
    let up = bridge(at(1, 0, 0), Some(PcieType::UpstreamPort), 2, 4);
    [root_port(root), up, ports[0], ports[1], express(at(3, 0, 0)), express(at(4, 0, 0))]
}

#[test]
fn a_switch_keeps_its_ports_apart_when_every_hop_does() {
    assert_eq!(groups(&switch(Some(ISOLATION), [Some(ISOLATION); 2])).len(), 6);
}

#[test]
fn a_switch_below_a_port_without_access_control_is_one_group() {
    assert_eq!(groups(&switch(None, [Some(ISOLATION); 2])).len(), 1);
}

#[test]
fn one_downstream_port_without_access_control_opens_its_neighbours() {
    // What is below 02:02.0 reaches 04:00.0 through the switch, whatever the port above 04:00.0 says.
    let expected = vec![vec![at(0, 1, 0)], vec![at(1, 0, 0)], vec![at(2, 2, 0), at(2, 3, 0), at(3, 0, 0), at(4, 0, 0)]];
    assert_eq!(groups(&switch(Some(ISOLATION), [None, Some(ISOLATION)])), expected);
    assert_eq!(groups(&switch(Some(ISOLATION), [Some(ISOLATION), Some(0)])), expected);
}

#[test]
fn a_downstream_port_must_offer_all_four() {
    let mut functions = switch(Some(ISOLATION), [Some(ISOLATION); 2]);
    functions[2].acs = Some(Acs { capable: AcsFlags::new(1), enabled: AcsFlags::new(1) });
    assert_eq!(groups(&functions).len(), 3);
}

#[test]
fn functions_of_one_device_are_apart_only_with_access_control() {
    let root = root_port(Some(ISOLATION));
    let functions = [0, 1, 2].map(|function| multi(express(at(1, 0, function))));
    let all = vec![at(1, 0, 0), at(1, 0, 1), at(1, 0, 2)];
    assert_eq!(groups(&[root, functions[0], functions[1], functions[2]]), [vec![at(0, 1, 0)], all.clone()]);
    let isolated = functions.map(|function| with_acs(function, ISOLATION));
    assert_eq!(groups(&[root, isolated[0], isolated[1], isolated[2]]).len(), 4);
    // One without is enough to reach the others.
    assert_eq!(groups(&[root, isolated[0], functions[1], isolated[2]]), [vec![at(0, 1, 0)], all]);
}

#[test]
fn several_functions_are_a_device_with_several_functions() {
    // The header's bit is function 0's; others need not repeat it.
    let functions = [root_port(Some(ISOLATION)), express(at(1, 0, 0)), express(at(1, 0, 1))];
    assert_eq!(groups(&functions), [vec![at(0, 1, 0)], vec![at(1, 0, 0), at(1, 0, 1)]]);
}

#[test]
fn below_a_port_device_numbers_are_part_of_the_function_number() {
    // Alternative routing ids: function 8 of the one device there is.
    let functions = [root_port(Some(ISOLATION)), express(at(1, 0, 0)), express(at(1, 1, 0))];
    assert_eq!(groups(&functions), [vec![at(0, 1, 0)], vec![at(1, 0, 0), at(1, 1, 0)]]);
}

#[test]
fn integrated_endpoints_are_apart_unless_of_one_device() {
    let integrated = |device, function| Function {
        port: Some(PcieType::IntegratedEndpoint),
        ..conventional(at(0, device, function))
    };
    let functions = [integrated(2, 0), integrated(3, 0), multi(integrated(4, 0)), multi(integrated(4, 1))];
    assert_eq!(groups(&functions), [vec![at(0, 2, 0)], vec![at(0, 3, 0)], vec![at(0, 4, 0), at(0, 4, 1)]]);
}

#[test]
fn root_ports_of_one_device_open_what_is_below_each_other() {
    let port = |function, bus| multi(bridge(at(0, 0x1c, function), Some(PcieType::RootPort), bus, bus));
    let below = [express(at(1, 0, 0)), express(at(2, 0, 0))];
    let closed = [0, 1].map(|function| with_acs(port(function, function + 1), ISOLATION));
    assert_eq!(groups(&[closed[0], closed[1], below[0], below[1]]).len(), 4);
    assert_eq!(groups(&[closed[0], port(1, 2), below[0], below[1]]).len(), 1);
}

#[test]
fn segments_are_apart() {
    let here = conventional(at(0, 1, 0));
    let there = Function { sbdf: Sbdf { segment: 1, id: here.sbdf.id }, ..here };
    assert_eq!(groups(&[multi(here), multi(there)]).len(), 2);
}

#[test]
fn no_functions_no_groups() {
    assert!(Topology::default().groups().unwrap().is_empty());
}
