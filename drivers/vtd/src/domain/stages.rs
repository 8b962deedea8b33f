//! Page tables of either stage, as a unit walks them.

use crate::capabilities::Capabilities;
use crate::invalidate::Tag;
use crate::spec::pasid::{AddressWidth, PasidEntry, TranslationType};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{DomainConfig, HwError, Stage};
use iommu_hal::Hal;
use iommu_pgtable::{Config, FirstStageOptions, PageTable, SecondStageOptions, SharedTable};
use iommu_pgtable::{Vtd, VtdOptions};

/// Tables of either stage.
pub(crate) enum StageTables<H: Hal + Clone> {
    /// Walked as a first stage.
    First(SharedTable<H, Vtd>),
    /// Walked as a second stage.
    Second(SharedTable<H, Vtd>),
}

/// Does the same with the tables of either stage.
macro_rules! either {
    ($tables:expr, $table:ident => $does:expr) => {
        match $tables {
            StageTables::First($table) => $does,
            StageTables::Second($table) => $does,
        }
    };
}
pub(super) use either;

impl<H: Hal + Clone> StageTables<H> {
    /// Empty tables of what `config` asks for.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] names what the unit lacks for it; [`HwError::Unsupported`] for what does not go together;
    /// [`HwError::OutOfMemory`].
    pub(super) fn new(hal: &H, caps: &Capabilities, host_bits: u8, config: &DomainConfig) -> Result<Self, HwError> {
        check(caps, config)?;
        match config.stage {
            Stage::First => {
                let stage = caps.first_stage()?;
                let config = Config::<Vtd> {
                    levels: stage.levels,
                    page_sizes: caps.first_stage_pages(),
                    input_bits: stage.input_bits,
                    output_bits: host_bits,
                    memory: caps.paging_memory(),
                    address_bits: host_bits,
                    track_dirty: config.dirty_tracking,
                    options: VtdOptions::First(FirstStageOptions::default()),
                };
                Ok(Self::First(SharedTable::new(PageTable::new(hal.clone(), config)?)))
            }
            Stage::Second => {
                let stage = caps.second_stage()?;
                let config = Config::<Vtd> {
                    levels: stage.levels,
                    page_sizes: caps.second_stage_pages(),
                    input_bits: stage.input_bits,
                    output_bits: host_bits,
                    memory: caps.paging_memory(),
                    address_bits: host_bits,
                    track_dirty: config.dirty_tracking,
                    options: VtdOptions::Second(SecondStageOptions { snoop: config.enforce_coherency }),
                };
                Ok(Self::Second(SharedTable::new(PageTable::new(hal.clone(), config)?)))
            }
        }
    }

    /// Where they begin.
    pub(super) fn root(&self) -> PhysAddr {
        either!(self, table => table.root())
    }

    /// How what is cached of them is tagged under the domain id `id`.
    pub(super) fn tag(&self, id: u16) -> Tag {
        tag(matches!(self, Self::First(_)), id)
    }

    /// The entry that leads to them, tagged with `id`. With `snoop` all accesses through it snoop the caches; leaves of the
    /// second stage say so themselves.
    pub(super) fn entry(&self, caps: &Capabilities, id: u16, snoop: bool) -> Result<PasidEntry, HwError> {
        let (translation, width) = match self {
            Self::First(_) => (TranslationType::FirstStage, caps.idle_width()),
            Self::Second(_) => (TranslationType::SecondStage, caps.second_stage()?.width),
        };
        let entry = plain_entry(caps, translation, width, id);
        Ok(match self {
            Self::First(table) => PasidEntry {
                first_stage: table.root().get(),
                five_levels: caps.first_stage()?.levels == 5,
                page_snoop: snoop,
                ..entry
            },
            Self::Second(table) => PasidEntry { second_stage: table.root(), ..entry },
        })
    }
}

/// An entry with what all of a unit have in common.
pub(super) fn plain_entry(
    caps: &Capabilities,
    translation: TranslationType,
    width: AddressWidth,
    id: u16,
) -> PasidEntry {
    PasidEntry { page_walk_snoop: caps.page_walk_snoop(), ..PasidEntry::new(translation, width, id) }
}

/// How what is cached under a domain id is tagged.
pub(super) fn tag(by_pasid: bool, id: u16) -> Tag {
    if by_pasid { Tag::DomainAndPasid(id) } else { Tag::Domain(id) }
}

/// Refuses what the unit cannot do: no domain is made that falls short of what was asked for.
fn check(caps: &Capabilities, config: &DomainConfig) -> Result<(), HwError> {
    if config.stall {
        // A fault ends the access, whatever caused it (section 7.1).
        return Err(HwError::Unsupported("accesses that wait for an answer"));
    }
    match config.stage {
        Stage::First => {
            caps.first_stage()?;
            if config.nest_parent {
                return Err(HwError::Unsupported("a first stage beneath a guest's first stage"));
            }
            if config.dirty_tracking {
                // Hardware has to write entries, which it does only where it snoops (section 3.6.2).
                caps.require_page_walk_snoop()?;
            }
        }
        Stage::Second => {
            caps.second_stage()?;
            if config.nest_parent {
                caps.require_nesting()?;
            }
            if config.dirty_tracking {
                caps.require_dirty_tracking()?;
            }
        }
    }
    if config.enforce_coherency { caps.require_snoop_control() } else { Ok(()) }
}
