//! Finds all functions.
//!
//! Every bus number of every window is looked at, in place of following bridges: that finds root buses to which no
//! bridge leads, and no bridge with wrong numbers can send it astray or round in circles.

use super::config::Ecam;
use super::function::PciFunction;
use alloc::vec::Vec;
use iommu_discovery::Sbdf;
use iommu_discovery::mcfg::EcamRegion;
use pci_types::ConfigRegionAccess;

/// All functions, in the order of their addresses within each window.
///
/// # Safety
///
/// Nothing uses any function's registers meanwhile: each function's decoding is switched off for a moment. Consoles and
/// timers that are PCI functions count as well.
pub unsafe fn enumerate(ecam: &Ecam) -> Vec<PciFunction> {
    let mut found = Vec::new();
    for region in ecam.regions() {
        // SAFETY: as the caller promises.
        unsafe { scan(ecam, region, &mut found) };
    }
    found
}

/// Finds the functions of one window.
///
/// # Safety
///
/// As for [`enumerate`].
pub(super) unsafe fn scan(config: &impl ConfigRegionAccess, region: &EcamRegion, found: &mut Vec<PciFunction>) {
    for bus in region.start_bus..=region.end_bus {
        // SAFETY: as the caller promises.
        found.extend(unsafe { on_bus(config, region.segment, bus) });
    }
}

/// The functions of one bus, in the order of their addresses.
///
/// # Safety
///
/// As for [`enumerate`].
pub(super) unsafe fn on_bus(config: &impl ConfigRegionAccess, segment: u16, bus: u8) -> Vec<PciFunction> {
    let mut found = Vec::new();
    for device in 0..32 {
        for function in 0..8 {
            let Some(sbdf) = Sbdf::from_parts(segment, bus, device, function) else { continue };
            // SAFETY: as the caller promises.
            let read = unsafe { PciFunction::read(config, sbdf) };
            // Function 0 is always there, and says whether there are others.
            let last = function == 0 && !read.as_ref().is_some_and(|first| first.function.multifunction);
            found.extend(read);
            if last {
                break;
            }
        }
    }
    found
}
