//! Address translation caches that are built into the chip (VT-d section 8.8).

use super::{DmarError, Scope};
use crate::bytes::Bytes;
use alloc::vec::Vec;

/// Length of the structure before its scopes, in bytes.
pub(super) const FIXED_LEN: usize = 8;

/// Integrated devices with an address translation cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Satc {
    /// The PCI segment of the devices.
    pub segment: u16,
    /// They do not work as they should without it (flags bit 0, ATC_REQUIRED).
    pub required: bool,
    /// The devices.
    pub scopes: Vec<Scope>,
}

impl Satc {
    /// Reads a structure of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(structure: Bytes<'_>) -> Result<Self, DmarError> {
        Ok(Self {
            segment: structure.u16(6)?,
            required: structure.u8(4)? & 1 != 0,
            scopes: Scope::parse_all(structure.from(FIXED_LEN)?)?,
        })
    }
}
