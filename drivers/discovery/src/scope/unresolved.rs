//! Scopes that name no function, or one of another kind: firmware's mistakes, or devices that are switched off.

use super::resolve;
use crate::dmar::{Dmar, Scope, ScopeKind};
use crate::sbdf::Sbdf;
use crate::topology::{FunctionKind, Topology};
use core::fmt;

/// Base class of bridges of all kinds, in bits 23:16 of a class code.
const CLASS_BRIDGE: u32 = 0x06;

/// Why a scope names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UnresolvedCause {
    /// There is no function at this step of the path.
    NoFunction {
        /// Where it would be.
        at: Sbdf,
    },
    /// The function at this step is no bridge, though the path goes on or the scope names what is below one.
    NotABridge {
        /// The function.
        at: Sbdf,
    },
    /// The scope is for an endpoint and names a bridge; it counts for the bridge alone.
    NotAnEndpoint {
        /// The bridge.
        at: Sbdf,
    },
    /// The path is empty or holds an impossible number; never so in a scope that was parsed.
    NoPath,
}

impl fmt::Display for UnresolvedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFunction { at } => write!(f, "no function at {at}"),
            Self::NotABridge { at } => write!(f, "{at} is no bridge"),
            Self::NotAnEndpoint { at } => write!(f, "{at} is a bridge, not an endpoint"),
            Self::NoPath => f.write_str("no path"),
        }
    }
}

/// The structure that a scope belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ScopeOwner {
    /// The unit with this index in [`Dmar::drhds`].
    Drhd(usize),
    /// The reserved region with this index in [`Dmar::rmrrs`].
    Rmrr(usize),
    /// The root ports with this index in [`Dmar::atsrs`].
    Atsr(usize),
    /// The integrated devices with this index in [`Dmar::satcs`].
    Satc(usize),
    /// The integrated devices with this index in [`Dmar::sidps`].
    Sidp(usize),
}

/// A scope that names nothing, or not what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnresolvedScope<'d> {
    /// Whose scope it is.
    pub owner: ScopeOwner,
    /// The scope.
    pub scope: &'d Scope,
    /// What is wrong.
    pub cause: UnresolvedCause,
}

/// The scopes that name no function of `topology`, or one of another kind. Scopes of I/O
/// APICs, HPETs and name-space devices are left out: those need not be PCI functions.
pub fn unresolved_scopes<'a>(dmar: &'a Dmar, topology: &'a Topology) -> impl Iterator<Item = UnresolvedScope<'a>> + 'a {
    let drhds = dmar.drhds().iter().enumerate();
    let drhds = drhds.map(|(index, drhd)| (ScopeOwner::Drhd(index), drhd.segment, &drhd.scopes));
    let rmrrs = dmar.rmrrs().iter().enumerate();
    let rmrrs = rmrrs.map(|(index, rmrr)| (ScopeOwner::Rmrr(index), rmrr.segment, &rmrr.scopes));
    let atsrs = dmar.atsrs().iter().enumerate();
    let atsrs = atsrs.map(|(index, atsr)| (ScopeOwner::Atsr(index), atsr.segment, &atsr.scopes));
    let satcs = dmar.satcs().iter().enumerate();
    let satcs = satcs.map(|(index, satc)| (ScopeOwner::Satc(index), satc.segment, &satc.scopes));
    let sidps = dmar.sidps().iter().enumerate();
    let sidps = sidps.map(|(index, sidp)| (ScopeOwner::Sidp(index), sidp.segment, &sidp.scopes));
    drhds.chain(rmrrs).chain(atsrs).chain(satcs).chain(sidps).flat_map(move |(owner, segment, scopes)| {
        let scopes = scopes.iter();
        scopes.filter_map(move |scope| {
            let cause = check(scope, segment, topology).err()?;
            Some(UnresolvedScope { owner, scope, cause })
        })
    })
}

fn check(scope: &Scope, segment: u16, topology: &Topology) -> Result<(), UnresolvedCause> {
    if !matches!(scope.kind, ScopeKind::Endpoint | ScopeKind::Bridge) {
        return Ok(());
    }
    let at = resolve(scope, segment, topology)?;
    let function = topology.get(at).ok_or(UnresolvedCause::NoFunction { at })?;
    match (scope.kind, function.kind) {
        (ScopeKind::Endpoint, FunctionKind::Bridge { .. }) => Err(UnresolvedCause::NotAnEndpoint { at }),
        // Bridges of other kinds than PCI-to-PCI, such as non-transparent ones, are rightly named so.
        (ScopeKind::Bridge, FunctionKind::Endpoint) if function.class >> 16 & 0xff != CLASS_BRIDGE => {
            Err(UnresolvedCause::NotABridge { at })
        }
        _ => Ok(()),
    }
}
