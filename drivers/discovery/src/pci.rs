//! What a function's configuration space says of address translation: capabilities, found and decoded, and switched in the
//! order that PCI Express asks for.
//!
//! The embedder gives access to one function's configuration space ([`ConfigAccess`]). [`Capabilities::read`] walks the
//! lists of standard and extended capabilities, which a broken or hostile function may tie into a loop or lead out of their
//! space, and decodes those of address translation. [`PciFunction`] is a [`Function`](iommu_core::device::Function) for the
//! core over them. [`AdiRules`] says whether parts of a function can be told apart by PASID alone.
//!
//! Page requests are recognised and left off. What this does not do: find functions, size BARs, reset anything.
//!
//! # Example
//!
//! ```
//! use iommu_core::device::{Feature, Function};
//! use iommu_discovery::pci::{ConfigAccess, PciConfig, PciFunction};
//! # use std::sync::Mutex;
//!
//! /// Configuration space in memory. Hardware's is reached by ECAM or I/O ports.
//! struct Space(Mutex<Vec<u32>>);
//!
//! impl ConfigAccess for Space {
//!     fn read32(&self, offset: u16) -> u32 {
//!         self.0.lock().unwrap()[usize::from(offset) / 4]
//!     }
//!
//!     fn write32(&self, offset: u16, value: u32) {
//!         self.0.lock().unwrap()[usize::from(offset) / 4] = value;
//!     }
//! }
//!
//! let mut space = vec![0; 1024];
//! (space[0], space[1], space[0x34 / 4]) = (0x1234_8086, 1 << 20, 0x40);
//! space[0x40 / 4] = 0x0002_0010; // PCI Express
//! space[0x100 / 4] = 0x1101_001b; // PASID, then ATS
//! space[0x104 / 4] = 20 << 8;
//! space[0x110 / 4] = 0x0001_000f;
//! space[0x114 / 4] = 1 << 5 | 8; // page-aligned requests, eight invalidations at once
//!
//! let config = PciConfig { ats: true, pasid: true, physical: None };
//! let function = PciFunction::new(Space(Mutex::new(space)), config)?;
//! let features = function.features();
//! assert_eq!((features.pasid_bits, features.ats, features.ats_queue_depth), (20, true, 8));
//! function.set_feature(Feature::Pasid, true)?;
//! function.set_feature(Feature::Ats, true)?;
//! // Not while translations are cached.
//! assert!(function.set_feature(Feature::Pasid, false).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adi;
mod capabilities;
mod function;
mod list;

pub use adi::{AdiRefusal, AdiRules, AdiSupport};
pub use capabilities::{Ats, Capabilities, Express, Pasid, Pri, Siov, Sriov};
pub use function::{PciConfig, PciFunction, PhysicalFunction};

use core::fmt;

/// Length of a function's configuration space where it is a PCI Express one, in bytes.
const SPACE_LEN: u16 = 4096;

/// Access to the configuration space of one function. The one place where it is read and written while the owner works;
/// offsets are multiples of four below 4096.
pub trait ConfigAccess: Send + Sync {
    /// Reads the four bytes at `offset`; all ones where nothing answers.
    fn read32(&self, offset: u16) -> u32;

    /// Writes the four bytes at `offset`.
    fn write32(&self, offset: u16, value: u32);
}

impl<T: ConfigAccess + ?Sized> ConfigAccess for &T {
    fn read32(&self, offset: u16) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: u16, value: u32) {
        (**self).write32(offset, value);
    }
}

impl<T: ConfigAccess + ?Sized> ConfigAccess for alloc::sync::Arc<T> {
    fn read32(&self, offset: u16) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: u16, value: u32) {
        (**self).write32(offset, value);
    }
}

/// What is wrong with a function's configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PciError {
    /// Nothing answers: all bits of a register that must have some clear are ones.
    Absent {
        /// The offset that was read.
        offset: u16,
    },
    /// A list of capabilities leads back to where it was.
    Loop {
        /// The offset that it comes to twice.
        offset: u16,
    },
    /// A list of capabilities leads out of where such capabilities may be.
    OutOfPlace {
        /// The offset that it leads to.
        offset: u16,
    },
    /// A capability is longer than what is left of configuration space, or shorter than its kind must be.
    Length {
        /// Where it begins.
        offset: u16,
        /// How long it is or must be, in bytes.
        len: u16,
    },
    /// A field holds what it cannot.
    Field {
        /// Where the register lies.
        offset: u16,
        /// What it says.
        value: u32,
    },
    /// The function does not take what is written.
    Stuck {
        /// Where the register lies.
        offset: u16,
        /// What was written, as far as it matters.
        written: u32,
        /// What it says then, as far as it matters.
        read: u32,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Absent { offset } => write!(f, "nothing answers at offset {offset:#x}"),
            Self::Loop { offset } => write!(f, "the capabilities come to {offset:#x} twice"),
            Self::OutOfPlace { offset } => write!(f, "the capabilities lead to {offset:#x}"),
            Self::Length { offset, len } => write!(f, "no capability of {len} bytes can be at {offset:#x}"),
            Self::Field { offset, value } => write!(f, "the register at {offset:#x} says {value:#x}"),
            Self::Stuck { offset, written, read } => {
                write!(f, "the register at {offset:#x} says {read:#x} after {written:#x} was written")
            }
        }
    }
}

impl core::error::Error for PciError {}

#[cfg(test)]
mod tests;
