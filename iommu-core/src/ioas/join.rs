//! Domains that join an address space, with all that is mapped there, and leave it.

use super::fill::Content;
use super::reserved::Owner;
use super::space::Shape;
use super::{Inner, Members};
use crate::addr::{Iova, IovaRange};
use crate::error::Error;
use crate::hw::Domain;
use crate::hwpt::{HwptInner, HwptUse};
use crate::pages::PagesPin;
use core::sync::atomic::Ordering;
use iommu_alloc::Shared;

impl Inner {
    /// Lets a domain join: keeps free what it reserves, and maps every area in it.
    ///
    /// # Errors
    ///
    /// [`Error::AddressInUse`] where something stands where the domain does not translate, or not as evenly as it needs;
    /// [`Error::OutOfMemory`]; [`Error::Hardware`]. The address space is as before; the domain may hold anything.
    pub(crate) fn join(&self, hwpt: &Shared<HwptInner>) -> Result<(), Error> {
        let mut members = self.members.write();
        members.list.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        let domain = &*hwpt.domain;
        let before = self.space.lock().take_on(domain, hwpt.number)?;
        if let Err(error) = self.fill(domain) {
            self.space.lock().let_off(before, hwpt.number);
            return Err(error);
        }
        members.list.push(hwpt.clone());
        Ok(())
    }

    /// Maps every area in a domain. Nobody maps or unmaps meanwhile: the caller has the list of domains.
    fn fill(&self, domain: &dyn Domain) -> Result<(), Error> {
        let mut from = Some(Iova::new(0));
        while let Some(rest) = from.and_then(|from| IovaRange::new(from, IovaRange::FULL.last())) {
            let Some((next, area)) = self.space.lock().next_filled(rest) else { break };
            from = next;
            if let Some(area) = area {
                // Its pin is not the last one: the area stays as long as nobody unmaps.
                area.content().fill(domain).map_err(|failure| failure.error)?;
            }
        }
        Ok(())
    }

    /// Lets a domain without users leave: blocks its streams and waits until no device reaches anything through it. Where
    /// another CPU has done that already, nothing is left to do. A domain that stays has so many `users` from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Hardware`] where hardware did not confirm: the domain stays, and all that is mapped counts as reachable.
    pub(crate) fn leave(&self, hwpt: &Shared<HwptInner>, users: usize) -> Result<(), Error> {
        let mut members = self.members.write();
        // One that is used again stays: its user may attach devices to it, and then what is unmapped must leave it, too.
        if hwpt.users.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        let Some(at) = members.list.iter().position(|member| Shared::same(member, hwpt)) else { return Ok(()) };
        if let Err(error) = hwpt.domain.retire() {
            // Before anybody else can take it for one that is left over.
            hwpt.users.store(users, Ordering::Release);
            return Err(error.into());
        }
        let left = members.list.remove(at);
        self.space.lock().let_off(members.shape(), hwpt.number);
        drop(members);
        drop(left);
        Ok(())
    }

    /// Tries once more to have those domains leave that hardware did not let go of.
    pub(super) fn leave_again(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        let mut at = 0;
        loop {
            let left_over = |member: &&Shared<HwptInner>| member.users.load(Ordering::Acquire) == 0;
            let Some(hwpt) = self.members.read().list.iter().filter(left_over).nth(at).cloned() else {
                return outcome;
            };
            if let Err(error) = self.leave(&hwpt, 0) {
                outcome = outcome.and(Err(error));
                at += 1;
            }
        }
    }

    /// Whether any domain or access belongs to it.
    pub(crate) fn is_used(&self) -> bool {
        !self.members.read().list.is_empty() || !self.space.lock().accesses.is_empty()
    }

    /// The first domain, oldest first, that `suits`, which takes no locks.
    pub(crate) fn find_hwpt(&self, suits: &mut dyn FnMut(&HwptInner) -> bool) -> Option<HwptUse> {
        let members = self.members.read();
        members.list.iter().filter(|member| suits(member)).find_map(HwptUse::of)
    }
}

impl Members {
    /// What they have in common.
    fn shape(&self) -> Shape {
        self.list.iter().fold(Shape::EMPTY, |shape, member| shape.with(member.domain.geometry()))
    }
}

/// An area that is to be put into a domain.
struct Filled {
    range: IovaRange,
    pin: PagesPin,
    offset: u64,
    prot: crate::hw::Prot,
    large_pages: bool,
}

impl Filled {
    fn content(&self) -> Content<'_> {
        let Self { range, ref pin, offset, prot, large_pages } = *self;
        Content { range, pin, offset, prot, large_pages }
    }
}

impl super::space::Space {
    /// The lowest area of `range`, where every domain has it, and where to look for the next.
    fn next_filled(&self, range: IovaRange) -> Option<(Option<Iova>, Option<Filled>)> {
        let (_, area) = self.first(range)?;
        let filled = area.pin.as_ref().filter(|_| area.is_filled()).map(|pin| Filled {
            range: area.range,
            pin: pin.another(),
            offset: area.offset,
            prot: area.prot,
            large_pages: self.large_pages,
        });
        Some((area.range.last().checked_add(1), filled))
    }

    /// Takes a domain into account, and returns how things stood before.
    fn take_on(&mut self, domain: &dyn Domain, number: u64) -> Result<Shape, Error> {
        let before = self.shape;
        let shape = before.with(domain.geometry());
        self.check_change(&shape, self.large_pages, 1)?;
        for range in domain.reserved_ranges() {
            if let Err(error) = self.reserve(*range, Owner::Object(number)) {
                self.reserved.release(Owner::Object(number));
                return Err(error);
            }
        }
        self.shape = shape;
        Ok(before)
    }

    /// Undoes [`Space::take_on`](super::space::Space::take_on).
    fn let_off(&mut self, shape: Shape, number: u64) {
        self.shape = shape;
        self.reserved.release(Owner::Object(number));
    }
}
