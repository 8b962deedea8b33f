//! What can be wrong with a set of functions.

use crate::fallible::OutOfMemory;
use crate::sbdf::Sbdf;
use core::fmt;

/// Why functions do not make a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TopologyError {
    /// Two functions have the same address.
    Duplicate {
        /// The address.
        sbdf: Sbdf,
    },
    /// A bridge leads to its own bus or to a lower one: the way up would be a circle.
    Cycle {
        /// The bridge.
        bridge: Sbdf,
        /// Its secondary bus.
        secondary: u8,
    },
    /// A bridge's subordinate bus lies below its secondary bus.
    BusesReversed {
        /// The bridge.
        bridge: Sbdf,
        /// Its secondary bus.
        secondary: u8,
        /// Its subordinate bus.
        subordinate: u8,
    },
    /// A bridge claims buses beyond those of the bridge above it.
    LeavesParent {
        /// The bridge.
        bridge: Sbdf,
        /// The bridge above it.
        parent: Sbdf,
        /// The lower bridge's subordinate bus.
        subordinate: u8,
    },
    /// A bridge claims buses that another bridge, which is not above it, claims too.
    Overlap {
        /// The bridge with the higher secondary bus.
        bridge: Sbdf,
        /// The other bridge.
        other: Sbdf,
        /// A bus that both claim.
        bus: u8,
    },
    /// No memory for the result.
    OutOfMemory,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Duplicate { sbdf } => write!(f, "{sbdf} occurs twice"),
            Self::Cycle { bridge, secondary } => write!(f, "bridge {bridge} leads up, to bus {secondary:#04x}"),
            Self::BusesReversed { bridge, secondary, subordinate } => {
                write!(f, "bridge {bridge}: secondary bus {secondary:#04x} above subordinate {subordinate:#04x}")
            }
            Self::LeavesParent { bridge, parent, subordinate } => {
                write!(f, "bridge {bridge}: subordinate bus {subordinate:#04x} is not below {parent}")
            }
            Self::Overlap { bridge, other, bus } => write!(f, "bridges {bridge} and {other} both claim bus {bus:#04x}"),
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for TopologyError {}

impl From<OutOfMemory> for TopologyError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
