//! Functions for tests, as an enumerator would give them.

use crate::Sbdf;
use crate::topology::{Acs, AcsFlags, Function, FunctionKind, PcieType};

/// Source validation, request and completion redirect, upstream forwarding: bits 0, 2, 3, 4 (PCIe 7.7.11).
pub const ISOLATION: u16 = 0b1_1101;

/// The address `bus`:`device`.`function` in segment 0.
pub fn at(bus: u8, device: u8, function: u8) -> Sbdf {
    Sbdf::from_parts(0, bus, device, function).unwrap()
}

/// A conventional PCI function.
pub fn conventional(sbdf: Sbdf) -> Function {
    Function { sbdf, class: 0xff_0000, kind: FunctionKind::Endpoint, port: None, multifunction: false, acs: None }
}

/// A PCI Express endpoint.
pub fn express(sbdf: Sbdf) -> Function {
    Function { port: Some(PcieType::Endpoint), ..conventional(sbdf) }
}

/// A bridge of type `port` to buses `secondary` to `subordinate`, without access control.
pub fn bridge(sbdf: Sbdf, port: Option<PcieType>, secondary: u8, subordinate: u8) -> Function {
    let kind = FunctionKind::Bridge { secondary, subordinate };
    Function { class: 0x06_0400, kind, port, ..conventional(sbdf) }
}

/// `function` with all of the isolating access control services, those in `enabled` switched on.
pub fn with_acs(function: Function, enabled: u16) -> Function {
    let acs = Acs { capable: AcsFlags::new(ISOLATION), enabled: AcsFlags::new(enabled) };
    Function { acs: Some(acs), ..function }
}

/// `function` as one of several of its device.
pub fn multi(function: Function) -> Function {
    Function { multifunction: true, ..function }
}

/// The demo's machine: host bridge, three `edu` functions on the root bus, a fourth behind a `pcie-pci-bridge`, and
/// the chip set's device 1f with its three functions.
pub fn q35() -> [Function; 9] {
    [
        conventional(at(0, 0, 0)),
        conventional(at(0, 2, 0)),
        conventional(at(0, 3, 0)),
        conventional(at(0, 4, 0)),
        bridge(at(0, 5, 0), Some(PcieType::PcieToPciBridge), 1, 1),
        conventional(at(1, 4, 0)),
        multi(conventional(at(0, 0x1f, 0))),
        multi(conventional(at(0, 0x1f, 2))),
        multi(conventional(at(0, 0x1f, 3))),
    ]
}
