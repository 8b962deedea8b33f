//! SMMUv3 units.

use super::node::Node;
use super::{IdMapping, IortError, MappingTarget};
use crate::streams::{HardwareUpdates, Interrupts, Model, REGISTER_PAGE, overlap};
use alloc::vec::Vec;
use iommu_core::addr::{PhysAddr, PhysExtent};

/// Length of the node in its first revision, in bytes.
pub(super) const FIXED_LEN: usize = 60;
const PROXIMITY_AT: usize = 60;
const MSI_MAPPING_AT: usize = 64;

/// Length of a unit's registers, in bytes: two pages (IHI 0070, section 6.1), of which a CN99xx has the second within
/// the first.
const REGISTER_BYTES: u64 = 2 * REGISTER_PAGE;

/// One SMMUv3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmmuV3 {
    /// Its registers: not at 0, from a page of 64 KiB on, no other unit's. Whether anything answers there is for the driver
    /// to see.
    pub registers: PhysExtent,
    /// Whether it snoops the CPUs' caches when it reads tables and queues (flags bit 0, COHACC override).
    pub coherent: bool,
    /// Which bits of page tables it sets by itself (flags bits 2:1, HTTU override).
    pub updates: HardwareUpdates,
    /// Whose implementation it is.
    pub model: Model,
    /// Its wired interrupts.
    pub interrupts: Interrupts,
    /// The proximity domain where its tables are best allocated (valid by flags bit 3).
    pub proximity_domain: Option<u32>,
    /// Which of its mappings is of its own messages: an index, of one that is for a single id and leads to an ITS group.
    /// `None` where it is not to send any.
    pub msi_mapping: Option<usize>,
    /// Which device ids messages of its streams have, in table order.
    pub mappings: Vec<IdMapping>,
    pub(super) offset: usize,
}

impl SmmuV3 {
    /// Reads a node of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(node: Node<'_>) -> Result<Self, IortError> {
        let offset = node.offset();
        let (base, flags) = (node.bytes.u64(16)?, node.bytes.u32(24)?);
        if base == 0 || base % REGISTER_PAGE != 0 {
            return Err(IortError::BadRegisterBase { offset, base });
        }
        if base.checked_add(REGISTER_BYTES - 1).is_none() {
            return Err(IortError::RegistersWrap { offset, base });
        }
        let model = match node.bytes.u32(40)? {
            0 => Model::Generic,
            1 => Model::HiSiliconHi161x,
            2 => Model::CaviumCn99xx,
            other => Model::Unknown(other),
        };
        let bytes = if model == Model::CaviumCn99xx { REGISTER_PAGE } else { REGISTER_BYTES };
        let line = |at| node.bytes.u32(at).map(|line| Some(line).filter(|line| *line != 0));
        let interrupts = Interrupts { event: line(44)?, page_request: line(48)?, error: line(52)?, sync: line(56)? };
        let has_proximity = flags & 1 << 3 != 0 && node.has(PROXIMITY_AT + 4);
        Ok(Self {
            registers: PhysExtent::new(PhysAddr::new(base), bytes),
            coherent: flags & 1 != 0,
            updates: match flags >> 1 & 3 {
                1 => HardwareUpdates::Access,
                2 => HardwareUpdates::AccessAndDirty,
                _ => HardwareUpdates::None,
            },
            model,
            interrupts,
            proximity_domain: if has_proximity { Some(node.bytes.u32(PROXIMITY_AT)?) } else { None },
            msi_mapping: msi_mapping(&node, flags, interrupts)?,
            mappings: node.mappings,
            offset,
        })
    }

    /// Whether this unit may come after the units `before` it.
    pub(super) fn check_against(&self, before: &[Self]) -> Result<(), IortError> {
        if before.iter().any(|unit| overlap(unit.registers, self.registers)) {
            return Err(IortError::RegistersTaken { offset: self.offset, base: self.registers.start.get() });
        }
        Ok(())
    }
}

/// Which mapping of the node is of the unit's own messages.
fn msi_mapping(node: &Node<'_>, flags: u32, interrupts: Interrupts) -> Result<Option<usize>, IortError> {
    // The field came with revision 1, and with revision 5 a flag that says whether it means anything. Between them it does
    // unless all interrupts are wired: then tables may have any number there, and what it names may be of another kind.
    let said = node.revision >= 5;
    let all_wired = [interrupts.event, interrupts.page_request, interrupts.error, interrupts.sync];
    let valid = if said { flags & 1 << 4 != 0 } else { node.revision >= 1 && all_wired.iter().any(Option::is_none) };
    if !valid || !node.has(MSI_MAPPING_AT + 4) {
        return Ok(None);
    }
    let index = node.bytes.u32(MSI_MAPPING_AT)?;
    let found = usize::try_from(index).ok().and_then(|index| Some((index, node.mappings.get(index)?)));
    match found {
        Some((index, mapping)) if mapping.single && matches!(mapping.target, MappingTarget::ItsGroup(_)) => {
            Ok(Some(index))
        }
        _ if said => Err(IortError::BadMsiMapping { offset: node.offset(), index }),
        _ => Ok(None),
    }
}
