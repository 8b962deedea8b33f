//! Enumeration against configuration space made up here.

use super::bars::{Bar, BarKind};
use super::config::{Ecam, address_of};
use super::enumerate::scan;
use super::function::PciFunction;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;
use iommu_core::addr::PhysAddr;
use iommu_discovery::Sbdf;
use iommu_discovery::mcfg::EcamRegion;
use iommu_discovery::topology::{AcsFlags, FunctionKind, PcieType};
use pci_types::{ConfigRegionAccess, PciAddress};

/// A register: its value, and the bits that a write changes.
type Register = (u32, u32);

/// Functions by address, each with its registers by offset; others read as zero.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) functions: RefCell<BTreeMap<PciAddress, BTreeMap<u16, Register>>>,
    /// Bridges, each with the bus in `functions` that is wired to it. Where there are any, bus 0 is the root, and
    /// another bus is reached by the number that its bridge was given; else by its own.
    pub(super) wires: Vec<(PciAddress, u8)>,
    /// The writes that changed a BAR while the function was decoding.
    moved: RefCell<usize>,
}

impl ConfigRegionAccess for Fake {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 4096);
        let functions = self.functions.borrow();
        let found = self.behind_bridges(address).and_then(|address| functions.get(&address));
        found.map_or(u32::MAX, |registers| registers.get(&offset).map_or(0, |register| register.0))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        let address = self.behind_bridges(address).expect("a write to a bus that no bridge leads to");
        let mut functions = self.functions.borrow_mut();
        let registers = functions.get_mut(&address).expect("a write to a function that is not there");
        let decoding = registers.get(&4).is_some_and(|command| command.0 & 3 != 0);
        let Some((current, writable)) = registers.get_mut(&offset) else { return };
        let new = *current & !*writable | value & *writable;
        if (0x10..0x28).contains(&offset) && decoding && new != *current {
            *self.moved.borrow_mut() += 1;
        }
        // Status bits are cleared by ones.
        *current = if offset == 4 { new & !(value & 0xffff_0000) } else { new };
    }
}

impl Fake {
    /// Where in `functions` the one is that answers to `address`.
    fn behind_bridges(&self, address: PciAddress) -> Option<PciAddress> {
        let (mut bus, mut number) = (0, 0);
        while !self.wires.is_empty() && number != address.bus() {
            // Type 1 cycles go to the bridge whose range holds the bus, and on from its secondary bus.
            (bus, number) = self.wires.iter().find_map(|(bridge, wired)| {
                let functions = self.functions.borrow();
                let [_, secondary, subordinate, _] = functions.get(bridge)?.get(&0x18)?.0.to_le_bytes();
                let forwards = secondary != 0 && (secondary..=subordinate).contains(&address.bus());
                (bridge.bus() == bus && forwards).then_some((*wired, secondary))
            })?;
        }
        let bus = if self.wires.is_empty() { address.bus() } else { bus };
        Some(PciAddress::new(0, bus, address.device(), address.function()))
    }

    pub(super) fn add(&self, bus: u8, device: u8, function: u8, registers: &[(u16, u32, u32)]) {
        let registers = registers.iter().map(|&(offset, value, writable)| (offset, (value, writable))).collect();
        self.functions.borrow_mut().insert(PciAddress::new(0, bus, device, function), registers);
    }

    pub(super) fn scan(&self) -> Vec<PciFunction> {
        let region = EcamRegion { segment: 0, base: PhysAddr::new(1 << 28), start_bus: 0, end_bus: 255 };
        let mut found = Vec::new();
        // SAFETY: nothing uses functions that are made up.
        unsafe { scan(self, &region, &mut found) };
        assert_eq!(*self.moved.borrow(), 0, "a BAR was changed while it was decoded");
        found
    }
}

const COMMAND: (u16, u32, u32) = (4, 0xf010_0007, 0xffff);

#[test]
fn bars_are_sized_and_left_as_they_were() {
    let fake = Fake::default();
    let registers = [
        (0, 0x11e8_1234, 0),
        COMMAND,
        (0x10, 0xfe80_0000, 0xfff0_0000),
        (0x14, 0xc00c, 0xffff_c000),
        (0x18, 0x40, u32::MAX),
        (0x1c, 0xd041, 0xffe0),
        (0x24, 0x4, 0xffff_0000),
    ];
    fake.add(0, 4, 0, &registers);
    let found = fake.scan();
    let bar = |kind, base, size, prefetchable| Some(Bar { kind, base: PhysAddr::new(base), size, prefetchable });
    assert_eq!(found[0].bars[0], bar(BarKind::Memory32, 0xfe80_0000, 0x10_0000, false));
    assert_eq!(found[0].bars[1], bar(BarKind::Memory64, 0x40_0000_c000, 0x4000, true));
    assert_eq!(found[0].bars[2], None);
    assert_eq!(found[0].bars[3], bar(BarKind::Io, 0xd040, 0x20, false));
    // A 64-bit BAR in the last register has no upper half.
    assert_eq!(found[0].bars[4..], [None, None]);
    assert_eq!(found[0].memory_bar(0).map(|bar| bar.len), Some(0x10_0000));
    assert_eq!(found[0].memory_bar(3), None);
    let functions = fake.functions.borrow();
    for (offset, value, _) in registers {
        assert_eq!(functions[&PciAddress::new(0, 0, 4, 0)][&offset].0, value, "register {offset:#x}");
    }
}

