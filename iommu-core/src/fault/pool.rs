//! A fixed number of places for values, all of whose memory is there from the beginning.

use alloc::vec::Vec;
use iommu_alloc::OutOfMemory;

/// No place: ends a list of them.
pub(super) const NONE: u32 = u32::MAX;

enum Place<T> {
    Full(T),
    /// With the next vacant one.
    Vacant(u32),
}

/// The places. Unlike [`crate::slab::Slab`] it never takes or gives back memory once it is made.
pub(super) struct Pool<T> {
    places: Vec<Place<T>>,
    /// The first vacant one.
    vacant: u32,
}

impl<T> Pool<T> {
    /// Bytes of memory that `count` places take.
    pub(super) fn bytes(count: usize) -> usize {
        count * size_of::<Place<T>>()
    }

    /// `count` places, below 2^32 - 1.
    pub(super) fn new(count: u32) -> Result<Self, OutOfMemory> {
        let mut places = Vec::new();
        places.try_reserve_exact(usize::try_from(count).map_err(|_| OutOfMemory)?).map_err(|_| OutOfMemory)?;
        for at in 0..count {
            // After the last one there is no place, so the list ends.
            places.push(Place::Vacant(at + 1));
        }
        Ok(Self { places, vacant: 0 })
    }

    /// How many places there are.
    pub(super) fn places(&self) -> u32 {
        // As many as were asked for, which fit.
        self.places.len() as u32
    }

    /// Where `value` is from now on; `None`, and it is dropped, where every place is taken.
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        let at = self.vacant;
        let place = self.places.get_mut(at as usize)?;
        let Place::Vacant(next) = *place else { return None };
        self.vacant = next;
        *place = Place::Full(value);
        Some(at)
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        match self.places.get(at as usize)? {
            Place::Full(value) => Some(value),
            Place::Vacant(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        match self.places.get_mut(at as usize)? {
            Place::Full(value) => Some(value),
            Place::Vacant(_) => None,
        }
    }

    pub(super) fn remove(&mut self, at: u32) -> Option<T> {
        let place = self.places.get_mut(at as usize)?;
        if let Place::Vacant(_) = place {
            return None;
        }
        let Place::Full(value) = core::mem::replace(place, Place::Vacant(self.vacant)) else { return None };
        self.vacant = at;
        Some(value)
    }

    /// Values that are there.
    #[cfg(test)]
    pub(super) fn full(&self) -> usize {
        self.places.iter().filter(|place| matches!(place, Place::Full(_))).count()
    }
}
