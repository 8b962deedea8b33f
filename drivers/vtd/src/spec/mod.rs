//! Layouts of the specification and nothing else: one file a structure, no behaviour beyond packing bits.
//!
//! Sections are those of the Intel Virtualization Technology for Directed I/O Architecture Specification.

pub mod context;
pub mod descriptor;
pub mod fault;
pub mod invalidation;
pub mod invalidation_registers;
pub mod pasid;
pub mod registers;
pub mod root;
