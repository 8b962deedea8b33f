//! PCI host bridges with memory-mapped configuration space (Linux's binding `pci-host-ecam-generic`).

use super::cells::{Cells, Widths, one};
use super::index::HOST;
use super::node::{self, Place, unit_address};
use super::{DeviceTree, DeviceTreeError, IommuMap, extent};
use crate::fallible::try_push;
use crate::mcfg::EcamRegion;
use alloc::vec::Vec;
use dtoolkit::Node;
use iommu_core::addr::{PhysAddr, PhysExtent};

/// Configuration space of one bus, in bytes.
const BUS_BYTES: u64 = 1 << 20;

/// Memory that a host bridge passes on to its bus, for the BARs of the functions behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciWindow {
    /// Where the CPU sees it.
    pub cpu: PhysExtent,
    /// Where it begins on the bus, which is what BARs hold.
    pub bus: u64,
    /// Whether it is meant for BARs of 64 bits; otherwise all of it lies below 4 GiB on the bus.
    pub wide: bool,
    /// Whether reads have no side effects there.
    pub prefetchable: bool,
}

/// A host bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciHost {
    /// Segment, buses and configuration space.
    pub ecam: EcamRegion,
    /// Its memory windows, in tree order. Windows of I/O ports are left out.
    pub windows: Vec<PciWindow>,
    /// Which stream ids its requesters have.
    pub iommu_map: IommuMap,
    /// Which device ids its functions' messages have.
    pub msi_map: IommuMap,
    /// The phandle of the interrupt controller that messages go to where there is no map.
    pub msi_parent: Option<u32>,
    /// Whether address translation services pass (`ats-supported`).
    pub ats_supported: bool,
    /// Its unit address, by which errors name it.
    pub unit_address: u64,
}

impl PciHost {
    fn read(place: &Place<'_, '_>) -> Result<Self, DeviceTreeError> {
        let node = &place.node;
        let unit_address = unit_address(node);
        let segment = one(node, "linux,pci-domain")?.unwrap_or(0);
        let segment = u16::try_from(segment).map_err(|_| DeviceTreeError::BadSegment { unit_address, segment })?;
        let registers = place.registers()?;
        Ok(Self {
            ecam: EcamRegion { segment, ..buses(place, registers)? },
            windows: windows(place)?,
            iommu_map: IommuMap::read(node, "iommu-map", "iommu-map-mask")?,
            msi_map: IommuMap::read(node, "msi-map", "msi-map-mask")?,
            msi_parent: Cells::of(node, "msi-parent", 1)?
                .filter(|cells| !cells.is_empty())
                .map(|mut cells| cells.cell()),
            ats_supported: node.property("ats-supported").is_some(),
            unit_address,
        })
    }
}

/// The buses whose configuration space `registers` holds, from the first byte on.
fn buses(place: &Place<'_, '_>, registers: PhysExtent) -> Result<EcamRegion, DeviceTreeError> {
    let unit_address = unit_address(&place.node);
    let (mut first, mut last) = (0, 0xff);
    if let Some(mut cells) = Cells::of(&place.node, "bus-range", 2)? {
        (first, last) = (cells.cell(), cells.cell());
    }
    let bad = DeviceTreeError::BadBusRange { unit_address, first, last };
    let (Ok(start_bus), Ok(end_bus)) = (u8::try_from(first), u8::try_from(last)) else { return Err(bad) };
    // The window begins with the first bus; the region's base is where bus 0 would be.
    let base = registers.start.get().checked_sub(u64::from(start_bus) * BUS_BYTES);
    let count = u64::from(end_bus).checked_sub(start_bus.into()).map(|more| more + 1);
    let (Some(base), Some(count)) = (base, count) else { return Err(bad) };
    if count * BUS_BYTES > registers.len || base % BUS_BYTES != 0 {
        return Err(bad);
    }
    Ok(EcamRegion { segment: 0, base: PhysAddr::new(base), start_bus, end_bus })
}

/// The memory windows of `ranges` (IEEE 1275's PCI bus binding, section 2.2.1.1).
fn windows(place: &Place<'_, '_>) -> Result<Vec<PciWindow>, DeviceTreeError> {
    let node = &place.node;
    let mut windows = Vec::new();
    let (own, above) = (Widths::below(node)?, place.widths_above()?);
    if own.address != 3 {
        let property = "#address-cells";
        return Err(DeviceTreeError::TooManyCells {
            unit_address: unit_address(node),
            property,
            cells: own.address as u32,
        });
    }
    let Some(mut cells) = Cells::of(node, "ranges", own.address + above.address + own.size)? else {
        return Ok(windows);
    };
    while !cells.is_empty() {
        let kind = cells.cell();
        let (bus, cpu, len) = (cells.number(2), cells.number(above.address), cells.number(own.size));
        let too_wide = DeviceTreeError::TooWide { unit_address: unit_address(node), property: "ranges" };
        let (Some(bus), Some(cpu), Some(len)) = (bus, cpu, len) else { return Err(too_wide) };
        // Bits 25:24: configuration, I/O, memory of 32 bits, memory of 64 bits.
        let wide = match kind >> 24 & 3 {
            2 => false,
            3 => true,
            _ => continue,
        };
        let on_bus = extent(bus, len, node)?;
        if !wide && on_bus.start.get() + (len - 1) > u32::MAX.into() {
            return Err(DeviceTreeError::BadRegion { unit_address: unit_address(node), start: bus, len });
        }
        let cpu = place.translate_above(extent(cpu, len, node)?)?;
        try_push(&mut windows, PciWindow { cpu, bus, wide, prefetchable: kind >> 30 & 1 != 0 })?;
    }
    Ok(windows)
}

/// The enabled host bridges, in tree order.
pub(super) fn all(tree: &DeviceTree<'_>) -> Result<Vec<PciHost>, DeviceTreeError> {
    let mut hosts: Vec<PciHost> = Vec::new();
    node::for_each_compatible(tree.root(), HOST, &mut |place| {
        let host = PciHost::read(place)?;
        let same = |other: &&PciHost| {
            let (a, b) = (&other.ecam, &host.ecam);
            a.segment == b.segment && a.start_bus <= b.end_bus && b.start_bus <= a.end_bus
        };
        if hosts.iter().find(same).is_some() {
            let (unit_address, segment) = (host.unit_address, host.ecam.segment);
            return Err(DeviceTreeError::SameBuses { unit_address, segment });
        }
        Ok(try_push(&mut hosts, host)?)
    })?;
    Ok(hosts)
}
