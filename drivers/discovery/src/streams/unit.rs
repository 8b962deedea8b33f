//! What firmware says of an SMMUv3.

use super::Msi;
use iommu_core::addr::PhysExtent;

/// A page of registers (IHI 0070, section 6.1), in bytes.
pub(crate) const REGISTER_PAGE: u64 = 0x1_0000;

/// Which bits of page tables the unit sets by itself (HTTU; SMMU_IDR0.HTTU).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HardwareUpdates {
    /// None.
    None,
    /// That something was accessed.
    Access,
    /// That, and that something was written.
    AccessAndDirty,
}

/// Whose implementation a unit is, where firmware knows it to be out of the ordinary (IORT, SMMUv3 node).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// None in particular.
    Generic,
    /// HiSilicon Hi161x: prefetch commands are broken, and messages of PCI functions pass untranslated.
    HiSiliconHi161x,
    /// Cavium CN99xx: the second page of registers is within the first, and all interrupts are one line.
    CaviumCn99xx,
    /// A number that is not known here.
    Unknown(u32),
}

/// The wired interrupts, as numbers of the interrupt controller (GIC INTIDs; ACPI's GSIVs): `None` for those that are not
/// wired. Where several are the same number one handler must look after all of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Interrupts {
    /// Something is in the event queue.
    pub event: Option<u32>,
    /// SMMU_GERROR changed.
    pub error: Option<u32>,
    /// A CMD_SYNC completed.
    pub sync: Option<u32>,
    /// Something is in the queue of page requests.
    pub page_request: Option<u32>,
}

impl Interrupts {
    /// Whether none is wired.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Smmu {
    /// Its registers, as the CPU sees them: not at 0, from a page of 64 KiB on, no other unit's.
    pub registers: PhysExtent,
    /// Whether it snoops the CPUs' caches when it reads tables and queues; what firmware says counts for more than what the
    /// unit's registers do.
    pub coherent: bool,
    /// Which bits of page tables it sets by itself, where firmware says so: then that counts, not the unit's registers.
    pub updates: Option<HardwareUpdates>,
    /// Whose implementation it is.
    pub model: Model,
    /// Its wired interrupts.
    pub interrupts: Interrupts,
    /// Where its own messages would lead; `None` where it is not to send any.
    pub msi: Option<Msi>,
    /// The proximity domain where its tables are best allocated; `None` where firmware does not say.
    pub proximity_domain: Option<u32>,
}

/// Whether two register windows have an address in common.
pub(crate) fn overlap(one: PhysExtent, other: PhysExtent) -> bool {
    let ends = |extent: PhysExtent| extent.last().map(|last| (extent.start, last));
    match (ends(one), ends(other)) {
        (Some((start, last)), Some((other_start, other_last))) => start <= other_last && other_start <= last,
        _ => false,
    }
}
