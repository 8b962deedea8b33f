//! Areas and gaps of the baseline.

use super::Refused;
use iommu_core::addr::{IovaRange, PhysExtent};
use iommu_core::hw::{Domain, Prot};
use std::collections::BTreeMap;

/// The memory of an area.
enum Memory {
    One(#[allow(dead_code)] PhysExtent),
    Many(#[allow(dead_code)] Box<[PhysExtent]>),
}

pub struct Area {
    /// Its last address.
    pub last: u64,
    #[allow(dead_code)]
    memory: Memory,
    #[allow(dead_code)]
    prot: Prot,
    /// Whether nobody is at it.
    pub live: bool,
    locks: u32,
}

/// Areas, and where there are none.
pub struct State {
    /// By their first addresses.
    pub areas: BTreeMap<u64, Area>,
    /// First and last addresses of what is free.
    gaps: BTreeMap<u64, u64>,
    reserved: Vec<(u64, u64)>,
    aperture: IovaRange,
    alignment: u64,
    largest: u64,
}

impl State {
    /// All free.
    pub fn new(domain: &dyn Domain) -> Self {
        let geometry = domain.geometry();
        Self {
            areas: BTreeMap::new(),
            gaps: BTreeMap::from([(0, u64::MAX)]),
            reserved: Vec::new(),
            aperture: geometry.aperture,
            alignment: geometry.page_sizes.smallest().expect("a page size"),
            largest: 1 << geometry.page_sizes.mask().ilog2(),
        }
    }

    /// Puts an area in, and returns where.
    pub fn place(
        &mut self,
        extents: &[PhysExtent],
        len: u64,
        at: Option<u64>,
        prot: Prot,
        live: bool,
    ) -> Result<(u64, u64), Refused> {
        if len & (self.alignment - 1) != 0 {
            return Err(Refused::Invalid("length"));
        }
        let start = match at {
            Some(start) => start,
            None => self.hole(len, extents[0].start.get())?,
        };
        let last = start.checked_add(len - 1).ok_or(Refused::Invalid("overflow"))?;
        self.check(start, last)?;
        let memory = match extents {
            [one] => Memory::One(*one),
            many => Memory::Many(many.into()),
        };
        self.areas.insert(start, Area { last, memory, prot, live, locks: 0 });
        self.take(start, last);
        Ok((start, last))
    }

    /// The first area inside of the range.
    pub fn first(&self, start: u64, last: u64) -> Option<(u64, u64)> {
        self.areas.range(start..=last).next().map(|(start, area)| (*start, area.last))
    }

    /// Marks every area inside of the range, or none; how many there are, and the first.
    pub fn mark(&mut self, start: u64, last: u64) -> Result<(u64, (u64, u64)), Refused> {
        if let Some((before, area)) = self.areas.range(..start).next_back()
            && area.last >= start
        {
            return Err(Refused::Cuts(*before));
        }
        let (mut count, mut first) = (0, None);
        for (start, area) in self.areas.range(start..=last) {
            if area.last > last {
                return Err(Refused::Cuts(*start));
            }
            if !area.live || area.locks != 0 {
                return Err(Refused::Busy);
            }
            count += 1;
            first = first.or(Some((*start, area.last)));
        }
        let first = first.ok_or(Refused::NotFound)?;
        for (_, area) in self.areas.range_mut(start..=last) {
            area.live = false;
        }
        Ok((count, first))
    }

    /// Takes an area out.
    pub fn remove(&mut self, start: u64) {
        if let Some(area) = self.areas.remove(&start) {
            self.give(start, area.last);
        }
    }

    /// Takes every area inside of the range out, and returns how many bytes that were.
    pub fn remove_all(&mut self, start: u64, last: u64) -> u64 {
        let (mut bytes, mut from) = (0, Some(start));
        while let Some((start, end)) = from.filter(|from| *from <= last).and_then(|from| self.first(from, last)) {
            self.remove(start);
            bytes += end - start + 1;
            from = end.checked_add(1);
        }
        bytes
    }

    /// Whether an area may stand there.
    fn check(&self, start: u64, last: u64) -> Result<(), Refused> {
        if start & (self.alignment - 1) != 0 {
            return Err(Refused::Invalid("alignment"));
        }
        if start < self.aperture.start().get() || last > self.aperture.last().get() {
            return Err(Refused::Reserved(start));
        }
        if let Some((reserved, _)) = self.reserved.iter().find(|(from, to)| *from <= last && start <= *to) {
            return Err(Refused::Reserved(*reserved));
        }
        match self.areas.range(..=last).next_back() {
            Some((found, area)) if area.last >= start => Err(Refused::Overlap(*found)),
            _ => Ok(()),
        }
    }

    /// The lowest hole, aligned as memory and length are.
    fn hole(&self, len: u64, phys: u64) -> Result<u64, Refused> {
        let even = len.next_power_of_two().min(1 << phys.trailing_zeros().min(63));
        let align = even.min(self.largest).max(self.alignment);
        let fit = |(start, last): (&u64, &u64)| {
            let at = start.max(&self.alignment).checked_next_multiple_of(align)?;
            let end = at.checked_add(len - 1)?;
            (end <= *last && self.check(at, end).is_ok()).then_some(at)
        };
        self.gaps.iter().find_map(fit).ok_or(Refused::NoSpace)
    }

    /// Takes a range, which is free, out of the gaps.
    fn take(&mut self, start: u64, last: u64) {
        let gap = self.gaps.range(..=start).next_back().map(|(from, to)| (*from, *to));
        let (from, to) = gap.expect("what is no area is a gap");
        if from < start {
            self.gaps.insert(from, start - 1);
        } else {
            self.gaps.remove(&from);
        }
        if last < to {
            self.gaps.insert(last + 1, to);
        }
    }

    /// Makes a range a gap, together with those beside it.
    fn give(&mut self, start: u64, last: u64) {
        let mut gap = (start, last);
        if let Some((from, to)) = self.gaps.range(..start).next_back().map(|(from, to)| (*from, *to))
            && to + 1 == start
        {
            gap.0 = from;
        }
        if last < u64::MAX
            && let Some(to) = self.gaps.remove(&(last + 1))
        {
            gap.1 = to;
        }
        self.gaps.insert(gap.0, gap.1);
    }
}
