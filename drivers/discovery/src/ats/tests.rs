use super::*;
use crate::iort::Iort;
use crate::test_pci::{at, bridge, conventional, express};
use crate::test_tables::{atsr, dmar, iort, mapping, root_complex, satc, scope, sidp, smmu_v3, with_flags};
use alloc::vec::Vec;

const ENDPOINT: u8 = 1;
const BRIDGE: u8 = 2;

/// An integrated endpoint 00:02.0; root port 00:01.0 with an endpoint 01:00.0 and its virtual function 01:00.1; root port
/// 00:03.0 to a switch with 04:00.0 behind; root port 00:04.0 to a PCIe-to-PCI bridge with 07:01.0 behind.
fn machine() -> Topology {
    let mut topology = Topology::new([
        conventional(at(0, 2, 0)),
        bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 1),
        express(at(1, 0, 0)),
        express(at(1, 0, 1)),
        bridge(at(0, 3, 0), Some(PcieType::RootPort), 2, 4),
        bridge(at(2, 0, 0), Some(PcieType::UpstreamPort), 3, 4),
        bridge(at(3, 0, 0), Some(PcieType::DownstreamPort), 4, 4),
        express(at(4, 0, 0)),
        bridge(at(0, 4, 0), Some(PcieType::RootPort), 6, 7),
        bridge(at(6, 0, 0), Some(PcieType::PcieToPciBridge), 7, 7),
        conventional(at(7, 1, 0)),
        // A bridge on the root bus that is no root port.
        bridge(at(0, 5, 0), Some(PcieType::DownstreamPort), 8, 8),
        express(at(8, 0, 0)),
    ])
    .unwrap();
    assert!(topology.set_physical(at(1, 0, 1), at(1, 0, 0)));
    topology
}

fn policy(structures: &[Vec<u8>], sbdf: Sbdf) -> AtsPolicy {
    ats_allowed(&Dmar::parse(&dmar(structures)).unwrap(), &machine(), sbdf)
}

fn refused(port: Sbdf) -> AtsPolicy {
    AtsPolicy::Refused(AtsRefusal::RootPort { port })
}

#[test]
fn what_is_on_a_root_bus_may() {
    assert_eq!(policy(&[], at(0, 2, 0)), AtsPolicy::Allowed);
    // Bridges make no DMA of their own, and nothing is known of what is not there.
    for port in [at(0, 1, 0), at(2, 0, 0), at(6, 0, 0)] {
        assert_eq!(policy(&[atsr(1, 0, &[])], port), AtsPolicy::Refused(AtsRefusal::Bridge));
    }
    assert_eq!(policy(&[atsr(1, 0, &[])], at(0, 9, 0)), AtsPolicy::Refused(AtsRefusal::NoFunction));
}

#[test]
fn below_a_root_port_firmware_must_say_so() {
    let port = |device| scope(BRIDGE, 0, 0, &[(device, 0)]);
    assert_eq!(policy(&[], at(1, 0, 0)), refused(at(0, 1, 0)));
    assert_eq!(policy(&[atsr(1, 0, &[])], at(1, 0, 0)), AtsPolicy::Allowed);
    assert_eq!(policy(&[atsr(0, 0, &[port(1)])], at(1, 0, 0)), AtsPolicy::Allowed);
    assert_eq!(policy(&[atsr(0, 0, &[port(1)])], at(1, 0, 1)), AtsPolicy::Allowed);
    assert_eq!(policy(&[atsr(0, 0, &[port(3)])], at(1, 0, 0)), refused(at(0, 1, 0)));
    // Through a switch it is the root port that counts.
    assert_eq!(policy(&[atsr(0, 0, &[port(1)]), atsr(0, 0, &[port(3)])], at(4, 0, 0)), AtsPolicy::Allowed);
    let inside = scope(BRIDGE, 0, 0, &[(3, 0), (0, 0)]);
    assert_eq!(policy(&[atsr(0, 0, &[inside])], at(4, 0, 0)), refused(at(0, 3, 0)));
    // Neither another segment's, nor a scope of another kind, nor one that leads nowhere.
    for other in [atsr(1, 1, &[]), atsr(0, 1, &[port(1)]), atsr(0, 0, &[scope(ENDPOINT, 0, 0, &[(1, 0)])])] {
        assert_eq!(policy(&[other], at(1, 0, 0)), refused(at(0, 1, 0)));
    }
    assert_eq!(policy(&[atsr(0, 0, &[port(0x1e)])], at(1, 0, 0)), refused(at(0, 1, 0)));
}

#[test]
fn conventional_buses_carry_none() {
    let bridge = at(6, 0, 0);
    assert_eq!(policy(&[atsr(1, 0, &[])], at(7, 1, 0)), AtsPolicy::Refused(AtsRefusal::NotPcie { bridge }));
    let bridge = at(0, 5, 0);
    assert_eq!(policy(&[atsr(1, 0, &[])], at(8, 0, 0)), AtsPolicy::Refused(AtsRefusal::NotPcie { bridge }));
}

