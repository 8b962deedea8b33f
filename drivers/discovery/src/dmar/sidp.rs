//! Properties of devices that are built into the chip (VT-d section 8.9).

use super::{DmarError, Scope};
use crate::bytes::Bytes;
use alloc::vec::Vec;
use core::ops::BitOr;

/// Length of the structure before its scopes, in bytes.
pub(super) const FIXED_LEN: usize = 8;

/// Integrated devices with properties of their own, each in its scope's flags ([`DeviceProperties`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sidp {
    /// The PCI segment of the devices.
    pub segment: u16,
    /// The devices, with what is said of them.
    pub scopes: Vec<Scope>,
}

impl Sidp {
    /// Reads a structure of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(structure: Bytes<'_>) -> Result<Self, DmarError> {
        Ok(Self { segment: structure.u16(6)?, scopes: Scope::parse_all(structure.from(FIXED_LEN)?)? })
    }
}

/// What firmware says of an integrated device: the flags of a scope in a [`Sidp`]. Bits that are reserved are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceProperties(u8);

impl DeviceProperties {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// The properties whose bits are set in `flags`.
    pub const fn new(flags: u8) -> Self {
        Self(flags & 0x1f)
    }

    /// Its requests without PASID must not go through nested translation (bit 0).
    pub const fn no_nested_rid(self) -> bool {
        self.0 & 1 != 0
    }

    /// Page-walk snoop (PWSNP) must not be set in its PASID entries (bit 1).
    pub const fn no_walk_snoop(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Page snoop (PGSNP) must not be set in its PASID entries (bit 2).
    pub const fn no_page_snoop(self) -> bool {
        self.0 & 1 << 2 != 0
    }

    /// Its address translation cache is hardened: it makes no translated request to where it was given no translation
    /// (bit 3).
    pub const fn hardened_cache(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// It does not work as it should without its address translation cache (bit 4).
    pub const fn cache_required(self) -> bool {
        self.0 & 1 << 4 != 0
    }
}

impl BitOr for DeviceProperties {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
