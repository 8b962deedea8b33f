//! What the platform is made of, as the boot information and the firmware's tables tell it, in terms that all
//! architectures share.

use alloc::vec::Vec;
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_discovery::mcfg::EcamRegion;

/// The platform.
#[derive(Debug)]
pub struct Platform {
    /// The runs of RAM that the firmware leaves to us, the image among them; sorted as the firmware lists them.
    pub memory: &'static [PhysExtent],
    /// Where the ACPI tables begin.
    pub rsdp: Option<PhysAddr>,
    /// The windows of PCI configuration space.
    pub ecam: Vec<EcamRegion>,
    /// The raw bytes of the ACPI table that describes the VT-d units, not yet checked.
    pub dmar: Option<&'static [u8]>,
    /// The command line.
    pub cmdline: &'static str,
}
