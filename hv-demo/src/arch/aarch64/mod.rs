//! aarch64, entered at EL2.

mod boot;
pub mod cache;
pub mod console;
mod exceptions;
pub mod exit;
pub mod iommu;
mod model;
pub mod paging;
mod platform;
pub mod time;
