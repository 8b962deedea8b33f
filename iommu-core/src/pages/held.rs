//! What keeps pages pinned, and tells where they are.

use super::extents::{Cut, Runs};
use super::pin::User;
use super::{Pages, Repr};
use crate::addr::{PhysAddr, PhysExtent};
use core::fmt;

/// Keeps pages pinned. The last one unpins: whichever might be the last is dropped without locks of this crate held.
pub struct PagesPin(Held);

pub(super) enum Held {
    /// By their owner: there is nothing to count.
    Kept(Pages),
    /// By its source, as long as there is a user.
    Pinned(User),
}

impl PagesPin {
    #[inline]
    pub(super) fn new(held: Held) -> Self {
        Self(held)
    }

    /// The pages.
    #[inline]
    pub fn pages(&self) -> &Pages {
        match &self.0 {
            Held::Kept(pages) => pages,
            Held::Pinned(user) => &user.pinned().pages,
        }
    }

    /// One user more of what is pinned already: never fails, never calls the embedder.
    #[inline]
    pub(crate) fn another(&self) -> Self {
        match &self.0 {
            Held::Kept(Pages(Repr::Plain(run))) => Self(Held::Kept(Pages(Repr::Plain(*run)))),
            _ => self.another_shared(),
        }
    }

    #[inline(never)]
    fn another_shared(&self) -> Self {
        match &self.0 {
            Held::Kept(pages) => Self(Held::Kept(pages.clone())),
            Held::Pinned(user) => Self(Held::Pinned(user.another())),
        }
    }

    /// The runs behind `len` bytes from `offset`, in order, cut to them and to what there is.
    #[inline]
    pub(crate) fn extents(&self, offset: u64, len: u64) -> Cut<'_> {
        match self.runs() {
            Ok(run) => Cut::of_one(*run, offset, len),
            Err(runs) => runs.cut(offset, len),
        }
    }

    /// Where byte `offset` lies; `None` beyond the end.
    #[inline]
    pub(crate) fn phys(&self, offset: u64) -> Option<PhysAddr> {
        match self.runs() {
            Ok(run) if offset < run.len => run.start.checked_add(offset),
            Ok(_) => None,
            Err(runs) => runs.phys(offset),
        }
    }

    /// The single run that needs no record, or the record.
    #[inline]
    fn runs(&self) -> Result<&PhysExtent, &Runs> {
        match &self.0 {
            Held::Pinned(user) => Err(&user.pinned().runs),
            Held::Kept(Pages(Repr::Kept(runs))) => Err(runs),
            Held::Kept(Pages(Repr::Plain(run))) => Ok(run),
            // Pages of a source are held by a user of the pin.
            Held::Kept(Pages(Repr::Source(_))) => Ok(&NOTHING),
        }
    }
}

impl fmt::Debug for PagesPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PagesPin").field(self.pages()).finish()
    }
}

/// No run.
const NOTHING: PhysExtent = PhysExtent::new(PhysAddr::new(0), 0);
