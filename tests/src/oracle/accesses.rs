//! Software users: pins, reads and writes, locks; and unmaps, which must get pins out of the way.

use super::check::{same, tally};
use super::flat::{Area, Keeper, Refusals};
use super::holder::Holder;
use super::world::{Lock, World};
use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::Prot;
use iommu_core::pages::MemoryKind;
use std::sync::Arc;

/// A pin, beside the real one that its user holds.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// Its number.
    pub number: u64,
    /// The access.
    pub access: usize,
    /// The address space it was made in.
    pub space: usize,
    /// The first addresses of the areas that it uses; they are not split meanwhile.
    pub areas: Vec<u64>,
    /// Its first address.
    pub first: u64,
    /// Its last address.
    pub last: u64,
}

impl World {
    /// Drops what its user has let go of since the last look, which must lie in `told` where that is given.
    pub fn let_go(&mut self, told: Option<(usize, u64, u64)>) {
        let users: Vec<Option<Arc<Holder>>> = self.accesses.iter().map(|access| access.user.clone()).collect();
        let (spaces, pins) = (&mut self.spaces, &mut self.pins);
        pins.retain(|pin| {
            let user = users[pin.access].as_ref().expect("a pin has a user");
            if user.held().pins.iter().any(|(number, _)| *number == pin.number) {
                return true;
            }
            if let Some((space, first, last)) = told {
                let concerned = pin.space == space && pin.first <= last && first <= pin.last;
                assert!(concerned, "a user was told to let go of {pin:x?}, which nobody unmapped");
            }
            for first in &pin.areas {
                if let Some(area) = spaces[pin.space].flat.areas.iter_mut().find(|area| area.first == *first) {
                    area.pins -= 1;
                }
            }
            false
        });
    }

    /// Compares what came of an unmap of `first..=last`, and takes out what is gone.
    pub fn after_unmap(
        &mut self,
        space: usize,
        first: u64,
        last: u64,
        found: Result<u64, Error>,
        expected: Result<u64, Refusals>,
    ) {
        self.let_go(Some((space, first, last)));
        let flat = &self.spaces[space].flat;
        let stubborn = flat.touching(first, last).any(|area| area.pins > 0);
        if stubborn && expected.is_ok() {
            assert_eq!(found, Err(Error::Deadlock), "a user does not let go");
            tally("Deadlock");
            return;
        }
        if expected.is_ok()
            && self.is_unconfirmed(space)
            && self.spaces[space].flat.touching(first, last).next().is_some()
        {
            assert!(matches!(found, Err(Error::Hardware(_))), "hardware does not confirm, and {found:?} came of it");
            tally("draining");
            let areas = self.spaces[space].flat.areas.iter_mut();
            areas.filter(|area| area.touches(first, last)).for_each(|area| area.draining = true);
        } else if same(found, expected).is_some() {
            self.spaces[space].flat.areas.retain(|area| !area.touches(first, last));
        }
    }

    /// Attaches an access, or moves it.
    pub fn access_attach(&mut self, access: u8, space: u8, replace: bool) {
        let (access, space) = (usize::from(access) % self.accesses.len(), usize::from(space) % self.spaces.len());
        let from = self.accesses[access].space;
        let align = self.accesses[access].align;
        let mut reasons = Refusals::default();
        reasons.note(replace && from.is_none(), "NoSuchObject");
        reasons.note(!replace && from.is_some(), "Invalid");
        if from != Some(space) {
            reasons.note(self.spaces[space].flat.is_misaligned(align), "AddressInUse");
        }
        let real = &self.accesses[access].real;
        let to = &self.spaces[space].real;
        let found = if replace { real.replace(to) } else { real.attach(to) };
        self.let_go(None);
        if from != Some(space) && replace && reasons.0.is_empty() && self.pins.iter().any(|pin| pin.access == access) {
            // Pins that are not given up keep it where it is.
            assert_eq!(found, Err(Error::Deadlock));
            return;
        }
        if same(found, reasons.or_ok()).is_some() {
            self.move_access(access, Some(space));
        }
    }

