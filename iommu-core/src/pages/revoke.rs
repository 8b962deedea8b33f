//! Memory on loan, taken back by its owner.

use super::pin::{Phase, Source};
use super::{Pages, Repr};
use crate::error::Error;
use crate::ioas;
use crate::quota::Amounts;
use crate::sync;
use core::mem::size_of;
use core::sync::atomic::Ordering;
use iommu_alloc::Shared;

/// An address space that has areas of the memory.
pub(super) struct Space {
    inner: Shared<ioas::Inner>,
    /// How many.
    areas: usize,
    /// It was told by the revocation that is under way.
    told: bool,
}

impl Pages {
    /// The source takes its memory back: it is unmapped everywhere (address spaces keep the addresses taken), accesses are
    /// told to let go of it, and it is unpinned. From the first call on nobody can pin it any more.
    ///
    /// Called without locks held, and not by the source's own [`Memory`](super::Memory) methods.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for memory whose source does not say that it is [revocable](super::Memory::revocable);
    /// [`Error::Busy`] while another call is at it, and while an unmap has accesses let go of the memory: an access that
    /// is just told so can not revoke it; [`Error::Deadlock`] where an access does not let go, and
    /// [`Error::Hardware`] where hardware did not confirm: the memory stays pinned, with no new users, and this can be
    /// called again. All address spaces are tried; the error is the first one's.
    pub fn revoke(&self) -> Result<(), Error> {
        let Repr::Source(source) = &self.0 else { return Err(Error::Invalid("the memory has no source to revoke it")) };
        if !source.revocable {
            return Err(Error::Invalid("the source can not revoke the memory"));
        }
        sync::assert_none_held();
        {
            let mut state = source.state.lock();
            if state.revoking {
                return Err(Error::Busy);
            }
            state.revoking = true;
            source.revoked.store(true, Ordering::Release);
            state.spaces.iter_mut().for_each(|space| space.told = false);
        }
        let result = source.tell(self).and_then(|()| source.unpin_for_good());
        source.state.lock().revoking = false;
        result
    }
}

impl Source {
    /// Has every address space unmap `pages`. No new ones come, as the memory is marked.
    fn tell(&self, pages: &Pages) -> Result<(), Error> {
        let mut result = Ok(());
        while let Some(space) = self.next_space() {
            sync::assert_none_held();
            result = result.and(space.revoke(pages));
            ioas::Inner::unmap_left(&space);
        }
        result
    }

    fn next_space(&self) -> Option<Shared<ioas::Inner>> {
        let mut state = self.state.lock();
        let space = state.spaces.iter_mut().find(|space| !space.told)?;
        space.told = true;
        Some(space.inner.clone())
    }

    /// Unpins, whoever still holds a pin, and waits for those who are at pinning or unpinning.
    fn unpin_for_good(&self) -> Result<(), Error> {
        loop {
            let mut state = self.state.lock();
            match state.phase {
                Phase::Idle => return Ok(()),
                Phase::Pinned(_) => {
                    let pinned = state.take();
                    drop(state);
                    if let Some(pinned) = pinned {
                        self.end(pinned.cost());
                    }
                    return Ok(());
                }
                Phase::Pinning | Phase::Unpinning => {}
            }
            drop(state);
            sync::relax();
        }
    }

    /// As [`Pages::join`].
    pub(super) fn join(&self, space: &Shared<ioas::Inner>) -> Result<(), Error> {
        let mut state = self.state.lock();
        if self.is_revoked() {
            return Err(Error::Revoked);
        }
        let known = state.spaces.iter_mut().find(|known| Shared::same(&known.inner, space));
        if let Some(known) = known {
            known.areas = known.areas.saturating_add(1);
            return Ok(());
        }
        if state.spaces.len() == state.spaces.capacity() {
            // Kept, with the memory, until the pages go.
            let cost = Amounts { metadata: size_of::<Space>() as u64, ..Amounts::NONE };
            self.ledger.charge(cost)?;
            state.spaces.try_reserve_exact(1).map_err(|_| {
                self.ledger.release(cost);
                Error::OutOfMemory
            })?;
        }
        state.spaces.push(Space { inner: space.clone(), areas: 1, told: false });
        Ok(())
    }

    /// As [`Pages::leave`].
    pub(super) fn leave(&self, space: &Shared<ioas::Inner>) {
        let mut state = self.state.lock();
        let Some(at) = state.spaces.iter().position(|known| Shared::same(&known.inner, space)) else { return };
        let Some(known) = state.spaces.get_mut(at) else { return };
        known.areas = known.areas.saturating_sub(1);
        if known.areas == 0 {
            let gone = state.spaces.swap_remove(at);
            drop(state);
            drop(gone);
        }
    }
}
