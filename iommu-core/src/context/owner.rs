//! Who pays for the objects of a context.

use super::Context;
use super::kind::Object;
use crate::error::Error;
use crate::quota::{Account, Ledger, transfer};
use alloc::vec::Vec;

impl Context {
    /// Who pays for its objects now.
    pub fn account(&self) -> Option<Account> {
        self.ledger.account()
    }

    /// Has `to` pay for all objects that this context's account pays for, and for all that will be made: whole or not at
    /// all. Objects that another account pays for, or nobody from the beginning, stay as they are.
    ///
    /// # Errors
    ///
    /// Nothing has changed: [`Error::Quota`] where `to` can not pay; [`Error::Busy`] while objects are being made or ended,
    /// or costs are being moved by others; [`Error::Invalid`] where the context was made without an account;
    /// [`Error::OutOfMemory`].
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        let moving = Moving::begin(self)?;
        let objects = moving.objects()?;
        let from = self.account();
        let mut ledgers: Vec<&Ledger> = Vec::new();
        ledgers.try_reserve_exact(objects.len().saturating_add(1)).map_err(|_| Error::OutOfMemory)?;
        ledgers.push(&self.ledger);
        let others = objects.iter().filter_map(Object::ledger);
        // There is room for all of them.
        ledgers.extend(others.filter(|ledger| ledger.is_paid_by(from.as_ref())));
        // Handles of the same pages or PASIDs may be several objects.
        ledgers.sort_unstable_by_key(|ledger| core::ptr::from_ref(*ledger).addr());
        ledgers.dedup_by(|one, other| core::ptr::eq(*one, *other));
        transfer(&ledgers, to)
    }
}

/// While this lives no objects are made.
struct Moving<'c>(&'c Context);

impl<'c> Moving<'c> {
    fn begin(context: &'c Context) -> Result<Self, Error> {
        let mut table = context.table.lock();
        if table.moving || table.is_unsettled() {
            return Err(Error::Busy);
        }
        table.moving = true;
        Ok(Self(context))
    }

    /// One more owner of each object there is, so that none goes away meanwhile.
    fn objects(&self) -> Result<Vec<Object>, Error> {
        let mut objects = Vec::new();
        let count = self.0.len();
        objects.try_reserve_exact(count).map_err(|_| Error::OutOfMemory)?;
        let table = self.0.table.lock();
        let found = (0..table.slots()).filter_map(|index| table.at(index));
        // None has been made since, so that there is room for all.
        objects.extend(found.map(|(_, object)| object.clone()).take(count));
        Ok(objects)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.table.lock().moving = false;
    }
}
