//! Access to configuration space through its memory-mapped windows (ECAM, PCIe 7.2.2).

use alloc::vec::Vec;
use iommu_core::hw::RequesterId;
use iommu_discovery::Sbdf;
use iommu_discovery::mcfg::EcamRegion;
use iommu_hal::regs::{Mmio, Registers};
use pci_types::{ConfigRegionAccess, PciAddress};

/// The windows of configuration space. A read where there is none gives all ones, as from a function that is absent; a
/// write there goes nowhere.
#[derive(Debug, Default)]
pub struct Ecam {
    windows: Vec<(EcamRegion, Mmio)>,
}

impl Ecam {
    /// Adds a window, whose registers begin at the region's first bus.
    pub fn add(&mut self, region: EcamRegion, registers: Mmio) {
        self.windows.push((region, registers));
    }

    /// The regions that the windows are of.
    pub fn regions(&self) -> impl Iterator<Item = &EcamRegion> {
        self.windows.iter().map(|(region, _)| region)
    }

    fn locate(&self, address: PciAddress, offset: u16) -> Option<(&Mmio, usize)> {
        // A function has 4 KiB.
        if offset >= 4096 {
            return None;
        }
        let id = RequesterId::from_parts(address.bus(), address.device(), address.function())?;
        self.windows.iter().find_map(|(region, registers)| {
            let space = (region.segment == address.segment()).then(|| region.config_space(id)).flatten()?;
            Some((registers, (space.get() - region.start().get()) as usize + usize::from(offset)))
        })
    }
}

impl ConfigRegionAccess for Ecam {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.locate(address, offset).map_or(u32::MAX, |(registers, offset)| registers.read32(offset))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        if let Some((registers, offset)) = self.locate(address, offset) {
            registers.write32(offset, value);
        }
    }
}

/// The address of a function in `pci_types`' terms.
pub fn address_of(sbdf: Sbdf) -> PciAddress {
    PciAddress::new(sbdf.segment, sbdf.id.bus(), sbdf.id.device(), sbdf.id.function())
}

/// Reads the 32 bits at `offset`, a multiple of 4 below 4096.
pub(super) fn read32(config: &impl ConfigRegionAccess, address: PciAddress, offset: u16) -> u32 {
    // SAFETY: reads of configuration space have no side effects on memory.
    unsafe { config.read(address, offset) }
}

/// Writes the 32 bits at `offset`, a multiple of 4 below 4096.
///
/// # Safety
///
/// What the register does with the value is what the caller wants, and breaks no memory in use: it moves no window that
/// is mapped, and lets no function do DMA that is not accounted for.
pub(super) unsafe fn write32(config: &impl ConfigRegionAccess, address: PciAddress, offset: u16, value: u32) {
    // SAFETY: as the caller promises.
    unsafe { config.write(address, offset, value) }
}
