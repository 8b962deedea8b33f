//! To which address space an access leads.

use super::{Access, AccessInner};
use crate::addr::IovaRange;
use crate::error::Error;
use crate::ioas::{self, Ioas};
use crate::sync;
use iommu_alloc::Shared;

/// How often a user of pinned memory is told in vain.
const ROUNDS: u32 = 100;

impl Access {
    /// Attaches it to `ioas`, whose alignment rises to the access's own.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where it is attached already; [`Error::AddressInUse`] where areas of `ioas` do not have the
    /// alignment; [`Error::Busy`] where another CPU is at changing it; [`Error::OutOfMemory`].
    pub fn attach(&self, ioas: &Ioas) -> Result<(), Error> {
        let change = Change::begin(&self.0)?;
        if change.current().is_some() {
            return Err(Error::Invalid("the access is attached already"));
        }
        ioas.inner().add_access(&self.0)?;
        change.set(Some(ioas.inner().clone()));
        Ok(())
    }

    /// Moves it to `ioas`. Nothing to do where it is there already. What is pinned is unpinned first, as for
    /// [`Access::detach`].
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchObject`] where it is not attached; otherwise as for [`Access::attach`] and [`Access::detach`]. It
    /// is attached as before then.
    pub fn replace(&self, ioas: &Ioas) -> Result<(), Error> {
        let change = Change::begin(&self.0)?;
        let Some(old) = change.current() else { return Err(Error::NoSuchObject) };
        if Shared::same(&old, ioas.inner()) {
            return Ok(());
        }
        ioas.inner().add_access(&self.0)?;
        if let Err(error) = self.0.drain() {
            ioas::Inner::remove_access(ioas.inner(), &self.0);
            return Err(error);
        }
        ioas::Inner::remove_access(&old, &self.0);
        change.set(Some(ioas.inner().clone()));
        Ok(())
    }

    /// Detaches it. Nothing to do where it is not attached. While anything is pinned its user is told to let go of
    /// everything; meanwhile nothing new can be pinned, read or written.
    ///
    /// # Errors
    ///
    /// [`Error::Deadlock`] where the user was told 100 times in a row and nothing was unpinned: it is attached as
    /// before. [`Error::Busy`] where another CPU is at changing it.
    pub fn detach(&self) -> Result<(), Error> {
        let change = Change::begin(&self.0)?;
        let Some(old) = change.current() else { return Ok(()) };
        self.0.drain()?;
        ioas::Inner::remove_access(&old, &self.0);
        change.set(None);
        Ok(())
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.orphan = true;
        state.changing = true;
        drop(state);
        leave_if_done(&self.0);
    }
}

impl AccessInner {
    /// Has everything unpinned, and waits for operations under way. Nothing new begins, as a change is under way.
    fn drain(&self) -> Result<(), Error> {
        let mut rounds = 0;
        let mut before = self.outstanding();
        while before.left() != 0 {
            if rounds == ROUNDS {
                return Err(Error::Deadlock);
            }
            self.notify(IovaRange::FULL);
            let now = self.outstanding();
            let progress = now.pins < before.pins || now.ended != before.ended;
            rounds = if progress { 0 } else { rounds + 1 };
            before = now;
        }
        Ok(())
    }

    fn outstanding(&self) -> Outstanding {
        let state = self.state.lock();
        Outstanding { pins: state.pins, begun: state.begun, ended: state.ended }
    }

    /// One pin is gone.
    pub(super) fn unpinned(this: &Shared<Self>) {
        let mut state = this.state.lock();
        state.pins = state.pins.saturating_sub(1);
        let last = state.orphan && state.pins == 0;
        drop(state);
        if last {
            leave_if_done(this);
        }
    }
}

/// What keeps an access from being detached.
struct Outstanding {
    pins: usize,
    begun: u64,
    ended: u64,
}

impl Outstanding {
    /// Pins and operations under way.
    fn left(&self) -> u64 {
        self.begun.wrapping_sub(self.ended).saturating_add(self.pins as u64)
    }
}

/// Detaches what has neither a handle nor pins any more. Whoever finds that first does it.
fn leave_if_done(access: &Shared<AccessInner>) {
    let space = {
        let mut state = access.state.lock();
        if state.orphan && state.pins == 0 { state.space.take() } else { None }
    };
    if let Some(space) = space {
        ioas::Inner::remove_access(&space, access);
        sync::assert_none_held();
    }
}

/// A change under way: the only one.
struct Change<'a>(&'a AccessInner);

impl<'a> Change<'a> {
    fn begin(access: &'a AccessInner) -> Result<Self, Error> {
        let mut state = access.state.lock();
        if core::mem::replace(&mut state.changing, true) { Err(Error::Busy) } else { Ok(Self(access)) }
    }

    fn current(&self) -> Option<Shared<ioas::Inner>> {
        self.0.state.lock().space.clone()
    }

    fn set(&self, space: Option<Shared<ioas::Inner>>) {
        let old = core::mem::replace(&mut self.0.state.lock().space, space);
        sync::assert_none_held();
        drop(old);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.state.lock().changing = false;
    }
}
