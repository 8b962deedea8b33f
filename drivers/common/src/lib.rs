//! What the drivers of IOMMUs have in common, and what is about no register and no layout.
//!
//! * [`ids`]: domain ids, ASIDs, VMIDs.
//! * [`users`]: which streams lead to a domain.
//! * [`batch`]: invalidations that are submitted together, kinds in the order in which they must run.
//! * [`queue`]: how batches reach hardware, many callers at once.
//! * [`paging`]: what a domain does with its page tables; [`trees`], those of all domains by their roots.
//! * [`unconfirmed`]: the error of whoever waited for hardware in vain.
//!
//! A driver brings the types of its own hardware along; nothing here names one.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | users of a domain | found by going through all of them |
//! | invalidations of one batch | 32; more go in several |
//! | callers of a queue at once | 64; more wait for one of these |
#![no_std]
#![cfg_attr(not(test), deny(unsafe_code))]

extern crate alloc;

pub mod batch;
mod confirm;
pub mod ids;
pub mod paging;
pub mod queue;
pub mod trees;
pub mod users;

pub use confirm::{GONE, unconfirmed};
