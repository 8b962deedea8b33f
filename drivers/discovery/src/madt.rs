//! The multiple APIC description table, MADT (ACPI 5.2.12), as far as messages of devices need it: where interrupt
//! translation services (GICv3 ITS) are. Everything else in it is skipped.

mod error;

pub use error::MadtError;

use crate::bytes::Bytes;
use crate::fallible::try_push;
use crate::table;
use alloc::vec::Vec;
use iommu_core::addr::{PhysAddr, PhysExtent};

/// Length of header, address of local interrupt controllers and flags, before the first structure.
const FIXED_LEN: usize = 44;

/// Length of the type and length fields that every structure begins with.
const STRUCTURE_HEADER_LEN: usize = 2;

/// The structure of a GIC interrupt translation service (ACPI 5.2.12.18).
const ITS: u8 = 15;
const ITS_LEN: usize = 20;

/// Most services of a table: each is compared with all before it.
const MAX_SERVICES: usize = 1024;

/// A frame of registers of an ITS (GIC section 12.18), in bytes.
const FRAME: u64 = 0x1_0000;

/// An interrupt translation service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Its {
    /// Its number.
    pub id: u32,
    /// Its registers: not at 0, a multiple of 64 KiB.
    pub base: PhysAddr,
}

impl Its {
    /// The page that messages are written to: the frame with GITS_TRANSLATER, the second.
    pub fn doorbell(&self) -> PhysExtent {
        doorbell_of(self.base)
    }
}

/// The page with GITS_TRANSLATER of the service whose registers begin at `base`.
pub(crate) const fn doorbell_of(base: PhysAddr) -> PhysExtent {
    PhysExtent::new(base.wrapping_add(FRAME), FRAME)
}

/// Whether a service's registers may begin at `base`: not at 0, aligned, not beyond 2^64.
pub(crate) const fn may_begin_at(base: u64) -> bool {
    base != 0 && base.is_multiple_of(FRAME) && base.checked_add(2 * FRAME - 1).is_some()
}

/// What the MADT says, checked and owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Madt {
    services: Vec<Its>,
}

impl Madt {
    /// Reads the table that `bytes` begins with; `bytes` may go on after it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its offset: see [`MadtError`]. The work is linear in the table's length, and one
    /// comparison a pair of services, of which there are at most 1024.
    pub fn parse(bytes: &[u8]) -> Result<Self, MadtError> {
        let mut rest = table::checked(bytes, *b"APIC", FIXED_LEN)?.from(FIXED_LEN)?;
        let mut services: Vec<Its> = Vec::new();
        while rest.len() > 0 {
            let structure = next_structure(rest)?;
            // Structures are at least two bytes long, so that the loop ends.
            rest = rest.from(structure.len())?;
            if structure.u8(0)? != ITS {
                continue;
            }
            let offset = structure.start();
            let its = parse_its(structure)?;
            if services.iter().any(|other| other.id == its.id) {
                return Err(MadtError::NumberTaken { offset, id: its.id });
            }
            if services.len() >= MAX_SERVICES {
                return Err(MadtError::TooManyServices { offset });
            }
            try_push(&mut services, its)?;
        }
        Ok(Self { services })
    }

    /// The interrupt translation services, in table order.
    pub fn services(&self) -> &[Its] {
        &self.services
    }

    /// The interrupt translation service with this number.
    pub fn its(&self, id: u32) -> Option<&Its> {
        self.services.iter().find(|its| its.id == id)
    }
}

/// The structure that `rest` begins with.
fn next_structure(rest: Bytes<'_>) -> Result<Bytes<'_>, MadtError> {
    let offset = rest.start();
    if rest.len() < STRUCTURE_HEADER_LEN {
        return Err(MadtError::TrailingBytes { offset, count: rest.len() });
    }
    let (kind, length) = (rest.u8(0)?, usize::from(rest.u8(1)?));
    if length < STRUCTURE_HEADER_LEN {
        return Err(MadtError::StructureTooShort { offset, kind, length, least: STRUCTURE_HEADER_LEN });
    }
    rest.part(0, length).map_err(|_| MadtError::StructureOverlong { offset, kind, length, room: rest.len() })
}

fn parse_its(structure: Bytes<'_>) -> Result<Its, MadtError> {
    let (offset, length) = (structure.start(), structure.len());
    if length < ITS_LEN {
        return Err(MadtError::StructureTooShort { offset, kind: ITS, length, least: ITS_LEN });
    }
    let base = structure.u64(8)?;
    if !may_begin_at(base) {
        return Err(MadtError::BadBase { offset, base });
    }
    Ok(Its { id: structure.u32(4)?, base: PhysAddr::new(base) })
}

#[cfg(test)]
mod tests;
