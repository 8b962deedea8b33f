//! Numbers and addresses for a configuration space that nobody has touched.

use super::assign::{AssignError, assign};
use super::bars::BarKind;
use super::function::PciFunction;
use super::tests::Fake;
use alloc::vec::Vec;
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_discovery::Sbdf;
use iommu_discovery::devicetree::PciWindow;
use iommu_discovery::mcfg::EcamRegion;
use iommu_discovery::topology::FunctionKind;
use pci_types::PciAddress;

const MIB: u64 = 1 << 20;
const NARROW: u64 = 0x1000_0000;
const WIDE: u64 = 0x80_0000_0000;

fn window(start: u64, len: u64, wide: bool) -> PciWindow {
    PciWindow { cpu: PhysExtent::new(PhysAddr::new(start), len), bus: start, wide, prefetchable: false }
}

fn both() -> [PciWindow; 2] {
    [window(NARROW, 0x2eff_0000, false), window(WIDE, 1 << 39, true)]
}

fn run(fake: &Fake, end_bus: u8, windows: &[PciWindow]) -> Result<(), AssignError> {
    let region = EcamRegion { segment: 0, base: PhysAddr::new(1 << 38), start_bus: 0, end_bus };
    // SAFETY: nothing uses functions that are made up.
    unsafe { assign(fake, &region, windows) }
}

fn at(bus: u8, device: u8) -> Sbdf {
    Sbdf::from_parts(0, bus, device, 0).unwrap()
}

/// A BAR register that nobody has set: what it is, and how much it decodes.
fn bar(offset: u16, flags: u32, size: u64) -> (u16, u32, u32) {
    (offset, flags, !(size as u32 - 1))
}

const ID: (u16, u32, u32) = (0, 0x11e8_1234, 0);
/// Decoding is off.
const COMMAND: (u16, u32, u32) = (4, 0x0010_0000, 0xffff);

/// An endpoint with one BAR of 32 bits.
fn endpoint(fake: &Fake, bus: u8, device: u8, size: u64) {
    fake.add(bus, device, 0, &[ID, COMMAND, bar(0x10, 0, size)]);
}

/// A bridge to `behind`, with a prefetchable window of 64 bits or of 32.
fn bridge(fake: &mut Fake, bus: u8, device: u8, behind: u8, wide: bool) {
    let prefetchable = (0x24, u32::from(wide) * 0x1_0001, 0xfff0_fff0);
    let upper = if wide { u32::MAX } else { 0 };
    fake.add(
        bus,
        device,
        0,
        &[
            (0, 0x000e_1b36, 0),
            COMMAND,
            (8, 0x0604_0000, 0),
            (0xc, 0x0001_0000, 0),
            (0x18, 0, u32::MAX),
            (0x1c, 0, 0xf0f0),
            (0x20, 0, 0xfff0_fff0),
            prefetchable,
            (0x28, 0, upper),
            (0x2c, 0, upper),
        ],
    );
    fake.wires.push((PciAddress::new(0, bus, device, 0), behind));
}

/// A register of the function at this place, as the wires are.
fn register(fake: &Fake, bus: u8, device: u8, offset: u16) -> u32 {
    fake.functions.borrow()[&PciAddress::new(0, bus, device, 0)][&offset].0
}

fn function(found: &[PciFunction], sbdf: Sbdf) -> &PciFunction {
    found.iter().find(|function| function.sbdf() == sbdf).expect("no such function")
}

fn base(found: &[PciFunction], sbdf: Sbdf, index: usize) -> u64 {
    function(found, sbdf).bars[index].unwrap().base.get()
}

