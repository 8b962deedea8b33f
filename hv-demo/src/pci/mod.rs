//! PCI Express: configuration space, and the functions that are there. Bus numbers and addresses stay as firmware gave
//! them; where there is none that does, [`assign`](assign()) gives them. What may be reached through which bridge,
//! aliases and groups are `iommu-discovery`'s.

mod assign;
mod bars;
mod capabilities;
mod config;
mod enumerate;
mod function;

pub use assign::assign;
pub use config::Ecam;
pub use enumerate::enumerate;
pub use function::PciFunction;

#[cfg(test)]
mod assign_tests;
#[cfg(test)]
mod tests;
