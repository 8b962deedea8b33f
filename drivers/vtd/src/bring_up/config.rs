//! What an embedder tells a unit.

use core::time::Duration;
use iommu_core::hw::Pasid;

/// Which mode a unit is to run in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ModeChoice {
    /// Scalable mode where the unit has it, else legacy mode.
    #[default]
    Best,
    /// Legacy mode, whatever else the unit has.
    Legacy,
    /// Scalable mode or none.
    Scalable,
}

/// What an embedder tells a unit.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Width of host physical addresses in bits: the DMAR table's host address width.
    pub host_bits: u8,
    /// How long any single answer of the hardware is waited for.
    pub timeout: Duration,
    /// The mode.
    pub mode: ModeChoice,
    /// The PASID that requests without one have (RID_PASID). Any but 0 is for units that let it be chosen (ECAP.RPS); no
    /// function can have it for requests with PASID.
    pub rid_pasid: Pasid,
}

impl Config {
    /// PASID 0.
    const RID_PASID: Pasid = match Pasid::new(0) {
        Some(pasid) => pasid,
        None => unreachable!(),
    };
}

impl Default for Config {
    /// 48 bits, one second, the best mode, PASID 0.
    fn default() -> Self {
        Self { host_bits: 48, timeout: Duration::from_secs(1), mode: ModeChoice::default(), rid_pasid: Self::RID_PASID }
    }
}