#[test]
fn bars_of_the_root_bus_are_aligned_to_their_size_and_apart() {
    let fake = Fake::default();
    endpoint(&fake, 0, 1, 0x1000);
    endpoint(&fake, 0, 2, MIB);
    // 64 bits, not prefetchable: on the root bus that may go high. Then 64 bits and prefetchable, and ports.
    let wide = [ID, COMMAND, bar(0x10, 4, 0x4000), (0x14, 0, u32::MAX), bar(0x18, 0xc, MIB), (0x1c, 0, u32::MAX)];
    let mut registers = wide.to_vec();
    registers.push((0x20, 1, 0xffe0));
    fake.add(0, 3, 0, &registers);
    run(&fake, 255, &both()).unwrap();
    let found = fake.scan();
    assert_eq!(base(&found, at(0, 1), 0), NARROW);
    assert_eq!(base(&found, at(0, 2), 0), NARROW + MIB);
    assert_eq!((base(&found, at(0, 3), 0), base(&found, at(0, 3), 2)), (WIDE, WIDE + MIB));
    assert_eq!(function(&found, at(0, 3)).bars[4].map(|bar| (bar.kind, bar.base.get())), Some((BarKind::Io, 0)));
    // Whoever drives an endpoint switches its decoding on.
    assert_eq!(register(&fake, 0, 1, 4) & 7, 0);
}

#[test]
fn bars_of_64_bits_go_low_where_there_is_no_other_window() {
    let fake = Fake::default();
    fake.add(0, 3, 0, &[ID, COMMAND, bar(0x10, 4, 0x4000), (0x14, 0, u32::MAX)]);
    run(&fake, 255, &both()[..1]).unwrap();
    assert_eq!(base(&fake.scan(), at(0, 3), 0), NARROW);
}

#[test]
fn buses_are_numbered_depth_first() {
    let mut fake = Fake::default();
    // 0 -> 1 -> 2, then 0 -> 3; the wires are numbered otherwise.
    bridge(&mut fake, 0, 4, 40, true);
    bridge(&mut fake, 40, 0, 50, true);
    bridge(&mut fake, 0, 5, 60, true);
    endpoint(&fake, 50, 7, MIB);
    endpoint(&fake, 60, 8, MIB);
    run(&fake, 255, &both()).unwrap();
    let found = fake.scan();
    let buses = |sbdf| function(&found, sbdf).function.kind;
    assert_eq!(buses(at(0, 4)), FunctionKind::Bridge { secondary: 1, subordinate: 2 });
    assert_eq!(buses(at(1, 0)), FunctionKind::Bridge { secondary: 2, subordinate: 2 });
    assert_eq!(buses(at(0, 5)), FunctionKind::Bridge { secondary: 3, subordinate: 3 });
    assert_eq!([register(&fake, 40, 0, 0x18) & 0xff, register(&fake, 0, 5, 0x18) & 0xff], [1, 0]);
    assert_eq!((base(&found, at(2, 7), 0), base(&found, at(3, 8), 0)), (NARROW, NARROW + MIB));
}

