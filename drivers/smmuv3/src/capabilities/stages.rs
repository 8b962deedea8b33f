//! The two stages: granules, levels, widths, page sizes, and what domains may ask for beside.

use super::errata::{self, Erratum};
use super::{Capabilities, Granule, names, require};
use crate::spec::registers::{IDR0, IDR5};
use iommu_core::hw::{HwError, PageSizes};

/// IDR5.OAS of 48 bits, the widest addresses that entries of our tables hold.
const MOST_OUTPUT_SIZE: u8 = 5;
/// Input bits of stage 1. Every unit has at least these (section 3.4).
const STAGE_1_BITS: u8 = 48;
/// Input bits of stage 2 that every unit with AArch32 tables has (section 3.4).
const AARCH32_BITS: u8 = 40;

/// A stage as a unit wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageShape {
    /// Granule of the tables.
    pub granule: Granule,
    /// Levels of the tables.
    pub levels: u8,
    /// Usable input bits. Of stage 2 they may be more than the levels alone resolve: up to 16 tables are concatenated at
    /// the root.
    pub input_bits: u8,
}

impl StageShape {
    /// As CD.TG0 and STE.S2TG say the granule.
    pub fn granule_code(&self) -> u8 {
        match self.granule {
            Granule::Kib4 => 0,
            Granule::Kib64 => 1,
            Granule::Kib16 => 2,
        }
    }

    /// As STE.S2SL0 says the levels.
    pub fn start_code(&self) -> u8 {
        match self.granule {
            Granule::Kib4 => self.levels - 2,
            Granule::Kib16 | Granule::Kib64 => self.levels - 1,
        }
    }
}

impl Capabilities {
    /// Output addresses as CD.IPS and STE.S2PS say their width: IDR5.OAS, at most 48 bits.
    pub fn output_size(&self) -> u8 {
        (self.idr5.read(IDR5::OAS) as u8).min(MOST_OUTPUT_SIZE)
    }

    /// Width of output addresses in bits, at most 48.
    pub fn output_bits(&self) -> u8 {
        [32, 36, 40, 42, 44, 48][usize::from(self.output_size())]
    }

    /// Width of what stage 2 translates in bits, at most 48: IAS of section 3.4.
    fn intermediate_bits(&self) -> u8 {
        let least = if self.idr0.read(IDR0::TTF) & 1 != 0 { AARCH32_BITS } else { 0 };
        self.output_bits().max(least)
    }

    /// Whether there is this granule. IDR5.GRAN4K, GRAN16K, GRAN64K.
    pub fn has_granule(&self, granule: Granule) -> bool {
        match granule {
            Granule::Kib4 => self.idr5.is_set(IDR5::GRAN4K),
            Granule::Kib16 => self.idr5.is_set(IDR5::GRAN16K),
            Granule::Kib64 => self.idr5.is_set(IDR5::GRAN64K),
        }
    }

    /// The granule of all page tables: the one that was chosen, or the smallest that there is.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names the one that was chosen, or the smallest where there is none.
    pub fn granule(&self) -> Result<Granule, HwError> {
        let sizes = [Granule::Kib4, Granule::Kib16, Granule::Kib64];
        let wanted = self.granule.or_else(|| sizes.into_iter().find(|size| self.has_granule(*size)));
        let wanted = wanted.unwrap_or(Granule::Kib4);
        let name = match wanted {
            Granule::Kib4 => names::GRANULE_4K,
            Granule::Kib16 => names::GRANULE_16K,
            Granule::Kib64 => names::GRANULE_64K,
        };
        require(self.has_granule(wanted), name)?;
        Ok(wanted)
    }

    /// Leaf sizes of both stages with a granule, those of contiguous groups among them.
    pub fn page_sizes(&self, granule: Granule) -> PageSizes {
        PageSizes::new(match granule {
            Granule::Kib4 => 1 << 12 | 1 << 16 | 1 << 21 | 1 << 25 | 1 << 30 | 1 << 34,
            Granule::Kib16 => 1 << 14 | 1 << 21 | 1 << 25 | 1 << 30,
            Granule::Kib64 => 1 << 16 | 1 << 21 | 1 << 29 | 1 << 34,
        })
    }

