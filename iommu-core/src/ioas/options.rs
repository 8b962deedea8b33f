//! Changes of what an address space allows, and of where areas begin.

use super::Inner;
use super::reserved::Allowed;
use super::space::{Area, State, aligned};
use crate::addr::{Iova, IovaRange};
use crate::error::Error;
use crate::hw::HwError;
use crate::quota::Amounts;
use crate::tree::Tree;
use iommu_alloc::Shared;

impl Inner {
    pub(super) fn allow(&self, ranges: &[IovaRange]) -> Result<(), Error> {
        let mut allowed = Allowed::of(ranges)?;
        let mut space = self.space.lock();
        for range in allowed.iter() {
            let taken = super::reserved::outside(range, space.shape.aperture);
            if let Some(range) = taken.or_else(|| space.reserved.overlapping(range)) {
                return Err(Error::AddressInUse { range });
            }
        }
        core::mem::swap(&mut space.allowed, &mut allowed);
        drop(space);
        Ok(())
    }

    pub(super) fn set_large_pages(&self, on: bool) -> Result<(), Error> {
        // So that nobody is in the middle of filling a domain with the old setting.
        let members = self.members.write();
        let mut space = self.space.lock();
        if !on && space.large_pages && !members.list.is_empty() && !space.areas.is_empty() {
            return Err(Error::Invalid("areas may be mapped with large pages already"));
        }
        let shape = space.shape;
        space.check_change(&shape, on, 1)?;
        space.large_pages = on;
        Ok(())
    }

    /// Cuts the area that holds `at` in two there.
    pub(super) fn split(this: &Shared<Self>, at: Iova) -> Result<(), Error> {
        let members = this.members.read();
        let (slot, range, cost, revoked) = {
            let mut space = this.space.lock();
            let (slot, area) = space.at(at)?;
            let range = area.range;
            if range.start() == at {
                return Ok(());
            }
            if area.state != State::Live || area.draining || area.locks != 0 {
                return Err(Error::Busy);
            }
            if area.pins != 0 {
                return Err(Error::Invalid("accesses use the area"));
            }
            let align = space.alignment();
            aligned(at.get(), align)?;
            // What the memory costs by its length is paid for.
            let cost = area.pin.as_ref().map_or(Amounts::NONE, |pin| this.cost(pin.pages(), 0));
            let revoked = area.revoked;
            let operation = space.operation();
            if let Some(area) = space.slots.get_mut(slot) {
                (area.state, area.operation) = (State::Leaving, operation);
            }
            (slot, range, cost, revoked)
        };
        // No domain has memory that was taken back.
        let tables = members.list.iter().filter(|_| !revoked);
        let outcome = tables.map(|member| &member.domain).try_for_each(|domain| match domain.split(at) {
            // A driver that cannot is not needed where no leaf reaches across.
            Err(HwError::Unsupported(_)) if !crosses(&**domain, at) => Ok(()),
            other => other.map(|_| ()).map_err(Error::from),
        });
        let outcome = outcome.and_then(|()| this.ledger.charge(cost));
        let outcome =
            outcome.and_then(|()| Self::cut(this, slot, range, at).inspect_err(|_| this.ledger.release(cost)));
        if let Some(area) = this.space.lock().slots.get_mut(slot) {
            area.state = State::Live;
        }
        outcome
    }

    /// Makes two areas of one, which the caller has marked.
    fn cut(this: &Shared<Self>, slot: u32, range: IovaRange, at: Iova) -> Result<(), Error> {
        let below = at.get().checked_sub(1).and_then(|last| IovaRange::new(range.start(), Iova::new(last)));
        let (Some(below), Some(above)) = (below, IovaRange::new(at, range.last())) else {
            return Err(Error::NotFound { iova: at });
        };
        // The area keeps the one; the memory's own record is asked without a lock.
        let pin = this.space.lock().slots.get(slot).and_then(|area| area.pin.as_ref().map(|pin| pin.another()));
        let Some(pin) = pin else { return Err(Error::NotFound { iova: at }) };
        let pages = pin.pages().clone();
        if pages.is_revocable() {
            pages.join(this)?;
        }
        let outcome = this.space.lock().cut(slot, below, above, pin);
        match outcome {
            Ok(()) => Ok(()),
            Err((error, pin)) => {
                drop(pin);
                if pages.is_revocable() {
                    pages.leave(this);
                }
                Err(error)
            }
        }
    }
}

/// Whether a leaf of the domain reaches across `at`.
fn crosses(domain: &dyn crate::hw::Domain, at: Iova) -> bool {
    domain.translate(at).is_some_and(|found| at.get() & (found.page_size.max(1) - 1) != 0)
}

impl super::space::Space {
    /// Replaces the area in `slot` by one for each range; `pin` is the second's. All memory is there before anything
    /// changes.
    fn cut(
        &mut self,
        slot: u32,
        below: IovaRange,
        above: IovaRange,
        pin: crate::pages::PagesPin,
    ) -> Result<(), (Error, crate::pages::PagesPin)> {
        // A tree that runs empty gives its memory back: where this is the only area, the two get a new one.
        let mut fresh = (self.areas.len() == 1).then(Tree::new);
        if fresh.as_mut().unwrap_or(&mut self.areas).reserve(2).is_err() || self.slots.reserve(1).is_err() {
            return Err((Error::OutOfMemory, pin));
        }
        let Some(area) = self.slots.get_mut(slot) else { return Err((Error::Busy, pin)) };
        area.range = below;
        let other = Area {
            range: above,
            pin: Some(pin),
            offset: area.offset + (above.start().get() - below.start().get()),
            prot: area.prot,
            state: State::Live,
            operation: area.operation,
            draining: false,
            revoked: area.revoked,
            large_pages: area.large_pages,
            pins: 0,
            locks: 0,
        };
        match fresh {
            Some(fresh) => self.areas = fresh,
            None => drop(self.areas.remove(below.start().get())),
        }
        let halves = [(below, Some(slot)), (above, self.slots.insert(other).ok())];
        for (range, slot) in halves {
            // There is room for both.
            let inserted = slot.map(|slot| self.areas.insert(range.start().get(), range.last().get(), slot));
            debug_assert!(matches!(inserted, Some(Ok(()))));
        }
        Ok(())
    }
}
