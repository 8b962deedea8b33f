//! Invalidations of device TLBs (section 4.5.1).

use super::{Sink, Tag, User, Users};
use crate::spec::command::{AtcPages, Command};
use iommu_core::addr::IovaRange;
use iommu_core::hw::Gather;

/// Adds what drops these pages from the device TLB of `user`, where it has one. Without PASID this reaches the entries of
/// all PASIDs, too.
pub(super) fn add(user: User, pages: AtcPages, sink: &mut dyn Sink) {
    if user.atc.is_some() {
        sink.add(Command::atc_inv(user.stream.get(), user.pasid, false, pages));
    }
}

/// Adds what drops all that `gather` took out of the tables under `tag` from the device TLBs of everybody there.
pub(super) fn add_unmapped(tag: Tag, users: &Users, gather: &Gather, sink: &mut dyn Sink) {
    for (user, held) in users.with_tlb() {
        // Where a guest's stage 1 led to these addresses is the guest's affair.
        if held != tag || gather.everything() {
            add(user, AtcPages::ALL, sink);
        } else {
            gather.ranges().for_each(|range| add(user, block(range), sink));
        }
    }
}

/// The smallest aligned block around a range.
fn block(range: IovaRange) -> AtcPages {
    let (start, last) = (range.start().get(), range.last().get());
    let bits = (u64::BITS - (start ^ last).leading_zeros()).max(12);
    match bits {
        u64::BITS => AtcPages::ALL,
        _ => AtcPages { address: start >> bits << bits, size: (bits - 12) as u8 },
    }
}
