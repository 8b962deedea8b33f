//! Page tables of either stage, as a unit walks them, and what leads to them.
//!
//! DMA that a device marks as not to be snooped (PCIe "no snoop") cannot be made to snoop: what stage 2 says of memory is
//! combined with what the access says, and S2FWB alone does not promise it either. Domains that are to enforce coherency are
//! refused.

use crate::capabilities::{Capabilities, StageShape};
use crate::spec::cd::ContextDescriptor;
use crate::spec::ste::{Stage1Entry, Stage2Entry};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{DomainConfig, HwError, Stage};
use iommu_hal::Hal;
use iommu_pgtable::{Armv8, Armv8Options, Armv8Stage, Config, PageTable, Stage1Options, Stage2Options};

/// The stage that `config` asks for, as the unit has it.
///
/// # Errors
///
/// [`HwError::Missing`] names what the unit lacks.
pub(super) fn shape(caps: &Capabilities, config: &DomainConfig) -> Result<StageShape, HwError> {
    match config.stage {
        Stage::First => caps.first_stage(),
        Stage::Second => caps.second_stage(),
    }
}

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
) -> Result<PageTable<H, Armv8>, HwError> {
    let StageShape { granule, levels, input_bits } = shape(caps, config)?;
    check(caps, config)?;
    let resizes_live = caps.resizes_live();
    let stage = match config.stage {
        Stage::First => Armv8Stage::First(Stage1Options { resizes_live, ..Stage1Options::default() }),
        Stage::Second => Armv8Stage::Second(Stage2Options { resizes_live, ..Stage2Options::default() }),
    };
    let config = Config {
        levels,
        page_sizes: caps.page_sizes(granule),
        input_bits,
        output_bits: host_bits,
        memory: caps.memory(),
        address_bits: host_bits,
        track_dirty: config.dirty_tracking,
        options: Armv8Options { granule, stage },
    };
    PageTable::new(hal, config)
}

/// The context descriptor that leads to tables of stage 1 that begin at `root`, tagged with `asid`.
///
/// # Errors
///
/// As [`table`].
pub(super) fn context_descriptor(
    caps: &Capabilities,
    config: &DomainConfig,
    root: PhysAddr,
    asid: u16,
) -> Result<ContextDescriptor, HwError> {
    let shape = caps.first_stage()?;
    Ok(ContextDescriptor {
        asid,
        root,
        granule: shape.granule_code(),
        input_bits: shape.input_bits,
        output_size: caps.output_size(),
        walk: caps.walk_attributes(),
        track_dirty: config.dirty_tracking,
        stall: caps.stall(config.stall)?,
    })
}

/// The stage 1 of an entry, with `descriptor` at `context`.
///
/// # Errors
///
/// As [`table`].
pub(super) fn stage_1(
    caps: &Capabilities,
    config: &DomainConfig,
    context: PhysAddr,
    descriptor: ContextDescriptor,
) -> Result<Stage1Entry, HwError> {
    let stall_disable = caps.must_disable_stalls() && !caps.stall(config.stall)?;
    Ok(Stage1Entry { context, descriptor, fetch: caps.walk_attributes(), stall_disable })
}

/// The stage 2 of an entry, with tables that begin at `root`, tagged with `vmid`.
///
/// # Errors
///
/// As [`table`].
pub(super) fn stage_2(
    caps: &Capabilities,
    config: &DomainConfig,
    root: PhysAddr,
    vmid: u16,
) -> Result<Stage2Entry, HwError> {
    let shape = caps.second_stage()?;
    Ok(Stage2Entry {
        vmid,
        root,
        granule: shape.granule_code(),
        start_level: shape.start_code(),
        input_bits: shape.input_bits,
        output_size: caps.output_size(),
        walk: caps.walk_attributes(),
        track_dirty: config.dirty_tracking,
        stall: caps.stall(config.stall)?,
    })
}

/// Refuses what the unit cannot do: no domain is made that falls short of what was asked for.
fn check(caps: &Capabilities, config: &DomainConfig) -> Result<(), HwError> {
    caps.stall(config.stall)?;
    if config.nest_parent {
        match config.stage {
            Stage::First => return Err(HwError::Unsupported("a stage 1 beneath a guest's stage 1")),
            Stage::Second => caps.require_nesting()?,
        }
    }
    if config.dirty_tracking {
        caps.require_dirty_tracking()?;
    }
    if config.enforce_coherency {
        return Err(HwError::Unsupported("enforced coherency"));
    }
    Ok(())
}
