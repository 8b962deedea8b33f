//! Memory behind areas: pinned once, shared by every area, address space, domain and access that uses it.
//!
//! [`Pages`] are made either of extents that their owner keeps in place ([`Pages::from_extents`]; a single run costs no
//! allocation) or of an embedder's source ([`Pages::new`] with a [`Memory`]). A source is asked to pin when the first
//! user comes and to unpin when the last one goes, however many there are in between; [`Pages::register`] is a user like
//! any other, so that maps to come find everything pinned. Costs grow with the number of physically contiguous runs, not
//! of 4 KiB pages.
//!
//! What areas there are, and who may touch what, is no matter of this module.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | metadata of one run | none beside the object; none at all for [`Pages::from_extents`] |
//! | metadata of a run among several | 8 bytes where all are of one length (the last may be shorter), else 16 |
//! | what is pinned | the whole source, or nothing |
//!
//! # Example
//!
//! ```
//! use iommu_core::addr::{PhysAddr, PhysExtent};
//! use iommu_core::pages::Pages;
//!
//! let frame = |number: u64| PhysExtent::new(PhysAddr::new(number << 12), 4096);
//! // Frames 1 and 2 are neighbours, so that this is two runs.
//! let pages = Pages::from_extents(&[frame(1), frame(2), frame(8)])?;
//! assert_eq!(pages.len(), 3 * 4096);
//! # Ok::<(), iommu_core::Error>(())
//! ```

mod build;
mod extents;
mod held;
mod memory;
mod pin;
mod revoke;
#[cfg(test)]
mod tests;

pub use held::PagesPin;
pub use memory::{Memory, MemoryError, MemoryKind};

use crate::addr::{Iova, PhysExtent, total_len};
use crate::error::Error;
use crate::ioas;
use crate::quota::{Account, Ledger, transfer};
use alloc::sync::Arc;
use build::Builder;
use core::fmt;
use core::mem::size_of;
use extents::Runs;
use held::Held;
use iommu_alloc::Shared;
use pin::Source;

/// Memory that areas can be made of. A handle: clones are the same memory. Dropped without locks of this crate held.
#[derive(Clone)]
pub struct Pages(Repr);

#[derive(Clone)]
enum Repr {
    /// One run that its owner keeps where it is: nothing to pin, nothing to share, no allocation.
    Plain(PhysExtent),
    /// Several such runs.
    Kept(Shared<Runs>),
    /// Memory of a source, pinned while it is used.
    Source(Shared<Source>),
}

/// What the count of owners beside a shared value takes, in bytes.
const OWNERS: usize = size_of::<usize>();

