//! How requests are answered.

use crate::vtd::walk::{Answer, FaultCode};
use iommu_core::addr::{Iova, PhysAddr};

/// Why a request was blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The reason; [`FaultCode::NONE`] for what is blocked without one.
    pub code: FaultCode,
    /// First byte of the page where it was.
    pub page: Iova,
    /// Whether it is a fault that software gets to see, room in the fault records provided: no FPD on the way, and not
    /// a translation request that a device may ask again.
    pub reported: bool,
    /// What the device is told.
    pub answer: Answer,
}

/// Where one request goes; to a translation request, the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Where the byte asked for lies.
    pub phys: PhysAddr,
    /// Size of the leaf in bytes: `phys` and the input agree in what is below.
    pub size: u64,
    /// R.
    pub read: bool,
    /// W.
    pub write: bool,
    /// N: accesses snoop, whatever the request says.
    pub snoop: bool,
    /// U: only untranslated requests may go there; `phys` means nothing then.
    pub untranslated_only: bool,
    /// PRIV: the rights are a supervisor's.
    pub privileged: bool,
}

impl Completion {
    /// Straight through.
    pub(super) const fn plain(address: u64) -> Self {
        Self {
            phys: PhysAddr::new(address),
            size: 0x1000,
            read: true,
            write: true,
            snoop: false,
            untranslated_only: false,
            privileged: false,
        }
    }
}
