//! Faults and page requests, brought to the owner of the stream that they are of.
//!
//! A [`FaultRouter`], one for each unit, knows which [`FaultQueue`] each stream leads to: that of the domain which the
//! stream is attached to ([`crate::hwpt::HwptConfig::faults`]). What happens to a PASID goes to the queue of that PASID,
//! never to the one of the function which it is a part of: those may have different owners. What is not routed is
//! nobody's: [`FaultRouter::fault`] says so, and page requests are answered INVALID.
//!
//! A queue holds a fixed number of events. Those that find no room are lost, but counted: each event has a sequence
//! number, and [`Record::lost`] tells of those that are missing, also once the queue is empty ([`Event::Lost`]).
//!
//! Page requests are gathered until the last of their group has come, and delivered as one event. Every group gets one
//! answer, after its last request: the owner's ([`FaultQueue::respond`]), or INVALID where it could not be delivered
//! whole (no route, no room, too many requests) or was not answered when its stream was detached, led elsewhere, or its
//! router went. What a device has not ended is never delivered, nor is what it has ended delivered in parts.
//!
//! An access that hardware keeps [stalled](crate::hw::Fault::stalled) is told of as a group of one request, and is answered
//! as one: nothing stalls for ever because nobody reads.
//!
//! Reporting is for interrupt handlers: it takes no lock that anything but this module takes, waits for none longer than
//! a fixed number of tries, and neither takes nor gives back memory.
//!
//! # Limits
//!
//! | What | Most |
//! |---|---|
//! | events of a queue not read | its depth, up to [`MOST_EVENTS`] |
//! | groups of a queue not answered | its depth |
//! | requests of a queue not read | four times its depth, and [`MOST_REQUESTS`] at least |
//! | open groups of a stream | [`MOST_OPEN_GROUPS`] |
//! | requests of a group | [`MOST_REQUESTS`] |
//! | groups of several requests | numbered below 512, as in PCIe; one request alone may have any number |
//!
//! # Example
//!
//! ```
//! use iommu_core::fault::{Event, FaultQueue};
//! use iommu_core::hw::ResponseCode;
//!
//! fn serve(queue: &FaultQueue) -> Result<(), iommu_core::Error> {
//!     while let Some(record) = queue.read()? {
//!         match record.event {
//!             Event::Fault(fault) => drop(fault),
//!             Event::PageRequests { cookie, requests } => {
//!                 let known = requests.iter().all(|request| request.iova.get() < 1 << 30);
//!                 queue.respond(cookie, if known { ResponseCode::Success } else { ResponseCode::Invalid })?;
//!             }
//!             Event::Lost => {}
//!         }
//!     }
//!     Ok(())
//! }
//! serve(&FaultQueue::new(64)?)?;
//! # Ok::<(), iommu_core::Error>(())
//! ```

mod pool;
mod port;
mod queue;
mod requests;
mod router;
mod state;
#[cfg(test)]
mod tests;

pub use queue::FaultQueue;
pub use router::FaultRouter;

use crate::hw::{Fault, PageRequest};
use alloc::vec::Vec;

/// The largest depth of a queue, in events.
pub const MOST_EVENTS: usize = 1 << 16;

/// Requests of a group. One with more is answered INVALID.
pub const MOST_REQUESTS: usize = 64;

/// Groups of one stream whose last request is still to come. Those beyond are answered INVALID.
pub const MOST_OPEN_GROUPS: usize = port::MOST_OPEN;

/// How often a reporter tries to get a lock. On another CPU one is held for less; on this one, which the interrupt has
/// stopped, it would never be given back.
const TRIES: usize = 256;

/// Names a group of page requests for its answer. A queue never gives the same one twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cookie(u64);

impl Cookie {
    /// The cookie with the value `raw`, as [`Cookie::get`] gave it. Any other names nothing.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The value, to be handed to whoever answers.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What a queue tells of.
#[derive(PartialEq, Eq, Debug)]
pub enum Event {
    /// An access was refused.
    Fault(Fault),
    /// A device asks for pages to be made usable, and waits for the answer.
    PageRequests {
        /// To answer it by.
        cookie: Cookie,
        /// The whole group, oldest request first; at least one.
        requests: Vec<PageRequest>,
    },
    /// Nothing is left to read, but events were lost since the last one that was.
    Lost,
}

/// What reading a queue gives.
#[derive(PartialEq, Eq, Debug)]
pub struct Record {
    /// Counts the events of the queue, lost ones too; wraps. For [`Event::Lost`] that of the last one lost.
    pub sequence: u32,
    /// Events right before this one are missing: there was no room, or the queue was in use when they came, or their
    /// stream was detached before they were read. The sequence says how many. Always so for [`Event::Lost`].
    pub lost: bool,
    /// What happened.
    pub event: Event,
}
