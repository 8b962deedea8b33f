//! Which unit is near which memory (VT-d section 8.6).

use super::DmarError;
use crate::bytes::Bytes;
use iommu_core::addr::PhysAddr;

/// Length of the structure, in bytes; what follows is not looked at.
pub(super) const FIXED_LEN: usize = 20;

/// The proximity domain of a unit: a hint, and no more, for where to allocate its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rhsa {
    /// Physical address of the unit's registers. That there is such a unit is not checked.
    pub base: PhysAddr,
    /// The proximity domain, as in the system's resource affinity table.
    pub proximity_domain: u32,
}

impl Rhsa {
    /// Reads a structure of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(structure: Bytes<'_>) -> Result<Self, DmarError> {
        Ok(Self { base: PhysAddr::new(structure.u64(8)?), proximity_domain: structure.u32(16)? })
    }
}
