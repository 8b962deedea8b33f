//! Which addresses an unmap must have forgotten, in the fewest invalidations that are correct.

use super::{Sink, Tag, Users, add_device_tlb, all_of};
use crate::capabilities::Capabilities;
use crate::spec::descriptor::{Drain, Pages};
use crate::spec::invalidation::{Invalidation, IotlbScope, TlbPages};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, Touched};

/// A block of 2^51 pages is half of all there are; wider ones are everything.
const WIDEST_MASK: u8 = 51;

/// The invalidations for what `gather` holds.
pub(super) fn unmapped(
    caps: &Capabilities,
    tag: Tag,
    users: &Users,
    gather: &Gather,
    drain: Drain,
    sink: &mut dyn Sink,
) {
    let block = |touched: Touched| covering(caps, touched.range, touched.tables.is_empty());
    let exact = !gather.everything() && gather.touched().all(|touched| block(touched).is_some());
    let mut add_all_of = |pasid| {
        if !exact {
            return sink.add(all_of(tag, pasid, drain));
        }
        for pages in gather.touched().filter_map(block) {
            sink.add(match tag {
                Tag::Domain(domain) => Invalidation::Iotlb { scope: IotlbScope::Pages { domain, pages }, drain },
                Tag::DomainAndPasid(domain) => Invalidation::PasidIotlb { domain, pasid, pages: Some(pages) },
            });
        }
    };
    match tag {
        Tag::Domain(_) => add_all_of(0),
        // Each PASID has translations of its own.
        Tag::DomainAndPasid(_) => users.iter().for_each(|user| add_all_of(user.index)),
    }
    for user in users.iter().filter(|user| user.tlb.is_some()) {
        if gather.everything() {
            add_device_tlb(user, TlbPages::All, sink);
            continue;
        }
        for touched in gather.touched() {
            let mask = covering_mask(touched.range);
            let address = touched.range.start().get() >> (12 + mask.min(WIDEST_MASK)) << (12 + mask.min(WIDEST_MASK));
            let pages = if mask < WIDEST_MASK { TlbPages::Block { address, mask } } else { TlbPages::All };
            add_device_tlb(user, pages, sink);
        }
    }
}

/// The smallest aligned block that covers a range; `None` where the unit cannot invalidate that.
pub(super) fn covering(caps: &Capabilities, range: IovaRange, leaves_only: bool) -> Option<Pages> {
    let mask = covering_mask(range);
    if !caps.page_selective() || mask > caps.max_address_mask().min(WIDEST_MASK) {
        return None;
    }
    let address = range.start().get() >> (12 + mask) << (12 + mask);
    Some(Pages { address, mask, leaves_only })
}

/// The smallest n such that one aligned block of 2^n pages holds the whole range.
fn covering_mask(range: IovaRange) -> u8 {
    let differing = (range.start().get() ^ range.last().get()) >> 12;
    (64 - differing.leading_zeros()) as u8
}
