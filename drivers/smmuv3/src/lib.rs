//! Arm SMMUv3: the driver behind [`iommu_core::hw`].
//!
//! [`Unit::bring_up`] takes a unit's registers and leaves it translating, with every stream blocked; from then on it is
//! an [`iommu_core::hw::Unit`]. The rooms, each beside the layouts of [`spec`] that it uses:
//!
//! * [`capabilities`]: what a unit can do, and errors that name what it cannot.
//! * `regs`: steps that are acknowledged.
//! * `queue`: the command queue: batches, CMD_SYNCs, completion, deadlines, recovery.
//! * `invalidate`: what changed, and which commands that needs.
//! * `tables`: the stream table.
//! * `ids`: ASIDs and VMIDs.
//! * `domain`: page tables, their context descriptor, and an ASID or VMID.
//! * `fault`: events read and decoded.
//! * `errors`: global errors noted and acknowledged.
//! * `bring_up`: from whatever firmware left to translation with everything blocked.
//! * `unit`: attach, detach.
//!
//! # What a stream meets
//!
//! A stream that is not attached is **blocked**. One whose entry exists is aborted without an event (a valid entry with
//! Config = 0); one in a part of a two-level table that no attach has needed yet has no entry at all, and is aborted
//! with a C_BAD_STREAMID event, as is one beyond [`Config::stream_bits`].
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | stages | stage 1 (4 levels), stage 2 (3 and 4 levels), bypass; nesting is to come |
//! | granule | 4 KiB |
//! | addresses | 48 bits |
//! | streams | whole functions; accesses with a substream id are refused (S1CDMax = 0) |
//! | ATS, page requests, stalls, hardware updates of tables, interrupts | off |
//! | units with preset queues or tables, units that can only stall | refused |
//! | firmware's translation | turned off; DMA is aborted from then on |
//! | stream table | linear up to 8 bits of stream id, or where the unit has no other; else two-level, split at 8 bits |
//! | command queue | up to 256 commands, at least 2; 64 callers in it at once; more wait for one of them |
//! | interrupt handlers | report faults; one that changes mappings or streams on a CPU that it interrupted in the queue gets a time-out |
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
//! use iommu_core::hw::{DomainConfig, HwError, Prot, Stage, Stream, StreamId, Target, Unit as _};
//! use iommu_hal::{Hal, regs::Registers};
//! use iommu_smmuv3::{Config, Unit};
//!
//! fn isolate<H, R>(hal: H, regs: R, stream: StreamId, memory: PhysExtent) -> Result<(), HwError>
//! where
//!     H: Hal + Clone + 'static,
//!     R: Registers + 'static,
//! {
//!     let unit = Unit::bring_up(hal, regs, Config::default())?;
//!     let domain = unit.create_domain(&DomainConfig::new(Stage::Second))?;
//!     domain.map(Iova::new(0), &[memory], Prot::READ_WRITE)?;
//!     unit.attach(Stream::function(stream), Target::Paging(&*domain))?;
//!     // The stream reaches `memory` at 0 and nothing else. Dropping the domain blocks it again.
//!     Ok(())
//! }
//! ```
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod bring_up;
pub mod capabilities;
mod domain;
mod errors;
mod fault;
mod invalidate;
mod queue;
mod regs;
pub mod spec;
mod tables;
mod unit;

pub use bring_up::Config;
pub use errors::GlobalErrors;
pub use fault::{EventRecord, Interrupts, MsiMessage};
pub use queue::{Completion, Marker};
pub use tables::Structure;
pub use unit::Unit;