    /// The stage 1 to use.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names what there is not: SMMU_IDR0.S1P, or what every page table of this driver needs.
    pub fn first_stage(&self) -> Result<StageShape, HwError> {
        require(self.idr0.is_set(IDR0::S1P), names::STAGE_1)?;
        let granule = self.require_page_tables()?;
        let levels = if granule == Granule::Kib64 { 3 } else { 4 };
        Ok(StageShape { granule, levels, input_bits: STAGE_1_BITS })
    }

    /// The stage 2 to use: all of the unit's intermediate addresses.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names what there is not: SMMU_IDR0.S2P, or what every page table of this driver needs.
    pub fn second_stage(&self) -> Result<StageShape, HwError> {
        require(self.idr0.is_set(IDR0::S2P), names::STAGE_2)?;
        let granule = self.require_page_tables()?;
        // The highest level to start from is only for units with so many bits of output. With fewer one level less will
        // do, with tables concatenated at the root: VTCR_EL2.SL0 of the Arm Architecture Reference Manual.
        let (most_levels, least_bits) = match granule {
            Granule::Kib4 => (4, 44),
            Granule::Kib16 => (3, 42),
            Granule::Kib64 => (3, 44),
        };
        let levels = if self.output_bits() >= least_bits { most_levels } else { most_levels - 1 };
        Ok(StageShape { granule, levels, input_bits: self.intermediate_bits() })
    }

    fn require_page_tables(&self) -> Result<Granule, HwError> {
        require(self.idr0.read(IDR0::TTF) & 2 != 0, names::AARCH64_TABLES)?;
        require(!self.idr0.matches_all(IDR0::TTENDIAN::Big), names::LITTLE_ENDIAN_TABLES)?;
        self.granule()
    }

    /// Faulting accesses can wait for an answer. IDR0.STALL_MODEL.
    pub fn stalls(&self) -> bool {
        !self.idr0.matches_all(IDR0::STALL_MODEL::Terminate)
    }

    /// Faulting accesses can be refused at once. IDR0.STALL_MODEL.
    pub fn terminates(&self) -> bool {
        self.idr0.read(IDR0::STALL_MODEL) < 2
    }

    /// Entries of stage 1 must say that faults do not stall, unless they are to: the unit could do both.
    /// IDR0.STALL_MODEL.
    pub fn must_disable_stalls(&self) -> bool {
        self.idr0.matches_all(IDR0::STALL_MODEL::StallOrTerminate)
    }

    /// Whether faulting accesses of a domain stall for which that was asked for, or not.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names SMMU_IDR0.STALL_MODEL where it was not, and the unit can do nothing else: nobody would
    /// let such an access go on.
    pub fn stall(&self, asked: bool) -> Result<bool, HwError> {
        require(asked || self.terminates(), names::TERMINATED_FAULTS)?;
        Ok(asked && self.stalls())
    }

    /// Asks for dirty state kept by hardware: it writes tables, which is certain to be atomic only where it snoops
    /// (STE.S2IR0 of section 5.2).
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names SMMU_IDR0.HTTU or COHACC.
    pub fn require_dirty_tracking(&self) -> Result<(), HwError> {
        require(self.idr0.read(IDR0::HTTU) >= 2, names::DIRTY_TRACKING)?;
        require(self.coherent, names::COHERENT_WALKS)
    }

    /// A guest's stage 1 can stand on our stage 2.
    pub fn nesting(&self) -> bool {
        self.require_nesting().is_ok()
    }

    /// Asks for both stages on top of each other.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names SMMU_IDR0.S1P or S2P, or SMMU_IIDR of units with an [erratum](errata); or what every page
    /// table of this driver needs.
    pub fn require_nesting(&self) -> Result<(), HwError> {
        self.first_stage()?;
        self.second_stage()?;
        require(!errata::has(self.iidr, Erratum::NoNesting), names::NESTING)
    }
}
