//! Root ports that let address translation services through (VT-d section 8.5).

use super::{DmarError, Scope};
use crate::bytes::Bytes;
use alloc::vec::Vec;

/// Length of the structure before its scopes, in bytes.
pub(super) const FIXED_LEN: usize = 8;

/// The root ports of a segment below which functions may cache translations. Several of one segment add up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Atsr {
    /// The PCI segment of the ports.
    pub segment: u16,
    /// All root ports of the segment do (flags bit 0, ALL_PORTS); the scopes mean nothing then.
    pub all_ports: bool,
    /// The ports that do.
    pub scopes: Vec<Scope>,
}

impl Atsr {
    /// Reads a structure of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(structure: Bytes<'_>) -> Result<Self, DmarError> {
        Ok(Self {
            segment: structure.u16(6)?,
            all_ports: structure.u8(4)? & 1 != 0,
            scopes: Scope::parse_all(structure.from(FIXED_LEN)?)?,
        })
    }
}
