//! Domains that join address spaces and leave them, and hardware that fails.

use super::check::{same, tally};
use super::flat::{Keeper, Kept, Refusals};
use super::op::Fault;
use super::world::{Domain, World};
use crate::mock::{Call, Effect, MockDomain, Script};
use iommu_core::Error;
use iommu_core::hw::{HwError, Stage, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use std::sync::Arc;

/// Whether an error is what a map of a domain that fails comes to.
pub fn no_map(error: Error) -> bool {
    matches!(error, Error::OutOfMemory | Error::Hardware(HwError::TimedOut(_)))
}

impl World {
    /// Whether a domain of the address space is on a unit that does not confirm.
    pub fn is_unconfirmed(&self, space: usize) -> bool {
        self.domains.iter().flatten().any(|domain| domain.space == space && self.unconfirmed[domain.unit])
    }

    /// What keeps a domain of `unit` from joining an address space.
    pub fn expect_join(&self, space: usize, unit: usize) -> Refusals {
        let (flat, config) = (&self.spaces[space].flat, self.units[unit].config());
        let mut reasons = Refusals::default();
        let smallest = config.page_sizes.smallest().expect("page sizes");
        reasons.note(flat.is_misaligned(smallest.max(flat.alignment())), "AddressInUse");
        for (first, last) in self.outside(unit) {
            reasons.note(flat.touching(first, last).next().is_some(), "AddressInUse");
            reasons.note(flat.is_allowed_somewhere(first, last), "AddressInUse");
        }
        reasons
    }

    /// The ranges that domains of `unit` do not translate.
    fn outside(&self, unit: usize) -> Vec<(u64, u64)> {
        let config = self.units[unit].config();
        let (first, last) = (config.aperture.start().get(), config.aperture.last().get());
        let below = (first > 0).then(|| (0, first - 1));
        let above = (last < u64::MAX).then(|| (last + 1, u64::MAX));
        let holes = config.reserved.iter().map(|range| (range.start().get(), range.last().get()));
        below.into_iter().chain(above).chain(holes).collect()
    }

    /// Notes that a domain has joined; returns its number.
    pub fn joined(&mut self, domain: Domain) -> usize {
        let number = self.domains.len();
        let smallest = self.units[domain.unit].config().page_sizes.smallest().expect("page sizes");
        let outside = self.outside(domain.unit);
        let flat = &mut self.spaces[domain.space].flat;
        let keeper = Keeper::Domain(number);
        flat.demands.push((keeper, smallest));
        flat.kept.extend(outside.into_iter().map(|(first, last)| Kept { first, last, keeper }));
        self.domains.push(Some(domain));
        number
    }

    /// Notes that a domain is gone.
    pub fn left(&mut self, number: usize) {
        let Some(domain) = self.domains[number].take() else { return };
        let flat = &mut self.spaces[domain.space].flat;
        flat.demands.retain(|demand| demand.0 != Keeper::Domain(number));
        flat.kept.retain(|kept| kept.keeper != Keeper::Domain(number));
    }

    /// Makes a domain.
    pub fn new_domain(&mut self, space: u8, unit: u8, slot: u8) {
        let (slot, None) = self.in_slot(slot) else { return };
        let (space, unit) = (usize::from(space) % self.spaces.len(), usize::from(unit) % self.units.len());
        if self.domains.iter().flatten().count() >= 6 {
            return;
        }
        let expected = self.expect_join(space, unit);
        let real: Arc<dyn Unit> = self.units[unit].clone();
        let config = HwptConfig { pasid: slot % 2 == 0, ..HwptConfig::new(Stage::Second) };
        let found = Hwpt::new(&self.spaces[space].real, &real, config);
        let no_tables = self.no_tables[unit] && expected.0.is_empty();
        match (found, expected.or_ok()) {
            (Ok(handle), Ok(())) => {
                tally("joined");
                let number = MockDomain::of(handle.domain()).number();
                let domain = Domain {
                    handle: Some(handle),
                    number,
                    space,
                    unit,
                    pasid: slot % 2 == 0,
                    auto: false,
                    attached: 0,
                };
                self.slots[slot] = Some(self.joined(domain));
            }
            (Err(error), Ok(())) if no_tables => assert!(no_map(error), "{error:?}"),
            (found, expected) => drop(same(found.map(|_| ()), expected)),
        }
    }

    /// Lets go of a domain's handle; `gently` looks what came of it.
    pub fn drop_domain(&mut self, slot: u8, gently: bool) {
        let (slot, Some(number)) = self.in_slot(slot) else { return };
        let Some(domain) = &mut self.domains[number] else { return };
        let handle = domain.handle.take().expect("a domain in a slot has a handle");
        let (used, unconfirmed) = (domain.attached > 0, self.unconfirmed[domain.unit]);
        if gently {
            match handle.destroy() {
                Ok(()) => assert!(!used && !unconfirmed, "a domain was destroyed that is in use or not confirmed"),
                Err((handle, error)) => {
                    match error {
                        Error::Busy => assert!(used),
                        Error::Hardware(_) => assert!(unconfirmed && !used),
                        other => panic!("{other:?}"),
                    }
                    domain.handle = Some(handle);
                    return;
                }
            }
        } else {
            drop(handle);
        }
        self.slots[slot] = None;
        self.drop_if_unused(number);
    }

    /// Notes that a domain without users is gone, or left over where hardware does not confirm.
    pub fn drop_if_unused(&mut self, number: usize) {
        let Some(domain) = &self.domains[number] else { return };
        if domain.handle.is_none() && domain.attached == 0 && !self.unconfirmed[domain.unit] {
            tally("left");
            self.left(number);
        } else if domain.handle.is_none() && domain.attached == 0 {
            tally("left over");
        }
    }

    /// Tries once more what hardware did not confirm.
    pub fn reclaim(&mut self, space: u8) {
        let space = usize::from(space) % self.spaces.len();
        let left_over = |domain: &Domain| domain.space == space && domain.handle.is_none() && domain.attached == 0;
        let all: Vec<_> =
            self.domains.iter().enumerate().filter_map(|(at, domain)| Some((at, domain.as_ref()?))).collect();
        let (stay, gone): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|(_, domain)| left_over(domain))
            .partition(|(_, domain)| self.unconfirmed[domain.unit]);
        let (stays, gone): (bool, Vec<_>) = (!stay.is_empty(), gone.into_iter().map(|(at, _)| at).collect());
        let found = self.spaces[space].real.reclaim();
        assert_eq!(found.is_err(), stays, "reclaiming: {found:?}");
        gone.into_iter().for_each(|number| self.left(number));
    }

    /// Switches failures of a unit on and off.
    pub fn hardware(&mut self, unit: u8, fault: Fault) {
        if self.units.is_empty() {
            return;
        }
        let unit = usize::from(unit) % self.units.len();
        let script = self.units[unit].script();
        script.succeed();
        (self.unconfirmed[unit], self.no_tables[unit]) = (false, false);
        match fault {
            Fault::None => {}
            Fault::Unconfirmed => {
                for call in [Call::Flush, Call::Retire] {
                    script.fail_from(call, 0, Script::TIMED_OUT, Effect::None);
                }
                self.unconfirmed[unit] = true;
            }
            Fault::NoTables(after) => {
                script.fail_from(Call::Map, after.into(), HwError::OutOfMemory, Effect::None);
                self.no_tables[unit] = true;
            }
            Fault::Uncertain(after, done) => {
                let effect = if done { Effect::Done } else { Effect::None };
                script.fail_from(Call::Map, after.into(), Script::TIMED_OUT, effect);
                self.no_tables[unit] = true;
            }
        }
    }
}
