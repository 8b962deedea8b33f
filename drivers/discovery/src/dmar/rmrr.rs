//! Reserved memory regions (VT-d section 8.4): memory that firmware lets devices use, and that must stay mapped to
//! itself for those devices once translation is on.

use super::{DmarError, Scope};
use crate::bytes::Bytes;
use alloc::vec::Vec;
use iommu_core::addr::{PAGE_SIZE, PhysAddr};

/// Length of the structure before its scopes, in bytes.
pub(super) const FIXED_LEN: usize = 24;

/// One reserved region and the devices that use it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rmrr {
    /// The PCI segment of the devices.
    pub segment: u16,
    /// First byte; a multiple of 4 KiB.
    pub start: PhysAddr,
    /// Last byte, inclusive; one less than a multiple of 4 KiB, not below `start`.
    pub last: PhysAddr,
    /// The devices that use it.
    pub scopes: Vec<Scope>,
}

impl Rmrr {
    /// Reads a structure of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(structure: Bytes<'_>) -> Result<Self, DmarError> {
        let offset = structure.start();
        let (base, limit) = (structure.u64(8)?, structure.u64(16)?);
        if base > limit {
            return Err(DmarError::ReservedReversed { offset, base, limit });
        }
        if base % PAGE_SIZE != 0 || limit % PAGE_SIZE != PAGE_SIZE - 1 {
            return Err(DmarError::ReservedMisaligned { offset, base, limit });
        }
        Ok(Self {
            segment: structure.u16(6)?,
            start: PhysAddr::new(base),
            last: PhysAddr::new(limit),
            scopes: Scope::parse_all(structure.from(FIXED_LEN)?)?,
        })
    }
}
