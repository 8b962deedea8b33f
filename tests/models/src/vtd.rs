//! A VT-d unit in software, in each of its modes, from the raw bits of the specification (5.10).
//!
//! * [`Model`]: the unit: registers, invalidation queue, caches, DMA, fault records. A driver sees it through
//!   [`Registers`](iommu_hal::regs::Registers); a test sees its log, its [`Violation`]s and its switches.
//! * [`walk`]: a walker of the tables without caches and without the unit, for snapshots.
//! * [`Request`]: a request of a device, of whatever kind; [`FetchHook`]: what software does while a walk is under way.
//! * [`Endpoint`]: a function with ATS, and the translations that it holds.
//! * [`Config`]: what the unit reports and can do.
//! * [`Execution`], [`Queue`] and the other switches of [`Model`]: what is late, lost, refused, out of order; [`Hook`]:
//!   requests between two descriptors.
//!
//! What the specification leaves open is resolved *against* the driver: a cache keeps what it may keep until an
//! invalidation covers it, nothing is dropped as a side effect.

mod cache;
mod command;
mod config;
mod descriptor;
mod device_tlb;
mod dma;
mod drain;
mod endpoint;
mod fault;
mod model;
mod protection;
mod queue;
mod register_invalidation;
mod registers;
mod switches;
mod unit;
mod violation;
pub mod walk;

pub use config::Config;
pub use descriptor::{Descriptor, Executed, Granularity};
pub use device_tlb::Held;
pub use dma::{Blocked, Completion, FetchHook};
pub use drain::InFlight;
pub use endpoint::Endpoint;
pub use fault::FaultRecord;
pub use model::{Hook, Message, Model};
pub use queue::Execution;
pub use switches::Queue;
pub use violation::Violation;
pub use walk::{AddressType, Answer, FaultCode, Operation, Order, Piece, Pieces, Request};
