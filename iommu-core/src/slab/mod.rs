//! Values under small numbers that stay theirs: a slab that grows in pieces, never moves a value, and may fail to grow.
//!
//! A number is used again once its value was removed: who hands numbers to others adds a generation of its own.
//!
//! ```
//! use iommu_core::slab::Slab;
//!
//! let mut slab = Slab::new();
//! let (one, two) = (slab.insert("one")?, slab.insert("two")?);
//! assert_eq!(slab.get(two), Some(&"two"));
//! assert_eq!(slab.remove(one), Some("one"));
//! assert_eq!((slab.get(one), slab.len()), (None, 1));
//! # Ok::<(), iommu_alloc::OutOfMemory>(())
//! ```

mod chunks;
#[cfg(test)]
mod tests;

pub(crate) use chunks::{Chunks, Growth, Spot};

use core::fmt;
use iommu_alloc::OutOfMemory;

/// Ends the list of vacant slots. No slot has this number.
const NONE: u32 = u32::MAX;

enum Slot<T> {
    Full(T),
    /// With the number of the next vacant one.
    Vacant(u32),
}

/// The slab. Empty, it takes no memory.
pub struct Slab<T> {
    slots: Chunks<Slot<T>>,
    /// The first vacant slot.
    vacant: u32,
    len: usize,
}

impl<T> Slab<T> {
    /// An empty slab. Takes no memory.
    pub const fn new() -> Self {
        Self { slots: Chunks::new(), vacant: NONE, len: 0 }
    }

    /// How many values there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that it holds, without what its values point at.
    pub fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// Makes sure that the next `count` inserts do not run out of memory, unless the slab runs empty in between.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing has changed.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let vacant = self.slots.len() - self.len;
        self.slots.reserve(count.saturating_sub(vacant))
    }

    /// Puts `value` in and returns its number, which is below 2^32 - 1.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], also where all numbers are taken: `value` is dropped, and nothing has changed.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<u32, OutOfMemory> {
        let at = self.vacant;
        if let Some(slot) = self.slots.get_mut(at)
            && let Slot::Vacant(next) = *slot
        {
            self.vacant = next;
            *slot = Slot::Full(value);
            self.len += 1;
            return Ok(at);
        }
        let at = self.slots.push(Slot::Full(value))?;
        self.len += 1;
        Ok(at)
    }

    /// The value with the number `at`.
    #[inline]
    pub fn get(&self, at: u32) -> Option<&T> {
        match self.slots.get(at)? {
            Slot::Full(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }

    /// The value with the number `at`.
    #[inline]
    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        match self.slots.get_mut(at)? {
            Slot::Full(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }

    /// Takes out the value with the number `at`. Never allocates. The last one that goes takes the memory along.
    #[inline]
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let slot = self.slots.get_mut(at)?;
        if let Slot::Vacant(_) = slot {
            return None;
        }
        let Slot::Full(value) = core::mem::replace(slot, Slot::Vacant(self.vacant)) else { return None };
        self.vacant = at;
        self.len -= 1;
        if self.len == 0 {
            self.clear();
        }
        Some(value)
    }

    /// Numbers and values, lowest number first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> + '_ {
        self.slots.iter().zip(0..).filter_map(|(slot, at)| match slot {
            Slot::Full(value) => Some((at, value)),
            Slot::Vacant(_) => None,
        })
    }

    /// Drops everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
