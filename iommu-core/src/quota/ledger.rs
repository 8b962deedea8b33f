//! Who pays for one object.

use super::{Account, Amounts};
use crate::error::Error;
use crate::sync::{Mutex, Rank, relax};

/// Who pays for one object, and how much it has cost so far. Dropped, it gives all of it back.
pub(crate) struct Ledger {
    /// Decided when it is made, so that what nobody pays for costs no more than a look at this.
    counted: bool,
    state: Mutex<State>,
}

struct State {
    account: Option<Account>,
    held: Amounts,
    /// A transfer is on its way: nothing may be added to what is held until it is through.
    moving: bool,
}

impl Ledger {
    /// `None`: nobody pays, nothing is counted, now or later.
    pub(crate) const fn new(account: Option<Account>) -> Self {
        let counted = account.is_some();
        Self { counted, state: Mutex::new(Rank::Ledger, State { account, held: Amounts::NONE, moving: false }) }
    }

    /// Charges all of `amounts` to whoever pays, or nothing. Waits for a transfer that is on its way, which waits for
    /// nobody but owners of a ledger's lock.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`] names what there is too little of.
    #[inline]
    pub(crate) fn charge(&self, amounts: Amounts) -> Result<(), Error> {
        if self.counted { self.charge_counted(amounts) } else { Ok(()) }
    }

    fn charge_counted(&self, amounts: Amounts) -> Result<(), Error> {
        loop {
            let mut state = self.state.lock();
            if !state.moving {
                let held = state.held.checked_add(amounts)?;
                if let Some(account) = &state.account {
                    account.charge(amounts)?;
                }
                state.held = held;
                return Ok(());
            }
            drop(state);
            relax();
        }
    }

    /// Gives back what was charged. Waits for nothing but the ledger's lock.
    #[inline]
    pub(crate) fn release(&self, amounts: Amounts) {
        if self.counted {
            self.state.lock().release(amounts);
        }
    }

    /// Who pays now.
    pub(crate) fn account(&self) -> Option<Account> {
        self.state.lock().account.clone()
    }

    /// Whether it is counted and `account` pays, or nobody does any more.
    pub(crate) fn is_paid_by(&self, account: Option<&Account>) -> bool {
        self.counted
            && match (&self.state.lock().account, account) {
                (Some(payer), Some(account)) => payer.same(account),
                (None, None) => true,
                _ => false,
            }
    }

    /// What it has cost so far; nothing where nobody paid from the beginning.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Amounts {
        self.state.lock().held
    }
}

impl State {
    fn release(&mut self, amounts: Amounts) {
        let left = self.held.saturating_sub(amounts);
        // What is held was charged, so no more than that is given back, whatever the caller says.
        let given = self.held.saturating_sub(left);
        debug_assert!(given == amounts, "a ledger that holds {:?} is to give back {amounts:?}", self.held);
        if let Some(account) = &self.account {
            account.release(given);
        }
        self.held = left;
    }

    /// What changes hands if `to` takes this over: nothing where it pays already.
    fn due(&self, to: Option<&Account>) -> Amounts {
        match (&self.account, to) {
            (Some(from), Some(to)) if from.same(to) => Amounts::NONE,
            _ => self.held,
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let held = state.held;
        state.release(held);
    }
}

/// Moves what all `ledgers` hold, and what they will be charged, to `to`: all of them or none. `None` takes over
/// whatever there is, without limit; the ledgers go on counting, and can be moved on later.
///
/// Charges of other CPUs to one of the ledgers are either part of what is moved or wait until it is; what they give back
/// in between is given back to who pays for it at that time. For a moment both owners pay.
///
/// # Errors
///
/// [`Error::Quota`] where `to` does not have enough; [`Error::Busy`] where one of the ledgers is on its way elsewhere, or
/// is named twice; [`Error::Invalid`] where one was never counted, and `to` is an account. Nothing has changed.
pub(crate) fn transfer(ledgers: &[&Ledger], to: Option<&Account>) -> Result<(), Error> {
    if to.is_some() && ledgers.iter().any(|ledger| !ledger.counted) {
        return Err(Error::Invalid("what was made without an account was never counted"));
    }
    // From its mark on, a ledger holds less at most, so that what is due now is enough in the end.
    let mut due = Ok(Amounts::NONE);
    let mut marked = 0;
    for ledger in ledgers {
        let mut state = ledger.state.lock();
        if state.moving {
            due = Err(Error::Busy);
            break;
        }
        state.moving = true;
        marked += 1;
        // Where nobody is to pay, there is nothing to add up.
        if to.is_some() {
            due = due.and_then(|due| due.checked_add(state.due(to)));
        }
    }
    if let Some(to) = to {
        due = due.and_then(|due| to.charge(due).map(|()| due));
    }
    let mut due = match due {
        Ok(due) => due,
        Err(error) => {
            for ledger in ledgers.iter().take(marked) {
                ledger.state.lock().moving = false;
            }
            return Err(error);
        }
    };
    // Nothing can fail any more.
    for ledger in ledgers {
        let mut state = ledger.state.lock();
        let moved = state.due(to);
        let from = core::mem::replace(&mut state.account, to.cloned());
        state.moving = false;
        drop(state);
        if let Some(from) = from {
            from.release(moved);
        }
        due = due.saturating_sub(moved);
    }
    // What was given back in the meantime.
    if let Some(to) = to {
        to.release(due);
    }
    Ok(())
}
