//! Ranges of 64-bit addresses that do not overlap, each with a value: an arena B+tree that knows its gaps.
//!
//! A node knows, of each node below it, the first address, the last one and the largest hole inside. So an insert with
//! its check for overlaps, a removal, a look for what overlaps and a first-fit hole each take one way down, over few cache
//! lines; summaries on the way are touched only where they change. Nodes live in memory that grows in pieces and never
//! moves; growing may fail, and then nothing has changed; a removal takes no memory.
//!
//! Ranges may reach from 0 to `u64::MAX`.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | ranges | at least 2^29: 2^27 leaves |
//! | first fit | logarithmic in the number of ranges, for each hole that is large enough and fails its alignment alone |
//! | node memory | kept for later inserts until the last range goes |
//!
//! # Example
//!
//! ```
//! use iommu_core::tree::{InsertError, Tree};
//!
//! let mut tree = Tree::new();
//! tree.insert(0x1000, 0x1fff, 'a')?;
//! tree.insert(0x4000, 0x4fff, 'b')?;
//! let overlap = InsertError::Overlap { start: 0x1000, last: 0x1fff, value: 'a' };
//! assert_eq!(tree.insert(0x1800, 0x4800, 'c'), Err(overlap));
//! assert_eq!(tree.first_overlap(0x1fff, 0x4000), Some((0x1000, 0x1fff, 'a')));
//! assert_eq!(tree.first_gap(0, u64::MAX, 0x2000, 0x1000), Some(0x2000));
//! assert_eq!(tree.remove(0x1000), Some((0x1fff, 'a')));
//! # Ok::<(), InsertError<char>>(())
//! ```

mod arena;
#[cfg(test)]
mod check;
mod cut;
mod gaps;
mod inner;
mod iter;
mod join;
mod leaf;
mod look;
mod node;
mod shape;
#[cfg(test)]
mod tests;

use core::fmt;
use iommu_alloc::OutOfMemory;
use shape::Shape;

/// Ranges in a leaf at the most.
const LEAF: usize = 15;
/// Nodes under an inner node at the most.
const INNER: usize = 32;

/// Why a range could not be inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError<V> {
    /// This range, with its value, is in the way; of several the lowest.
    Overlap {
        /// Its first address.
        start: u64,
        /// Its last address.
        last: u64,
        /// Its value.
        value: V,
    },
    /// No memory.
    OutOfMemory,
}

/// The tree. Empty, it takes no memory.
///
/// Addresses are inclusive. Where a range is given as `start` and `last` with `start > last`, it is empty: nothing
/// overlaps it, and it fits nowhere.
pub struct Tree<V: Copy>(Shape<V, LEAF, INNER>);

impl<V: Copy> Tree<V> {
    /// An empty tree. Takes no memory.
    pub const fn new() -> Self {
        Self(Shape::new())
    }

    /// How many ranges there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no range.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it holds.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Makes sure that the next `count` inserts do not run out of memory, unless the tree runs empty in between.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing has changed.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        self.0.reserve(count)
    }

    /// One way down: finds what overlaps, or inserts. `start` must not be above `last`.
    ///
    /// # Errors
    ///
    /// [`InsertError::Overlap`], [`InsertError::OutOfMemory`]: nothing has changed.
    #[inline]
    pub fn insert(&mut self, start: u64, last: u64, value: V) -> Result<(), InsertError<V>> {
        self.0.insert(start, last, value)
    }

    /// Takes out the range that begins at `start`; returns its last address and value. Never allocates. The last range
    /// that goes takes all memory along.
    #[inline]
    pub fn remove(&mut self, start: u64) -> Option<(u64, V)> {
        self.0.remove(start)
    }

    /// The lowest range that shares an address with `start..=last`: its first address, its last one and its value.
    #[inline]
    pub fn first_overlap(&self, start: u64, last: u64) -> Option<(u64, u64, V)> {
        self.0.first_overlap(start, last)
    }

    /// The highest range that shares an address with `start..=last`: its first address, its last one and its value.
    #[inline]
    pub fn last_overlap(&self, start: u64, last: u64) -> Option<(u64, u64, V)> {
        self.0.last_overlap(start, last)
    }

    /// Replaces the value of the range that begins at `start`; returns the old one.
    #[inline]
    pub fn replace(&mut self, start: u64, value: V) -> Option<V> {
        self.0.replace(start, value)
    }

    /// The lowest address in `start..=last` that is a multiple of `align` and at which `len` bytes are free and end at
    /// or below `last`. `None` where there is none, where `len` is 0, and where `align` is no power of two.
    pub fn first_gap(&self, start: u64, last: u64, len: u64, align: u64) -> Option<u64> {
        self.0.first_gap(start, last, len, align)
    }

    /// All ranges that share an address with `start..=last`, lowest first.
    pub fn overlapping(&self, start: u64, last: u64) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        self.0.overlapping(start, last)
    }

    /// All ranges, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        self.overlapping(0, u64::MAX)
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<V: Copy> Default for Tree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Copy + fmt::Debug> fmt::Debug for Tree<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(start, last, value)| ((start, last), value))).finish()
    }
}
