//! Making areas: take the addresses, fill the domains, publish. What fails is undone.

use super::fill::{Content, Failure};
use super::space::{Area, State, aligned};
use super::{Accounting, Inner, Members, Placement};
use crate::addr::{Iova, IovaRange, PAGE_SIZE};
use crate::error::Error;
use crate::hw::{Domain, Gather, Prot};
use crate::pages::{Pages, PagesPin};
use crate::quota::Amounts;
use iommu_alloc::Shared;

/// What an area costs its owner in records: its slot and its share of the tree.
const AREA_METADATA: u64 = 128;

/// Memory that is to become an area, with the slot that it got.
pub(super) struct Piece {
    /// Goes into the area once that is complete.
    pin: Option<PagesPin>,
    offset: u64,
    len: u64,
    slot: u32,
    range: IovaRange,
}

impl Piece {
    /// `len` bytes, at least one, of what `pin` keeps, from `offset` on; they lie inside.
    pub(super) fn new(pin: PagesPin, offset: u64, len: u64) -> Self {
        Self { pin: Some(pin), offset, len, slot: 0, range: IovaRange::FULL }
    }

    fn pages(&self) -> Option<&Pages> {
        self.pin.as_ref().map(PagesPin::pages)
    }

    fn content(&self, large_pages: bool, prot: Prot) -> Option<Content<'_>> {
        Some(Content { range: self.range, pin: self.pin.as_ref()?, offset: self.offset, prot, large_pages })
    }
}

impl Inner {
    /// What `len` bytes of `pages` cost this address space.
    pub(super) fn cost(&self, pages: &Pages, len: u64) -> Amounts {
        let pinned = match self.accounting {
            // Memory with a source is paid for by whoever made the pages, once.
            Accounting::PerOwner if pages.source().is_some() => 0,
            _ => len,
        };
        // Runs without a source live as long as any area has them: each pays.
        let metadata = AREA_METADATA.saturating_add(pages.records());
        Amounts { pinned, metadata, ..Amounts::NONE }
    }

    /// Maps `len` bytes of `pages` from `offset` on.
    pub(super) fn map(
        this: &Shared<Self>,
        pages: &Pages,
        offset: u64,
        len: u64,
        at: Placement,
        prot: Prot,
    ) -> Result<Iova, Error> {
        let start = if let Placement::Fixed(iova) = at { iova } else { Iova::new(0) };
        check_prot(pages, prot)?;
        if len == 0 {
            return Err(Error::Empty);
        }
        let end = offset.checked_add(len).ok_or(Error::Overflow { iova: start })?;
        let range = IovaRange::from_len(start, len).ok_or(Error::Overflow { iova: start })?;
        if end > pages.len() {
            return Err(Error::Invalid("the range reaches past the end of the memory"));
        }
        if pages.source().is_some() && matches!(at, Placement::Fixed(_)) {
            // Pinning may be dear: not for what will be refused.
            this.space.lock().check_fixed(range, offset)?;
        }
        let pin = pages.pin()?;
        Self::map_pieces(this, &mut [Piece::new(pin, offset, len)], len, at, prot)
    }

    /// Makes areas of `pieces`, one behind the other, `len` bytes in all: all of them or none.
    pub(super) fn map_pieces(
        this: &Shared<Self>,
        pieces: &mut [Piece],
        len: u64,
        at: Placement,
        prot: Prot,
    ) -> Result<Iova, Error> {
        let mut paid = 0;
        let outcome = Self::pay(this, pieces, &mut paid).map_err(|refused| {
            // What is wrong with the map itself is said before what it would cost.
            let wrong = Self::fixed_range(len, at).and_then(|range| this.space.lock().check_fixed(range, 0).err());
            wrong.map_or(refused, Refused::from)
        });
        let outcome = outcome.and_then(|()| this.place_and_fill(pieces, len, at, prot));
        match outcome {
            Ok(start) => Ok(start),
            Err(Refused { error, draining: true }) => Err(error),
            Err(Refused { error, draining: false }) => {
                for piece in pieces.iter().take(paid) {
                    if let Some(pages) = piece.pages() {
                        Self::repay(this, pages, piece.len);
                    }
                }
                Err(error)
            }
        }
    }

    /// Where a fixed map is to lie.
    fn fixed_range(len: u64, at: Placement) -> Option<IovaRange> {
        match at {
            Placement::Fixed(iova) => IovaRange::from_len(iova, len),
            Placement::Anywhere => None,
        }
    }

    /// Charges for each piece and lets its memory know this address space; counts those done.
    fn pay(this: &Shared<Self>, pieces: &[Piece], paid: &mut usize) -> Result<(), Refused> {
        for piece in pieces {
            let Some(pages) = piece.pages() else { continue };
            let cost = this.cost(pages, piece.len);
            this.ledger.charge(cost)?;
            if pages.is_revocable()
                && let Err(error) = pages.join(this)
            {
                this.ledger.release(cost);
                return Err(error.into());
            }
            *paid += 1;
        }
        Ok(())
    }

    /// Undoes [`Inner::pay`] for one area.
    pub(super) fn repay(this: &Shared<Self>, pages: &Pages, len: u64) {
        if pages.is_revocable() {
            pages.leave(this);
        }
        this.ledger.release(this.cost(pages, len));
    }