    fn move_access(&mut self, access: usize, to: Option<usize>) {
        let keeper = Keeper::Access(access);
        if self.accesses[access].space == to {
            return;
        }
        if let Some(from) = self.accesses[access].space {
            self.spaces[from].flat.demands.retain(|demand| demand.0 != keeper);
        }
        if let Some(to) = to {
            let align = self.accesses[access].align;
            self.spaces[to].flat.demands.push((keeper, align));
        }
        self.accesses[access].space = to;
    }

    /// Detaches an access.
    pub fn access_detach(&mut self, access: u8) {
        let access = usize::from(access) % self.accesses.len();
        let found = self.accesses[access].real.detach();
        self.let_go(None);
        if self.pins.iter().any(|pin| pin.access == access) {
            assert_eq!(found, Err(Error::Deadlock));
            return;
        }
        assert_eq!(found, Ok(()));
        self.move_access(access, None);
    }

    /// The range that stands under these numbers: inside of some area, more often than not.
    pub fn range_near(&self, space: usize, near: u16, skip: u16, len: u16) -> Option<IovaRange> {
        let areas = &self.spaces[space].flat.areas;
        let area = areas.get(usize::from(near) % areas.len().max(1));
        let (first, room) = match area {
            Some(area) => {
                let into = self.layout.offset(skip) % area.len();
                (area.first + into, area.len() - into)
            }
            None => (self.layout.address(near), u64::MAX),
        };
        let len = self.layout.len(len);
        // One in eight reaches further, as far as its neighbours.
        let len = if near.is_multiple_of(8) || len <= room { len } else { room };
        IovaRange::from_len(Iova::new(first), len)
    }

    /// What keeps `range` from being used with `prot`; the first addresses of its areas.
    pub fn expect_use(&self, space: usize, range: IovaRange, prot: Prot) -> (Refusals, Vec<u64>) {
        let (mut reasons, mut areas) = (Refusals::default(), Vec::new());
        let (mut next, last) = (range.start().get(), range.last().get());
        loop {
            let Some(area) = self.spaces[space].flat.at(next) else {
                reasons.note(true, "NotFound");
                return (reasons, areas);
            };
            areas.push(area.first);
            reasons.note(prot.write && !area.prot.write || prot.read && !area.prot.read, "ReadOnly");
            reasons.note(area.revoked, "Revoked");
            reasons.note(area.draining, "NotFound");
            if area.last >= last {
                return (reasons, areas);
            }
            next = area.last + 1;
        }
    }

    /// Pins.
    pub fn pin(&mut self, access: u8, near: u16, skip: u16, len: u16, write: bool) {
        let access = usize::from(access) % self.accesses.len();
        let space = self.accesses[access].space;
        let Some(range) = self.range_near(space.unwrap_or(0), near, skip, len) else { return };
        let prot = if write { Prot::READ_WRITE } else { Prot::READ };
        let (mut reasons, mut areas) = (Refusals::default(), Vec::new());
        match space {
            Some(space) => (reasons, areas) = self.expect_use(space, range, prot),
            None => reasons.note(true, "NotFound"),
        }
        let align = self.accesses[access].align;
        let device = |first: &u64| {
            let area = space.and_then(|space| self.spaces[space].flat.at(*first));
            area.is_some_and(|area| self.objects[area.object].kind == MemoryKind::Mmio)
        };
        reasons.note(areas.iter().any(device), "Invalid");
        reasons.note(self.accesses[access].user.is_none(), "Invalid");
        reasons.note(!range.is_aligned(align), "Misaligned");
        match (self.accesses[access].real.pin(range, prot), reasons.or_ok()) {
            (Ok(pin), Ok(())) => {
                tally("pinned");
                assert_eq!(pin.range(), range);
                let space = space.expect("it is attached");
                self.check_pin(space, range, pin.extents().map(|extent| (extent.start.get(), extent.len)));
                self.pins_made += 1;
                let number = self.pins_made;
                for area in &mut self.spaces[space].flat.areas {
                    area.pins += u32::from(areas.contains(&area.first));
                }
                self.accesses[access].user.as_ref().expect("it has a user").held().pins.push((number, pin));
                let (first, last) = (range.start().get(), range.last().get());
                self.pins.push(Pinned { number, access, space, areas, first, last });
            }
            (found, expected) => drop(same(found.map(|_| ()), expected)),
        }
    }

