//! DMA remapping hardware unit definitions (VT-d section 8.3).

use super::{DmarError, Scope};
use crate::bytes::Bytes;
use alloc::vec::Vec;
use iommu_core::addr::{PAGE_SIZE, PhysAddr};

/// Length of the structure before its scopes, in bytes.
pub(super) const FIXED_LEN: usize = 16;

/// One IOMMU unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drhd {
    /// The PCI segment it serves.
    pub segment: u16,
    /// Physical address of its registers: not zero, a multiple of 4 KiB. Whether anything answers there is for the
    /// driver to see.
    pub base: PhysAddr,
    /// Length of its registers, in bytes: 2^N pages.
    pub register_bytes: u64,
    /// Whether it serves every function of the segment that no other unit claims (flags bit 0).
    pub include_pci_all: bool,
    /// The devices it serves; with `include_pci_all` only I/O APICs, HPETs and name-space devices are of use.
    pub scopes: Vec<Scope>,
}

impl Drhd {
    /// Reads a structure of at least [`FIXED_LEN`] bytes.
    pub(super) fn parse(structure: Bytes<'_>) -> Result<Self, DmarError> {
        let offset = structure.start();
        let base = structure.u64(8)?;
        // Bits 3:0: log2 of the number of pages.
        let register_bytes = PAGE_SIZE << (structure.u8(5)? & 0xf);
        if base == 0 {
            return Err(DmarError::RegisterBaseZero { offset });
        }
        if base % PAGE_SIZE != 0 {
            return Err(DmarError::RegisterBaseMisaligned { offset, base });
        }
        if base.checked_add(register_bytes - 1).is_none() {
            return Err(DmarError::RegistersWrap { offset, base });
        }
        Ok(Self {
            segment: structure.u16(6)?,
            base: PhysAddr::new(base),
            register_bytes,
            include_pci_all: structure.u8(4)? & 1 != 0,
            scopes: Scope::parse_all(structure.from(FIXED_LEN)?)?,
        })
    }

    /// Whether this unit, whose structure begins at `offset`, may come after the units `before` it.
    pub(super) fn check_against(&self, before: &[Self], offset: usize) -> Result<(), DmarError> {
        if before.iter().any(|unit| unit.base == self.base) {
            return Err(DmarError::RegisterBaseTaken { offset, base: self.base.get() });
        }
        let segment = self.segment;
        if before.iter().any(|unit| unit.segment == segment && unit.include_pci_all) {
            return Err(match self.include_pci_all {
                true => DmarError::SecondIncludeAll { offset, segment },
                false => DmarError::AfterIncludeAll { offset, segment },
            });
        }
        Ok(())
    }
}
