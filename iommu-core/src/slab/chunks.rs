//! An array that grows in pieces: what it holds never moves, and growing may fail.

use alloc::vec::Vec;
use iommu_alloc::OutOfMemory;

/// Elements that can have a number. The last numbers are left out, so that nothing overflows on the way to a piece.
const MOST: usize = u32::MAX as usize - 8;

/// Where the element `at` lies: piece, and place in it. Pieces hold 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, ... elements:
/// growth by a quarter at a time leaves little unused.
#[inline]
fn place(at: u32) -> (usize, usize) {
    let moved = at as usize + 4;
    let shift = moved.ilog2() - 2;
    ((shift as usize * 4) + (moved >> shift) - 4, moved & ((1 << shift) - 1))
}

/// Where an element lies, for those who look at it more often than a number can be taken apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Spot(u32);

impl Spot {
    /// No element lies here.
    pub(crate) const NONE: Self = Self(u32::MAX);
    /// Elements that a spot can be told of.
    pub(crate) const MOST: usize = 1 << 27;
    /// Bits of the place in the piece.
    const BITS: u32 = 25;

    /// Of the element `at`, below [`Spot::MOST`].
    pub(crate) fn of(at: u32) -> Self {
        let (chunk, place) = place(at);
        Self((chunk as u32) << Self::BITS | place as u32)
    }

    /// From [`Spot::word`].
    #[inline]
    pub(crate) const fn new(word: u32) -> Self {
        Self(word)
    }

    /// To be kept as a number.
    #[inline]
    pub(crate) const fn word(self) -> u32 {
        self.0
    }

    #[inline]
    fn chunk(self) -> usize {
        (self.0 >> Self::BITS) as usize
    }

    #[inline]
    fn place(self) -> usize {
        (self.0 & ((1 << Self::BITS) - 1)) as usize
    }
}

/// The array.
pub(crate) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
    /// Elements that there is memory for.
    room: usize,
}

/// Memory that an array is about to take.
pub(crate) struct Growth<T> {
    /// New pieces, and room for those that are there.
    list: Vec<Vec<T>>,
    /// Elements that there will be memory for.
    room: usize,
}

impl<T> Chunks<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0, room: 0 }
    }

    /// Elements, which have the numbers below.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.room * size_of::<T>() + self.chunks.len() * size_of::<Vec<T>>()
    }

    /// Makes room for `more` elements beyond those that are there. An error leaves everything as it was.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        let growth = self.prepare(more)?;
        self.grow(growth);
        Ok(())
    }

    /// The memory that is missing for `more` elements beyond those that are there, for [`Chunks::grow`] if nothing else
    /// fails.
    pub(crate) fn prepare(&self, more: usize) -> Result<Growth<T>, OutOfMemory> {
        let wanted = self.len.checked_add(more).filter(|wanted| *wanted <= MOST).ok_or(OutOfMemory)?;
        let size = |chunk: usize| 1usize << (chunk / 4);
        let (mut count, mut room) = (self.chunks.len(), self.room);
        while room < wanted {
            room += size(count);
            count += 1;
        }
        let mut list = Vec::new();
        if count > self.chunks.len() {
            // The list is made anew, as one that was made longer can not be made shorter without memory.
            list.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
        }
        for number in self.chunks.len()..count {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(size(number)).map_err(|_| OutOfMemory)?;
            list.push(chunk);
        }
        Ok(Growth { list, room })
    }

    /// Takes memory that was prepared, with nothing done in between.
    pub(crate) fn grow(&mut self, growth: Growth<T>) {
        let Growth { mut list, room } = growth;
        if !list.is_empty() {
            let new = list.len();
            list.append(&mut self.chunks);
            list.rotate_left(new);
            (self.chunks, self.room) = (list, room);
        }
    }

    /// Adds an element, and returns its number. Fails only where no room is left from [`Chunks::reserve`], and none is
    /// to be had.
    pub(crate) fn push(&mut self, value: T) -> Result<u32, OutOfMemory> {
        if self.len == self.room {
            self.reserve(1)?;
        }
        let at = self.len as u32;
        let (chunk, _) = place(at);
        self.chunks[chunk].push(value);
        self.len += 1;
        Ok(at)
    }

    /// The element `at`, if there is one.
    #[inline]
    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        let (chunk, place) = place(at);
        self.chunks.get(chunk)?.get(place)
    }

    /// The element `at`, if there is one.
    #[inline]
    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let (chunk, place) = place(at);
        self.chunks.get_mut(chunk)?.get_mut(place)
    }

    /// The element at `spot`, where there is one.
    #[inline]
    pub(crate) fn at(&self, spot: Spot) -> &T {
        &self.chunks[spot.chunk()][spot.place()]
    }

    /// The element at `spot`, where there is one.
    #[inline]
    pub(crate) fn at_mut(&mut self, spot: Spot) -> &mut T {
        &mut self.chunks[spot.chunk()][spot.place()]
    }

    /// All elements in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        self.chunks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_one_another() {
        let (mut chunk, mut next) = (0, 0);
        for at in 0..100_000 {
            if next == 1 << (chunk / 4) {
                (chunk, next) = (chunk + 1, 0);
            }
            assert_eq!(place(at), (chunk, next), "{at}");
            let spot = Spot::of(at);
            assert_eq!((spot.chunk(), spot.place()), (chunk, next), "{at}");
            assert_eq!(Spot::new(spot.word()), spot);
            next += 1;
        }
        let (chunk, next) = place(Spot::MOST as u32);
        let spot = Spot::of(Spot::MOST as u32);
        assert_eq!((spot.chunk(), spot.place()), (chunk, next));
        assert!(spot < Spot::NONE);
    }

    #[test]
    fn elements_stay_where_they_are() {
        let mut all = Chunks::new();
        assert_eq!(all.bytes(), 0);
        assert_eq!(all.push(0u64), Ok(0));
        let first: *const u64 = all.at(Spot::of(0));
        for value in 1..10_000 {
            assert_eq!(all.push(value), Ok(value as u32));
        }
        assert!(core::ptr::eq(all.at(Spot::of(0)), first));
        assert!(all.iter().copied().eq(0..10_000));
        assert_eq!((all.get(9_999), all.get(10_000)), (Some(&9_999), None));
        // A quarter unused at the most.
        assert!(all.bytes() < 10_000 * 8 * 5 / 4 + 2000, "{}", all.bytes());
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut all = Chunks::new();
        assert_eq!(all.push([0u8; 1 << 16]), Ok(0));
        let before = all.bytes();
        // More than an address space holds, and more than there are numbers.
        assert_eq!(all.reserve(MOST - 1), Err(OutOfMemory));
        assert_eq!(all.reserve(MOST), Err(OutOfMemory));
        assert_eq!(all.reserve(usize::MAX), Err(OutOfMemory));
        assert_eq!((all.len(), all.bytes()), (1, before));
    }
}
