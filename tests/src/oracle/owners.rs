//! Memory and who pays: registrations, revocations, owners, limits.

use super::check::{same, tally};
use super::flat::Refusals;
use super::world::World;
use crate::mock::{Call, Effect, MockMemory};
use iommu_core::Error;
use iommu_core::hw::HwError;
use iommu_core::quota::Amounts;

impl World {
    /// The object that stands under a number now: one that was taken back stands there no more.
    pub fn current(&self, number: u8) -> usize {
        self.current[usize::from(number) % self.current.len()]
    }

    /// Pins memory for maps to come.
    pub fn register(&mut self, object: u8) {
        let at = self.current(object);
        let used = self.is_used(at);
        let object = &self.objects[at];
        if object.registered.len() >= 3 {
            return;
        }
        let source = object.memory.is_some();
        let mut reasons = Refusals::default();
        reasons.note(object.revoked, "Revoked");
        reasons.note(source && !used && object.fails, "BadMemory");
        reasons.note(source && !used && !self.can_pay(object.account, object.len), "Quota");
        match (object.pages.register(), reasons.or_ok()) {
            (Ok(pin), Ok(())) => self.objects[at].registered.push(pin),
            (found, expected) => drop(same(found.map(|_| ()), expected)),
        }
    }

    /// Ends one registration.
    pub fn unregister(&mut self, object: u8) {
        let at = self.current(object);
        drop(self.objects[at].registered.pop());
    }

    /// Takes memory back; new memory stands under its number from then on.
    pub fn revoke(&mut self, object: u8) {
        let slot = usize::from(object) % self.current.len();
        let at = self.current[slot];
        if !self.objects[at].revocable {
            assert!(matches!(self.objects[at].pages.revoke(), Err(Error::Invalid(_))));
            return;
        }
        let found = self.objects[at].pages.revoke();
        self.objects[at].revoked = true;
        self.let_go_of_object(at);
        let mut reasons = Refusals::default();
        for space in 0..self.spaces.len() {
            let unconfirmed = self.is_unconfirmed(space);
            for area in &mut self.spaces[space].flat.areas {
                if area.object != at || area.revoked && !area.draining {
                    continue;
                }
                if area.pins > 0 {
                    reasons.note(true, "Deadlock");
                    break;
                }
                (area.revoked, area.draining) = (true, unconfirmed);
                if unconfirmed {
                    reasons.note(true, "Hardware");
                    break;
                }
            }
        }
        if same(found, reasons.or_ok()).is_none() {
            return;
        }
        tally("revoked");
        self.objects[at].gone = true;
        self.objects[at].registered.clear();
        if self.objects.len() < 24 {
            let config = self.layout.sources()[slot];
            let object = self.object(MockMemory::new(&self.machine, config), self.objects[at].account);
            self.current[slot] = self.objects.len();
            self.objects.push(object);
        }
    }

    /// Takes out pins of areas of an object that users let go of.
    fn let_go_of_object(&mut self, object: usize) {
        let before: Vec<_> = self.pins.iter().map(|pin| (pin.number, pin.space, pin.first, pin.last)).collect();
        let concerned = |world: &Self, space: usize, first: u64, last: u64| {
            world.spaces[space].flat.touching(first, last).any(|area| area.object == object)
        };
        self.let_go(None);
        for (number, space, first, last) in before {
            let kept = self.pins.iter().any(|pin| pin.number == number);
            // A user is told of an area, and lets go of whatever touches it.
            assert!(kept || concerned(self, space, first, last), "a pin was let go of for no reason");
        }
    }

    /// Moves an address space's cost.
    pub fn change_owner(&mut self, space: u8, account: u8) {
        let space = usize::from(space) % self.spaces.len();
        let to = usize::from(account) % self.accounts.len();
        let mut reasons = Refusals::default();
        let here = &self.spaces[space];
        reasons.note(here.account.is_none(), "Invalid");
        let costs = here.flat.areas.iter().map(|area| self.cost(space, area.object, area.len()));
        // What nobody pays for may be more than fits.
        let due = costs.fold(0, u64::saturating_add);
        reasons.note(here.account != Some(to) && !self.can_pay(Some(to), due), "Quota");
        if same(here.real.change_owner(Some(&self.accounts[to].0)), reasons.or_ok()).is_some() {
            self.spaces[space].account = Some(to);
        }
    }

    /// Moves an object's cost.
    pub fn change_pages_owner(&mut self, object: u8, account: u8) {
        let at = self.current(object);
        let to = usize::from(account) % self.accounts.len();
        let mut reasons = Refusals::default();
        let object = &self.objects[at];
        reasons.note(object.account.is_none(), "Invalid");
        let due = if self.is_used(at) { object.len } else { 0 };
        reasons.note(object.account != Some(to) && !self.can_pay(Some(to), due), "Quota");
        if same(object.pages.change_owner(Some(&self.accounts[to].0)), reasons.or_ok()).is_some() {
            self.objects[at].account = Some(to);
        }
    }

    /// Limits what an account may pin to some pages more than are in use, or not at all.
    pub fn limit(&mut self, account: u8, pages: u8) {
        let at = usize::from(account) % self.accounts.len();
        let limit = if pages.is_multiple_of(2) {
            u64::MAX
        } else {
            self.pinned(at).saturating_add(u64::from(pages % 16) * super::flat::PAGE)
        };
        self.accounts[at].0.set_limits(Amounts { pinned: limit, ..Amounts::UNLIMITED });
        self.accounts[at].1 = limit;
    }

    /// Pinning fails from now on, or does not any more.
    pub fn pin_fails(&mut self, object: u8, on: bool) {
        let at = self.current(object);
        let object = &mut self.objects[at];
        if let Some(memory) = &object.memory {
            memory.script().succeed();
            if on {
                memory.script().fail_from(Call::Pin, 0, HwError::Hardware("no"), Effect::None);
                memory.fail_after(u64::from(account_of(at)));
            }
            object.fails = on;
        }
    }
}

/// Some extents before a pin fails.
fn account_of(object: usize) -> u8 {
    (object % 3) as u8
}
