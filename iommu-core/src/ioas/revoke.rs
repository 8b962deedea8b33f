//! Memory that its source takes back.

use super::Inner;
use super::space::{Operation, Space, State};
use crate::addr::{Iova, IovaRange};
use crate::error::Error;
use crate::pages::Pages;
use crate::sync::relax;

/// What a look for the next area of some memory found.
enum Next {
    /// One, now marked; where it lies.
    Marked(IovaRange),
    /// Somebody else is at work on one, who ends without us.
    Wait,
    /// Somebody else is at work on one, who may wait for us: we may be an access's way to let go of it.
    Busy,
    /// None from here on.
    None,
}

impl Inner {
    /// Unmaps every area of `pages` from every domain; their addresses stay taken. `pages` is marked as revoked already,
    /// so no new area of it comes.
    ///
    /// # Errors
    ///
    /// [`Error::Deadlock`] where an access does not let go; [`Error::Busy`] where an unmap has accesses let go of an area;
    /// [`Error::Hardware`] where hardware did not confirm: what was done stays done, and a later call goes on.
    pub(crate) fn revoke(&self, pages: &Pages) -> Result<(), Error> {
        let mut from = Some(Iova::new(0));
        let operation = self.space.lock().operation();
        while let Some(rest) = from.and_then(|from| IovaRange::new(from, IovaRange::FULL.last())) {
            let next = self.space.lock().mark_next_of(pages, rest, operation);
            match next {
                Next::None => return Ok(()),
                Next::Wait => relax(),
                Next::Busy => return Err(Error::Busy),
                Next::Marked(range) => {
                    let outcome = self.revoke_area(range, operation);
                    self.space.lock().for_each_of(operation, range, &mut |area| area.state = State::Live);
                    outcome?;
                    from = range.last().checked_add(1);
                }
            }
        }
        Ok(())
    }

    fn revoke_area(&self, range: IovaRange, operation: Operation) -> Result<(), Error> {
        self.let_go(range, operation)?;
        self.space.lock().for_each_of(operation, range, &mut |area| area.state = State::Leaving);
        let members = self.members.read();
        let outcome = self.empty(&members, range, operation);
        let drains = outcome.is_err();
        let done = &mut |area: &mut super::space::Area| (area.revoked, area.draining) = (true, drains);
        self.space.lock().for_each_of(operation, range, done);
        outcome.map_err(Error::from)
    }
}

impl Space {
    /// Marks the lowest area of `range` that has memory of `pages`, unless that is done already.
    fn mark_next_of(&mut self, pages: &Pages, range: IovaRange, operation: Operation) -> Next {
        for (_, _, slot) in self.areas.overlapping(range.start().get(), range.last().get()) {
            let Some(area) = self.slots.get_mut(slot) else { continue };
            let Some(pin) = &area.pin else {
                // Being made: whether of these pages shows once it is. Whoever began later has seen the mark on them.
                if area.operation > operation {
                    continue;
                }
                return Next::Wait;
            };
            if !pin.pages().same(pages) || (area.revoked && !area.draining) {
                continue;
            }
            match area.state {
                State::Live => {}
                // No device reaches it any more; its memory may be on its way back already.
                State::Gone => continue,
                State::Asking => return Next::Busy,
                State::Placed | State::Leaving => return Next::Wait,
            }
            (area.state, area.operation) = (State::Asking, operation);
            return Next::Marked(area.range);
        }
        Next::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PhysAddr, PhysExtent};
    use crate::hw::Prot;
    use crate::ioas::space::Area;

    #[test]
    fn who_takes_memory_back_waits_for_nobody_who_comes_later() {
        let mut space = Space::new();
        let pages = Pages::from_extents(&[PhysExtent::new(PhysAddr::new(0x8000), 0x1000)]).unwrap();
        let operations = [(); 3].map(|()| space.operation());
        let range = IovaRange::from_len(Iova::new(0x1000), 0x1000).unwrap();
        let mut area = Area {
            range,
            pin: None,
            offset: 0,
            prot: Prot::READ,
            state: State::Placed,
            operation: operations[1],
            draining: false,
            revoked: false,
            large_pages: true,
            pins: 0,
            locks: 0,
        };
        let mut looks = |area: Area, ours| {
            let slot = space.insert(area).unwrap();
            let next = space.mark_next_of(&pages, IovaRange::FULL, ours);
            space.remove(slot);
            next
        };
        let copy = |area: &Area| Area { pin: area.pin.as_ref().map(|pin| pin.another()), ..*area };
        assert!(matches!(looks(copy(&area), operations[0]), Next::None));
        assert!(matches!(looks(copy(&area), operations[2]), Next::Wait));
        area.pin = Some(pages.pin().unwrap());
        for ours in operations {
            for state in [State::Live, State::Asking, State::Leaving, State::Gone] {
                area.state = state;
                let next = looks(copy(&area), ours);
                match state {
                    State::Live => assert!(matches!(next, Next::Marked(found) if found == range)),
                    State::Asking => assert!(matches!(next, Next::Busy)),
                    State::Gone => assert!(matches!(next, Next::None)),
                    _ => assert!(matches!(next, Next::Wait)),
                }
            }
        }
    }
}
