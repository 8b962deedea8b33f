//! What the platform is made of, as the boot information and the firmware's tables tell it, in terms that all
//! architectures share.

use alloc::vec::Vec;
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_discovery::devicetree::PciWindow;
use iommu_discovery::mcfg::EcamRegion;

/// The platform.
#[derive(Debug)]
pub struct Platform {
    /// The runs of RAM that the firmware leaves to us, the image among them; sorted as the firmware lists them.
    pub memory: &'static [PhysExtent],
    /// Where the ACPI tables begin.
    pub rsdp: Option<PhysAddr>,
    /// The PCI host bridges.
    pub hosts: Vec<PciHost>,
    /// The raw bytes of the ACPI table that describes the VT-d units, not yet checked.
    pub dmar: Option<&'static [u8]>,
    /// The raw bytes of the devicetree.
    pub devicetree: Option<&'static [u8]>,
    /// The command line.
    pub cmdline: &'static str,
}

/// A PCI host bridge.
#[derive(Debug)]
pub struct PciHost {
    /// Its configuration space.
    pub ecam: EcamRegion,
    /// The memory that it passes on, to be shared out among the functions behind it; `None` where firmware has given them
    /// bus numbers and addresses.
    pub windows: Option<Vec<PciWindow>>,
}
