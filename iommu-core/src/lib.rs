//! I/O address spaces, what is assigned to whom, and the seam to the IOMMU drivers beneath.
//!
//! This crate decides *what* a device may reach; a driver (such as `iommu-vtd`) makes the hardware obey. It knows no
//! hardware, no architecture and no firmware table.
//!
//! * [`ioas`]: the address space: areas at I/O virtual addresses, kept alike in every domain that belongs to it.
//! * [`pages`]: the memory behind areas: pinned once, shared, taken back.
//! * [`hwpt`], [`nested`], [`viommu`]: domains of one unit each; a guest's own translation on top of one.
//! * [`device`], [`group`], [`region`]: functions, owned by groups, attached whole or by PASID.
//! * [`pasid`]: the PASIDs of the machine and the sets that partitions have of them.
//! * [`access`]: software that uses an address space, such as an emulated or mediated device.
//! * [`dirty`], [`fault`]: what was written, and what was refused or asked for.
//! * [`quota`], [`context`]: what an owner may use, and objects under numbers that can be handed out.
//! * [`hw`]: what a driver provides: [`hw::Unit`] and [`hw::Domain`]. [`addr`]: addresses and extents as types.
//! * [`tree`], [`slab`]: what the rest is built on. [`sync`]: its locks, and how a CPU waits.
//!
//! Everything may be called from several CPUs at once. Whatever a partition can bring about gives an error value, one
//! [`Error`] with an error number for each condition; it changes nothing then, and takes no memory that was not charged
//! to the partition before. Taking things down takes no memory.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | pinning | memory is pinned as a whole, from the map of any part of it to the unmap of the last |
//! | memory that a device wrote and software writes | dirty tracking knows of the device's writes alone |
//! | split of an area under a large page | where the driver can split it; both drivers here can |
//! | interrupts | not isolated yet: interrupt remapping is to come |
//! | page tables | charged to nobody: the driver takes their frames from the embedder |
//! | locks | spin, without turns; a waiting writer keeps new readers out |
//!
//! # Example
//!
//! A partition's address space with a quota; software access to it is a mediated device's way.
//!
//! ```
//! use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
//! use iommu_core::hw::Prot;
//! use iommu_core::ioas::{Ioas, IoasConfig, Placement};
//! use iommu_core::quota::{Account, Amounts, Resource};
//! use iommu_core::Error;
//!
//! let account = Account::new(Amounts { pinned: 0x3000, ..Amounts::UNLIMITED })?;
//! let ioas = Ioas::new(IoasConfig { account: Some(account.clone()), ..IoasConfig::default() })?;
//!
//! let memory = PhysExtent::new(PhysAddr::new(0x8000), 0x2000);
//! let at = Placement::Fixed(Iova::new(0x10_0000));
//! ioas.map_extents(&[memory], at, Prot::READ_WRITE)?;
//! assert_eq!(account.usage().pinned, 0x2000);
//!
//! // A map never replaces what is there, and none goes beyond the quota.
//! assert!(matches!(ioas.map_extents(&[memory], at, Prot::READ), Err(Error::Overlap { .. } | Error::Quota(_))));
//! let more = ioas.map_extents(&[memory], Placement::Anywhere, Prot::READ);
//! assert_eq!(more, Err(Error::Quota(Resource::Pinned)));
//! assert_eq!(more.unwrap_err().errno(), 12);
//! # Ok::<(), Error>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

// First: its macros are for all that follow.
#[macro_use]
mod log;

pub mod access;
pub mod addr;
pub mod context;
pub mod device;
pub mod dirty;
pub mod error;
pub mod fault;
pub mod group;
pub mod hw;
pub mod hwpt;
pub mod ioas;
pub mod nested;
pub mod pages;
pub mod pasid;
pub mod quota;
pub mod region;
pub mod slab;
pub mod sync;
#[cfg(test)]
mod test_support;
pub mod tree;
pub mod viommu;

#[doc(hidden)]
pub use log::backend as __log;

pub use error::Error;
