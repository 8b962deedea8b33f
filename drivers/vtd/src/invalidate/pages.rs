//! Which addresses a change of page tables must have forgotten, in the fewest invalidations that are correct.

use super::{Sink, Tag, User, Users, add_device_tlb, all_of};
use crate::capabilities::Capabilities;
use crate::spec::descriptor::{Drain, Pages};
use crate::spec::invalidation::{Invalidation, IotlbScope, TlbPages};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, Touched};

/// A block of 2^51 pages is half of all there are; wider ones are everything.
const WIDEST_MASK: u8 = 51;

/// Widest block of an invalidation by PASID: 2^30 pages, 4 TiB. Hardware takes every mask there (section 11.4.2, MAMV), but
/// there are units that count the pages in 32 bits and drop too little beyond (QEMU's is one); and everything of a PASID is as
/// cheap by then.
const WIDEST_PASID_MASK: u8 = 30;

/// Most page-selective invalidations for one change. A gather holds no more ranges than this, so one tag, or one PASID,
/// never needs more; many PASIDs would need that many times as much, while dropping the whole domain is always one.
pub(super) const MOST: usize = 8;

/// The PASIDs that lead to a first stage: up to [`MOST`], each once.
struct Indexes {
    held: [u32; MOST],
    len: usize,
}

impl Indexes {
    /// `None` where there are more.
    fn of(users: &Users, tag: Tag) -> Option<Self> {
        let mut indexes = Self { held: [0; MOST], len: 0 };
        for User { index, .. } in users.of(tag) {
            if !indexes.as_slice().contains(&index) {
                *indexes.held.get_mut(indexes.len)? = index;
                indexes.len += 1;
            }
        }
        Some(indexes)
    }

    fn as_slice(&self) -> &[u32] {
        self.held.get(..self.len).unwrap_or(&self.held)
    }
}

/// What a change of page tables touched.
#[derive(Clone, Copy)]
pub(super) struct Where<'a> {
    gather: &'a Gather,
    /// Some block is everything of the domain, whatever its size.
    everything: bool,
}

impl<'a> Where<'a> {
    pub(super) fn of(gather: &'a Gather) -> Self {
        Self { gather, everything: gather.everything() }
    }

    /// Blocks as the unit can invalidate them by domain; `None` where one is beyond that.
    fn by_domain(self, caps: &Capabilities) -> Option<impl Iterator<Item = Pages>> {
        let block = |touched: Touched| covering(caps, touched.range, touched.tables.is_empty());
        let exact = !self.everything && self.gather.touched().all(|touched| block(touched).is_some());
        exact.then(|| {
            self.gather.touched().filter_map(move |touched| covering(caps, touched.range, only_leaves(touched)))
        })
    }

    /// Blocks as every unit can invalidate them by PASID.
    fn by_pasid(self) -> Option<impl Iterator<Item = Pages>> {
        let block = |touched: Touched| pasid_block(touched.range, only_leaves(touched));
        let exact = !self.everything && self.gather.touched().all(|touched| block(touched).is_some());
        exact.then(|| self.gather.touched().filter_map(block))
    }
}

fn only_leaves(touched: Touched) -> bool {
    touched.tables.is_empty()
}

/// The invalidations for what `gather` holds of the tables of the domain with `tag`.
pub(super) fn unmapped(
    caps: &Capabilities,
    tag: Tag,
    users: &Users,
    gather: &Gather,
    drain: Drain,
    sink: &mut dyn Sink,
) {
    let change = Where::of(gather);
    match tag {
        Tag::Domain(domain) => second_stage(caps, tag, domain, users, change, drain, sink),
        Tag::DomainAndPasid(domain) => first_stage(tag, domain, users, change, drain, sink),
    }
    for (user, held) in users.with_tlb() {
        if change.everything || held != tag {
            // Where a guest's addresses lead to what changed is the guest's to know.
            add_device_tlb(user, TlbPages::All, sink);
            continue;
        }
        gather.ranges().for_each(|range| add_device_tlb(user, tlb_pages(range), sink));
    }
}

/// Of a second stage, for its own domain id and for that of every first stage on top of it that anybody leads to.
fn second_stage(
    caps: &Capabilities,
    tag: Tag,
    domain: u16,
    users: &Users,
    change: Where<'_>,
    drain: Drain,
    sink: &mut dyn Sink,
) {
    // What nobody leads to is not cached.
    if users.of(tag).next().is_some() {
        match change.by_domain(caps) {
            Some(blocks) => blocks
                .for_each(|pages| sink.add(Invalidation::Iotlb { scope: IotlbScope::Pages { domain, pages }, drain })),
            None => sink.add(all_of(tag, 0, drain)),
        }
    }
    for (_, nested) in users.beside(tag) {
        // Page-selective would take all nested translations of the domain id, too (section 6.5.2.3, table 23), but drain
        // only requests whose own addresses lie in the block (section 6.5.4): those are the guest's, and the block is not.
        let scope = IotlbScope::Domain(nested.domain_id());
        sink.add(Invalidation::Iotlb { scope, drain });
    }
}

