//! What an embedder provides to the IOMMU drivers, and the only ways in which they touch hardware.
//!
//! * [`Hal`]: frames, address translation, cache maintenance, time. The one trait to implement.
//! * [`regs`]: registers behind one small trait, so that the same driver runs on hardware, QEMU and a model.
//! * [`mem`]: views of memory shared with a device: atomics and volatile words, never a reference to plain data.
//! * [`barrier`]: the order in which a device sees this CPU's stores.
//! * [`wait`]: deadlines for everything that hardware may never answer.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | pointer width | 64 bits |
//! | byte order | little endian |
//!
//! # Example
//!
//! ```
//! use iommu_hal::regs::{Mmio, Registers};
//!
//! // A driver sees registers only through the trait.
//! fn version<R: Registers>(regs: &R) -> (u32, u32) {
//!     let version = regs.read32(0);
//!     (version >> 4 & 0xf, version & 0xf)
//! }
//! # let _ = version::<Mmio>;
//! ```
#![no_std]

extern crate alloc;

#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("iommu-hal supports 64-bit little-endian targets");

pub mod barrier;
mod hal;
pub mod mem;
pub mod regs;
pub mod wait;

pub use hal::{FrameRequest, Hal, WalkerMemory};
