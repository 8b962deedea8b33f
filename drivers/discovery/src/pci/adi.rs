//! Whether parts of a function (assignable device interfaces, ADIs) can be given to different owners, told apart by PASID.

use super::Capabilities;
use crate::sbdf::Sbdf;
use crate::topology::{AcsFlags, FunctionKind, PcieType, Topology};
use core::fmt;

/// What a function must have so that its ADIs can be isolated; see [`AdiRules::check`].
#[derive(Clone, Copy, Debug)]
pub struct AdiRules<'a> {
    /// The machine.
    pub topology: &'a Topology,
    /// The function.
    pub function: Sbdf,
    /// What its configuration space says, read since PASIDs were switched on.
    pub capabilities: &'a Capabilities,
    /// Width of the unit's PASIDs in bits ([`UnitCapabilities`](iommu_core::hw::UnitCapabilities)).
    pub unit_pasid_bits: u8,
}

/// What ADIs of a function have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdiSupport {
    /// Width of PASIDs in bits: at most 2^bits ADIs, less the one PASID that the unit may keep for requests without.
    pub pasid_bits: u8,
    /// The function states by the capability of Intel's scalable I/O virtualization that it has ADIs. One without may have
    /// them, too, by its own specification: then whoever drives it answers for that.
    pub declared: bool,
    /// It has interrupt message storage. Without, ADIs share the entries of the function's MSI-X table, which its driver
    /// must keep to itself. Either way what keeps interrupts of ADIs apart is interrupt remapping, by the id of the function
    /// as a whole.
    pub ims: bool,
}

/// Why ADIs of a function cannot be isolated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AdiRefusal {
    /// There is no such function in the topology.
    NoFunction,
    /// It is no PCI Express endpoint.
    NotAnEndpoint,
    /// It is a virtual function, which has no PASIDs of its own.
    Virtual,
    /// It has no PASIDs, or the unit takes none.
    NoPasids,
    /// PASIDs are off: all its requests would be of the function as a whole.
    PasidsOff,
    /// It lays the registers of its ADIs out in none of the page sizes that it supports: two could share a page.
    PageSize {
        /// What it lays them out in: one bit n for 2^(n + 12) bytes.
        system: u32,
        /// What it supports.
        supported: u32,
    },
    /// Requests pass this bridge, which is no PCI Express port: the PASID is lost there.
    NotPcie {
        /// The bridge.
        bridge: Sbdf,
    },
    /// Requests with a PASID can pass from this port to a peer before they have come to the unit: request redirect and
    /// upstream forwarding are not both on there.
    NotRedirected {
        /// The port, or the function itself.
        at: Sbdf,
    },
}

impl fmt::Display for AdiRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFunction => f.write_str("there is no such function"),
            Self::NotAnEndpoint => f.write_str("it is no PCI Express endpoint"),
            Self::Virtual => f.write_str("it is a virtual function"),
            Self::NoPasids => f.write_str("it or its unit has no PASIDs"),
            Self::PasidsOff => f.write_str("PASIDs are off"),
            Self::PageSize { system, supported } => {
                write!(f, "the page size {system:#x} is none of {supported:#x}")
            }
            Self::NotPcie { bridge } => write!(f, "the bridge {bridge} carries no PASIDs"),
            Self::NotRedirected { at } => write!(f, "{at} may send requests to a peer"),
        }
    }
}

impl core::error::Error for AdiRefusal {}

impl AdiRules<'_> {
    /// Whether ADIs of the function can be isolated from each other and from everything else:
    ///
    /// 1. it is a PCI Express endpoint, and no virtual function;
    /// 2. it has the PASID capability, the unit takes PASIDs, and they are on;
    /// 3. if it states ADIs by the capability of Intel's scalable I/O virtualization: their registers are laid out in one
    ///    page size that it supports, so that no two share a page;
    /// 4. every bridge on the way to the root is a PCI Express port that sends requests up (access control: request redirect
    ///    and upstream forwarding), as addresses of requests with a PASID mean nothing to a peer. Among the functions of one
    ///    device the same goes for the function itself, where it has access control.
    ///
    /// What configuration space does not say, and the embedder must know: that the device really tags all DMA of an ADI with
    /// its PASID, that resetting one leaves none of its DMA behind, and that the ports on the way carry the prefix in which
    /// the PASID travels (Device Capabilities 2, End-End TLP Prefix Supported).
    ///
    /// # Errors
    ///
    /// [`AdiRefusal`], by the first rule that is broken.
    pub fn check(&self) -> Result<AdiSupport, AdiRefusal> {
        let found = self.topology.get(self.function).ok_or(AdiRefusal::NoFunction)?;
        let port = self.capabilities.express.map(|express| express.port);
        let is_endpoint = matches!(port, Some(PcieType::Endpoint | PcieType::IntegratedEndpoint));
        if !is_endpoint || found.kind != FunctionKind::Endpoint {
            return Err(AdiRefusal::NotAnEndpoint);
        }
        if self.topology.physical(self.function).is_some() {
            return Err(AdiRefusal::Virtual);
        }
        let pasid = self.capabilities.pasid.ok_or(AdiRefusal::NoPasids)?;
        let pasid_bits = pasid.bits.min(self.unit_pasid_bits).min(20);
        if pasid_bits == 0 {
            return Err(AdiRefusal::NoPasids);
        }
        if !pasid.enabled {
            return Err(AdiRefusal::PasidsOff);
        }
        if let Some(siov) = self.capabilities.siov {
            let (system, supported) = (siov.system_page_size, siov.supported_page_sizes);
            if !system.is_power_of_two() || system & supported == 0 {
                return Err(AdiRefusal::PageSize { system, supported });
            }
        }
        let sends_up = AcsFlags::REQUEST_REDIRECT | AcsFlags::UPSTREAM_FORWARDING;
        for bridge in self.topology.way_up(self.function) {
            let at = bridge.sbdf;
            match bridge.port {
                // It has one link below and none beside it: nothing to redirect.
                Some(PcieType::UpstreamPort) if bridge.acs.is_none() => {}
                Some(port) if port.is_port() && bridge.acs.is_some_and(|acs| acs.enabled.contains(sends_up)) => {}
                Some(port) if port.is_port() => return Err(AdiRefusal::NotRedirected { at }),
                _ => return Err(AdiRefusal::NotPcie { bridge: at }),
            }
        }
        let redirect = AcsFlags::new(found.acs.map_or(0, |acs| acs.capable.get()) & AcsFlags::REQUEST_REDIRECT.get());
        if found.acs.is_some_and(|acs| !acs.enabled.contains(redirect)) {
            return Err(AdiRefusal::NotRedirected { at: self.function });
        }
        let siov = self.capabilities.siov;
        Ok(AdiSupport { pasid_bits, declared: siov.is_some(), ims: siov.is_some_and(|siov| siov.ims) })
    }
}
