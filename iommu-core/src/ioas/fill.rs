//! Putting an area into a domain and taking it out again.

use crate::addr::{Iova, IovaRange, PAGE_SIZE, PhysExtent};
use crate::hw::{Domain, Gather, HwError, Prot};
use crate::pages::PagesPin;

/// Extents handed to a domain in one call: what fits on a small stack.
const BATCH: usize = 64;

/// Called with each piece that one map call covers.
type Visit<'v> = dyn FnMut(Iova, &[PhysExtent]) -> Result<(), HwError> + 'v;

/// What a domain is to hold: a range and the memory behind it.
#[derive(Clone, Copy)]
pub(super) struct Content<'p> {
    pub(super) range: IovaRange,
    pub(super) pin: &'p PagesPin,
    /// Offset of the first byte into the pages.
    pub(super) offset: u64,
    pub(super) prot: Prot,
    /// Leaves of all sizes may be used. Without, no call covers more than one small page, so that no larger leaf can
    /// come about.
    pub(super) large_pages: bool,
}

impl Content<'_> {
    fn len(&self) -> u64 {
        self.range.len().unwrap_or(u64::MAX)
    }

    /// Calls `visit` with each piece that one map call is to cover, lowest first.
    fn for_each_batch(&self, domain: &dyn Domain, visit: &mut Visit<'_>) -> Result<(), HwError> {
        let (mut at, mut extents) = (self.range.start(), self.pin.extents(self.offset, self.len()));
        if !self.large_pages {
            let step = domain.geometry().page_sizes.smallest().unwrap_or(PAGE_SIZE).max(PAGE_SIZE);
            return extents.try_for_each(|extent| small(&mut at, extent, step, visit));
        }
        let Some(first) = extents.next() else { return Ok(()) };
        let Some(second) = extents.next() else {
            return visit(at, &[first]);
        };
        let mut batch = [PhysExtent::new(first.start, 0); BATCH];
        let (mut count, mut len) = (0, 0);
        for extent in [first, second].into_iter().chain(extents) {
            if let Some(free) = batch.get_mut(count) {
                *free = extent;
                (count, len) = (count + 1, len + extent.len);
            }
            if count == BATCH {
                visit(at, &batch)?;
                (at, count, len) = (at.wrapping_add(len), 0, 0);
            }
        }
        match batch.get(..count) {
            Some([]) | None => Ok(()),
            Some(rest) => visit(at, rest),
        }
    }

    /// Maps it.
    ///
    /// # Errors
    ///
    /// What the domain says. Nothing of it is left there, except where the error is that of the undo: then hardware has
    /// not confirmed, and all of it counts as reachable.
    pub(super) fn fill(&self, domain: &dyn Domain) -> Result<(), Failure> {
        let mut done = None;
        let outcome = self.for_each_batch(domain, &mut |at, extents| {
            domain.map(at, extents, self.prot)?;
            done = end_of(at, extents);
            Ok(())
        });
        outcome.map_err(|error| {
            if done.is_none() && !is_unconfirmed(error) {
                // Nothing was done, and the domain says that it has changed nothing.
                return Failure { error, confirmed: true };
            }
            let mut gather = Gather::new();
            let mapped =
                done.filter(|_| !is_unconfirmed(error)).and_then(|last| IovaRange::new(self.range.start(), last));
            // What the calls before have mapped is known, unless hardware did not confirm one.
            let known = mapped.is_some_and(|mapped| domain.unmap(mapped, &mut gather).is_ok());
            let scraped = if known { Ok(()) } else { self.scrape(domain, &mut gather) };
            match domain.flush(&mut gather).and(scraped) {
                Ok(()) => Failure { error, confirmed: true },
                Err(error) => Failure { error, confirmed: false },
            }
        })
    }

    /// Takes it out of the tables and notes what must be invalidated.
    ///
    /// # Errors
    ///
    /// What the domain says; then it is as before.
    pub(super) fn empty(&self, domain: &dyn Domain, gather: &mut Gather) -> Result<(), HwError> {
        domain.unmap(self.range, gather)
    }

    /// Takes out whatever of it is there, and asks for everything to be invalidated: after something went wrong.
    ///
    /// # Errors
    ///
    /// What the domain says where some of it may be there still.
    pub(super) fn scrape(&self, domain: &dyn Domain, gather: &mut Gather) -> Result<(), HwError> {
        gather.add_everything();
        if domain.unmap(self.range, gather).is_ok() {
            return Ok(());
        }
        // Each call of a map is there whole or not at all.
        let mut outcome = Ok(());
        self.for_each_batch(domain, &mut |at, extents| {
            if let Some(range) = end_of(at, extents).and_then(|last| IovaRange::new(at, last)) {
                match domain.unmap(range, gather) {
                    Ok(()) | Err(HwError::NotMapped { .. }) => {}
                    // The others are taken out all the same.
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
            Ok(())
        })?;
        outcome
    }
}

/// Why a domain could not be filled.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    pub(super) error: HwError,
    /// Nothing of it can be reached.
    pub(super) confirmed: bool,
}

/// The last address that `extents` take from `at` on.
fn end_of(at: Iova, extents: &[PhysExtent]) -> Option<Iova> {
    let len = extents.iter().fold(0u64, |sum, extent| sum.wrapping_add(extent.len));
    at.checked_add(len.checked_sub(1)?)
}

/// Visits an extent in pieces that no step boundary of the addresses lies in.
fn small(at: &mut Iova, mut extent: PhysExtent, step: u64, visit: &mut Visit<'_>) -> Result<(), HwError> {
    while extent.len != 0 {
        let room = step - (at.get() & (step - 1));
        let len = extent.len.min(room);
        visit(*at, &[PhysExtent::new(extent.start, len)])?;
        *at = at.wrapping_add(len);
        extent = PhysExtent::new(extent.start.wrapping_add(len), extent.len - len);
    }
    Ok(())
}

/// Whether an error means that hardware may still act on the old state, or already on the new one.
pub(super) fn is_unconfirmed(error: HwError) -> bool {
    matches!(error, HwError::TimedOut(_) | HwError::Queue { .. })
}
