//! Which functions may cache translations (PCIe Address Translation Services, ATS).
//!
//! A function with ATS on makes requests that it has translated itself. The unit lets them through by the function's word,
//! so that only functions are allowed to whose way to the unit is one that firmware vouches for, and that nobody can plug
//! in. Whether a function *has* an address translation cache is for [`crate::pci`]; whether the unit takes device TLBs, for
//! its driver.
//!
//! # Example
//!
//! ```
//! use iommu_discovery::Sbdf;
//! use iommu_discovery::ats::{AtsPolicy, ats_allowed};
//! use iommu_discovery::dmar::Dmar;
//! use iommu_discovery::topology::Topology;
//!
//! /// Whether software is to switch ATS on where translation is in scalable mode.
//! fn wanted(dmar: &Dmar, topology: &Topology, function: Sbdf) -> bool {
//!     matches!(ats_allowed(dmar, topology, function), AtsPolicy::Allowed | AtsPolicy::Required)
//! }
//! # let _ = wanted;
//! ```

use crate::dmar::{Dmar, Scope, ScopeKind};
use crate::sbdf::Sbdf;
use crate::scope::{names, properties_of, resolve};
use crate::streams::Streams;
use crate::topology::{Function, FunctionKind, PcieType, Topology};
use core::fmt;

/// Whether a function may cache translations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtsPolicy {
    /// Software may switch it on.
    Allowed,
    /// The device does not work as it should without (SATC or SIDP: ATC_REQUIRED). In scalable mode software must switch it
    /// on; in legacy mode hardware does so itself, and software must not (VT-d section 8.8).
    Required,
    /// It must stay off.
    Refused(AtsRefusal),
}

/// Why a function must not cache translations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AtsRefusal {
    /// There is no such function in the topology.
    NoFunction,
    /// It is a bridge, which makes no DMA of its own.
    Bridge,
    /// It is below a port that leads outside of the machine.
    External,
    /// Requests pass this bridge, which does not hand them on under their own id, or of which nothing is known.
    NotPcie {
        /// The bridge.
        bridge: Sbdf,
    },
    /// Firmware does not say that this root port lets translation services through (ATSR).
    RootPort {
        /// The port.
        port: Sbdf,
    },
    /// Firmware does not say that the root complex lets translation services through (IORT: ATS attribute; devicetree:
    /// `ats-supported`).
    RootComplex,
    /// No unit sees its DMA.
    Uncontrolled,
}

impl fmt::Display for AtsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFunction => f.write_str("there is no such function"),
            Self::Bridge => f.write_str("it is a bridge"),
            Self::External => f.write_str("it can be plugged in from outside"),
            Self::NotPcie { bridge } => write!(f, "the bridge {bridge} does not carry translation services"),
            Self::RootPort { port } => write!(f, "firmware does not allow translation services at {port}"),
            Self::RootComplex => f.write_str("firmware does not allow translation services at the root complex"),
            Self::Uncontrolled => f.write_str("no unit sees its DMA"),
        }
    }
}

/// Whether `function` may cache translations, by what firmware says and where it is: the first that applies.
///
/// 1. A bridge, or what is not there, must not.
/// 2. What can be plugged in from outside ([`Topology::set_external`]) must not.
/// 3. What is built into the chip and named by a SATC, or by a SIDP as in need of its cache, may or must. Virtual functions
///    count as their physical one.
/// 4. Every other function on a root bus is built in, and may.
/// 5. Below a root port: where all bridges on the way are PCI Express ports, and an ATSR of the segment covers the root port
///    by scope or ALL_PORTS, it may; else it must not.
///
/// Devices whose caches are known to be broken are not known here.
pub fn ats_allowed(dmar: &Dmar, topology: &Topology, function: Sbdf) -> AtsPolicy {
    match decide(dmar, topology, function) {
        Ok(policy) => policy,
        Err(refusal) => AtsPolicy::Refused(refusal),
    }
}

/// Whether `function` may cache translations on a machine with SMMUv3: the first that applies.
///
/// 1. A bridge, or what is not there, must not.
/// 2. What can be plugged in from outside ([`Topology::set_external`]) must not.
/// 3. What is behind a bridge that is no PCI Express port, or what no unit sees, must not.
/// 4. Where firmware says that the root complex lets translation services through, it may; else it must not.
pub fn ats_allowed_smmu(streams: &Streams, topology: &Topology, function: Sbdf) -> AtsPolicy {
    let decided = candidate(topology, function).and_then(|()| root_of_way(topology, function)).and_then(|_| {
        streams.of(function).map_err(|_| AtsRefusal::Uncontrolled)?;
        let passes = streams.host_of(function).is_some_and(|host| host.ats);
        if passes { Ok(AtsPolicy::Allowed) } else { Err(AtsRefusal::RootComplex) }
    });
    decided.unwrap_or_else(AtsPolicy::Refused)
}

/// That `function` is an endpoint that nobody can plug in.
fn candidate(topology: &Topology, function: Sbdf) -> Result<(), AtsRefusal> {
    let found = topology.get(function).ok_or(AtsRefusal::NoFunction)?;
    if matches!(found.kind, FunctionKind::Bridge { .. }) || found.port.is_some_and(PcieType::is_port) {
        return Err(AtsRefusal::Bridge);
    }
    if topology.is_external(function) {
        return Err(AtsRefusal::External);
    }
    Ok(())
}

/// The root port above `function`; `None` on a root bus.
fn root_of_way(topology: &Topology, function: Sbdf) -> Result<Option<&Function>, AtsRefusal> {
    let mut root = None;
    for bridge in topology.way_up(function) {
        if !bridge.port.is_some_and(PcieType::is_port) {
            return Err(AtsRefusal::NotPcie { bridge: bridge.sbdf });
        }
        root = Some(bridge);
    }
    Ok(root)
}

fn decide(dmar: &Dmar, topology: &Topology, function: Sbdf) -> Result<AtsPolicy, AtsRefusal> {
    candidate(topology, function)?;
    let satcs = || dmar.satcs().iter().filter(|satc| satc.segment == function.segment);
    let named = |scopes: &[Scope]| scopes.iter().any(|scope| names(scope, topology, function));
    let must = satcs().any(|satc| satc.required && named(&satc.scopes));
    if must || properties_of(dmar, topology, function).cache_required() {
        return Ok(AtsPolicy::Required);
    }
    if satcs().any(|satc| named(&satc.scopes)) {
        return Ok(AtsPolicy::Allowed);
    }
    let Some(root) = root_of_way(topology, function)? else { return Ok(AtsPolicy::Allowed) };
    let port = root.sbdf;
    if root.port != Some(PcieType::RootPort) {
        return Err(AtsRefusal::NotPcie { bridge: port });
    }
    let is_port = |scope: &Scope| {
        scope.kind == ScopeKind::Bridge && resolve(scope, port.segment, topology).is_ok_and(|named| named == port)
    };
    let atsrs = dmar.atsrs().iter().filter(|atsr| atsr.segment == port.segment);
    let covered = atsrs.into_iter().any(|atsr| atsr.all_ports || atsr.scopes.iter().any(is_port));
    if covered { Ok(AtsPolicy::Allowed) } else { Err(AtsRefusal::RootPort { port }) }
}

#[cfg(test)]
mod tests;
