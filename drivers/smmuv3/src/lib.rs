//! Arm SMMUv3: the driver behind [`iommu_core::hw`].
//!
//! [`Unit::bring_up`] takes a unit's registers and leaves it translating, with every stream blocked; from then on it is
//! an [`iommu_core::hw::Unit`]. The rooms, each beside the layouts of [`spec`] that it uses:
//!
//! * [`capabilities`]: what a unit can do, and errors that name what it cannot.
//! * `regs`: steps that are acknowledged.
//! * `queue`: the command queue: batches, CMD_SYNCs, completion, deadlines, recovery.
//! * `invalidate`: what changed, and which commands that needs.
//! * `tables`: the stream table, and tables of context descriptors.
//! * `domain`: page tables, their context descriptor, and an ASID or VMID; identity; first stages of guests.
//! * `fault`: events read and decoded, answers to stalled accesses, interrupts.
//! * `errors`: global errors noted and acknowledged, and whether the unit works at all.
//! * [`dump`]: registers, and the way of a request through the structures, to be printed.
//! * `bring_up`: from whatever firmware left to translation with everything blocked; shutdown.
//! * `unit`: attach, detach, device TLBs.
//!
//! # What a stream meets
//!
//! A stream that is not attached is **blocked**. One whose entry exists is aborted without an event (a valid entry with
//! Config = 0); one in a part of a two-level table that no attach has needed yet has no entry at all, and is aborted
//! with a C_BAD_STREAMID event, as is one beyond [`Config::stream_bits`].
//!
//! An access that faults is refused, and told of by [`report_faults`](iommu_core::hw::Unit::report_faults); where its domain is
//! made so it waits for [`respond`](iommu_core::hw::Unit::respond) instead. One that waits when its stream leaves is ended.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | stages | stage 1, stage 2, bypass, a guest's stage 1 on our stage 2 |
//! | granules | 4, 16 and 64 KiB, one a unit ([`Config::granule`]) |
//! | addresses | 48 bits |
//! | streams | whole functions, and parts of them by PASIDs of up to 20 bits, but for PASID 0; stage 2 of whole functions only |
//! | device TLBs | of streams that a stage translates; what is passed through untranslated is not for them: the architecture refuses to translate it (section 3.9.1), and the function goes on with untranslated requests |
//! | dirty tracking | of units that snoop, for a domain's whole life |
//! | page requests (PRI) | off |
//! | interrupts | of events and errors, by wire or message ([`Unit::set_interrupts`]); polled after bring-up unless asked for |
//! | events | up to 1024 wait; more are lost, and told as lost |
//! | interrupt handlers | report events and errors, and answer stalled accesses: 64 answers wait for a queue that is busy; one that changes mappings or streams on a CPU that it interrupted in the queue gets a time-out |
//! | answers to stalled accesses | one that comes when its stream was led elsewhere meanwhile, or that is sent again because the queue hung, may end another access of the same stream id that has the tag by then |
//! | units with preset queues or tables, units whose tables are big-endian | refused |
//! | enforced coherency | refused |
//! | firmware's translation | turned off; DMA is aborted from then on |
//! | stream table | linear up to 8 bits of stream id, or where the unit has no other; else two-level, split at 8 bits |
//! | command queue | up to 256 commands, at least 2; 64 callers in it at once; more wait for one of them |
//! | after [`Unit::shutdown`], or in service failure mode | every call is refused, but for maps and unmaps, which nothing walks |
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
pub mod dump;
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
