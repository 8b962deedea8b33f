//! What can be invalidated (section 6.5.2), whatever carries it: a descriptor of 128 or 256 bits, or registers.

use super::descriptor::{Drain, Pages};
use iommu_core::hw::RequesterId;
use iommu_driver::batch::Item;

/// One invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// Of the context cache.
    ContextCache(ContextScope),
    /// Of the PASID cache.
    PasidCache(PasidScope),
    /// Of the IOTLB and the paging-structure caches: second-stage and nested translations, and by domain or globally.
    Iotlb {
        /// What.
        scope: IotlbScope,
        /// Which accesses it waits for.
        drain: Drain,
    },
    /// Of the IOTLB and the paging-structure caches: first-stage, nested and pass-through translations of one PASID.
    PasidIotlb {
        /// The domain id.
        domain: u16,
        /// The PASID.
        pasid: u32,
        /// Which addresses; `None` for all.
        pages: Option<Pages>,
    },
    /// Of a device TLB, for requests without PASID.
    DeviceTlb {
        /// Whose.
        target: TlbTarget,
        /// Which addresses.
        pages: TlbPages,
    },
    /// Of a device TLB, for requests with PASID.
    PasidDeviceTlb {
        /// Whose.
        target: TlbTarget,
        /// The PASID; `None` for all of them.
        pasid: Option<u32>,
        /// Which addresses.
        pages: TlbPages,
    },
    /// Of the interrupt entry cache.
    InterruptEntries {
        /// First index and the number of its low bits that are ignored; `None` for all entries.
        index: Option<(u16, u8)>,
    },
}

/// What of the context cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextScope {
    /// Everything.
    Global,
    /// Entries of a domain: legacy mode only.
    Domain(u16),
    /// One requester's entry. In legacy mode it must name the domain of the entry; in scalable mode 0 does.
    Device {
        /// The domain id.
        domain: u16,
        /// Whose.
        source: RequesterId,
    },
}

/// What of the PASID cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasidScope {
    /// Everything.
    Global,
    /// Every PASID of a domain.
    Domain(u16),
    /// One PASID of a domain.
    Pasid {
        /// The domain id.
        domain: u16,
        /// The PASID.
        pasid: u32,
    },
}

/// What of the IOTLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IotlbScope {
    /// Everything, also of the first stage.
    Global,
    /// Everything of a domain.
    Domain(u16),
    /// Some addresses of a domain's second stage.
    Pages {
        /// The domain id.
        domain: u16,
        /// Which.
        pages: Pages,
    },
}

/// A function with a device TLB, as descriptors name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlbTarget {
    /// Its requester id.
    pub source: RequesterId,
    /// PFSID: its physical function; only where ECAP.DIT, else `None`.
    pub physical: Option<RequesterId>,
    /// MIP: how many invalidations it takes at once, 1 to 32.
    pub queue_depth: u8,
}

/// Addresses in a device TLB (PCIe ATS, invalidation message).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlbPages {
    /// All.
    All,
    /// 2^`mask` pages of 4 KiB from `address` on, which is aligned to that; `mask` below 51.
    Block {
        /// The first address.
        address: u64,
        /// How many.
        mask: u8,
    },
}

impl Invalidation {
    /// The function whose device TLB this is about.
    pub const fn device(&self) -> Option<RequesterId> {
        match self {
            Self::DeviceTlb { target, .. } | Self::PasidDeviceTlb { target, .. } => Some(target.source),
            _ => None,
        }
    }
}

impl Item for Invalidation {
    const UNUSED: Self = Self::PasidCache(PasidScope::Global);

    /// Structure caches, then what is filled through them, then what is filled from that (section 6.5.2.11).
    fn rank(&self) -> u8 {
        match self {
            Self::ContextCache(_) => 0,
            Self::PasidCache(_) => 1,
            Self::Iotlb { .. } | Self::PasidIotlb { .. } | Self::InterruptEntries { .. } => 2,
            Self::DeviceTlb { .. } | Self::PasidDeviceTlb { .. } => 3,
        }
    }
}
