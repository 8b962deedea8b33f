//! Invalidation descriptors (section 6.5.2): two words with content, and two reserved ones where the queue holds 256 bits
//! for each.

use super::invalidation::{ContextScope, Invalidation, IotlbScope, PasidScope, TlbPages, TlbTarget};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::RequesterId;

mod layout;
use layout::*;

/// 64-bit words in the widest descriptor.
pub const DESCRIPTOR_WORDS: usize = 4;

/// IQA.DW: how wide the descriptors of a queue are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 128 bits: legacy mode, descriptor types 1 to 5.
    Bits128,
    /// 256 bits: scalable mode, where nothing else is taken.
    Bits256,
}

impl Width {
    /// 64-bit words in a descriptor.
    pub const fn words(self) -> usize {
        match self {
            Self::Bits128 => 2,
            Self::Bits256 => 4,
        }
    }

    /// Bytes in a descriptor.
    pub const fn len(self) -> usize {
        self.words() * 8
    }

    /// Never: descriptors have bytes.
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// A descriptor, ready for the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor(pub [u64; DESCRIPTOR_WORDS]);

const _: () = assert!(size_of::<Descriptor>() == 32);

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
        Address1::new()
            .with_mask(self.mask & MASK_BITS)
            .with_leaves_only(self.leaves_only)
            .with_frame(self.address >> 12)
            .into()
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

impl From<Invalidation> for Descriptor {
    /// Numbers beyond their field lose their upper bits: whoever makes an [`Invalidation`] has checked them.
    fn from(invalidation: Invalidation) -> Self {
        match invalidation {
            Invalidation::ContextCache(scope) => Self::context_cache(scope),
            Invalidation::PasidCache(scope) => Self::pasid_cache(scope),
            Invalidation::Iotlb { scope, drain } => Self::iotlb(scope, drain),
            Invalidation::PasidIotlb { domain, pasid, pages } => {
                let (granularity, pages) = pages.map_or((2, 0), |pages| (3, pages.word()));
                Self::raw(Self::pasid(kind::PASID_IOTLB, granularity, domain, pasid), pages)
            }
            Invalidation::DeviceTlb { target, pages } => Self::device_tlb(target, pages),
            Invalidation::PasidDeviceTlb { target, pasid, pages } => Self::pasid_device_tlb(target, pasid, pages),
            Invalidation::InterruptEntries { index } => {
                let word = InterruptEntries0::new().with_kind(kind::INTERRUPT_ENTRIES);
                let word = match index {
                    Some((first, mask)) => {
                        word.with_selective(true).with_index(first).with_index_mask(mask & INDEX_MASK_BITS)
                    }
                    None => word,
                };
                Self::raw(word.into(), 0)
            }
        }
    }
}

/// What a wait descriptor (type 5) does once everything before it, from the wait before on, is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wait {
    /// SW: writes these 32 bits to the 4 bytes at this address.
    pub status: Option<(PhysAddr, u32)>,
    /// IF: raises the invalidation completion event.
    pub interrupt: bool,
    /// FN: only then starts what follows it in the queue.
    pub fence: bool,
    /// PD: page requests received before are in their queue; only where ECAP.PDS.
    pub page_requests: bool,
}

impl From<Wait> for Descriptor {
    fn from(wait: Wait) -> Self {
        let (address, data) = wait.status.unwrap_or((PhysAddr::new(0), 0));
        let word = Wait0::new()
            .with_kind(kind::WAIT)
            .with_interrupt(wait.interrupt)
            .with_status_write(wait.status.is_some())
            .with_fence(wait.fence)
            .with_page_request_drain(wait.page_requests)
            .with_status_data(data);
        Self::raw(word.into(), address.get() & !3)
    }
}

/// RC of a page group response: how the requests were answered (PCIe ATS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseCode {
    /// All were serviced.
    Success = 0,
    /// At least one asked for what it may not have.
    InvalidRequest = 1,
    /// The function gets no answers any more.
    Failure = 0xf,
}

/// The answer to a group of page requests (type 9, section 7.6.1), in 256 bits only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageGroupResponse {
    /// Who asked.
    pub requester: RequesterId,
    /// The PASID of the requests, where they had one.
    pub pasid: Option<u32>,
    /// PRGI: which group, 9 bits.
    pub group: u16,
    /// The answer.
    pub code: ResponseCode,
}

impl From<PageGroupResponse> for Descriptor {
    fn from(response: PageGroupResponse) -> Self {
        let word0 = PageGroupResponse0::new()
            .with_kind(kind::PAGE_GROUP_RESPONSE)
            .with_pasid_present(response.pasid.is_some())
            .with_code(response.code as u8)
            .with_requester(response.requester.get())
            .with_pasid(response.pasid.unwrap_or(0) & PASID_BITS);
        let word1 = PageGroupResponse1::new().with_group(response.group & GROUP_BITS);
        Self::raw(word0.into(), word1.into())
    }
}

