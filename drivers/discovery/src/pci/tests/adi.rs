//! Which functions can be shared out by PASID.

use super::*;
use crate::sbdf::Sbdf;
use crate::test_pci::{ISOLATION, at, bridge, conventional, express, with_acs};
use crate::topology::{Function, Topology};

const BOTH: u16 = 0b1_0100;

/// Root port, switch, endpoint 03:00.0; an integrated endpoint 00:02.0; an endpoint 05:00.0 behind a bridge from PCI.
fn machine(root: u16, down: u16) -> Topology {
    let integrated = Function { port: Some(PcieType::IntegratedEndpoint), ..conventional(at(0, 2, 0)) };
    Topology::new([
        integrated,
        with_acs(bridge(at(0, 1, 0), Some(PcieType::RootPort), 1, 3), root),
        bridge(at(1, 0, 0), Some(PcieType::UpstreamPort), 2, 3),
        with_acs(bridge(at(2, 0, 0), Some(PcieType::DownstreamPort), 3, 3), down),
        express(at(3, 0, 0)),
        express(at(3, 0, 1)),
        bridge(at(0, 3, 0), None, 4, 5),
        bridge(at(4, 0, 0), Some(PcieType::PciToPcieBridge), 5, 5),
        express(at(5, 0, 0)),
    ])
    .unwrap()
}

/// What a function says once PASIDs are on.
fn on() -> Capabilities {
    Capabilities::read(&Space::whole().with(PASID_AT + 4, |word| word | 1 << 16)).unwrap()
}

fn check(topology: &Topology, function: Sbdf, capabilities: &Capabilities, bits: u8) -> Result<AdiSupport, AdiRefusal> {
    AdiRules { topology, function, capabilities, unit_pasid_bits: bits }.check()
}

#[test]
fn what_it_takes() {
    let topology = machine(ISOLATION, BOTH);
    let support = AdiSupport { pasid_bits: 20, declared: true, ims: true };
    for function in [at(3, 0, 0), at(0, 2, 0)] {
        assert_eq!(check(&topology, function, &on(), 20), Ok(support));
    }
    assert_eq!(check(&topology, at(3, 0, 0), &on(), 16).unwrap().pasid_bits, 16);
    // One that does not declare any may have them by its own specification.
    let plain = Capabilities { siov: None, ..on() };
    let support = AdiSupport { declared: false, ims: false, ..support };
    assert_eq!(check(&topology, at(3, 0, 0), &plain, 20), Ok(support));
    let no_ims = Capabilities { siov: on().siov.map(|siov| Siov { ims: false, ..siov }), ..on() };
    assert_eq!(check(&topology, at(3, 0, 0), &no_ims, 20), Ok(AdiSupport { declared: true, ..support }));
}

#[test]
fn what_the_function_lacks() {
    let mut topology = machine(ISOLATION, BOTH);
    let here = |capabilities: Capabilities, bits, error| {
        assert_eq!(check(&topology, at(3, 0, 0), &capabilities, bits), Err(error));
    };
    here(Capabilities { pasid: None, ..on() }, 20, AdiRefusal::NoPasids);
    here(on(), 0, AdiRefusal::NoPasids);
    here(Capabilities { pasid: on().pasid.map(|pasid| Pasid { bits: 0, ..pasid }), ..on() }, 20, AdiRefusal::NoPasids);
    here(Capabilities::read(&Space::whole()).unwrap(), 20, AdiRefusal::PasidsOff);
    here(Capabilities { express: None, ..on() }, 20, AdiRefusal::NotAnEndpoint);
    let port = |port| Some(Express { offset: 0x40, port });
    here(Capabilities { express: port(PcieType::LegacyEndpoint), ..on() }, 20, AdiRefusal::NotAnEndpoint);
    for (system, supported) in [(0, 0x553), (3, 0x553), (4, 0x553), (1, 0)] {
        let siov = on().siov.map(|siov| Siov { system_page_size: system, supported_page_sizes: supported, ..siov });
        here(Capabilities { siov, ..on() }, 20, AdiRefusal::PageSize { system, supported });
    }
    assert_eq!(check(&topology, at(1, 0, 0), &on(), 20), Err(AdiRefusal::NotAnEndpoint));
    assert_eq!(check(&topology, at(9, 0, 0), &on(), 20), Err(AdiRefusal::NoFunction));
    assert!(topology.set_physical(at(3, 0, 1), at(3, 0, 0)));
    assert_eq!(check(&topology, at(3, 0, 1), &on(), 20), Err(AdiRefusal::Virtual));
}

#[test]
fn what_lies_on_the_way() {
    let refused = |root, down| check(&machine(root, down), at(3, 0, 0), &on(), 20).err();
    for lacking in [0, 0b1_0000, 0b100, !BOTH & ISOLATION] {
        assert_eq!(refused(ISOLATION, lacking), Some(AdiRefusal::NotRedirected { at: at(2, 0, 0) }));
        assert_eq!(refused(lacking, ISOLATION), Some(AdiRefusal::NotRedirected { at: at(0, 1, 0) }));
    }
    assert_eq!(refused(BOTH, BOTH), None);
    let refused = check(&machine(BOTH, BOTH), at(5, 0, 0), &on(), 20);
    assert_eq!(refused, Err(AdiRefusal::NotPcie { bridge: at(4, 0, 0) }));
}

#[test]
fn functions_of_one_device_do_not_talk_to_each_other() {
    let with = |enabled| {
        let function = with_acs(express(at(3, 0, 0)), enabled);
        Topology::new([with_acs(bridge(at(0, 1, 0), Some(PcieType::RootPort), 3, 3), BOTH), function]).unwrap()
    };
    assert_eq!(check(&with(0b100), at(3, 0, 0), &on(), 20).err(), None);
    let error = AdiRefusal::NotRedirected { at: at(3, 0, 0) };
    assert_eq!(check(&with(0b1_1001), at(3, 0, 0), &on(), 20), Err(error));
}