#[test]
fn caches_in_the_chip_may_or_must() {
    let function = || scope(ENDPOINT, 0, 0, &[(2, 0)]);
    assert_eq!(policy(&[satc(0, 0, &[function()])], at(0, 2, 0)), AtsPolicy::Allowed);
    assert_eq!(policy(&[satc(1, 0, &[function()])], at(0, 2, 0)), AtsPolicy::Required);
    assert_eq!(policy(&[satc(0, 0, &[function()]), satc(1, 0, &[function()])], at(0, 2, 0)), AtsPolicy::Required);
    assert_eq!(policy(&[satc(1, 1, &[function()])], at(0, 2, 0)), AtsPolicy::Allowed);
    assert_eq!(policy(&[sidp(0, &[with_flags(function(), 1 << 4)])], at(0, 2, 0)), AtsPolicy::Required);
    assert_eq!(policy(&[sidp(0, &[with_flags(function(), 0xf)])], at(0, 2, 0)), AtsPolicy::Allowed);
    // Integrated devices behind an integrated port, and their virtual functions.
    let behind = scope(ENDPOINT, 0, 0, &[(1, 0), (0, 0)]);
    for sbdf in [at(1, 0, 0), at(1, 0, 1)] {
        assert_eq!(policy(&[satc(0, 0, core::slice::from_ref(&behind))], sbdf), AtsPolicy::Allowed);
        assert_eq!(policy(&[satc(1, 0, core::slice::from_ref(&behind))], sbdf), AtsPolicy::Required);
    }
}

#[test]
fn what_can_be_plugged_in_must_not() {
    let mut topology = machine();
    let behind = scope(ENDPOINT, 0, 0, &[(3, 0), (0, 0), (0, 0), (0, 0)]);
    let dmar = Dmar::parse(&dmar(&[atsr(1, 0, &[]), satc(1, 0, &[behind])])).unwrap();
    assert_eq!(ats_allowed(&dmar, &topology, at(4, 0, 0)), AtsPolicy::Required);
    assert!(topology.set_external(at(0, 3, 0)) && !topology.set_external(at(0, 0x1e, 0)));
    assert_eq!(ats_allowed(&dmar, &topology, at(4, 0, 0)), AtsPolicy::Refused(AtsRefusal::External));
    // Others as before; the port itself is inside.
    assert_eq!(ats_allowed(&dmar, &topology, at(1, 0, 0)), AtsPolicy::Allowed);
    assert!(!topology.is_external(at(0, 3, 0)) && topology.is_external(at(3, 0, 0)));
}

/// What is said of functions of [`machine`] by a root complex with these ATS attributes, all but bus 8 behind a unit.
fn policy_smmu(ats: u32, sbdf: Sbdf) -> AtsPolicy {
    let unit = smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]);
    let table = iort(&[unit, root_complex(0, ats, 0, &[mapping(0, 0x7ff, 0, 48, 0)])]);
    let streams = Streams::from_iort(&Iort::parse(&table).unwrap(), None).unwrap();
    ats_allowed_smmu(&streams, &machine(), sbdf)
}

#[test]
fn on_arm_the_root_complex_decides() {
    let behind = [at(0, 2, 0), at(1, 0, 0), at(1, 0, 1), at(4, 0, 0)];
    for function in behind {
        assert_eq!(policy_smmu(1, function), AtsPolicy::Allowed, "{function}");
        // Page requests or PASIDs alone are something else.
        for attributes in [0, 2, 4, 6] {
            assert_eq!(policy_smmu(attributes, function), AtsPolicy::Refused(AtsRefusal::RootComplex), "{function}");
        }
    }
    let never = [
        (at(0, 1, 0), AtsRefusal::Bridge),
        (at(0, 9, 0), AtsRefusal::NoFunction),
        (at(7, 1, 0), AtsRefusal::NotPcie { bridge: at(6, 0, 0) }),
        (at(8, 0, 0), AtsRefusal::Uncontrolled),
    ];
    for (function, refusal) in never {
        assert_eq!(policy_smmu(7, function), AtsPolicy::Refused(refusal), "{function}");
    }
    let mut topology = machine();
    assert!(topology.set_external(at(0, 1, 0)));
    let table =
        iort(&[smmu_v3(0x1_0000, 0, 0, [0; 4], 0, &[]), root_complex(0, 1, 0, &[mapping(0, 0xffff, 0, 48, 0)])]);
    let streams = Streams::from_iort(&Iort::parse(&table).unwrap(), None).unwrap();
    assert_eq!(ats_allowed_smmu(&streams, &topology, at(1, 0, 0)), AtsPolicy::Refused(AtsRefusal::External));
}
