//! The checks: what a partition's functions must reach, and what they must not. The same on every architecture.
//!
//! * [`device`]: what does DMA.
//! * [`lab`]: one transfer of a device with everything around it looked at.
//! * [`outcome`]: what a transfer came to.
//! * [`inside`]: a partition's own memory.
//! * [`outside`]: everything else.
//! * [`changes`]: unmap, remap, detach, move, the end of a partition.

pub mod changes;
pub mod device;
pub mod inside;
pub mod lab;
pub mod outcome;
pub mod outside;

pub use device::{Device, Engine};
pub use lab::Lab;
