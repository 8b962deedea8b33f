//! Which unit serves a function, and which memory firmware reserved for it: the scopes of a [`Dmar`] resolved through
//! the bridges of a [`Topology`].
//!
//! Scopes name devices by a path of bridges, so that they hold however buses below the first are numbered. Scopes of
//! I/O APICs and HPETs, which make interrupts only, match no function. A scope that names nothing there is to be
//! found is no error: [`unresolved_scopes`] reports it.
//!
//! Firmware names neither virtual functions nor, of a device whose functions take a whole bus (ARI), those above 7: they
//! belong to the unit of their [physical function](Topology::set_physical), and of function 0.

mod unresolved;

pub use unresolved::{ScopeOwner, UnresolvedCause, UnresolvedScope, unresolved_scopes};

use crate::dmar::{DeviceProperties, Dmar, Drhd, Rmrr, Scope, ScopeKind};
use crate::sbdf::Sbdf;
use crate::topology::{FunctionKind, Topology};

/// The address that `scope`, of a structure for `segment`, leads to. There need not be a function.
///
/// # Errors
///
/// [`UnresolvedCause::NoFunction`] or [`UnresolvedCause::NotABridge`] for the step *before the last or earlier* that
/// does not lead on.
pub fn resolve(scope: &Scope, segment: u16, topology: &Topology) -> Result<Sbdf, UnresolvedCause> {
    let mut bus = scope.start_bus;
    let mut hops = scope.path.iter().peekable();
    while let Some(hop) = hops.next() {
        // The fields are public, so that the numbers may be out of range even though parsing checks them.
        let at = Sbdf::from_parts(segment, bus, hop.device, hop.function).ok_or(UnresolvedCause::NoPath)?;
        if hops.peek().is_none() {
            return Ok(at);
        }
        let function = topology.get(at).ok_or(UnresolvedCause::NoFunction { at })?;
        let FunctionKind::Bridge { secondary, .. } = function.kind else {
            return Err(UnresolvedCause::NotABridge { at });
        };
        bus = secondary;
    }
    Err(UnresolvedCause::NoPath)
}

/// Index in [`Dmar::drhds`] of the unit that serves `function`: the one with a scope that names it, else the one with
/// a scope that names a bridge above it (the nearest, where there are several), else the one of its segment with
/// INCLUDE_PCI_ALL (VT-d section 8.3).
///
/// `None` where no unit serves it, or where there is no such function: then nothing stops its DMA, and it must not be
/// given away.
pub fn unit_of(dmar: &Dmar, topology: &Topology, function: Sbdf) -> Option<usize> {
    topology.get(function)?;
    let exactly = |scope: &Scope| claim(scope, topology, function) == Some(Claim::Exact);
    let of_segment = |drhd: &&Drhd| drhd.segment == function.segment;
    let is_named = || dmar.drhds().iter().filter(of_segment).any(|drhd| drhd.scopes.iter().any(exactly));
    // A virtual function is not at the place that a scope with its number meant.
    let is_virtual = topology.physical(function).is_some();
    let function = if is_virtual || !is_named() { topology.named_for(function) } else { function };
    let units = || dmar.drhds().iter().enumerate().filter(|(_, drhd)| drhd.segment == function.segment);
    let claims = units().flat_map(|(index, drhd)| {
        let scopes = drhd.scopes.iter();
        scopes.filter_map(move |scope| claim(scope, topology, function).map(|claim| (claim, index)))
    });
    // Of equal claims the first in the table counts.
    let best = claims.reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map(|(_, index)| index).or_else(|| units().find(|(_, drhd)| drhd.include_pci_all).map(|(index, _)| index))
}

/// The reserved regions that DMA of `function` needs: those of the function itself, and those of every function that
/// an IOMMU may see under one of the same ids, such as its neighbours behind a PCIe-to-PCI bridge.
pub fn reserved_regions<'a>(
    dmar: &'a Dmar,
    topology: &'a Topology,
    function: Sbdf,
) -> impl Iterator<Item = &'a Rmrr> + 'a {
    dmar.rmrrs().iter().filter(move |rmrr| {
        rmrr.segment == function.segment && rmrr.scopes.iter().any(|scope| reserves_for(scope, topology, function))
    })
}

/// What firmware says of the integrated device `function` (VT-d section 8.9): all that scopes say that name it.
pub fn properties_of(dmar: &Dmar, topology: &Topology, function: Sbdf) -> DeviceProperties {
    let of_segment = dmar.sidps().iter().filter(|sidp| sidp.segment == function.segment);
    let scopes = of_segment.flat_map(|sidp| &sidp.scopes);
    let named = scopes.filter(|scope| names(scope, topology, function));
    named.fold(DeviceProperties::NONE, |all, scope| all | DeviceProperties::new(scope.flags))
}

/// Whether `scope`, of a structure for the segment of `function`, names it or what it counts as, or a bridge above.
pub(crate) fn names(scope: &Scope, topology: &Topology, function: Sbdf) -> bool {
    claim(scope, topology, topology.named_for(function)).is_some()
}

/// How closely a scope names a function; the greater, the closer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// It is below a bridge with this secondary bus: the higher, the nearer.
    Below(u8),
    /// The scope names the function itself.
    Exact,
}

/// How `scope`, of a structure for the segment of `function`, names it.
fn claim(scope: &Scope, topology: &Topology, function: Sbdf) -> Option<Claim> {
    if !names_functions(scope.kind) {
        return None;
    }
    let at = resolve(scope, function.segment, topology).ok()?;
    if at == function {
        return Some(Claim::Exact);
    }
    match (scope.kind, topology.get(at)?.kind) {
        (ScopeKind::Bridge, FunctionKind::Bridge { secondary, subordinate })
            if (secondary..=subordinate).contains(&function.id.bus()) =>
        {
            Some(Claim::Below(secondary))
        }
        _ => None,
    }
}

/// Whether `scope` names `function` or one that shares an id with it.
fn reserves_for(scope: &Scope, topology: &Topology, function: Sbdf) -> bool {
    if claim(scope, topology, function).is_some() {
        return true;
    }
    let named = if names_functions(scope.kind) { resolve(scope, function.segment, topology).ok() } else { None };
    named.is_some_and(|named| topology.aliases(function).any(|id| topology.aliases(named).any(|other| other == id)))
}

/// Whether scopes of this kind name sources of DMA.
const fn names_functions(kind: ScopeKind) -> bool {
    match kind {
        ScopeKind::Endpoint | ScopeKind::Bridge | ScopeKind::Namespace => true,
        ScopeKind::IoApic | ScopeKind::Hpet | ScopeKind::Unknown(_) => false,
    }
}

#[cfg(test)]
mod tests;
