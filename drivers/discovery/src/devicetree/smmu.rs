//! SMMUv3 units (Linux's binding `arm,smmu-v3`).

use super::cells::one;
use super::node::{self, Place, unit_address};
use super::{DeviceTree, DeviceTreeError};
use crate::fallible::try_push;
use alloc::vec::Vec;
use dtoolkit::Node;
use iommu_core::addr::PhysExtent;

/// A page of registers (IHI 0070, section 6.1), in bytes.
const REGISTER_PAGE: u64 = 0x1_0000;

/// One unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Smmu {
    /// Its registers, as the CPU sees them.
    pub registers: PhysExtent,
    /// By which other nodes name it; `None` where none does.
    pub phandle: Option<u32>,
    /// Whether it snoops the CPUs' caches when it reads tables and queues; what the node says counts for more than what
    /// the unit's registers do.
    pub coherent: bool,
}

impl Smmu {
    fn read(place: &Place<'_, '_>) -> Result<Self, DeviceTreeError> {
        let node = &place.node;
        let cells = one(node, "#iommu-cells")?;
        if let Some(cells) = cells.filter(|cells| *cells != 1) {
            return Err(DeviceTreeError::BadIommuCells { unit_address: unit_address(node), cells });
        }
        let registers = place.registers()?;
        if !registers.start.is_aligned(REGISTER_PAGE) {
            return Err(DeviceTreeError::BadRegisters {
                unit_address: unit_address(node),
                start: registers.start.get(),
            });
        }
        Ok(Self { registers, phandle: one(node, "phandle")?, coherent: node.property("dma-coherent").is_some() })
    }
}

/// The enabled units, in tree order.
pub(super) fn all(tree: &DeviceTree<'_>) -> Result<Vec<Smmu>, DeviceTreeError> {
    let mut units: Vec<Smmu> = Vec::new();
    node::for_each_compatible(tree.root(), "arm,smmu-v3", &mut |place| {
        let unit = Smmu::read(place)?;
        if let Some(phandle) = unit.phandle
            && units.iter().any(|other| other.phandle == Some(phandle))
        {
            return Err(DeviceTreeError::SamePhandle { unit_address: unit_address(&place.node), phandle });
        }
        // Two drivers of one unit would each take the other's completions for their own.
        if units.iter().any(|other| overlap(unit.registers, other.registers)) {
            let start = unit.registers.start.get();
            return Err(DeviceTreeError::BadRegisters { unit_address: unit_address(&place.node), start });
        }
        Ok(try_push(&mut units, unit)?)
    })?;
    Ok(units)
}

fn overlap(one: PhysExtent, other: PhysExtent) -> bool {
    let ends = |extent: PhysExtent| extent.last().map(|last| (extent.start, last));
    match (ends(one), ends(other)) {
        (Some((start, last)), Some((other_start, other_last))) => start <= other_last && other_start <= last,
        _ => false,
    }
}
