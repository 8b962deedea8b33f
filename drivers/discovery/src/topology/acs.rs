//! Access control services (PCIe 6.12): what keeps peers apart below the IOMMU.

use core::ops::BitOr;

/// A set of access control services, as in the ACS capability and control registers (PCIe 7.7.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AcsFlags(u16);

impl AcsFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// SV: a port refuses requests whose requester id is not of a bus below it.
    pub const SOURCE_VALIDATION: Self = Self(1);
    /// TB: a port blocks translated requests.
    pub const TRANSLATION_BLOCKING: Self = Self(1 << 1);
    /// RR: requests to a peer go up to the root complex.
    pub const REQUEST_REDIRECT: Self = Self(1 << 2);
    /// CR: completions to a peer go up to the root complex.
    pub const COMPLETION_REDIRECT: Self = Self(1 << 3);
    /// UF: requests that arrive redirected are forwarded upstream.
    pub const UPSTREAM_FORWARDING: Self = Self(1 << 4);
    /// The four that isolation needs: SV, RR, CR, UF.
    pub const ISOLATION: Self = Self(1 | 1 << 2 | 1 << 3 | 1 << 4);

    /// The services whose bits are set in `raw`, as in the capability and control registers.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The bits.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for AcsFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The ACS capability of a function (extended capability 0x0d).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Acs {
    /// What it can do (capability register, offset 4).
    pub capable: AcsFlags,
    /// What is switched on (control register, offset 6).
    pub enabled: AcsFlags,
}

impl Acs {
    /// Whether all of `required` are enforced. A service that a function does not offer is one that it needs not,
    /// since it has no such path to a peer (PCIe 6.12.1).
    pub(super) const fn enforces(self, required: AcsFlags) -> bool {
        self.enabled.contains(AcsFlags(required.0 & self.capable.0))
    }
}
