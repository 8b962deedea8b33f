//! PCI Express: configuration space, and the functions that are there. Bus numbers and addresses stay as firmware gave
//! them; what may be reached through which bridge, aliases and groups are `iommu-discovery`'s.

mod bars;
mod capabilities;
mod config;
mod enumerate;
mod function;

pub use config::Ecam;
pub use enumerate::enumerate;
pub use function::PciFunction;

#[cfg(test)]
mod tests;
