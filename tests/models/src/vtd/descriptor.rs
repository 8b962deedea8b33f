//! Invalidation descriptors (section 6.5.2), decoded from raw words.

use super::config::Config;
use iommu_core::addr::PhysAddr;

/// What an invalidation covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granularity {
    /// Everything.
    Global,
    /// A domain id.
    Domain(u16),
    /// A source id of a domain id; bits of `mask` in the source id are ignored.
    Device {
        /// Domain id.
        domain: u16,
        /// Source id.
        source: u16,
        /// Bits of the source id that are ignored.
        mask: u16,
    },
    /// A PASID of a domain id.
    Pasid {
        /// Domain id.
        domain: u16,
        /// PASID.
        pasid: u32,
    },
    /// Pages of a domain id, and of a PASID where there is one.
    Pages {
        /// Domain id.
        domain: u16,
        /// PASID; `None` in an IOTLB invalidation without PASID.
        pasid: Option<u32>,
        /// First address.
        address: u64,
        /// Address mask: 2^mask pages.
        mask: u8,
        /// Only leaves changed (IH).
        leaf_only: bool,
    },
}

/// A descriptor that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Descriptor {
    /// Type 1: the context cache.
    ContextCache(Granularity),
    /// Type 2: the IOTLB, entries of the second stage.
    Iotlb {
        /// What is covered.
        granularity: Granularity,
        /// Writes are drained.
        drain_writes: bool,
        /// Reads are drained.
        drain_reads: bool,
    },
    /// Type 3: a device's TLB, entries without PASID.
    DeviceTlb {
        /// Source id of the device.
        source: u16,
        /// Address and size as they stand in the second word.
        address: u64,
    },
    /// Type 4: the interrupt entry cache.
    InterruptEntries {
        /// First entry; `None` for all.
        index: Option<u16>,
        /// 2^mask entries.
        mask: u8,
    },
    /// Type 5: wait for all before.
    Wait {
        /// Where to report and what; `None` for no report.
        status: Option<(PhysAddr, u32)>,
        /// Report by interrupt.
        interrupt: bool,
        /// Nothing later begins before everything earlier is done.
        fence: bool,
        /// Page requests are drained as well.
        drain_requests: bool,
    },
    /// Type 6: the IOTLB, entries of the first stage and of pass-through.
    PasidIotlb(Granularity),
    /// Type 7: the PASID cache.
    PasidCache(Granularity),
    /// Type 8: a device's TLB, entries with PASID.
    PasidDeviceTlb {
        /// Source id of the device.
        source: u16,
        /// PASID; `None` for all.
        pasid: Option<u32>,
        /// Address and size as they stand in the second word.
        address: u64,
    },
    /// Type 9: the answer to a group of page requests.
    PageResponse {
        /// Requester id.
        requester: u16,
        /// PASID of the requests.
        pasid: Option<u32>,
        /// Page request group.
        group: u16,
        /// 0 success, 1 invalid, 15 failure.
        code: u8,
    },
}

/// A descriptor that was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Where it stood in the queue: its number, not bytes.
    pub slot: usize,
    /// Its words; the last two are zero in a queue of 128-bit descriptors.
    pub raw: [u64; 4],
    /// What it says.
    pub descriptor: Descriptor,
    /// Whether it took effect: a wait that was aborted or suppressed did not.
    pub done: bool,
}

/// IQERCD.IQEI (section 11.4.9.10).
pub(super) mod iqei {
    pub(in crate::vtd) const TAIL: u8 = 1;
    pub(in crate::vtd) const FETCH: u8 = 2;
    pub(in crate::vtd) const TYPE: u8 = 3;
    pub(in crate::vtd) const RESERVED: u8 = 4;
    pub(in crate::vtd) const WIDTH: u8 = 5;
    pub(in crate::vtd) const TAIL_ALIGNMENT: u8 = 6;
    pub(in crate::vtd) const MODE: u8 = 7;
}

const DOMAIN: u64 = 0xffff << 16;
const PASID: u64 = 0xf_ffff << 32;
const GRANULARITY: u64 = 3 << 4;
/// AM, IH and ADDR.
const PAGES: u64 = !0xfff | 0x7f;