#[test]
fn bridges_forward_what_is_behind_them_and_nothing_else() {
    let mut fake = Fake::default();
    endpoint(&fake, 0, 1, 0x1000);
    bridge(&mut fake, 0, 4, 1, true);
    endpoint(&fake, 1, 0, MIB);
    endpoint(&fake, 1, 1, 0x1000);
    fake.add(1, 2, 0, &[ID, COMMAND, bar(0x10, 0xc, 4 * MIB), (0x14, 0, u32::MAX)]);
    // 64 bits, but not prefetchable: it must stay in the window of 32 bits.
    fake.add(1, 3, 0, &[ID, COMMAND, bar(0x10, 4, 0x1000), (0x14, 0, u32::MAX)]);
    bridge(&mut fake, 0, 5, 2, true);
    endpoint(&fake, 0, 6, 0x1000);
    run(&fake, 255, &both()).unwrap();
    let found = fake.scan();
    assert_eq!((base(&found, at(1, 0), 0), base(&found, at(1, 1), 0)), (NARROW + MIB, NARROW + 2 * MIB));
    assert_eq!((base(&found, at(1, 2), 0), base(&found, at(1, 3), 0)), (WIDE, NARROW + 2 * MIB + 0x1000));
    // Bits 31:20 of base and limit: from the first MiB that is the bridge's to the last.
    assert_eq!(register(&fake, 0, 4, 0x20), 0x1020_1010);
    assert_eq!(register(&fake, 0, 4, 0x24) & 0xfff0_fff0, 0x0030_0000);
    assert_eq!((register(&fake, 0, 4, 0x28), register(&fake, 0, 4, 0x2c)), (0x80, 0x80));
    // The next function of the root bus begins where the bridge's window has ended.
    assert_eq!(base(&found, at(0, 6), 0), NARROW + 3 * MIB);
    assert_eq!(register(&fake, 0, 4, 4) & 7, 2);
    // Nothing is behind the other bridge: base above limit, ports as well.
    assert_eq!((register(&fake, 0, 5, 0x20), register(&fake, 0, 5, 0x1c)), (0x0000_fff0, 0x00f0));
    assert_eq!(register(&fake, 0, 5, 0x24) & 0xfff0_fff0, 0x0000_fff0);
}

#[test]
fn behind_a_prefetchable_window_of_32_bits_everything_stays_low() {
    let mut fake = Fake::default();
    bridge(&mut fake, 0, 4, 1, false);
    bridge(&mut fake, 1, 0, 2, true);
    fake.add(2, 2, 0, &[ID, COMMAND, bar(0x10, 0xc, 4 * MIB), (0x14, 0, u32::MAX)]);
    run(&fake, 255, &both()).unwrap();
    assert_eq!(base(&fake.scan(), at(2, 2), 0), NARROW);
    assert_eq!(register(&fake, 1, 0, 0x24) & 0xfff0_fff0, 0x0000_fff0);
}

#[test]
fn what_does_not_fit_is_named() {
    let fake = Fake::default();
    endpoint(&fake, 0, 1, MIB);
    endpoint(&fake, 0, 2, MIB);
    let narrow = [window(NARROW, 2 * MIB - 1, false)];
    assert_eq!(run(&fake, 255, &narrow), Err(AssignError::OutOfMemory { function: at(0, 2), size: MIB }));
    // A window that is elsewhere on the bus is none, and neither is address 0.
    let moved = [PciWindow { bus: 0, ..window(NARROW, 4 * MIB, false) }];
    assert_eq!(run(&fake, 255, &moved), Err(AssignError::OutOfMemory { function: at(0, 1), size: MIB }));
    run(&fake, 255, &[window(0, 4 * MIB, false)]).unwrap();
    assert_eq!(base(&fake.scan(), at(0, 1), 0), MIB);

    let mut fake = Fake::default();
    bridge(&mut fake, 0, 4, 1, true);
    bridge(&mut fake, 1, 4, 2, true);
    assert_eq!(run(&fake, 1, &both()), Err(AssignError::OutOfBuses { bridge: at(1, 4) }));
    assert_eq!(run(&fake, 2, &both()), Ok(()));
}

#[test]
fn a_long_chain_of_bridges_ends() {
    let chain = |bridges: u8| {
        let mut fake = Fake::default();
        (0..bridges).for_each(|bus| bridge(&mut fake, bus, 0, bus + 1, true));
        endpoint(&fake, bridges, 3, MIB);
        fake
    };
    let fake = chain(32);
    run(&fake, 255, &both()).unwrap();
    let bridges: Vec<_> = [0, 20, 31].iter().map(|bus| register(&fake, *bus, 0, 0x20)).collect();
    assert_eq!(bridges, [0x1000_1000; 3]);
    assert_eq!(base(&fake.scan(), at(32, 3), 0), NARROW);
    assert_eq!(run(&chain(33), 255, &both()), Err(AssignError::TooDeep { bridge: at(32, 0) }));
}
