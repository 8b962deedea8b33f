//! Public crates doing the same. Each has its tables in the same pool of frames, reached by the same offset.

mod aarch64_paging;
mod multiarch;
mod x86_64;

pub use aarch64_paging::{ArmRange, Regime};
pub use multiarch::Multiarch;
pub use x86_64::Mapper64;
