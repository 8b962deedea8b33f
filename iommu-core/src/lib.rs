//! I/O address spaces and the seam to the IOMMU drivers beneath them.
//!
//! This crate decides *what* a device may reach; a driver (such as `iommu-vtd`) makes the hardware obey. It knows no
//! hardware, no architecture and no firmware table.
//!
//! * [`addr`]: addresses, ranges and physically contiguous runs as types.
//! * [`hw`]: what a driver provides: [`hw::Unit`] and [`hw::Domain`].
//! * [`ioas`]: the address space: areas at fixed I/O virtual addresses, kept alike in every attached domain.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | placement | fixed addresses only; automatic placement is to come |
//! | areas | a sorted array: look-up O(log n), insertion O(n) |
//! | unmap | whole areas |
//! | dirty tracking, PASIDs, accesses, quotas | to come |
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
//! use iommu_core::hw::Prot;
//! use iommu_core::ioas::{Ioas, IoasError};
//!
//! let mut ioas = Ioas::new();
//! let frame = PhysExtent::new(PhysAddr::new(0x8000), 0x1000);
//! ioas.map_fixed(Iova::new(0x10_0000), &[frame], Prot::READ_WRITE)?;
//! // A map never replaces what is there.
//! let again = ioas.map_fixed(Iova::new(0x10_0000), &[frame], Prot::READ_WRITE);
//! assert!(matches!(again, Err(IoasError::Overlap { .. })));
//! # Ok::<(), IoasError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod hw;
pub mod ioas;
mod log;

#[doc(hidden)]
pub use log::backend as __log;
