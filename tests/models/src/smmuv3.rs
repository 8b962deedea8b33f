//! An SMMUv3 in software, its non-secure side, from the raw bits of the specification (IHI0070).
//!
//! * [`Model`]: the unit: registers, command queue, caches, DMA, event queue, global errors. A driver sees it through
//!   [`Registers`](iommu_hal::regs::Registers); a test sees its log, its [`Violation`]s and its switches.
//! * [`Endpoint`]: a function with ATS behind it, with a TLB and page requests of its own.
//! * [`walk`]: a walker of the tables without caches and without the unit, for snapshots.
//! * [`Config`]: what the unit reports and can do.
//!
//! What the specification leaves open is resolved *against* the driver: a cache keeps what it may keep until an
//! invalidation covers it, entries that are not valid included; an invalidation takes effect at the CMD_SYNC after it
//! and no sooner; a reserved bit makes its structure illegal.

mod ats;
mod cache;
mod command;
mod config;
mod control;
mod device_tlb;
mod dma;
mod endpoint;
mod event;
mod fetching;
mod interrupt;
mod model;
mod page_request;
mod queue;
mod registers;
mod stall;
mod switches;
mod unit;
mod violation;
pub mod walk;

pub use command::{Action, Command, Executed, Scope};
pub use config::Config;
pub use device_tlb::Held;
pub use dma::{Blocked, FetchHook};
pub use endpoint::Endpoint;
pub use event::Event;
pub use interrupt::{Interrupt, Message, Source};
pub use model::{Hook, Model};
pub use page_request::{PageAnswer, PageRequest};
pub use queue::Execution;
pub use stall::{Outcome, Resumed, Stalled};
pub use switches::Queue;
pub use violation::Violation;
pub use walk::{Denied, FaultCode, Granted, Order, Piece, Structure};