    fn place_and_fill(&self, pieces: &mut [Piece], len: u64, at: Placement, prot: Prot) -> Result<Iova, Refused> {
        let members = self.members.read();
        let (start, large_pages) = self.take_addresses(pieces, len, at, prot)?;
        // Memory may have been taken back since it was pinned. Whoever takes it back says so first and looks for areas
        // afterwards, so either it is seen here or the areas are seen there.
        let gone = |piece: &Piece| piece.pages().is_some_and(|pages| pages.is_revocable() && pages.is_revoked());
        let outcome = if pieces.iter().any(gone) {
            Err(Refused::from(Error::Revoked))
        } else {
            fill_all(&members, pieces, large_pages, prot).map_err(Refused::from)
        };
        let mut space = self.space.lock();
        match outcome {
            // The addresses are free again; the pins are still with the pieces.
            Err(Refused { draining: false, .. }) => pieces.iter().for_each(|piece| drop(space.remove(piece.slot))),
            Ok(()) | Err(_) => {
                for piece in pieces.iter_mut() {
                    if let Some(area) = space.slots.get_mut(piece.slot) {
                        (area.state, area.draining, area.pin) = (State::Live, outcome.is_err(), piece.pin.take());
                    }
                }
            }
        }
        outcome.map(|()| start)
    }

    /// Puts the areas in place, not yet usable. The pins stay with the pieces.
    fn take_addresses(&self, pieces: &mut [Piece], len: u64, at: Placement, prot: Prot) -> Result<(Iova, bool), Error> {
        let mut space = self.space.lock();
        let align = space.alignment();
        for piece in pieces.iter() {
            aligned(piece.offset, align)?;
            aligned(piece.len, align)?;
        }
        let first = pieces.first().and_then(|piece| piece.pin.as_ref()?.phys(piece.offset));
        let whole = space.place(at, len, first.map_or(0, |phys| phys.get()))?;
        let (operation, large_pages) = (space.operation(), space.large_pages);
        let mut next = whole.start();
        for done in 0..pieces.len() {
            let Some(piece) = pieces.get_mut(done) else { break };
            let inserted =
                IovaRange::from_len(next, piece.len).ok_or(Error::Overflow { iova: next }).and_then(|range| {
                    (piece.range, next) = (range, next.wrapping_add(piece.len));
                    space.insert(Area {
                        range,
                        pin: None,
                        offset: piece.offset,
                        prot,
                        state: State::Placed,
                        operation,
                        draining: false,
                        revoked: false,
                        large_pages,
                        pins: 0,
                        locks: 0,
                    })
                });
            match inserted {
                Ok(slot) => piece.slot = slot,
                Err(error) => {
                    pieces.iter().take(done).for_each(|piece| drop(space.remove(piece.slot)));
                    return Err(error);
                }
            }
        }
        Ok((whole.start(), large_pages))
    }
}

/// Fills every domain with all pieces, or none with any.
fn fill_all(members: &Members, pieces: &[Piece], large_pages: bool, prot: Prot) -> Result<(), Failure> {
    for (done, piece) in pieces.iter().enumerate() {
        let Some(content) = piece.content(large_pages, prot) else { continue };
        for (filled, member) in members.list.iter().enumerate() {
            let Err(mut failure) = content.fill(&*member.domain) else { continue };
            for member in members.list.iter().take(filled) {
                failure = undo(&*member.domain, &content, failure);
            }
            for content in pieces.iter().take(done).filter_map(|piece| piece.content(large_pages, prot)) {
                for member in &members.list {
                    failure = undo(&*member.domain, &content, failure);
                }
            }
            return Err(failure);
        }
    }
    Ok(())
}

/// Takes `content` out of a domain that was filled with it; what could not be undone is what the caller must know.
fn undo(domain: &dyn Domain, content: &Content<'_>, failure: Failure) -> Failure {
    let mut gather = Gather::new();
    let emptied = content.empty(domain, &mut gather);
    let emptied = emptied.or_else(|_| content.scrape(domain, &mut gather));
    match domain.flush(&mut gather).and(emptied) {
        Ok(()) => failure,
        Err(error) if failure.confirmed => Failure { error, confirmed: false },
        Err(_) => failure,
    }
}

/// Whether `pages` may be mapped with `prot`.
pub(super) fn check_prot(pages: &Pages, prot: Prot) -> Result<(), Error> {
    if prot.is_none() {
        return Err(Error::Protection(prot));
    }
    if prot.write && !pages.writable() {
        return Err(Error::ReadOnly);
    }
    Ok(())
}

/// Why nothing was mapped.
struct Refused {
    error: Error,
    /// The areas stay, draining.
    draining: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, draining: false }
    }
}

impl From<Failure> for Refused {
    fn from(Failure { error, confirmed }: Failure) -> Self {
        Self { error: error.into(), draining: !confirmed }
    }
}

impl super::space::Space {
    /// What can be said against a fixed map before anything is pinned.
    fn check_fixed(&self, range: IovaRange, offset: u64) -> Result<(), Error> {
        let align = self.alignment();
        aligned(range.start().get(), align)?;
        aligned(offset, align)?;
        aligned(range.len().unwrap_or(PAGE_SIZE), align)?;
        self.check_range(range)?;
        self.check_free(range)
    }
}