    /// Compares the extents of a pin with where the addresses lead.
    fn check_pin(&self, space: usize, range: IovaRange, extents: impl Iterator<Item = (u64, u64)>) {
        let mut at = range.start().get();
        for (start, len) in extents {
            for inside in (0..len).step_by(512).chain([len - 1]) {
                let area = self.spaces[space].flat.at(at + inside).expect("an area");
                let phys = self.objects[area.object].phys(area.offset + (at + inside - area.first));
                assert_eq!(start + inside, phys, "the pin leads there at {:#x}", at + inside);
            }
            at += len;
        }
        assert_eq!(at, range.last().get() + 1, "the length of a pin");
    }

    /// Lets go of a pin.
    pub fn unpin(&mut self, pin: u8) {
        if self.pins.is_empty() {
            return;
        }
        let pin = self.pins[usize::from(pin) % self.pins.len()].clone();
        let user = self.accesses[pin.access].user.clone().expect("a pin has a user");
        let at = user.held().pins.iter().position(|(number, _)| *number == pin.number).expect("it is held");
        user.let_go(at);
        self.let_go(None);
    }

    /// A user does not listen, or does again.
    pub fn stubborn(&mut self, access: u8, on: bool) {
        let access = usize::from(access) % self.accesses.len();
        if let Some(user) = &self.accesses[access].user {
            user.held().stubborn = on;
        }
    }

    /// Keeps a range mapped.
    pub fn lock(&mut self, space: u8, near: u16, skip: u16, len: u16, contiguous: bool) {
        let space = usize::from(space) % self.spaces.len();
        let Some(range) = self.range_near(space, near, skip, len) else { return };
        let (mut reasons, areas) = self.expect_use(space, range, Prot { read: false, write: false });
        let revocable = |area: &Area| self.objects[area.object].revocable;
        let areas_here = self.spaces[space].flat.areas.iter().filter(|area| areas.contains(&area.first));
        reasons.note(areas_here.clone().any(revocable), "BadMemory");
        // What comes before the hole may not be contiguous either.
        reasons.note(contiguous && !reasons.0.is_empty(), "BadMemory");
        if contiguous && reasons.0.is_empty() {
            let (first, last) = (range.start().get(), range.last().get());
            let phys = |at: u64| {
                let area = self.spaces[space].flat.at(at).expect("an area");
                self.objects[area.object].phys(area.offset + (at - area.first))
            };
            let start = phys(first);
            let bounds = self.spaces[space].flat.touching(first, last).map(|area| area.first.max(first));
            let pages = (first..last).step_by(512);
            reasons.note(bounds.chain(pages).chain([last]).any(|at| phys(at) != start + (at - first)), "BadMemory");
        }
        match (self.spaces[space].real.lock(range, contiguous), reasons.or_ok()) {
            (Ok(real), Ok(())) => {
                assert_eq!(real.range(), range);
                for area in &mut self.spaces[space].flat.areas {
                    area.locks += u32::from(areas.contains(&area.first));
                }
                self.locks.push(Lock { real, space, first: range.start().get(), last: range.last().get() });
            }
            (found, expected) => drop(same(found.map(|_| ()), expected)),
        }
    }

    /// Lets go of a lock.
    pub fn unlock(&mut self, lock: u8) {
        if self.locks.is_empty() {
            return;
        }
        let lock = self.locks.swap_remove(usize::from(lock) % self.locks.len());
        for area in &mut self.spaces[lock.space].flat.areas {
            area.locks -= u32::from(area.touches(lock.first, lock.last));
        }
        drop(lock.real);
    }
}
