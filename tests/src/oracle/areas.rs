//! Operations on address spaces: what ought to come of them, what does, and what is there afterwards.

use super::check::{same, tally};
use super::domains::no_map;
use super::flat::{Area, Refusals, refuse};
use super::op::Place;
use super::world::{MOST_AREAS, World};
use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::Prot;
use iommu_core::ioas::Placement;

/// Protections by number; one of them allows nothing.
pub fn prot(number: u8) -> Prot {
    match number % 16 {
        0..8 => Prot::READ_WRITE,
        8..12 => Prot::READ,
        12..15 => Prot::WRITE,
        _ => Prot { read: false, write: false },
    }
}

/// What is to be mapped.
#[derive(Clone, Copy, Debug)]
pub struct What {
    /// The memory.
    pub object: usize,
    /// Offset of the first byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// What is allowed.
    pub prot: Prot,
    /// It is handed over as extents, not as pages.
    pub plain: bool,
}

impl World {
    fn placement_of(&self, at: Place) -> Placement {
        match at {
            Place::At(number) => Placement::Fixed(Iova::new(self.layout.address(number))),
            Place::Anywhere => Placement::Anywhere,
        }
    }

    /// Whether an operation may find that units have no memory for tables: `None` where it can not, else whether it must.
    pub fn tables_fail(&self, space: usize) -> bool {
        self.domains.iter().flatten().any(|domain| domain.space == space && self.no_tables[domain.unit])
    }

    /// Where `len` bytes of an object come to lie.
    fn placed(&self, space: usize, object: usize, offset: u64, len: u64, at: Placement) -> Result<u64, Refusals> {
        let flat = &self.spaces[space].flat;
        match at {
            Placement::Anywhere => {
                let preferred = flat.hole(len, self.preferred(space, object, offset, len));
                // Rather unevenly than not at all.
                preferred.or_else(|| flat.hole(len, flat.alignment())).map_or_else(|| refuse("NoSpace"), Ok)
            }
            Placement::Fixed(at) => {
                let first = at.get();
                let Some(last) = first.checked_add(len - 1) else { return refuse("Overflow") };
                let mut reasons = Refusals::default();
                reasons.note(first % flat.alignment() != 0, "Misaligned");
                reasons.note(flat.is_kept(first, last), "Reserved");
                reasons.note(flat.touching(first, last).next().is_some(), "Overlap");
                reasons.or_ok().map(|()| first)
            }
        }
    }

    /// What a map ought to come to.
    fn expect_map(&self, space: usize, what: What, at: Placement) -> Result<u64, Refusals> {
        let (here, object) = (&self.spaces[space], &self.objects[what.object]);
        let mut reasons = Refusals::default();
        reasons.note(what.prot.is_none(), "Protection");
        reasons.note(what.prot.write && !object.writable, "ReadOnly");
        reasons.note(what.len == 0, "Empty");
        match what.offset.checked_add(what.len) {
            None => reasons.note(true, "Overflow"),
            Some(end) => reasons.note(end > object.len, "Invalid"),
        }
        let align = here.flat.alignment();
        reasons.note(!what.len.is_multiple_of(align) || !what.offset.is_multiple_of(align), "Misaligned");
        reasons.note(object.revoked, "Revoked");
        if what.len == 0 || what.offset >= object.len {
            let wraps =
                matches!(at, Placement::Fixed(at) if what.len > 0 && at.get().checked_add(what.len - 1).is_none());
            reasons.note(wraps, "Overflow");
            return Err(reasons);
        }
        let placed = self.placed(space, what.object, what.offset, what.len, at);
        reasons.0.extend(placed.as_ref().err().map(|more| more.0.clone()).unwrap_or_default());
        let used = self.is_used(what.object);
        reasons.note(object.fails && !used, "BadMemory");
        let mut costs = [0, 0];
        if let Some(at) = object.account.filter(|_| !used) {
            costs[at] += object.len;
        }
        if let Some(at) = here.account {
            costs[at] += self.cost(space, what.object, what.len);
        }
        reasons.note((0..2).any(|at| !self.can_pay(Some(at), costs[at])), "Quota");
        reasons.or_ok()?;
        placed
    }

    fn note_area(&mut self, space: usize, what: What, iova: u64, draining: bool) {
        let area = Area {
            first: iova,
            last: iova + (what.len - 1),
            object: what.object,
            offset: what.offset,
            prot: what.prot,
            draining,
            revoked: false,
            pins: 0,
            locks: 0,
        };
        self.spaces[space].flat.insert(area);
    }

    /// Maps.
    pub fn map(&mut self, space: u8, what: What, at: Place) {
        let space = usize::from(space) % self.spaces.len();
        if self.spaces[space].flat.areas.len() >= MOST_AREAS {
            return;
        }
        let at = self.placement_of(at);
        let expected = self.expect_map(space, what, at);
        let (real, object) = (&self.spaces[space].real, &self.objects[what.object]);
        let found = if what.plain {
            real.map_extents(&object.extents, at, what.prot)
        } else {
            real.map(&object.pages, what.offset, what.len, at, what.prot)
        };
        let expected = expected.map(|iova| (iova, vec![what]));
        self.after_map(space, found.map(Iova::get), expected);
    }

