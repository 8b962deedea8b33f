//! Objects that are being made.

use super::id::ObjectId;
use super::kind::{Kind, Sealed};
use super::{Context, ONE};
use crate::error::Error;
use crate::sync::assert_none_held;
use core::marker::PhantomData;
use iommu_alloc::Shared;

/// A place for an object, charged and with its dependencies kept, but seen by nobody. Dropped, it is given up.
#[must_use = "dropped, it is given up"]
pub struct Reservation<'c, T: Kind> {
    context: &'c Context,
    id: ObjectId,
    object: PhantomData<fn(T)>,
}

impl Context {
    /// Reserves a place for an object that depends on others, which can not be destroyed from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`] where the context has as many objects as it may, or its account can not pay;
    /// [`Error::NoSuchObject`] or [`Error::Busy`] where one of the others is not there or being ended;
    /// [`Error::Invalid`] for more than [`super::MOST_DEPENDENCIES`], and in a closed context; [`Error::Busy`] while the
    /// context changes its owner; [`Error::OutOfMemory`].
    pub fn reserve<T: Kind>(&self, depends_on: &[ObjectId]) -> Result<Reservation<'_, T>, Error> {
        let counted = <T as Sealed>::COUNTED_HERE;
        if counted {
            self.ledger.charge(ONE)?;
        }
        let reserved = self.table.lock().reserve(depends_on, counted);
        let id = reserved.inspect_err(|_| {
            if counted {
                self.ledger.release(ONE);
            }
        })?;
        Ok(Reservation { context: self, id, object: PhantomData })
    }
}

impl<T: Kind> Reservation<'_, T> {
    /// What the object's id will be. It names nothing yet.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Puts `object` there: from now on others find it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; [`Error::Invalid`] where the context has been closed. `object` is dropped, and the place
    /// given up.
    pub fn publish(self, object: T) -> Result<ObjectId, Error> {
        let id = self.id;
        let object = Shared::try_new(object)?;
        let refused = self.context.table.lock().publish(id, T::wrap(object));
        if let Err(object) = refused {
            assert_none_held();
            drop(object);
            return Err(Error::Invalid("the context is closed"));
        }
        core::mem::forget(self);
        Ok(id)
    }
}

impl<T: Kind> Drop for Reservation<'_, T> {
    fn drop(&mut self) {
        self.context.finish(self.id, false);
    }
}
