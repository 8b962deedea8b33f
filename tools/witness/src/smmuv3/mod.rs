//! QEMU's `arm-smmuv3`: its trace events (`smmuv3_*`, `smmu_*`), and the rules of SMMUv3 for changes of its tables.

pub mod changes;
mod commands;
mod nested;
mod tlb;
pub mod trace;
