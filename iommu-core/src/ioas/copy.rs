//! Mapping what is mapped already, somewhere else.

use super::map::{Piece, check_prot};
use super::space::{Space, State};
use super::{Inner, Placement};
use crate::addr::{Iova, IovaRange};
use crate::error::Error;
use crate::hw::Prot;
use crate::quota::Amounts;
use alloc::vec::Vec;
use iommu_alloc::Shared;

impl Inner {
    /// Maps in `this` what `from` has at `range`, sharing the memory.
    pub(super) fn copy(
        this: &Shared<Self>,
        from: &Self,
        range: IovaRange,
        at: Placement,
        prot: Prot,
    ) -> Result<Iova, Error> {
        if prot.is_none() {
            return Err(Error::Protection(prot));
        }
        let len = range.len().ok_or(Error::Overflow { iova: range.start() })?;
        if let Placement::Fixed(iova) = at {
            IovaRange::from_len(iova, len).ok_or(Error::Overflow { iova })?;
        }
        let mut list = Charged { space: this, pieces: Vec::new(), charged: 0 };
        list.reserve(1)?;
        loop {
            // All in one look, so that what is copied stood there at one time.
            let needed = from.pieces(range, prot, &mut list.pieces)?;
            if needed <= list.pieces.capacity() {
                break;
            }
            list.reserve(needed)?;
        }
        Self::map_pieces(this, &mut list.pieces, len, at, prot)
    }

    /// Adds the memory behind `range` to `pieces`, which is empty, and returns how many pieces that is: more than there is
    /// room for, and none was added.
    fn pieces(&self, range: IovaRange, prot: Prot, pieces: &mut Vec<Piece>) -> Result<usize, Error> {
        let space = self.space.lock();
        let needed = space.areas.overlapping(range.start().get(), range.last().get()).count();
        if needed > pieces.capacity() {
            return Ok(needed);
        }
        let mut next = range.start();
        loop {
            let (piece, last) = space.piece(next, range.last(), prot)?;
            pieces.push(piece);
            match last.checked_add(1) {
                Some(after) if last < range.last() => next = after,
                _ => return Ok(needed),
            }
        }
    }
}

impl Space {
    /// The memory behind `at`, as far as one area has it and at most up to `last`, and the last address of that.
    fn piece(&self, at: Iova, last: Iova, prot: Prot) -> Result<(Piece, Iova), Error> {
        let (_, area) = self.at(at)?;
        if area.revoked {
            return Err(Error::Revoked);
        }
        if area.state == State::Leaving {
            // Being unmapped, or only split: who asks again will know.
            return Err(Error::Busy);
        }
        let pin = area.pin.as_ref().filter(|_| area.state == State::Live && !area.draining);
        let pin = pin.ok_or(Error::NotFound { iova: at })?;
        check_prot(pin.pages(), prot)?;
        let last = last.min(area.range.last());
        // Both lie inside of the area, whose own offset and length fit in 64 bits.
        let offset = area.offset + (at.get() - area.range.start().get());
        let len = last.get() - at.get() + 1;
        Ok((Piece::new(pin.another(), offset, len), last))
    }
}

/// What one entry of the list costs while it is there.
const ENTRY: Amounts = Amounts { metadata: size_of::<Piece>() as u64, ..Amounts::NONE };

/// A list of pieces, each charged before there is room for it: how long it becomes is up to whoever mapped what is copied.
struct Charged<'s> {
    space: &'s Inner,
    pieces: Vec<Piece>,
    charged: u64,
}

impl Charged<'_> {
    /// Makes room for `count` in all.
    fn reserve(&mut self, count: usize) -> Result<(), Error> {
        let more = (count as u64).saturating_sub(self.charged);
        self.space.ledger.charge(Amounts { metadata: ENTRY.metadata.saturating_mul(more), ..Amounts::NONE })?;
        self.charged = self.charged.saturating_add(more);
        self.pieces.try_reserve_exact(count).map_err(|_| Error::OutOfMemory)
    }
}

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        let metadata = ENTRY.metadata.saturating_mul(self.charged);
        self.space.ledger.release(Amounts { metadata, ..Amounts::NONE });
    }
}
