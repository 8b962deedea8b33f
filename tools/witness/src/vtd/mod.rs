//! QEMU's `intel-iommu`: its trace events (`vtd_*`), and the rules of VT-d for changes of its tables.

pub mod changes;
mod descriptor;
pub mod trace;
