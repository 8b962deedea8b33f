//! Invalidations of translations by address (section 4.4.1).
//!
//! With IDR3.RIL one command covers (NUM + 1) * 2^SCALE pages of the granule from its address on, wherever that is. A range
//! of any length is cut into as few as there can be: from the end with the finest scale to the coarsest, five bits of its
//! length each. Where all that changed is leaves of one level, TTL says so, and that is all that hardware has to look for;
//! where tables went too it must not, as hardware would keep what led to them.

use super::{Sink, Tag, add_all_of};
use crate::capabilities::Capabilities;
use crate::spec::command::{Command, Pages, Range};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, Touched};

/// Most commands for one flush: beyond that everything under the tag is dropped instead.
pub(super) const MOST: usize = 30;

/// Largest NUM + 1.
const MOST_NUM: u64 = 32;
/// Largest SCALE.
const MOST_SCALE: u32 = 31;
/// The level of the leaves that map the smallest page, as Armv8 counts.
const LAST_LEVEL: u8 = 3;

/// Adds what drops all that `gather` took out of the tables under `tag`, whose smallest page has 2^`page_bits` bytes.
pub(super) fn add(caps: &Capabilities, tag: Tag, page_bits: u8, gather: &Gather, sink: &mut dyn Sink) {
    let mut count = 0;
    let mut fits = !gather.everything();
    if fits {
        each(caps, page_bits, gather, &mut |_| {
            count += 1;
            count <= MOST
        });
        fits = count <= MOST;
    }
    if !fits {
        return add_all_of(tag, sink);
    }
    each(caps, page_bits, gather, &mut |pages| {
        match tag {
            Tag::Asid(asid) => sink.add(Command::tlbi_nh_va(0, asid, pages)),
            Tag::Vmid(vmid) => sink.add(Command::tlbi_s2_ipa(vmid, pages)),
            Tag::Guest { .. } | Tag::Bypass => {}
        }
        true
    });
}

/// Calls `each` with the pages of each command that `gather` needs, until it says `false`.
fn each(caps: &Capabilities, page_bits: u8, gather: &Gather, each: &mut dyn FnMut(Pages) -> bool) {
    let ranges = caps.range_invalidation();
    let _ = gather
        .touched()
        .all(|touched| if ranges { by_range(page_bits, touched, each) } else { by_entry(page_bits, touched, each) });
}

/// In range form.
fn by_range(page_bits: u8, Touched { range, leaves, tables }: Touched, each: &mut dyn FnMut(Pages) -> bool) -> bool {
    let leaves_only = tables.is_empty();
    let one_level = leaves_only && leaves.mask().is_power_of_two();
    let level = if one_level { LAST_LEVEL.saturating_sub(leaves.mask().trailing_zeros() as u8) } else { 0 };
    cover(page_bits, range, level, &mut |address, range| each(Pages { address, leaves_only, range }))
}

/// Cuts `range` into what single commands cover, until `each` says `false`.
fn cover(page_bits: u8, range: IovaRange, level: u8, each: &mut dyn FnMut(u64, Option<Range>) -> bool) -> bool {
    // TG.
    let granule = (page_bits - 10) / 2;
    let mut address = range.start().get();
    let mut left = ((range.last().get() - address) >> page_bits) + 1;
    while left != 0 {
        let scale = left.trailing_zeros().min(MOST_SCALE);
        let count = left >> scale;
        let count = if count <= MOST_NUM { count } else { (count - 1) % MOST_NUM + 1 };
        let pages = count << scale;
        // One page without a level is reserved; without range form it is the same.
        let form = Range { granule, num: (count - 1) as u8, scale: scale as u8, level };
        if !each(address, (pages != 1 || level != 0).then_some(form)) {
            return false;
        }
        left -= pages;
        // Past the last page this may wrap; nothing comes after it.
        address = address.wrapping_add(pages << page_bits);
    }
    true
}

/// One command an entry: it drops whatever maps the address. Where sizes are mixed, as if all were the smallest.
fn by_entry(page_bits: u8, touched: Touched, each: &mut dyn FnMut(Pages) -> bool) -> bool {
    let shift = page_bits + (page_bits - 3) * lowest_level(touched);
    let Touched { range, tables, .. } = touched;
    let (mut at, last) = (range.start().get(), range.last().get());
    loop {
        if !each(Pages { address: at, leaves_only: tables.is_empty(), range: None }) {
            return false;
        }
        match at.checked_add(1 << shift).filter(|next| *next <= last) {
            Some(next) => at = next,
            None => return true,
        }
    }
}

/// The lowest level whose entries have changed, 0 being those that map the smallest page: of the leaves, or of what led to
/// the tables; 0 where that is not known.
fn lowest_level(touched: Touched) -> u8 {
    let changed = |level: &u8| touched.leaves.contains(*level) || *level != 0 && touched.tables.contains(*level - 1);
    (0..4).find(changed).unwrap_or(0)
}