#[test]
fn capability_lists_with_loops_end() {
    let fake = Fake::default();
    fake.add(
        0,
        1,
        0,
        &[
            (0, 0x0001_8086, 0),
            COMMAND,
            (0x34, 0x43, 0),
            (0x40, 0x0042_5010, 0),
            (0x50, 0x0000_4005, 0),
            (0x100, 0x1401_000d, 0),
            (0x104, 0x001d_007f, 0),
            (0x140, 0x1002_0001, 0),
        ],
    );
    let found = fake.scan();
    let classic: Vec<_> = found[0].capabilities.iter().map(|capability| (capability.id, capability.offset)).collect();
    assert_eq!(classic, [(0x10, 0x40), (0x05, 0x50)]);
    let extended = found[0].extended_capabilities.iter();
    let extended: Vec<_> = extended.map(|capability| (capability.id, capability.version, capability.offset)).collect();
    assert_eq!(extended, [(0x0d, 1, 0x100), (0x01, 2, 0x140)]);
    assert_eq!(found[0].function.port, Some(PcieType::RootPort));
    let acs = found[0].function.acs.unwrap();
    assert!(acs.enabled.contains(AcsFlags::ISOLATION) && acs.capable.get() == 0x7f);
}

#[test]
fn functions_are_found_behind_bridges_and_on_other_root_buses() {
    let fake = Fake::default();
    let endpoint = [(0, 0x11e8_1234, 0), COMMAND];
    fake.add(0, 0, 0, &[(0, 1, 0), COMMAND, (8, 0x0600_0000, 0), (0x10, 0x1000, u32::MAX)]);
    // Function 1 of a device with a single function is an echo of it.
    fake.add(0, 0, 1, &endpoint);
    let multifunction = (0xc, 0x0081_0000, 0);
    fake.add(0, 2, 0, &[(0, 1, 0), COMMAND, (8, 0x0604_0000, 0), multifunction, (0x18, 0x0002_0100, 0)]);
    fake.add(0, 2, 7, &endpoint);
    fake.add(1, 31, 0, &endpoint);
    fake.add(0x80, 3, 0, &endpoint);
    let found = fake.scan();
    let at = |bus, device, function| Sbdf::from_parts(0, bus, device, function).unwrap();
    let places: Vec<_> = found.iter().map(PciFunction::sbdf).collect();
    assert_eq!(places, [at(0, 0, 0), at(0, 2, 0), at(0, 2, 7), at(1, 31, 0), at(0x80, 3, 0)]);
    assert_eq!(found[0].bars, [None; 6]);
    assert_eq!(found[1].function.kind, FunctionKind::Bridge { secondary: 1, subordinate: 2 });
    assert!(found[1].function.multifunction);
    assert_eq!(found[1].sbdf().id.get(), 0x10);
}

#[test]
fn bus_mastering_is_switched_without_clearing_status() {
    let fake = Fake::default();
    fake.add(0, 4, 0, &[(0, 0x11e8_1234, 0), COMMAND]);
    let found = fake.scan();
    assert!(found[0].is_bus_master(&fake));
    // SAFETY: a function that is made up does no DMA.
    unsafe { found[0].set_bus_master(&fake, false) };
    assert!(!found[0].is_bus_master(&fake));
    // SAFETY: as above.
    unsafe { found[0].set_memory_decoding(&fake, false) };
    assert_eq!(fake.functions.borrow()[&PciAddress::new(0, 0, 4, 0)][&4].0, 0xf010_0001);
}

#[test]
fn where_there_is_no_window_nobody_answers() {
    let ecam = Ecam::default();
    let address = address_of(Sbdf::from_parts(0, 0, 0, 0).unwrap());
    // SAFETY: there is no configuration space to read.
    assert_eq!(unsafe { ecam.read(address, 0) }, u32::MAX);
    assert_eq!(ecam.regions().count(), 0);
}
