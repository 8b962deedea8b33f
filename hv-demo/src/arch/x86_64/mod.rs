//! x86_64, entered by PVH.

mod acpi;
mod boot;
pub mod cache;
pub mod console;
mod exceptions;
pub mod exit;
pub mod iommu;
pub mod paging;
mod platform;
pub mod time;
