//! Memory that may be refused: a box and a shared pointer whose making gives an error where the standard library's
//! abort.
//!
//! Stable Rust lets vectors fail ([`alloc::vec::Vec::try_reserve`]), but neither `Box::new` nor `Arc::new`, and no
//! published crate has a shared pointer that fails without a nightly compiler. This crate is these two and nothing
//! else, so that the crates above it can forbid unsafe code.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | weak pointers | none: who points at whom must be a tree |
//! | shared trait objects | none: unsizing a pointer of one's own is not stable |
//!
//! # Example
//!
//! ```
//! use iommu_alloc::{OutOfMemory, Shared, try_box};
//!
//! let one = Shared::try_new(7)?;
//! let other = one.clone();
//! assert!(*other == 7 && Shared::same(&one, &other));
//! assert_eq!(*try_box("here").ok_or(OutOfMemory)?, "here");
//! # Ok::<(), OutOfMemory>(())
//! ```
#![no_std]

extern crate alloc;

mod boxed;
mod shared;

pub use boxed::try_box;
pub use shared::Shared;

use core::fmt;

/// There is no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}