/// S and ADDR of a device-TLB invalidation (PCIe ATS): the number of trailing ones from bit 12 on tells the size.
fn sized(pages: TlbPages) -> (bool, u64) {
    // The most that the encoding holds: half of all frame numbers, with every address below bit 63 in it.
    const MOST: u8 = 51;
    let (address, mask) = match pages {
        TlbPages::All => (0, MOST + 1),
        TlbPages::Block { address, mask } => (address, mask),
    };
    match mask {
        0 => (false, address >> 12),
        1..=MOST => {
            let ones = (1 << (mask - 1)) - 1;
            // Cleared to the block's start first, so that its end bit is 0 whatever the address was.
            (true, address >> 12 >> mask << mask | ones)
        }
        _ => (true, (1 << MOST) - 1),
    }
}

/// PFSID in its two pieces; 0 where the unit has no such field.
fn physical(target: TlbTarget) -> (u16, u16) {
    let id = target.physical.map_or(0, RequesterId::get);
    (id & 0xf, id >> 4)
}

/// MIP: 0 stands for 32.
fn most_pending(target: TlbTarget) -> u8 {
    target.queue_depth & 0x1f
}

/// The bits of a PASID.
const PASID_BITS: u32 = 0xf_ffff;
/// The bits of AM.
const MASK_BITS: u8 = 0x3f;
/// The bits of IM.
const INDEX_MASK_BITS: u8 = 0x1f;
/// The bits of PRGI.
const GROUP_BITS: u16 = 0x1ff;

impl Descriptor {
    /// As many words as the queue's descriptors have.
    pub fn words(&self, width: Width) -> &[u64] {
        self.0.get(..width.words()).unwrap_or(&self.0)
    }

    /// The source whose device TLB a descriptor with this first word is about.
    pub fn device(word0: u64) -> Option<u16> {
        match DeviceTlb0::from_bits(word0).kind() {
            kind::DEVICE_TLB => Some(DeviceTlb0::from_bits(word0).source()),
            kind::PASID_DEVICE_TLB => Some(PasidDeviceTlb0::from_bits(word0).source()),
            _ => None,
        }
    }

    /// Whether a descriptor with this first word is a wait.
    pub fn is_wait(word0: u64) -> bool {
        DeviceTlb0::from_bits(word0).kind() == kind::WAIT
    }

    fn context_cache(scope: ContextScope) -> Self {
        let word = ContextCache0::new().with_kind(kind::CONTEXT_CACHE);
        let word = match scope {
            ContextScope::Global => word.with_granularity(1),
            ContextScope::Domain(domain) => word.with_granularity(2).with_domain_id(domain),
            ContextScope::Device { domain, source } => {
                word.with_granularity(3).with_domain_id(domain).with_source(source.get())
            }
        };
        Self::raw(word.into(), 0)
    }

    fn pasid_cache(scope: PasidScope) -> Self {
        let (granularity, domain, pasid) = match scope {
            PasidScope::Domain(domain) => (0, domain, 0),
            PasidScope::Pasid { domain, pasid } => (1, domain, pasid),
            PasidScope::Global => (3, 0, 0),
        };
        Self::raw(Self::pasid(kind::PASID_CACHE, granularity, domain, pasid), 0)
    }

    fn pasid(kind: u8, granularity: u8, domain: u16, pasid: u32) -> u64 {
        Pasid0::new()
            .with_kind(kind)
            .with_granularity(granularity)
            .with_domain_id(domain)
            .with_pasid(pasid & PASID_BITS)
            .into()
    }

    fn iotlb(scope: IotlbScope, drain: Drain) -> Self {
        let (granularity, domain, pages) = match scope {
            IotlbScope::Global => (1, 0, 0),
            IotlbScope::Domain(domain) => (2, domain, 0),
            IotlbScope::Pages { domain, pages } => (3, domain, pages.word()),
        };
        let word = Iotlb0::new()
            .with_kind(kind::IOTLB)
            .with_granularity(granularity)
            .with_drain_writes(drain.writes)
            .with_drain_reads(drain.reads)
            .with_domain_id(domain);
        Self::raw(word.into(), pages)
    }

    fn device_tlb(target: TlbTarget, pages: TlbPages) -> Self {
        let (physical_low, physical_high) = physical(target);
        let (size, frame) = sized(pages);
        let word0 = DeviceTlb0::new()
            .with_kind(kind::DEVICE_TLB)
            .with_physical_low(physical_low)
            .with_most_pending(most_pending(target))
            .with_source(target.source.get())
            .with_physical_high(physical_high);
        Self::raw(word0.into(), DeviceTlb1::new().with_size(size).with_frame(frame).into())
    }

    fn pasid_device_tlb(target: TlbTarget, pasid: Option<u32>, pages: TlbPages) -> Self {
        let (physical_low, physical_high) = physical(target);
        let (size, frame) = sized(pages);
        let word0 = PasidDeviceTlb0::new()
            .with_kind(kind::PASID_DEVICE_TLB)
            .with_most_pending(most_pending(target))
            .with_physical_low(physical_low)
            .with_source(target.source.get())
            .with_pasid(pasid.unwrap_or(0) & PASID_BITS)
            .with_physical_high(physical_high);
        let word1 = PasidDeviceTlb1::new().with_global(pasid.is_none()).with_size(size).with_frame(frame);
        Self::raw(word0.into(), word1.into())
    }

    fn raw(word0: u64, word1: u64) -> Self {
        Self([word0, word1, 0, 0])
    }
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
