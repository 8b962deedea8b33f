//! One PCI function, with what its configuration space said when it was found.

use super::bars::{self, Bar, BarKind};
use super::capabilities::{self, Capability, ExtendedCapability};
use super::config::{address_of, read32, write32};
use alloc::vec::Vec;
use iommu_core::addr::PhysExtent;
use iommu_discovery::Sbdf;
use iommu_discovery::topology::{Acs, AcsFlags, Function, FunctionKind, PcieType};
use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType, PciHeader, PciPciBridgeHeader};

/// Base class and sub-class of a host bridge, in class code order.
const HOST_BRIDGE: u32 = 0x06_00;

/// A PCI function.
#[derive(Clone, Debug)]
pub struct PciFunction {
    /// What the topology is built from: address, class, kind, port type, access control.
    pub function: Function,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base address registers, by index; `None` for one that is not implemented or is the second half of another. A
    /// host bridge's are not looked at.
    pub bars: [Option<Bar>; 6],
    /// Capabilities, in list order.
    pub capabilities: Vec<Capability>,
    /// Extended capabilities, in list order; none for a function without the PCI Express capability.
    pub extended_capabilities: Vec<ExtendedCapability>,
}

impl PciFunction {
    /// Reads the function at `sbdf`; `None` where there is none.
    ///
    /// # Safety
    ///
    /// As for [`super::enumerate`].
    pub(super) unsafe fn read(config: &impl ConfigRegionAccess, sbdf: Sbdf) -> Option<Self> {
        let address = address_of(sbdf);
        let header = PciHeader::new(address);
        let (vendor, device) = header.id(config);
        if vendor == 0xffff {
            return None;
        }
        let class = read32(config, address, 8) >> 8;
        let kind = header.header_type(config);
        let has_list = header.status(config).has_capability_list();
        let capabilities = if has_list { capabilities::classic(config, address) } else { Vec::new() };
        let express = capabilities.iter().find(|capability| capability.id == capabilities::PCI_EXPRESS);
        let port = express.map(|express| PcieType::new((read32(config, address, express.offset) >> 20 & 0xf) as u8));
        let extended_capabilities = port.map_or_else(Vec::new, |_| capabilities::extended(config, address));
        let acs = extended_capabilities.iter().find(|capability| capability.id == capabilities::ACS);
        let acs = acs.map(|acs| {
            let registers = read32(config, address, acs.offset + 4);
            Acs { capable: AcsFlags::new(registers as u16), enabled: AcsFlags::new((registers >> 16) as u16) }
        });
        let bars = match kind {
            _ if class >> 8 == HOST_BRIDGE => [None; 6],
            // SAFETY: as the caller promises.
            HeaderType::Endpoint => unsafe { bars::size_all(config, address, 6) },
            // SAFETY: as the caller promises.
            HeaderType::PciPciBridge => unsafe { bars::size_all(config, address, 2) },
            _ => [None; 6],
        };
        let function = Function {
            sbdf,
            class,
            kind: buses_below(config, PciHeader::new(address)),
            port,
            multifunction: header.has_multiple_functions(config),
            acs,
        };
        Some(Self { function, vendor, device, bars, capabilities, extended_capabilities })
    }

    /// Where it is.
    pub fn sbdf(&self) -> Sbdf {
        self.function.sbdf
    }

    /// The memory that BAR `index` decodes; `None` where it decodes none or firmware gave it no address.
    pub fn memory_bar(&self, index: usize) -> Option<PhysExtent> {
        let bar = self.bars.get(index).copied().flatten()?;
        (bar.kind != BarKind::Io && bar.base.get() != 0).then(|| PhysExtent::new(bar.base, bar.size))
    }

    /// Whether the function may do DMA.
    pub fn is_bus_master(&self, config: &impl ConfigRegionAccess) -> bool {
        PciHeader::new(address_of(self.sbdf())).command(config).contains(CommandRegister::BUS_MASTER_ENABLE)
    }

    /// Lets the function do DMA, or no more. Transfers that are under way when it is taken away may still arrive.
    ///
    /// # Safety
    ///
    /// Where DMA is allowed: what the function may then read and write, through the IOMMU or without one, is accounted
    /// for.
    pub unsafe fn set_bus_master(&self, config: &impl ConfigRegionAccess, on: bool) {
        // SAFETY: as the caller promises.
        unsafe { self.set_command(config, CommandRegister::BUS_MASTER_ENABLE, on) };
    }

    /// Lets the function answer at the addresses in its memory BARs, or no more.
    ///
    /// # Safety
    ///
    /// On: the BARs hold addresses that are the function's alone. Off: nothing accesses its registers any more.
    pub unsafe fn set_memory_decoding(&self, config: &impl ConfigRegionAccess, on: bool) {
        // SAFETY: as the caller promises.
        unsafe { self.set_command(config, CommandRegister::MEMORY_ENABLE, on) };
    }

    /// Sets or clears bits of the command register.
    ///
    /// # Safety
    ///
    /// What the bits allow is what the callers above ask for.
    unsafe fn set_command(&self, config: &impl ConfigRegionAccess, bits: CommandRegister, on: bool) {
        let address = address_of(self.sbdf());
        let mut command = PciHeader::new(address).command(config);
        command.set(bits, on);
        // The upper half of the register is status bits that a one clears: they are written as zeros.
        // SAFETY: as the caller promises.
        unsafe { write32(config, address, 4, command.bits().into()) };
        // Reading back makes sure that the write has arrived.
        let _ = read32(config, address, 4);
    }
}

/// The buses below, where firmware gave the bridge any.
fn buses_below(config: &impl ConfigRegionAccess, header: PciHeader) -> FunctionKind {
    let Some(bridge) = PciPciBridgeHeader::from_header(header, config) else { return FunctionKind::Endpoint };
    let (secondary, subordinate) = (bridge.secondary_bus_number(config), bridge.subordinate_bus_number(config));
    if secondary == 0 { FunctionKind::Endpoint } else { FunctionKind::Bridge { secondary, subordinate } }
}
