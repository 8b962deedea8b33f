//! The DMA remapping reporting table, DMAR (VT-d section 8): which IOMMU units there are, which devices each serves,
//! and which memory firmware keeps for devices of its own.
//!
//! [`Dmar::parse`] copies out what is used and checks all of it; nothing of the table is trusted afterwards. Units
//! ([`Drhd`]) and reserved regions ([`Rmrr`]) are decoded; the other known structures are checked for length and
//! counted; unknown ones are skipped. Which function a scope means is for [`crate::scope`].

mod device_scope;
mod drhd;
mod error;
mod rmrr;

pub use device_scope::{PathHop, Scope, ScopeKind};
pub use drhd::Drhd;
pub use error::DmarError;
pub use rmrr::Rmrr;

use crate::bytes::Bytes;
use crate::fallible::try_push;
use crate::table;
use alloc::vec::Vec;

/// Length of header, address width, flags and reserved bytes, before the first structure.
const FIXED_LEN: usize = 48;
const WIDTH_AT: usize = 36;
const FLAGS_AT: usize = 37;

/// Length of the type and length fields that every structure begins with.
const STRUCTURE_HEADER_LEN: usize = 4;

/// The known remapping structures, with their type codes (VT-d section 8.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum StructureKind {
    /// DMA remapping hardware unit definition: one unit.
    Drhd = 0,
    /// Reserved memory region.
    Rmrr = 1,
    /// Root port ATS capability.
    Atsr = 2,
    /// Remapping hardware static affinity.
    Rhsa = 3,
    /// ACPI name-space device declaration.
    Andd = 4,
    /// SoC integrated address translation cache.
    Satc = 5,
    /// SoC integrated device property.
    Sidp = 6,
}

impl StructureKind {
    const ALL: [Self; 7] = [Self::Drhd, Self::Rmrr, Self::Atsr, Self::Rhsa, Self::Andd, Self::Satc, Self::Sidp];

    fn new(raw: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == raw)
    }

    /// Length of the structure's fixed part, in bytes.
    const fn least(self) -> usize {
        match self {
            Self::Drhd => drhd::FIXED_LEN,
            Self::Rmrr => rmrr::FIXED_LEN,
            Self::Rhsa => 20,
            Self::Atsr | Self::Andd | Self::Satc | Self::Sidp => 8,
        }
    }
}

/// What the DMAR table says, checked and owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dmar {
    host_address_bits: u8,
    flags: u8,
    drhds: Vec<Drhd>,
    rmrrs: Vec<Rmrr>,
    counts: [u32; StructureKind::ALL.len()],
    unknown: u32,
}

impl Dmar {
    /// Reads the table that `bytes` begins with; `bytes` may go on after it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its offset: see [`DmarError`]. The work is linear in the table's length,
    /// and one comparison a pair of units.
    pub fn parse(bytes: &[u8]) -> Result<Self, DmarError> {
        let table = table::checked(bytes, *b"DMAR", FIXED_LEN)?;
        let width = table.u8(WIDTH_AT)?;
        // The field holds the width less one (VT-d section 8.1).
        if width > 63 {
            return Err(DmarError::AddressWidth { offset: WIDTH_AT, value: width });
        }
        let mut dmar = Self {
            host_address_bits: width + 1,
            flags: table.u8(FLAGS_AT)?,
            drhds: Vec::new(),
            rmrrs: Vec::new(),
            counts: [0; StructureKind::ALL.len()],
            unknown: 0,
        };
        let mut rest = table.from(FIXED_LEN)?;
        while rest.len() > 0 {
            let (kind, structure) = next_structure(rest)?;
            // Structures are at least four bytes long, so that the loop ends and no count overflows.
            rest = rest.from(structure.len())?;
            dmar.add(kind, structure)?;
        }
        Ok(dmar)
    }

    fn add(&mut self, raw: u16, structure: Bytes<'_>) -> Result<(), DmarError> {
        let Some(kind) = StructureKind::new(raw) else {
            self.unknown = self.unknown.saturating_add(1);
            return Ok(());
        };
        if structure.len() < kind.least() {
            return Err(DmarError::StructureTooShort {
                offset: structure.start(),
                kind: raw,
                length: structure.len(),
                least: kind.least(),
            });
        }
        if let Some(count) = self.counts.get_mut(usize::from(raw)) {
            *count = count.saturating_add(1);
        }
        match kind {
            StructureKind::Drhd => {
                let drhd = Drhd::parse(structure)?;
                drhd.check_against(&self.drhds, structure.start())?;
                try_push(&mut self.drhds, drhd)?;
            }
            StructureKind::Rmrr => try_push(&mut self.rmrrs, Rmrr::parse(structure)?)?,
            // Used from the step that brings ATS on; known, so that their lengths are checked.
            StructureKind::Atsr
            | StructureKind::Rhsa
            | StructureKind::Andd
            | StructureKind::Satc
            | StructureKind::Sidp => {}
        }
        Ok(())
    }

    /// Width of the host's physical addresses, in bits (1 to 64).
    pub const fn host_address_bits(&self) -> u8 {
        self.host_address_bits
    }

    /// Whether the platform supports interrupt remapping (flags bit 0, INTR_REMAP).
    pub const fn interrupt_remapping(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether firmware asks the system not to enable x2APIC mode (flags bit 1, X2APIC_OPT_OUT).
    pub const fn x2apic_opt_out(&self) -> bool {
        self.flags & 1 << 1 != 0
    }

    /// Whether firmware asks for DMA protection from boot on (flags bit 2, DMA_CTRL_PLATFORM_OPT_IN_FLAG).
    pub const fn dma_control_opt_in(&self) -> bool {
        self.flags & 1 << 2 != 0
    }

    /// The units, in table order: [`crate::scope::unit_of`] returns an index into this.
    pub fn drhds(&self) -> &[Drhd] {
        &self.drhds
    }

    /// The reserved memory regions, in table order.
    pub fn rmrrs(&self) -> &[Rmrr] {
        &self.rmrrs
    }

    /// How many structures of `kind` the table has.
    pub fn count(&self, kind: StructureKind) -> u32 {
        self.counts.get(kind as usize).copied().unwrap_or(0)
    }

    /// How many structures of unknown type were skipped.
    pub const fn unknown(&self) -> u32 {
        self.unknown
    }
}

/// The type code of the structure that `rest` begins with, and the structure's bytes.
fn next_structure(rest: Bytes<'_>) -> Result<(u16, Bytes<'_>), DmarError> {
    let offset = rest.start();
    if rest.len() < STRUCTURE_HEADER_LEN {
        return Err(DmarError::TrailingBytes { offset, count: rest.len() });
    }
    let (kind, length) = (rest.u16(0)?, rest.u16(2)?.into());
    if length == 0 {
        return Err(DmarError::StructureZeroLength { offset, kind });
    }
    if length < STRUCTURE_HEADER_LEN {
        return Err(DmarError::StructureTooShort { offset, kind, length, least: STRUCTURE_HEADER_LEN });
    }
    let structure =
        rest.part(0, length).map_err(|_| DmarError::StructureOverlong { offset, kind, length, room: rest.len() })?;
    Ok((kind, structure))
}

#[cfg(test)]
mod tests;
