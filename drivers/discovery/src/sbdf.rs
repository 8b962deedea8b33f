//! Where a PCI function is: segment, bus, device, function.

use core::fmt;
use iommu_core::hw::RequesterId;

/// The address of a PCI function in the whole system: its segment and its requester id there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sbdf {
    /// PCI segment group.
    pub segment: u16,
    /// Bus, device and function.
    pub id: RequesterId,
}

impl Sbdf {
    /// The function `id` of `segment`.
    pub const fn new(segment: u16, id: RequesterId) -> Self {
        Self { segment, id }
    }

    /// The function at `bus`, `device` (5 bits), `function` (3 bits) of `segment`; `None` where one is too large.
    pub const fn from_parts(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        match RequesterId::from_parts(bus, device, function) {
            Some(id) => Some(Self { segment, id }),
            None => None,
        }
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.id)
    }
}
