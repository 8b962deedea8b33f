//! SMMUv3 units (Linux's binding `arm,smmu-v3`).

use super::cells::one;
use super::index::Index;
use super::node::{self, Place, unit_address};
use super::{DeviceTree, DeviceTreeError, interrupts};
use crate::fallible::try_push;
use crate::streams::{Model, REGISTER_PAGE, Smmu, overlap};
use alloc::vec::Vec;
use dtoolkit::Node;

/// Most units of a tree: each is compared with all before it.
const MAX_UNITS: usize = 1024;

/// One unit, and by which phandle other nodes name it; `None` where none does.
pub(super) type Unit = (Smmu, Option<u32>);

fn read(place: &Place<'_, '_>, index: &Index) -> Result<Unit, DeviceTreeError> {
    let node = &place.node;
    let cells = one(node, "#iommu-cells")?;
    if let Some(cells) = cells.filter(|cells| *cells != 1) {
        return Err(DeviceTreeError::BadIommuCells { unit_address: unit_address(node), cells });
    }
    let registers = place.registers()?;
    let start = registers.start;
    if start.get() == 0 || !start.is_aligned(REGISTER_PAGE) {
        return Err(DeviceTreeError::BadRegisters { unit_address: unit_address(node), start: start.get() });
    }
    let has = |name| node.property(name).is_some();
    let model = if has("hisilicon,broken-prefetch-cmd") {
        Model::HiSiliconHi161x
    } else if has("cavium,cn9900-broken-page1-regspace") {
        Model::CaviumCn99xx
    } else {
        Model::Generic
    };
    let smmu = Smmu {
        registers,
        coherent: has("dma-coherent"),
        updates: None,
        model,
        interrupts: interrupts::wired(place, index)?,
        msi: interrupts::message(place, index)?,
        proximity_domain: one(node, "numa-node-id")?,
    };
    Ok((smmu, one(node, "phandle")?))
}

/// The enabled units, in tree order.
pub(super) fn all(tree: &DeviceTree<'_>, index: &Index) -> Result<Vec<Unit>, DeviceTreeError> {
    let mut units: Vec<Unit> = Vec::new();
    node::for_each_compatible(tree.root(), "arm,smmu-v3", &mut |place| {
        let unit = read(place, index)?;
        let unit_address = unit_address(&place.node);
        if units.len() >= MAX_UNITS {
            return Err(DeviceTreeError::TooManyUnits { unit_address });
        }
        if let Some(phandle) = unit.1
            && units.iter().any(|other| other.1 == Some(phandle))
        {
            return Err(DeviceTreeError::SamePhandle { unit_address, phandle });
        }
        // Two drivers of one unit would each take the other's completions for their own.
        if units.iter().any(|other| overlap(unit.0.registers, other.0.registers)) {
            let start = unit.0.registers.start.get();
            return Err(DeviceTreeError::BadRegisters { unit_address, start });
        }
        Ok(try_push(&mut units, unit)?)
    })?;
    Ok(units)
}
