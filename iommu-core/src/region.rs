//! Ranges that a device's surroundings treat specially: memory that firmware goes on using, interrupt windows, holes.
//!
//! Discovery finds them; [`crate::device::Device`] enforces them in every address space that the device is attached to
//! as a whole, from attach to detach. Until it is attached they bind nobody.

use crate::addr::IovaRange;
use crate::hw::Prot;

/// What is special about a range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RegionKind {
    /// Firmware or the device itself uses the memory at any time. The device can be attached only where the whole range
    /// is mapped 1:1, and that mapping stays as long as it is; never through a guest's own first stage.
    Direct {
        /// What the mapping must allow at least.
        prot: Prot,
    },
    /// As [`RegionKind::Direct`] up to the moment when a driver takes over, which binding a device is: only kept free.
    DirectRelaxable {
        /// What the mapping had to allow.
        prot: Prot,
    },
    /// Not translated, or not there: kept free.
    Reserved,
    /// Writes are interrupts, whatever is mapped (x86: 0xfee0_0000 to 0xfeef_ffff): kept free.
    Msi,
    /// Where software is to put the interrupt doorbell (Arm): kept free. Nothing maps the doorbell there yet.
    SoftwareMsi,
}

/// A special range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReservedRegion {
    /// Where.
    pub range: IovaRange,
    /// What is special about it.
    pub kind: RegionKind,
}
