//! The device TLB of a function: what a unit must know of it.

use super::StreamId;

/// A device TLB: the address translation cache of a function (PCIe Address Translation Services, ATS).
///
/// A unit that knows of it invalidates it with every translation that it takes away, after its own caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceTlb {
    /// Invalidations that the function takes at once: 1 to 32 (ATS capability, Invalidate Queue Depth, whose 0 stands for
    /// 32).
    pub queue_depth: u8,
    /// The physical function that it is a virtual one of; itself where it is none (VT-d: PFSID).
    pub physical: StreamId,
    /// It takes invalidations of all its PASIDs at once (ATS capability, Global Invalidate Supported).
    pub global_invalidate: bool,
}

impl DeviceTlb {
    /// The deepest invalidate queue that the ATS capability can tell of.
    pub const MAX_QUEUE_DEPTH: u8 = 32;
}
