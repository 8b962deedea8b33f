//! Objects under numbers that can be handed to partitions.
//!
//! An embedder that lets partitions make address spaces, domains and so on needs names for them that are safe to take
//! back from a partition. A [`Context`], one for each, gives them: an [`ObjectId`] is never reused, so that a stale one
//! names nothing; [`Context::get`] gives a short-term reference to an object of the kind asked for, or says why not; and
//! what others depend on can not be destroyed.
//!
//! | An object is | [`get`](Context::get) | [`destroy`](Context::destroy) |
//! |---|---|---|
//! | being made ([`Reservation`]) | [`Error::NoSuchObject`] | [`Error::NoSuchObject`] |
//! | there | the object | ends it, unless others depend on it or it is used: [`Error::Busy`] |
//! | being ended | [`Error::Busy`] | [`Error::Busy`] |
//! | a tombstone | [`Error::NoSuchObject`] | [`Error::NoSuchObject`] |
//! | gone | [`Error::NoSuchObject`] | [`Error::NoSuchObject`] |
//!
//! Who depends on whom is said when an object is made. What comes and goes later (what is attached where) the objects
//! know themselves.
//!
//! # Costs
//!
//! Each object is charged to the owner's account before it is made: by its own constructor, which is given
//! [`Context::account`], or, where that takes none, by the context. [`Context::change_owner`] moves all of it.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | objects at a time | [`ContextConfig::most_objects`], tombstones among them; their slots stay until the context goes |
//! | objects that one depends on | [`MOST_DEPENDENCIES`] |
//! | ids from one slot | 2^32 - 1; then it is used no more |
//!
//! # Example
//!
//! ```
//! use iommu_core::context::{Context, ContextConfig, ObjectId};
//! use iommu_core::ioas::{Ioas, Owner};
//! use iommu_core::addr::IovaRange;
//! use iommu_core::Error;
//!
//! let context = Context::new(None, ContextConfig::default());
//! let ioas = context.create(&[], || Ioas::new(context.ioas_config()))?;
//!
//! // The partition gives back what it was given, or anything else.
//! let id = ObjectId::from_raw(ioas.raw()).ok_or(Error::NoSuchObject)?;
//! assert_eq!(context.get::<Ioas>(id)?.alignment(), 1);
//!
//! context.destroy(id)?;
//! assert_eq!(context.get::<Ioas>(id).err(), Some(Error::NoSuchObject));
//! # Ok::<(), Error>(())
//! ```

mod end;
mod id;
mod kind;
mod owner;
mod reserve;
mod table;

pub use id::ObjectId;
pub use kind::{Kind, ObjectKind};
pub use reserve::Reservation;

use crate::error::Error;
use crate::ioas::{Accounting, IoasConfig};
use crate::quota::{Account, Amounts, Ledger, Resource};
use crate::sync::{Mutex, Rank, assert_none_held};
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use iommu_alloc::Shared;
use table::Table;

/// Most objects that one can depend on.
pub const MOST_DEPENDENCIES: usize = 4;

/// What an object costs.
const ONE: Amounts = Amounts::of(Resource::Objects, 1);

/// What a context is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextConfig {
    /// Most objects at a time.
    pub most_objects: u32,
    /// How often, in turns of waiting, a destroy looks whether short-term references are gone before it gives up.
    pub patience: u32,
}

impl Default for ContextConfig {
    fn default() -> Self {
        Self { most_objects: 1 << 16, patience: 1 << 14 }
    }
}

/// The objects of one partition. Dropped, it ends all of them.
pub struct Context {
    /// What the context itself has charged: objects that do not do so themselves.
    ledger: Ledger,
    patience: u32,
    table: Mutex<Table>,
}

impl Context {
    /// A context without objects. `account` is the partition's; without one nothing is counted.
    pub fn new(account: Option<&Account>, config: ContextConfig) -> Self {
        Self {
            ledger: Ledger::new(account.cloned()),
            patience: config.patience,
            table: Mutex::new(Rank::Objects, Table::new(config.most_objects)),
        }
    }

    /// Makes an object that depends on others: reserves its place, charges it, calls `make` and publishes what that
    /// returns. No lock is held meanwhile; `make` may use the context.
    ///
    /// # Errors
    ///
    /// Those of [`Context::reserve`], `make` and [`Reservation::publish`]; nothing is left of it then.
    pub fn create<T: Kind>(
        &self,
        depends_on: &[ObjectId],
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<ObjectId, Error> {
        let reservation = self.reserve(depends_on)?;
        assert_none_held();
        reservation.publish(make()?)
    }

    /// A short-term reference to the object. While there is one the object is not ended, and [`Context::destroy`] waits
    /// only for so long.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchObject`] where there is no such object, or no longer; [`Error::WrongKind`] where it is no `T`;
    /// [`Error::Busy`] while it is being ended.
    pub fn get<T: Kind>(&self, id: ObjectId) -> Result<Ref<'_, T>, Error> {
        let table = self.table.lock();
        let object = T::of(table.get(id)?).ok_or(Error::WrongKind)?;
        Ok(Ref { object: object.clone(), context: PhantomData })
    }

    /// Of which kind the object is.
    ///
    /// # Errors
    ///
    /// As for [`Context::get`].
    pub fn kind(&self, id: ObjectId) -> Result<ObjectKind, Error> {
        self.table.lock().get(id).map(|object| object.kind())
    }

    /// How many objects there are, tombstones and those being made among them.
    pub fn len(&self) -> usize {
        self.table.lock().count() as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands each object to `visit`. No lock is held meanwhile: what comes or goes in between may be visited or not.
    pub fn for_each(&self, visit: &mut dyn FnMut(ObjectId, ObjectKind)) {
        let slots = self.table.lock().slots();
        for index in 0..slots {
            let found = self.table.lock().at(index).map(|(id, object)| (id, object.kind()));
            if let Some((id, kind)) = found {
                assert_none_held();
                visit(id, kind);
            }
        }
    }

    /// How memory is to be charged: [`Accounting::PerOwner`] from the beginning.
    pub fn accounting(&self) -> Accounting {
        self.table.lock().accounting
    }

    /// Sets how memory is to be charged.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while there are objects.
    pub fn set_accounting(&self, accounting: Accounting) -> Result<(), Error> {
        let mut table = self.table.lock();
        if table.count() != 0 {
            return Err(Error::Busy);
        }
        table.accounting = accounting;
        Ok(())
    }

    /// What address spaces of this context are made with: its account and accounting. Asked for inside of
    /// [`Context::create`] neither can change before the address space is there.
    pub fn ioas_config(&self) -> IoasConfig {
        IoasConfig { account: self.account(), accounting: self.accounting() }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("objects", &self.len()).finish_non_exhaustive()
    }
}

/// A short-term reference to an object.
pub struct Ref<'c, T> {
    object: Shared<T>,
    context: PhantomData<&'c Context>,
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ref").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