/// Decodes a descriptor.
///
/// # Errors
///
/// The IQEI code.
pub(super) fn decode(config: &Config, wide: bool, legacy: bool, raw: &[u64; 4]) -> Result<Descriptor, u8> {
    let (low, high) = (raw[0], raw[1]);
    // Types above 15 keep their upper bits in 11:9.
    let kind = low & 0xf | low >> 5 & 0x70;
    let exists = match kind {
        1 | 2 | 5 => true,
        3 => config.ecap_bit(2),
        4 => config.ecap_bit(3),
        // Table 26: not in legacy mode, nor as 128 bits.
        6 | 7 => config.ecap_bit(43) && wide && !legacy,
        8 => config.ecap_bit(43) && config.ecap_bit(2) && wide && !legacy,
        9 => config.ecap_bit(29) && wide && !legacy,
        _ => false,
    };
    if !exists {
        return Err(iqei::TYPE);
    }
    // PFSID is reserved without DIT.
    let pfsid = if config.ecap_bit(41) { 0xf << 12 | 0xfff << 52 } else { 0 };
    let page_drain = if config.ecap_bit(42) { 1 << 7 } else { 0 };
    let (low_fields, high_fields) = match kind {
        1 => (GRANULARITY | DOMAIN | 0x3_ffff << 32, 0),
        2 => (GRANULARITY | 3 << 6 | DOMAIN, PAGES),
        3 => (0x1f << 16 | 0xffff << 32 | pfsid, !0xfff | 1),
        4 => (1 << 4 | 0x1f << 27 | 0xffff << 32, 0),
        5 => (7 << 4 | page_drain | 0xffff_ffff << 32, !3),
        6 => (GRANULARITY | DOMAIN | PASID, PAGES),
        7 => (GRANULARITY | DOMAIN | PASID, 0),
        8 => (0x1f << 4 | 0xffff << 16 | PASID | pfsid, !0xfff | 1 << 11 | 1),
        _ => (1 << 4 | 0xf << 12 | 0xffff << 16 | PASID, 0x1ff << 3),
    };
    if low & !(low_fields | 0xf) != 0 || high & !high_fields != 0 || raw[2] | raw[3] != 0 {
        return Err(iqei::RESERVED);
    }
    let granularity = low >> 4 & 3;
    // Where it is a domain id: bits beyond CAP.ND are not looked at.
    let domain = (low >> 16) as u16 & config.domain_mask();
    let source = (low >> 16) as u16;
    let pasid = (low >> 32) as u32 & 0xf_ffff;
    let pages = |pasid| Granularity::Pages {
        domain,
        pasid,
        address: high & !0xfff,
        mask: (high & 0x3f) as u8,
        leaf_only: high & 1 << 6 != 0,
    };
    Ok(match kind {
        1 => Descriptor::ContextCache(match granularity {
            1 => Granularity::Global,
            2 => Granularity::Domain(domain),
            3 => {
                let mask = [0, 4, 6, 7][(low >> 48 & 3) as usize];
                Granularity::Device { domain, source: (low >> 32) as u16, mask }
            }
            _ => return Err(iqei::RESERVED),
        }),
        2 => Descriptor::Iotlb {
            granularity: match granularity {
                1 => Granularity::Global,
                2 => Granularity::Domain(domain),
                3 if !config.cap_bit(39) || high & 0x3f > config.mamv() => return Err(iqei::RESERVED),
                3 => pages(None),
                _ => return Err(iqei::RESERVED),
            },
            drain_writes: low & 1 << 6 != 0,
            drain_reads: low & 1 << 7 != 0,
        },
        3 => Descriptor::DeviceTlb { source: (low >> 32) as u16, address: high },
        4 => Descriptor::InterruptEntries {
            index: (low & 1 << 4 != 0).then_some((low >> 32) as u16),
            mask: (low >> 27 & 0x1f) as u8,
        },
        5 => Descriptor::Wait {
            status: (low & 1 << 5 != 0).then_some((PhysAddr::new(high), (low >> 32) as u32)),
            interrupt: low & 1 << 4 != 0,
            fence: low & 1 << 6 != 0,
            drain_requests: low & 1 << 7 != 0,
        },
        6 => Descriptor::PasidIotlb(match granularity {
            2 => Granularity::Pasid { domain, pasid },
            3 => pages(Some(pasid)),
            _ => return Err(iqei::RESERVED),
        }),
        7 => Descriptor::PasidCache(match granularity {
            0 => Granularity::Domain(domain),
            1 => Granularity::Pasid { domain, pasid },
            3 => Granularity::Global,
            _ => return Err(iqei::RESERVED),
        }),
        8 => Descriptor::PasidDeviceTlb { source, pasid: (high & 1 == 0).then_some(pasid), address: high & !1 },
        _ => Descriptor::PageResponse {
            requester: source,
            pasid: (low & 1 << 4 != 0).then_some(pasid),
            group: (high >> 3) as u16 & 0x1ff,
            code: (low >> 12 & 0xf) as u8,
        },
    })
}
