//! Page tables of either stage, as a unit walks them.

use crate::capabilities::Capabilities;
use crate::invalidate::Tag;
use crate::spec::pasid::{AddressWidth, PasidEntry, TranslationType};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{DomainConfig, HwError, Stage};
use iommu_hal::Hal;
use iommu_pgtable::{Config, FirstStageOptions, PageTable, SecondStageOptions, Vtd, VtdOptions};

/// Empty tables of what `config` asks for.
///
/// # Errors
///
/// [`HwError::Missing`] names what the unit lacks for it; [`HwError::Unsupported`] for what does not go together;
/// [`HwError::OutOfMemory`].
pub(super) fn table<H: Hal>(
    hal: H,
    caps: &Capabilities,
    host_bits: u8,
    config: &DomainConfig,
) -> Result<PageTable<H, Vtd>, HwError> {
    check(caps, config)?;
    let (levels, input_bits, page_sizes, options) = match config.stage {
        Stage::First => {
            let stage = caps.first_stage()?;
            let options = VtdOptions::First(FirstStageOptions::default());
            (stage.levels, stage.input_bits, caps.first_stage_pages(), options)
        }
        Stage::Second => {
            let stage = caps.second_stage()?;
            let options = VtdOptions::Second(SecondStageOptions { snoop: config.enforce_coherency });
            (stage.levels, stage.input_bits, caps.second_stage_pages(), options)
        }
    };
    let config = Config {
        levels,
        page_sizes,
        input_bits,
        output_bits: host_bits,
        memory: caps.paging_memory(),
        address_bits: host_bits,
        track_dirty: config.dirty_tracking,
        options,
    };
    PageTable::new(hal, config)
}

/// The entry that leads to the tables of `stage` that begin at `root`, tagged with `id`. With `snoop` all accesses through
/// it snoop the caches; leaves of the second stage say so themselves.
pub(super) fn entry(
    caps: &Capabilities,
    stage: Stage,
    root: PhysAddr,
    id: u16,
    snoop: bool,
) -> Result<PasidEntry, HwError> {
    Ok(match stage {
        Stage::First => PasidEntry {
            first_stage: root.get(),
            five_levels: caps.first_stage()?.levels == 5,
            page_snoop: snoop,
            ..plain_entry(caps, TranslationType::FirstStage, caps.idle_width(), id)
        },
        Stage::Second => {
            let width = caps.second_stage()?.width;
            PasidEntry { second_stage: root, ..plain_entry(caps, TranslationType::SecondStage, width, id) }
        }
    })
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
