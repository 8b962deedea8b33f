//! Intel VT-d, in scalable mode and in legacy mode: the driver behind [`iommu_core::hw`].
//!
//! [`Unit::bring_up`] takes a unit's registers and leaves it translating, with every requester blocked; from then on it
//! is an [`iommu_core::hw::Unit`]. The rooms, each beside the layouts of [`spec`] that it uses:
//!
//! * [`capabilities`]: what a unit can do, and errors that name what it cannot.
//! * `regs`: commands that are acknowledged.
//! * `queue`: queued invalidation: batches, waits, deadlines, recovery.
//! * `invalidate`: what changed, and which invalidations that needs.
//! * `tables`: root, context and PASID structures.
//! * `domain`: page tables and a domain id, what is written through them, identity; [`guest`]: first stages of guests.
//! * `fault`: records read, decoded and cleared.
//! * [`dump`]: registers, and the way of a request through the structures, to be printed.
//! * `bring_up`: from whatever firmware left to translation with everything blocked.
//! * `unit`: attach and detach.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | modes | scalable, or legacy with the second stage and pass-through only |
//! | stages | first (4 and 5 levels), second (3, 4 and 5), a guest's first on our second, pass-through or 1:1 tables |
//! | streams | whole functions, and parts of them by PASIDs of up to 20 bits (ECAP.PSS), but for that of RID_PASID |
//! | structures | 4 KiB of context entries a half bus, for ever; of a requester with streams a directory of 4 to 128 KiB, and 4 KiB for each 64 PASIDs of which one was attached |
//! | device TLBs | with the queue only; in legacy mode not of streams that are passed through |
//! | page requests, interrupt remapping | off |
//! | snoop control | whole domains, where ECAP.SC |
//! | writes recorded | where page walks snoop: first stage always, second stage with ECAP.SSADS |
//! | firmware's translation | replaced by an empty root; turned off for a moment where it ran in another mode and CAP.ESRTPS is clear |
//! | queue | 256 descriptors, 64 callers in it at once; more wait for one of them |
//! | interrupt handlers | report faults; one that changes mappings or streams on a CPU that it interrupted in the queue gets a time-out |
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
//! use iommu_core::hw::{DomainConfig, HwError, Prot, RequesterId, Stage, Stream, Target, Unit as _};
//! use iommu_hal::{Hal, regs::Registers};
//! use iommu_vtd::{Config, Unit};
//!
//! fn isolate<H, R>(hal: H, regs: R, function: RequesterId, memory: PhysExtent) -> Result<(), HwError>
//! where
//!     H: Hal + Clone + 'static,
//!     R: Registers + 'static,
//! {
//!     let unit = Unit::bring_up(hal, regs, Config::default())?;
//!     let domain = unit.create_domain(&DomainConfig::new(Stage::Second))?;
//!     domain.map(Iova::new(0), &[memory], Prot::READ_WRITE)?;
//!     unit.attach(Stream::function(function), Target::Paging(&*domain))?;
//!     // The function reaches `memory` at 0 and nothing else. Dropping the domain blocks it again.
//!     Ok(())
//! }
//! ```
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod bring_up;
pub mod capabilities;
mod domain;
pub mod dump;
mod fault;
mod invalidate;
mod queue;
mod register_invalidation;
mod regs;
pub mod spec;
mod tables;
mod unit;

pub use bring_up::abort::abort_dma;
pub use bring_up::{Config, ModeChoice};
pub use domain::guest;
pub use fault::MsiMessage;
pub use queue::{CODE_DEVICE_TLB_TIMEOUT, Marker};
pub use tables::Structure;
pub use unit::{DEVICE_TLB_REQUEST, Unit};
