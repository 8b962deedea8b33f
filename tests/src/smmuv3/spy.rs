//! Registers that remember what was written, and let a test look before and after each write.

pub use crate::spy::{Hook, Moment, Write};

use iommu_models::smmuv3::Model;

/// SMMU_CR0.
pub const CR0: usize = 0x20;
/// SMMU_CR0ACK.
pub const CR0ACK: usize = 0x24;
/// SMMU_CR1.
pub const CR1: usize = 0x28;
/// SMMU_CR2.
pub const CR2: usize = 0x2c;
/// SMMU_GBPA.
pub const GBPA: usize = 0x44;
/// SMMU_IRQ_CTRL.
pub const IRQ_CTRL: usize = 0x50;
/// SMMU_GERROR.
pub const GERROR: usize = 0x60;
/// SMMU_GERRORN.
pub const GERRORN: usize = 0x64;
/// SMMU_STRTAB_BASE.
pub const STRTAB_BASE: usize = 0x80;
/// SMMU_STRTAB_BASE_CFG.
pub const STRTAB_BASE_CFG: usize = 0x88;
/// SMMU_CMDQ_BASE.
pub const CMDQ_BASE: usize = 0x90;
/// SMMU_CMDQ_PROD: a write to it is the doorbell.
pub const CMDQ_PROD: usize = 0x98;
/// SMMU_CMDQ_CONS.
pub const CMDQ_CONS: usize = 0x9c;
/// SMMU_EVENTQ_BASE.
pub const EVENTQ_BASE: usize = 0xa0;
/// SMMU_EVENTQ_PROD.
pub const EVENTQ_PROD: usize = 0x1_00a8;
/// SMMU_EVENTQ_CONS.
pub const EVENTQ_CONS: usize = 0x1_00ac;

/// CR0.SMMUEN.
pub const SMMUEN: u32 = 1;
/// CR0.PRIQEN.
pub const PRIQEN: u32 = 1 << 1;
/// CR0.EVENTQEN.
pub const EVENTQEN: u32 = 1 << 2;
/// CR0.CMDQEN.
pub const CMDQEN: u32 = 1 << 3;
/// CR0.ATSCHK.
pub const ATSCHK: u32 = 1 << 4;
/// GBPA.ABORT.
pub const ABORT: u32 = 1 << 20;
/// GBPA.UPDATE.
pub const UPDATE: u32 = 1 << 31;

/// Registers of the model.
pub type Spy = crate::spy::Spy<Model>;
