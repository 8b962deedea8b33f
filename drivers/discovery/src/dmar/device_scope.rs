//! Device scopes: how a structure names a device, by a path of bridges (VT-d section 8.3.1).

use super::DmarError;
use crate::bytes::Bytes;
use crate::fallible::try_push;
use alloc::vec::Vec;

/// Length of a scope before its path, in bytes.
const FIXED_LEN: usize = 6;

/// What a scope names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScopeKind {
    /// One PCI function (type 1).
    Endpoint,
    /// A bridge and everything below it (type 2).
    Bridge,
    /// An I/O interrupt controller (type 3); the enumeration id is its id in the MADT.
    IoApic,
    /// A timer block that sends message-signalled interrupts (type 4); the enumeration id is its HPET number.
    Hpet,
    /// A device of the ACPI name space (type 5); the enumeration id is its device number in an ANDD structure.
    Namespace,
    /// A type this crate does not know; such a scope matches nothing.
    Unknown(u8),
}

impl ScopeKind {
    const fn new(raw: u8) -> Self {
        match raw {
            1 => Self::Endpoint,
            2 => Self::Bridge,
            3 => Self::IoApic,
            4 => Self::Hpet,
            5 => Self::Namespace,
            raw => Self::Unknown(raw),
        }
    }
}

/// One step of a path: a device and function on the bus that the step before leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathHop {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// A device scope as the table has it; [`crate::scope::resolve`] finds the function that it means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// What it names.
    pub kind: ScopeKind,
    /// Flags; reserved but in scopes of SIDP structures.
    pub flags: u8,
    /// Which I/O APIC, HPET or name-space device; zero for others.
    pub enumeration_id: u8,
    /// The bus that the path begins on.
    pub start_bus: u8,
    /// The steps; never empty.
    pub path: Vec<PathHop>,
}

impl Scope {
    /// The scopes that fill `bytes`.
    pub(super) fn parse_all(bytes: Bytes<'_>) -> Result<Vec<Self>, DmarError> {
        let mut scopes = Vec::new();
        let mut rest = bytes;
        while rest.len() > 0 {
            let (scope, length) = Self::parse(rest)?;
            // At least FIXED_LEN, so that the loop ends.
            rest = rest.from(length)?;
            try_push(&mut scopes, scope)?;
        }
        Ok(scopes)
    }

    /// The scope that `rest` begins with, and its length in bytes.
    fn parse(rest: Bytes<'_>) -> Result<(Self, usize), DmarError> {
        let (offset, room) = (rest.start(), rest.len());
        if room < FIXED_LEN {
            return Err(DmarError::ScopeTooShort { offset, length: room });
        }
        let length = rest.u8(1)?.into();
        if length < FIXED_LEN {
            return Err(DmarError::ScopeTooShort { offset, length });
        }
        let scope = rest.part(0, length).map_err(|_| DmarError::ScopeOverlong { offset, length, room })?;
        let path = parse_path(offset, scope.from(FIXED_LEN)?)?;
        let scope = Self {
            kind: ScopeKind::new(scope.u8(0)?),
            flags: scope.u8(2)?,
            enumeration_id: scope.u8(4)?,
            start_bus: scope.u8(5)?,
            path,
        };
        Ok((scope, length))
    }
}

/// The steps that fill `bytes`, of the scope at `scope_offset`.
fn parse_path(scope_offset: usize, bytes: Bytes<'_>) -> Result<Vec<PathHop>, DmarError> {
    if bytes.len() == 0 {
        return Err(DmarError::ScopeEmptyPath { offset: scope_offset });
    }
    if !bytes.len().is_multiple_of(2) {
        return Err(DmarError::ScopeOddPath { offset: scope_offset, path_bytes: bytes.len() });
    }
    let mut path = Vec::new();
    for at in (0..bytes.len()).step_by(2) {
        let [device, function] = bytes.array(at)?;
        if device > 31 || function > 7 {
            return Err(DmarError::ScopePathEntry { offset: bytes.start() + at, device, function });
        }
        try_push(&mut path, PathHop { device, function })?;
    }
    Ok(path)
}
