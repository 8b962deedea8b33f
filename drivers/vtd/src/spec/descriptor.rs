//! Invalidation descriptors (section 6.5.2), 256 bits each: two words with content and two reserved.

use bitfield_struct::bitfield;
use iommu_core::addr::PhysAddr;

/// 64-bit words in a descriptor of scalable mode.
pub const DESCRIPTOR_WORDS: usize = 4;

/// A descriptor, ready for the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor(pub [u64; DESCRIPTOR_WORDS]);

const _: () = assert!(size_of::<Descriptor>() == 32);

#[bitfield(u64)]
struct ContextCache0 {
    #[bits(4)]
    kind: u8,
    #[bits(2)]
    granularity: u8,
    #[bits(10)]
    __: u16,
    domain_id: u16,
    source: u16,
    #[bits(16)]
    __: u16,
}

#[bitfield(u64)]
struct Iotlb0 {
    #[bits(4)]
    kind: u8,
    #[bits(2)]
    granularity: u8,
    drain_writes: bool,
    drain_reads: bool,
    #[bits(8)]
    __: u8,
    domain_id: u16,
    #[bits(32)]
    __: u32,
}

#[bitfield(u64)]
struct Pasid0 {
    #[bits(4)]
    kind: u8,
    #[bits(2)]
    granularity: u8,
    #[bits(10)]
    __: u16,
    domain_id: u16,
    #[bits(20)]
    pasid: u32,
    #[bits(12)]
    __: u16,
}

#[bitfield(u64)]
struct Address1 {
    #[bits(6)]
    mask: u8,
    leaves_only: bool,
    #[bits(5)]
    __: u8,
    #[bits(52)]
    frame: u64,
}

#[bitfield(u64)]
struct Wait0 {
    #[bits(4)]
    kind: u8,
    interrupt: bool,
    status_write: bool,
    fence: bool,
    page_request_drain: bool,
    #[bits(24)]
    __: u32,
    status_data: u32,
}

/// The pages a page-selective invalidation covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// First address, aligned to the size.
    pub address: u64,
    /// AM: 2^`mask` pages of 4 KiB.
    pub mask: u8,
    /// IH: only leaves changed, so that cached entries of upper levels may stay.
    pub leaves_only: bool,
}

impl Pages {
    fn word(self) -> u64 {
        Address1::new().with_mask(self.mask).with_leaves_only(self.leaves_only).with_frame(self.address >> 12).into()
    }
}

/// DW and DR: which accesses an IOTLB invalidation drains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drain {
    /// Writes; only where CAP.DWD.
    pub writes: bool,
    /// Reads; only where CAP.DRD.
    pub reads: bool,
}

impl Descriptor {
    /// Context-cache invalidate, global (type 1, G = 1).
    pub fn context_cache_global() -> Self {
        Self::of(ContextCache0::new().with_kind(1).with_granularity(1).into(), 0)
    }

    /// Context-cache invalidate, device-selective (type 1, G = 3), of one source id. Hardware ignores the domain id in
    /// scalable mode.
    pub fn context_cache_device(source: u16) -> Self {
        Self::of(ContextCache0::new().with_kind(1).with_granularity(3).with_source(source).into(), 0)
    }

    /// PASID-cache invalidate, global (type 7, G = 3).
    pub fn pasid_cache_global() -> Self {
        Self::of(Pasid0::new().with_kind(7).with_granularity(3).into(), 0)
    }

    /// PASID-cache invalidate, all PASIDs of a domain (type 7, G = 0).
    pub fn pasid_cache_domain(domain_id: u16) -> Self {
        Self::of(Pasid0::new().with_kind(7).with_granularity(0).with_domain_id(domain_id).into(), 0)
    }

    /// PASID-cache invalidate, one PASID of a domain (type 7, G = 1).
    pub fn pasid_cache_pasid(domain_id: u16, pasid: u32) -> Self {
        Self::of(Pasid0::new().with_kind(7).with_granularity(1).with_domain_id(domain_id).with_pasid(pasid).into(), 0)
    }

    /// IOTLB invalidate, global (type 2, G = 1).
    pub fn iotlb_global(drain: Drain) -> Self {
        Self::of(Self::iotlb(1, 0, drain), 0)
    }

    /// IOTLB invalidate, domain-selective (type 2, G = 2).
    pub fn iotlb_domain(domain_id: u16, drain: Drain) -> Self {
        Self::of(Self::iotlb(2, domain_id, drain), 0)
    }

    /// IOTLB invalidate, page-selective within a domain (type 2, G = 3).
    pub fn iotlb_pages(domain_id: u16, pages: Pages, drain: Drain) -> Self {
        Self::of(Self::iotlb(3, domain_id, drain), pages.word())
    }

    /// PASID-based IOTLB invalidate of everything a PASID has (type 6, G = 2).
    pub fn pasid_iotlb_all(domain_id: u16, pasid: u32) -> Self {
        Self::of(Pasid0::new().with_kind(6).with_granularity(2).with_domain_id(domain_id).with_pasid(pasid).into(), 0)
    }

    /// PASID-based IOTLB invalidate, page-selective (type 6, G = 3).
    pub fn pasid_iotlb_pages(domain_id: u16, pasid: u32, pages: Pages) -> Self {
        Self::of(
            Pasid0::new().with_kind(6).with_granularity(3).with_domain_id(domain_id).with_pasid(pasid).into(),
            pages.word(),
        )
    }

    /// Invalidation wait (type 5) that writes `data` to the 4 bytes at `status` once all before it is complete.
    pub fn wait(status: PhysAddr, data: u32) -> Self {
        Self::of(Wait0::new().with_kind(5).with_status_write(true).with_status_data(data).into(), status.get() & !3)
    }

    fn iotlb(granularity: u8, domain_id: u16, drain: Drain) -> u64 {
        Iotlb0::new()
            .with_kind(2)
            .with_granularity(granularity)
            .with_drain_writes(drain.writes)
            .with_drain_reads(drain.reads)
            .with_domain_id(domain_id)
            .into()
    }

    fn of(word0: u64, word1: u64) -> Self {
        Self([word0, word1, 0, 0])
    }
}
