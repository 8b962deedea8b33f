//! The DMA remapping reporting table, DMAR (VT-d section 8): which IOMMU units there are, which devices each serves,
//! which memory firmware keeps for devices of its own, and what may cache translations.
//!
//! [`Dmar::parse`] copies out what is used and checks all of it; nothing of the table is trusted afterwards. Structures of
//! unknown type are skipped. Which function a scope means is for [`crate::scope`].
//!
//! # What is an error, and what is not
//!
//! | Rule of the specification | Broken |
//! |---|---|
//! | lengths hold what they must, nothing leaves what it is in | the table is refused |
//! | a segment has at most one unit with INCLUDE_PCI_ALL, after all its others | refused |
//! | register bases are multiples of 4 KiB, not zero, no two alike | refused |
//! | reserved regions begin and end with whole pages, not before they begin | refused |
//! | reserved regions lie apart | allowed: one memory may serve several devices, and what overlaps is joined |
//! | reserved regions are memory that can be mapped | found where a function needs one: [`crate::regions`] |
//! | numbers of name-space devices are unique, their names are ACPI paths that end | refused |
//! | structures come in the order of their types | not checked |
//! | a segment that is named has a unit | not checked: its functions have none, and are not given away |
//! | one ATSR a segment, of root ports | all count; a scope that names no root port allows nothing |
//! | RHSA name units, each once | the first counts, others nothing |
//! | reserved bits are zero | ignored |

mod andd;
mod atsr;
mod device_scope;
mod drhd;
mod error;
mod rhsa;
mod rmrr;
mod satc;
mod sidp;

pub use andd::Andd;
pub use atsr::Atsr;
pub use device_scope::{PathHop, Scope, ScopeKind};
pub use drhd::Drhd;
pub use error::DmarError;
pub use rhsa::Rhsa;
pub use rmrr::Rmrr;
pub use satc::Satc;
pub use sidp::{DeviceProperties, Sidp};

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

/// Most units of a table: each is compared with all before it. No machine has nearly as many.
const MAX_UNITS: usize = 1024;

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
            Self::Atsr => atsr::FIXED_LEN,
            Self::Rhsa => rhsa::FIXED_LEN,
            Self::Andd => andd::FIXED_LEN,
            Self::Satc => satc::FIXED_LEN,
            Self::Sidp => sidp::FIXED_LEN,
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
    atsrs: Vec<Atsr>,
    rhsas: Vec<Rhsa>,
    andds: Vec<Andd>,
    satcs: Vec<Satc>,
    sidps: Vec<Sidp>,
    counts: [u32; StructureKind::ALL.len()],
    unknown: u32,
}

impl Dmar {
    /// Reads the table that `bytes` begins with; `bytes` may go on after it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its offset: see [`DmarError`]. The work is linear in the table's length,
    /// and one comparison a pair of units, or of name-space devices, of which there are
    /// at most 1024 and 256.
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
            atsrs: Vec::new(),
            rhsas: Vec::new(),
            andds: Vec::new(),
            satcs: Vec::new(),
            sidps: Vec::new(),
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
                if self.drhds.len() >= MAX_UNITS {
                    return Err(DmarError::TooManyUnits { offset: structure.start() });
                }
                let drhd = Drhd::parse(structure)?;
                drhd.check_against(&self.drhds, structure.start())?;
                try_push(&mut self.drhds, drhd)?;
            }
            StructureKind::Rmrr => try_push(&mut self.rmrrs, Rmrr::parse(structure)?)?,
            StructureKind::Atsr => try_push(&mut self.atsrs, Atsr::parse(structure)?)?,
            StructureKind::Rhsa => try_push(&mut self.rhsas, Rhsa::parse(structure)?)?,
            StructureKind::Andd => {
                let andd = Andd::parse(structure)?;
                andd.check_against(&self.andds, structure.start())?;
                try_push(&mut self.andds, andd)?;
            }
            StructureKind::Satc => try_push(&mut self.satcs, Satc::parse(structure)?)?,
            StructureKind::Sidp => try_push(&mut self.sidps, Sidp::parse(structure)?)?,
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

    /// The root ports that let address translation services through, in table order.
    pub fn atsrs(&self) -> &[Atsr] {
        &self.atsrs
    }

    /// The proximity domains of units, in table order.
    pub fn rhsas(&self) -> &[Rhsa] {
        &self.rhsas
    }

    /// The devices of the ACPI name space, in table order.
    pub fn andds(&self) -> &[Andd] {
        &self.andds
    }

    /// The integrated devices that cache translations, in table order.
    pub fn satcs(&self) -> &[Satc] {
        &self.satcs
    }

    /// The integrated devices with properties of their own, in table order.
    pub fn sidps(&self) -> &[Sidp] {
        &self.sidps
    }

    /// The proximity domain of `unit`: where its tables are best allocated. `None` where firmware does not say.
    pub fn proximity_of(&self, unit: &Drhd) -> Option<u32> {
        self.rhsas.iter().find(|rhsa| rhsa.base == unit.base).map(|rhsa| rhsa.proximity_domain)
    }

    /// The name-space device that `scope` means; `None` for a scope of another kind, or where no device has its number.
    pub fn namespace_device(&self, scope: &Scope) -> Option<&Andd> {
        let is_namespace = scope.kind == ScopeKind::Namespace;
        self.andds.iter().find(|andd| is_namespace && andd.number == scope.enumeration_id)
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
