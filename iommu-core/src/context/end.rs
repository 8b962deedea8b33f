//! The end of objects: one by one, or all.

use super::id::ObjectId;
use super::kind::Object;
use super::{Context, ONE};
use crate::error::Error;
use crate::sync::{assert_none_held, relax};

impl Context {
    /// Ends the object: what it is attached to is detached, what it maps is unmapped. Waits for a while for short-term
    /// references.
    ///
    /// # Errors
    ///
    /// The object is still there: [`Error::Busy`] where others depend on it or use it, where short-term references did not
    /// go away, and where another CPU is at ending it; what kept it from being ended, such as [`Error::Hardware`] where
    /// hardware did not confirm: this can be tried again. [`Error::NoSuchObject`] where it is not there.
    pub fn destroy(&self, id: ObjectId) -> Result<(), Error> {
        self.end(id, false)
    }

    /// As [`Context::destroy`], but leaves a tombstone: nothing else is under this id's slot, and [`Context::len`] counts
    /// it, until the context closes. For what goes away although a partition still has its number.
    ///
    /// # Errors
    ///
    /// As for [`Context::destroy`].
    pub fn tombstone(&self, id: ObjectId) -> Result<(), Error> {
        self.end(id, true)
    }

    fn end(&self, id: ObjectId, tombstone: bool) -> Result<(), Error> {
        let object = self.table.lock().begin_to_leave(id)?;
        assert_none_held();
        if let Err(error) = self.wait_until_alone(&object).and_then(|()| object.end()) {
            // The slot is this object's until it is finished, so that it goes back in.
            let refused = self.table.lock().put_back(id, object);
            debug_assert!(refused.is_ok());
            return Err(error);
        }
        drop(object);
        self.finish(id, tombstone);
        Ok(())
    }

    /// New references do not come any more. Those that are there go by themselves, but for those of the caller.
    fn wait_until_alone(&self, object: &Object) -> Result<(), Error> {
        let mut patience = self.patience;
        while object.owners() > 1 {
            patience = patience.checked_sub(1).ok_or(Error::Busy)?;
            relax();
        }
        Ok(())
    }

    /// After an object: its place, its claims on others and its cost.
    pub(super) fn finish(&self, id: ObjectId, tombstone: bool) {
        let counted = self.table.lock().finish(id, tombstone);
        if counted {
            self.ledger.release(ONE);
        }
    }

    /// Ends all objects, each after those that depend on it or use it; none can be made any more. Never allocates.
    ///
    /// # Errors
    ///
    /// What kept one of those from being ended that are still there: they can be used as before, and this can be tried
    /// again. [`Error::Busy`] also where other CPUs are at making or ending one.
    pub fn close(&self) -> Result<(), Error> {
        let slots = {
            let mut table = self.table.lock();
            table.close();
            table.slots()
        };
        loop {
            let (mut ended, mut outcome) = (false, Ok(()));
            // The younger mostly depend on the older, so that one pass is enough mostly. Each but the last ends one.
            for index in (0..slots).rev() {
                let found = self.table.lock().at(index).map(|(id, _)| id);
                match found.map(|id| self.destroy(id)) {
                    None | Some(Err(Error::NoSuchObject)) => {}
                    Some(Ok(())) => ended = true,
                    // What is in use says less than what keeps its user.
                    Some(Err(Error::Busy)) => outcome = outcome.and(Err(Error::Busy)),
                    Some(Err(error)) => outcome = Err(error),
                }
            }
            if outcome.is_ok() || !ended {
                self.clear_tombstones(slots);
                return outcome.and(if self.is_empty() { Ok(()) } else { Err(Error::Busy) });
            }
        }
    }

    fn clear_tombstones(&self, slots: u32) {
        for index in 0..slots {
            let counted = self.table.lock().clear_tombstone(index);
            if counted {
                self.ledger.release(ONE);
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            // What is left is dropped, and does what it can.
            error!("a context could not be closed: error {}", error.errno());
        }
    }
}
