//! The two lists of capabilities. A list that comes back to where it was ends there, so that a device with a loop in its
//! list cannot hold up the boot.

use super::config::read32;
use alloc::vec::Vec;
use pci_types::{ConfigRegionAccess, PciAddress};

/// Id of the PCI Express capability.
pub const PCI_EXPRESS: u8 = 0x10;
/// Extended id of access control services.
pub const ACS: u16 = 0x0d;

/// An entry of the list in the first 256 bytes (PCI 3.0 section 6.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// What it is.
    pub id: u8,
    /// Where it begins in configuration space.
    pub offset: u16,
}

/// An entry of the list in the rest (PCIe 7.6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedCapability {
    /// What it is.
    pub id: u16,
    /// Version of its layout.
    pub version: u8,
    /// Where it begins in configuration space.
    pub offset: u16,
}

/// The capabilities of a function that has the list.
pub(super) fn classic(config: &impl ConfigRegionAccess, address: PciAddress) -> Vec<Capability> {
    let mut found: Vec<Capability> = Vec::new();
    // The lowest two bits of a pointer are reserved.
    let mut offset = (read32(config, address, 0x34) & 0xfc) as u16;
    while offset >= 0x40 && found.iter().all(|before| before.offset != offset) {
        let header = read32(config, address, offset);
        // Nobody answers.
        if header == u32::MAX {
            break;
        }
        found.push(Capability { id: header as u8, offset });
        offset = (header >> 8 & 0xfc) as u16;
    }
    found
}

/// The extended capabilities of a PCI Express function.
pub(super) fn extended(config: &impl ConfigRegionAccess, address: PciAddress) -> Vec<ExtendedCapability> {
    let mut found: Vec<ExtendedCapability> = Vec::new();
    let mut offset = 0x100;
    while offset >= 0x100 && found.iter().all(|before| before.offset != offset) {
        let header = read32(config, address, offset);
        // All zeros: there are none. All ones: nobody answers.
        if header == 0 || header == u32::MAX {
            break;
        }
        found.push(ExtendedCapability { id: header as u16, version: (header >> 16 & 0xf) as u8, offset });
        offset = (header >> 20 & 0xffc) as u16;
    }
    found
}
