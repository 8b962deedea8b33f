//! Operations on what an address space allows, and on where areas begin.

use super::check::same;
use super::flat::{Area, Keeper, Kept, PAGE, Refusals, refuse};
use super::world::{MOST_AREAS, World};
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::ioas::Owner;

impl World {
    /// Cuts an area.
    pub fn split(&mut self, space: u8, at: u64) {
        let space = usize::from(space) % self.spaces.len();
        let here = &self.spaces[space];
        if here.flat.areas.len() >= MOST_AREAS {
            return;
        }
        let expected = match here.flat.at(at) {
            Some(area) if area.first == at => Ok(()),
            None => refuse("NotFound"),
            Some(area) => {
                let mut reasons = Refusals::default();
                reasons.note(!at.is_multiple_of(here.flat.alignment()), "Misaligned");
                reasons.note(area.pins > 0, "Invalid");
                reasons.note(area.locks > 0 || area.draining, "Busy");
                reasons.note(area.revoked || self.objects[area.object].revoked, "Revoked");
                reasons.or_ok()
            }
        };
        if same(here.real.split(Iova::new(at)), expected).is_some() {
            self.cut(space, at);
        }
    }

    fn cut(&mut self, space: usize, at: u64) {
        let flat = &mut self.spaces[space].flat;
        let Some(index) = flat.index_at(at) else { return };
        let low = flat.areas[index];
        if low.first < at {
            flat.areas[index].last = at - 1;
            flat.insert(Area { first: at, offset: low.offset + (at - low.first), ..low });
        }
    }

    /// Switches large pages.
    pub fn large_pages(&mut self, space: u8, on: bool) {
        let space = usize::from(space) % self.spaces.len();
        let has_domains = self.domains.iter().flatten().any(|domain| domain.space == space);
        let here = &mut self.spaces[space];
        let mut reasons = Refusals::default();
        if !on && !here.flat.small_only {
            reasons.note(has_domains && !here.flat.areas.is_empty(), "Invalid");
            reasons.note(here.flat.is_misaligned(PAGE), "AddressInUse");
        }
        if same(here.real.set_large_pages(on), reasons.or_ok()).is_some() {
            here.flat.small_only = !on;
        }
    }

    /// Replaces the allowed ranges.
    pub fn allow(&mut self, space: u8, ranges: &[(u64, u64)]) {
        let space = usize::from(space) % self.spaces.len();
        let here = &mut self.spaces[space];
        let mut reasons = Refusals::default();
        for (at, range) in ranges.iter().enumerate() {
            let overlaps = ranges[..at].iter().any(|other| other.0 <= range.1 && range.0 <= other.1);
            reasons.note(overlaps, "Invalid");
            reasons.note(here.flat.is_kept(range.0, range.1), "AddressInUse");
        }
        let real: Vec<_> =
            ranges.iter().filter_map(|range| IovaRange::new(Iova::new(range.0), Iova::new(range.1))).collect();
        if same(here.real.allow(&real), reasons.or_ok()).is_some() {
            here.flat.allowed = ranges.to_vec();
            here.flat.allowed.sort_unstable();
        }
    }

    /// Keeps a range free.
    pub fn reserve(&mut self, space: u8, first: u64, last: u64, owner: u64) {
        let space = usize::from(space) % self.spaces.len();
        let here = &mut self.spaces[space];
        let mut reasons = Refusals::default();
        reasons.note(here.flat.touching(first, last).next().is_some(), "AddressInUse");
        reasons.note(here.flat.is_allowed_somewhere(first, last), "AddressInUse");
        let Some(range) = IovaRange::new(Iova::new(first), Iova::new(last)) else { return };
        if here.flat.kept.len() < 12
            && same(here.real.reserve(range, Owner::Embedder(owner)), reasons.or_ok()).is_some()
        {
            here.flat.kept.push(Kept { first, last, keeper: Keeper::Embedder(owner) });
        }
    }

    /// Frees what an owner keeps free.
    pub fn release(&mut self, space: u8, owner: u64) {
        let space = usize::from(space) % self.spaces.len();
        let here = &mut self.spaces[space];
        here.real.release(Owner::Embedder(owner));
        here.flat.kept.retain(|kept| kept.keeper != Keeper::Embedder(owner));
    }
}