#[allow(clippy::len_without_is_empty)]
impl Pages {
    /// Pages of a source. `account` pays for the records ([`Metadata`](crate::quota::Resource::Metadata)) and, while
    /// anything is pinned, for all of its length ([`Pinned`](crate::quota::Resource::Pinned)). Pins nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] for a source without length, [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn new(memory: Arc<dyn Memory>, account: Option<&Account>) -> Result<Self, Error> {
        Ok(Self(Repr::Source(Source::new(memory, account)?)))
    }

    /// Memory that its owner keeps where it is as long as these pages, or anything made of them, exist. Empty extents
    /// are skipped, neighbours joined. Nobody pays but those who map it: each area for the records of all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] where nothing is left; [`Error::Overflow`] where the length in all does not fit in 64 bits;
    /// [`Error::BadMemory`] for an extent that wraps; [`Error::OutOfMemory`].
    #[inline]
    pub fn from_extents(extents: &[PhysExtent]) -> Result<Self, Error> {
        match extents {
            [run] if run.last().is_some() => Ok(Self(Repr::Plain(*run))),
            _ => Self::from_several(extents),
        }
    }

    #[inline(never)]
    fn from_several(extents: &[PhysExtent]) -> Result<Self, Error> {
        total_len(extents).ok_or(Error::Overflow { iova: Iova::new(0) })?;
        let mut builder = Builder::new(None, extents.len());
        for &extent in extents {
            builder.push(extent)?;
        }
        let (runs, _) = builder.finish()?.ok_or(Error::Empty)?;
        Ok(Self(match runs {
            Runs::One(run) => Repr::Plain(run),
            several => Repr::Kept(Shared::try_new(several)?),
        }))
    }

    /// The length in bytes; never 0.
    #[inline]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Repr::Plain(run) => run.len,
            Repr::Kept(runs) => runs.total(),
            Repr::Source(source) => source.len,
        }
    }

    /// What kind of memory it is. Extents without a source count as RAM.
    #[inline]
    pub fn kind(&self) -> MemoryKind {
        match &self.0 {
            Repr::Source(source) => source.kind,
            _ => MemoryKind::Ram,
        }
    }

    /// Whether it may be written. Extents without a source may.
    #[inline]
    pub fn writable(&self) -> bool {
        match &self.0 {
            Repr::Source(source) => source.writable,
            _ => true,
        }
    }

    /// Whether it is pinned at this moment. Extents without a source always are.
    pub fn is_pinned(&self) -> bool {
        match &self.0 {
            Repr::Source(source) => source.is_pinned(),
            _ => true,
        }
    }

    /// Whether both are the same memory: handles of one object, or the very same run.
    pub fn same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Plain(one), Repr::Plain(other)) => one == other,
            (Repr::Kept(one), Repr::Kept(other)) => Shared::same(one, other),
            (Repr::Source(one), Repr::Source(other)) => Shared::same(one, other),
            _ => false,
        }
    }

    /// Bytes of the core's records for it, as of now: those of the runs of a source are there only while it is pinned.
    pub fn metadata(&self) -> usize {
        let bytes = match &self.0 {
            Repr::Plain(_) | Repr::Kept(_) => self.records(),
            Repr::Source(source) => source.metadata(),
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Bytes of records of extents without a source, for which whoever maps them pays.
    pub(crate) fn records(&self) -> u64 {
        match &self.0 {
            Repr::Kept(runs) => runs.bytes().saturating_add((size_of::<Runs>() + OWNERS) as u64),
            Repr::Plain(_) | Repr::Source(_) => 0,
        }
    }

    /// Pre-registration: pins now, so that later maps pin nothing, until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::BadMemory`] where the source refuses, or hands over another length than it said, or a run that wraps;
    /// [`Error::Revoked`], [`Error::Quota`], [`Error::OutOfMemory`]. Nothing is pinned then.
    pub fn register(&self) -> Result<PagesPin, Error> {
        self.pin()
    }

    /// Whether the source has taken its memory back.
    pub fn is_revoked(&self) -> bool {
        match &self.0 {
            Repr::Source(source) => source.is_revoked(),
            _ => false,
        }
    }

    /// Moves what they cost, now and later, to another account, or to none.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`] where the other may not: the first goes on paying. [`Error::Invalid`] for extents without a
    /// source, for which nobody pays.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        match &self.0 {
            Repr::Source(source) => transfer(&[&source.ledger], to),
            _ => Err(Error::Invalid("nobody pays for extents without a source")),
        }
    }

    /// One user more. Pins where it is the first. Called without locks. Errors as for [`Pages::register`].
    #[inline]
    pub(crate) fn pin(&self) -> Result<PagesPin, Error> {
        // By itself, and short: most maps are of one run.
        match &self.0 {
            Repr::Plain(run) => Ok(PagesPin::new(Held::Kept(Self(Repr::Plain(*run))))),
            _ => self.pin_shared(),
        }
    }

    #[inline(never)]
    fn pin_shared(&self) -> Result<PagesPin, Error> {
        match &self.0 {
            Repr::Source(source) => Ok(PagesPin::new(Held::Pinned(Source::pin(source)?))),
            _ => Ok(PagesPin::new(Held::Kept(self.clone()))),
        }
    }

    /// The source, for copies and its account.
    pub(crate) fn source(&self) -> Option<&dyn Memory> {
        match &self.0 {
            Repr::Source(source) => Some(&*source.memory),
            _ => None,
        }
    }

    /// Who pays, for moves of several objects at once; `None` for extents without a source.
    pub(crate) fn ledger(&self) -> Option<&Ledger> {
        match &self.0 {
            Repr::Source(source) => Some(&source.ledger),
            _ => None,
        }
    }

    /// Whether the source may take its memory back: then whoever maps it must [join](Pages::join).
    #[inline]
    pub(crate) fn is_revocable(&self) -> bool {
        match &self.0 {
            Repr::Source(source) => source.revocable,
            _ => false,
        }
    }

    /// `space` has one area more of these pages, and is told when they are revoked. Nothing for memory that can not be.
    ///
    /// A revocation first marks the pages and then asks each address space, so that a map joins first, and looks at
    /// [`Pages::is_revoked`] once more after its area can be found by [`ioas::Inner::revoke`].
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::Quota`], [`Error::OutOfMemory`].
    pub(crate) fn join(&self, space: &Shared<ioas::Inner>) -> Result<(), Error> {
        match &self.0 {
            Repr::Source(source) if source.revocable => source.join(space),
            _ => Ok(()),
        }
    }

    /// Takes one [`Pages::join`] back. Never fails.
    pub(crate) fn leave(&self, space: &Shared<ioas::Inner>) {
        match &self.0 {
            Repr::Source(source) if source.revocable => source.leave(space),
            _ => {}
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("len", &self.len()).field("kind", &self.kind()).finish_non_exhaustive()
    }
}