    /// Maps part of what there is, here or elsewhere.
    #[allow(clippy::too_many_arguments)]
    pub fn copy(&mut self, from: u8, near: u16, skip: u16, len: u16, to: u8, at: Place, prot: Prot) {
        let (from, to) = (usize::from(from) % self.spaces.len(), usize::from(to) % self.spaces.len());
        let range = self.range_near(from, near, skip, len);
        let Some(range) = range else { return };
        if self.spaces[to].flat.areas.len() + self.spaces[from].flat.areas.len() >= MOST_AREAS {
            return;
        }
        let at = self.placement_of(at);
        let expected = self.expect_copy(from, range, to, at, prot);
        let found = self.spaces[to].real.copy(&self.spaces[from].real, range, at, prot).map(Iova::get);
        self.after_map(to, found, expected);
    }

    /// Whether the core says that the area at `iova` is draining.
    fn is_draining(&self, space: usize, iova: u64) -> bool {
        let one = IovaRange::from_len(Iova::new(iova), 1).expect("an address");
        self.spaces[space].real.area(one).is_some_and(|area| area.draining)
    }

    /// Compares what came of a map, and adds its areas.
    fn after_map(&mut self, space: usize, found: Result<u64, Error>, expected: Result<(u64, Vec<What>), Refusals>) {
        let mut draining = false;
        if let (Err(error), Ok((iova, _)), true) = (&found, &expected, self.tables_fail(space)) {
            assert!(no_map(*error), "{error:?}");
            // Nothing has changed, unless one domain failed and another did not confirm that it was undone there.
            draining = self.is_unconfirmed(space) && self.is_draining(space, *iova);
            if !draining {
                tally("no tables");
                return;
            }
        }
        let iova = expected.as_ref().map(|(iova, _)| *iova).map_err(Clone::clone);
        if draining {
            tally("draining");
        }
        if (draining || same(found, iova).is_some())
            && let Ok((mut iova, parts)) = expected
        {
            for part in parts {
                self.note_area(space, part, iova, draining);
                iova = iova.wrapping_add(part.len);
            }
        }
    }

    fn expect_copy(
        &self,
        from: usize,
        range: IovaRange,
        to: usize,
        at: Placement,
        prot: Prot,
    ) -> Result<(u64, Vec<What>), Refusals> {
        let mut reasons = Refusals::default();
        let mut parts = Vec::new();
        let (mut next, last) = (range.start().get(), range.last().get());
        loop {
            let Some(area) = self.spaces[from].flat.at(next) else {
                reasons.note(true, "NotFound");
                break;
            };
            reasons.note(area.draining, "NotFound");
            // Memory that its owner began to take back gets no new users.
            reasons.note(area.revoked || self.objects[area.object].revoked, "Revoked");
            let end = area.last.min(last);
            let (object, offset, len) = (area.object, area.offset + (next - area.first), end - next + 1);
            parts.push(What { object, offset, len, prot, plain: false });
            if end == last {
                break;
            }
            next = end + 1;
        }
        let here = &self.spaces[to];
        let align = here.flat.alignment();
        reasons.note(prot.is_none(), "Protection");
        reasons.note(parts.iter().any(|part| prot.write && !self.objects[part.object].writable), "ReadOnly");
        reasons.note(parts.iter().any(|part| part.offset % align != 0 || part.len % align != 0), "Misaligned");
        // Lengths that fit in 64 bits: the range was made of one.
        let len = range.len().unwrap_or(u64::MAX);
        reasons.note(!len.is_multiple_of(align), "Misaligned");
        let wraps = |at: Iova| at.get().checked_add(len - 1).is_none();
        reasons.note(matches!(at, Placement::Fixed(at) if wraps(at)), "Overflow");
        let cost = parts.iter().map(|part| self.cost(to, part.object, part.len)).sum();
        let Some(first) = parts.first() else { return Err(reasons) };
        let iova = self.placed(to, first.object, first.offset, len, at);
        if let Err(more) = &iova {
            reasons.0.extend(more.0.iter().copied());
        }
        reasons.note(!self.can_pay(here.account, cost), "Quota");
        reasons.or_ok()?;
        iova.map(|iova| (iova, parts))
    }

    /// What an unmap of `first..=last` ought to come to.
    fn expect_unmap(&self, space: usize, first: u64, last: u64, all: bool) -> Result<u64, Refusals> {
        let flat = &self.spaces[space].flat;
        let mut reasons = Refusals::default();
        let mut bytes = 0u64;
        for area in flat.touching(first, last) {
            reasons.note(area.first < first || area.last > last, "CutsArea");
            reasons.note(area.locks > 0, "Busy");
            bytes = bytes.saturating_add(area.last - area.first).saturating_add(1);
        }
        reasons.note(bytes == 0 && !all, "NotFound");
        reasons.or_ok().map(|()| bytes)
    }

    /// Unmaps `first..=last`, or everything.
    pub fn unmap(&mut self, space: u8, first: u64, last: u64, all: bool) {
        let space = usize::from(space) % self.spaces.len();
        let expected = self.expect_unmap(space, first, last, all);
        let real = &self.spaces[space].real;
        let found = match IovaRange::new(Iova::new(first), Iova::new(last)) {
            Some(range) if !all => real.unmap(range),
            _ => real.unmap_all(),
        };
        self.after_unmap(space, first, last, found, expected);
    }
}