/// Of a first stage, for every PASID that leads to it: each has translations of its own.
fn first_stage(tag: Tag, domain: u16, users: &Users, change: Where<'_>, drain: Drain, sink: &mut dyn Sink) {
    let indexes = Indexes::of(users, tag);
    let count = change.by_pasid().map(Iterator::count);
    let of_pages = indexes.as_ref().zip(count).filter(|(indexes, count)| indexes.len * count <= MOST);
    if let Some((indexes, _)) = of_pages {
        for pasid in indexes.as_slice() {
            for pages in change.by_pasid().into_iter().flatten() {
                sink.add(Invalidation::PasidIotlb { domain, pasid: *pasid, pages: Some(pages) });
            }
        }
        return;
    }
    all_pasids(tag, users, indexes, drain, sink);
}

/// All that any PASID has under a tag that is cached by PASID.
fn all_pasids(tag: Tag, users: &Users, indexes: Option<Indexes>, drain: Drain, sink: &mut dyn Sink) {
    let several = indexes.is_none_or(|indexes| indexes.len > 1);
    if several && drain.writes && drain.reads {
        // The same in one, which drains as those by PASID do by themselves.
        return sink.add(Invalidation::Iotlb { scope: IotlbScope::Domain(tag.domain_id()), drain });
    }
    let domain = tag.domain_id();
    users.of(tag).for_each(|user| sink.add(Invalidation::PasidIotlb { domain, pasid: user.index, pages: None }));
}

/// What became present in a second stage, on a unit that caches absence.
pub(super) fn mapped(caps: &Capabilities, users: &Users, range: IovaRange, drain: Drain, sink: &mut dyn Sink) {
    for (_, tag) in users.tagged() {
        // Entries of every level may have been cached as not present.
        let domain = tag.domain_id();
        let scope = match covering(caps, range, false) {
            Some(pages) => IotlbScope::Pages { domain, pages },
            None => IotlbScope::Domain(domain),
        };
        sink.add(Invalidation::Iotlb { scope, drain });
    }
}

/// What a guest wants forgotten of its first stage: `None` is all of it.
pub(super) fn guest(
    tag: Tag,
    users: &Users,
    range: Option<IovaRange>,
    leaves_only: bool,
    drain: Drain,
    sink: &mut dyn Sink,
) {
    let domain = tag.domain_id();
    let pages = range.and_then(|range| pasid_block(range, leaves_only));
    match (Indexes::of(users, tag), pages) {
        (Some(indexes), Some(pages)) => indexes
            .as_slice()
            .iter()
            .for_each(|pasid| sink.add(Invalidation::PasidIotlb { domain, pasid: *pasid, pages: Some(pages) })),
        (indexes, _) => all_pasids(tag, users, indexes, drain, sink),
    }
    users.of(tag).for_each(|user| add_device_tlb(user, range.map_or(TlbPages::All, tlb_pages), sink));
}

/// The smallest aligned block that covers a range; `None` where the unit cannot invalidate that by domain.
pub(super) fn covering(caps: &Capabilities, range: IovaRange, leaves_only: bool) -> Option<Pages> {
    block(range, leaves_only).filter(|pages| caps.page_selective() && pages.mask <= caps.max_address_mask())
}

/// The smallest aligned block that covers a range; `None` where that is better not invalidated by PASID.
fn pasid_block(range: IovaRange, leaves_only: bool) -> Option<Pages> {
    block(range, leaves_only).filter(|pages| pages.mask <= WIDEST_PASID_MASK)
}

/// The smallest aligned block that covers a range; `None` where that is everything.
fn block(range: IovaRange, leaves_only: bool) -> Option<Pages> {
    let mask = covering_mask(range);
    let address = range.start().get() >> 12 >> mask << mask << 12;
    (mask < WIDEST_MASK).then_some(Pages { address, mask, leaves_only })
}

/// The same as device TLBs are told.
fn tlb_pages(range: IovaRange) -> TlbPages {
    block(range, false).map_or(TlbPages::All, |Pages { address, mask, .. }| TlbPages::Block { address, mask })
}

/// The smallest n such that one aligned block of 2^n pages holds the whole range.
fn covering_mask(range: IovaRange) -> u8 {
    let differing = (range.start().get() ^ range.last().get()) >> 12;
    (64 - differing.leading_zeros()) as u8
}
