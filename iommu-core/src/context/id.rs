//! The number of an object.

use core::fmt;
use core::num::NonZeroU64;

/// Names an object of one context. Never reused: one that is gone stays unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(NonZeroU64);

impl ObjectId {
    /// The id with the value `raw`, as [`ObjectId::raw`] gave it; any other value names nothing. `None` for 0.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The value, to be handed out: never 0. The lower 32 bits are a place that is reused, the upper ones say how often
    /// it was.
    pub const fn raw(self) -> u64 {
        self.0.get()
    }

    /// The id of the object that is the `generation`-th at `index`; `None` for generation 0.
    pub(super) fn new(index: u32, generation: u32) -> Option<Self> {
        if generation == 0 { None } else { Self::from_raw(u64::from(generation) << 32 | u64::from(index)) }
    }

    pub(super) const fn index(self) -> u32 {
        self.raw() as u32
    }

    pub(super) const fn generation(self) -> u32 {
        (self.raw() >> 32) as u32
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {}.{}", self.index(), self.generation())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
