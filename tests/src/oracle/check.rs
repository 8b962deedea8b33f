//! How the real thing is compared with what it ought to be.

use super::flat::{Area, Refusals};
use super::layout::{BASE, GRANULE};
use super::world::{Domain, Space, World};
use crate::mock::MockDomain;
use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange};
use std::cell::RefCell;
use std::collections::BTreeMap;

impl World {
    /// Compares everything that can be seen.
    pub fn check(&self) {
        for (number, space) in self.spaces.iter().enumerate() {
            check_space(number, space);
            self.check_translations(number, space);
        }
        for (number, object) in self.objects.iter().enumerate() {
            if let Some(memory) = &object.memory {
                assert_eq!(memory.is_pinned(), self.is_used(number), "object {number} is pinned");
                assert_eq!(object.pages.is_pinned(), memory.is_pinned(), "object {number} is pinned, says the core");
            }
        }
        for domain in self.domains.iter().flatten() {
            self.check_domain(domain);
        }
        self.check_devices();
        for (number, (account, _)) in self.accounts.iter().enumerate() {
            assert_eq!(account.usage().pinned, self.pinned(number), "account {number} pays");
        }
    }

    /// All tables of a domain, page by page.
    fn check_domain(&self, domain: &Domain) {
        let Some(handle) = &domain.handle else { return };
        let mock = MockDomain::of(handle.domain());
        let flat = &self.spaces[domain.space].flat;
        let live = || flat.areas.iter().filter(|area| area.is_live());
        let mut mapped = 0;
        for (range, phys, prot) in mock.leaves() {
            let (first, last) = (range.start().get(), range.last().get());
            let mut at = first;
            while at <= last {
                let area = live().find(|area| area.touches(at, at));
                let area =
                    area.unwrap_or_else(|| panic!("{at:#x} is mapped in domain {}, nothing is there", domain.number));
                let expected = self.objects[area.object].phys(area.offset + (at - area.first));
                assert_eq!((phys.get() + (at - first), prot), (expected, area.prot), "{at:#x} leads there");
                at += GRANULE;
            }
            mapped += last - first + 1;
        }
        assert_eq!(mapped, live().map(Area::len).sum::<u64>(), "domain {} holds every area", domain.number);
        let draining = flat.areas.iter().any(|area| area.draining);
        assert!(!mock.has_stale() || draining || self.unconfirmed[domain.unit], "a flush is missing");
    }

    /// What the core says where addresses lead.
    fn check_translations(&self, number: usize, space: &Space) {
        for area in &space.flat.areas {
            for at in [area.first, area.first + area.len() / 2, area.last] {
                let expected = (!area.revoked).then(|| self.objects[area.object].phys(area.offset + (at - area.first)));
                let found = space.real.translate(Iova::new(at)).map(|phys| phys.get());
                assert_eq!(found, expected, "space {number}: {at:#x} leads there");
            }
        }
        let at = BASE + 7 * self.steps as u64 % (128 * GRANULE);
        if space.flat.at(at).is_none() {
            assert_eq!(space.real.translate(Iova::new(at)), None, "space {number}: {at:#x}");
        }
    }
}

/// Areas, ranges and alignment of an address space.
fn check_space(number: usize, space: &Space) {
    let mut from = Some(0);
    for expected in &space.flat.areas {
        let rest = from.and_then(|from| IovaRange::new(Iova::new(from), Iova::new(u64::MAX))).expect("an area more");
        let area = space.real.area(rest).unwrap_or_else(|| panic!("space {number} lacks {expected:x?}"));
        let found = (area.range.start().get(), area.range.last().get(), area.offset, area.prot);
        assert_eq!(found, (expected.first, expected.last, expected.offset, expected.prot), "space {number}");
        let state = (area.draining, area.revoked);
        assert_eq!(state, (expected.draining, expected.revoked), "space {number}, {expected:x?}");
        assert_eq!((area.pins, area.locks), (expected.pins, expected.locks), "space {number}, {expected:x?}");
        from = expected.last.checked_add(1);
    }
    if let Some(rest) = from.and_then(|from| IovaRange::new(Iova::new(from), Iova::new(u64::MAX))) {
        assert_eq!(space.real.area(rest), None, "space {number}: nothing more");
    }
    let expected = space.flat.usable();
    let mut ranges = [IovaRange::FULL; 64];
    let count = space.real.iova_ranges(&mut ranges);
    let found: Vec<_> = ranges[..count].iter().map(|range| (range.start().get(), range.last().get())).collect();
    assert_eq!(found, expected, "space {number}: ranges");
    assert_eq!(space.real.alignment(), space.flat.alignment(), "space {number}: alignment");
    assert_eq!(space.real.large_pages(), !space.flat.small_only, "space {number}: large pages");
}

thread_local! {
    static TALLY: RefCell<BTreeMap<String, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts how often something came about, so that a test can tell whether it saw enough.
pub fn tally(what: &str) {
    TALLY.with_borrow_mut(|tally| match tally.get_mut(what) {
        Some(count) => *count += 1,
        None => drop(tally.insert(what.to_string(), 1)),
    });
}

/// What was counted on this thread since the last call.
pub fn tallied() -> BTreeMap<String, u64> {
    TALLY.take()
}

/// The variant of an error, as a word.
pub fn word(error: Error) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_string()
}

/// Compares a result with what it ought to be.
pub fn same<T: PartialEq + std::fmt::Debug>(found: Result<T, Error>, expected: Result<T, Refusals>) -> Option<T> {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found, expected, "the result");
            tally("done");
            Some(found)
        }
        (Err(error), Err(reasons)) => {
            let word = word(error);
            assert!(reasons.0.contains(&word.as_str()), "refused because of {error:?}; expected were {:?}", reasons.0);
            tally(&word);
            None
        }
        (Ok(found), Err(reasons)) => panic!("{found:?} came of it; {:?} should have been in the way", reasons.0),
        (Err(error), Ok(expected)) => panic!("refused because of {error:?}; {expected:?} should have come of it"),
    }
}
