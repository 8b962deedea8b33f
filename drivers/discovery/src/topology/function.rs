//! One PCI function, as an enumerator sees it.

use super::{Acs, AcsFlags};
use crate::sbdf::Sbdf;
use iommu_core::hw::RequesterId;

/// The device/port type of the PCI Express capability (PCIe 7.5.3.2, bits 7:4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PcieType {
    /// Endpoint (0).
    Endpoint,
    /// Legacy endpoint (1).
    LegacyEndpoint,
    /// Root port of a root complex (4).
    RootPort,
    /// Upstream port of a switch (5).
    UpstreamPort,
    /// Downstream port of a switch (6).
    DownstreamPort,
    /// Bridge from PCI Express to PCI or PCI-X (7).
    PcieToPciBridge,
    /// Bridge from PCI or PCI-X to PCI Express (8).
    PciToPcieBridge,
    /// Endpoint integrated into the root complex (9).
    IntegratedEndpoint,
    /// Event collector of the root complex (10).
    EventCollector,
    /// A type this crate does not know; never counts as isolated.
    Unknown(u8),
}

impl PcieType {
    /// The type with the code `raw`: bits 7:4 of the PCI Express Capabilities register, shifted down.
    pub const fn new(raw: u8) -> Self {
        match raw {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::UpstreamPort,
            6 => Self::DownstreamPort,
            7 => Self::PcieToPciBridge,
            8 => Self::PciToPcieBridge,
            9 => Self::IntegratedEndpoint,
            10 => Self::EventCollector,
            raw => Self::Unknown(raw),
        }
    }

    /// Whether this is a root, upstream or downstream port: one that hands on requests under their own ids.
    pub const fn is_port(self) -> bool {
        matches!(self, Self::RootPort | Self::UpstreamPort | Self::DownstreamPort)
    }
}

/// Whether there are buses below a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FunctionKind {
    /// There are none; also for a bridge that was given no bus numbers.
    Endpoint,
    /// A bridge or port with bus numbers.
    Bridge {
        /// The bus right below (configuration space offset 0x19).
        secondary: u8,
        /// The highest bus below, inclusive (offset 0x1a).
        subordinate: u8,
    },
}

/// One PCI function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub sbdf: Sbdf,
    /// Class code: base class in bits 23:16, sub-class in 15:8, programming interface in 7:0.
    pub class: u32,
    /// Whether there are buses below it.
    pub kind: FunctionKind,
    /// The type its PCI Express capability states; `None` where it has none, as conventional PCI functions.
    pub port: Option<PcieType>,
    /// Header type bit 7: whether its device has several functions. Also counts as set when the device's others are
    /// in the topology.
    pub multifunction: bool,
    /// Its access control services capability; `None` where it has none.
    pub acs: Option<Acs>,
}

impl Function {
    /// The id under which an IOMMU sees requests from *below* this bridge; `None` where they keep their own, and for
    /// a function that is no bridge (PCI Express to PCI/PCI-X Bridge Specification section 2.3).
    pub fn alias_for_below(&self) -> Option<RequesterId> {
        let FunctionKind::Bridge { secondary, .. } = self.kind else { return None };
        match self.port {
            None | Some(PcieType::PciToPcieBridge) => Some(self.sbdf.id),
            Some(PcieType::PcieToPciBridge) => RequesterId::from_parts(secondary, 0, 0),
            Some(_) => None,
        }
    }

    /// Whether requests that reach this function, or that it makes, cannot pass to a peer without the IOMMU seeing
    /// them; `shared` says whether its device has other functions (PCIe 6.12.1).
    pub(super) fn is_isolating(&self, shared: bool) -> bool {
        let has = |required| self.acs.is_some_and(|acs| acs.enforces(required));
        match self.port {
            // A conventional bus is shared by everything on it, and a bridge to one has no access control.
            None => false,
            Some(PcieType::PcieToPciBridge | PcieType::PciToPcieBridge) => false,
            Some(PcieType::EventCollector | PcieType::Unknown(_)) => false,
            // A switch must offer all four, a root port source validation; it may lack the others only because it
            // routes nothing between root ports.
            Some(PcieType::DownstreamPort) => self.acs.is_some_and(|acs| acs.enabled.contains(AcsFlags::ISOLATION)),
            Some(PcieType::RootPort) => {
                has(AcsFlags::ISOLATION)
                    && self.acs.is_some_and(|acs| acs.enabled.contains(AcsFlags::SOURCE_VALIDATION))
            }
            // A device with a single function has nobody to talk to inside itself.
            Some(
                PcieType::Endpoint | PcieType::LegacyEndpoint | PcieType::UpstreamPort | PcieType::IntegratedEndpoint,
            ) => !shared || has(AcsFlags::ISOLATION),
        }
    }
}
