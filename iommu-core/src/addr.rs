//! Addresses, ranges of them and physically contiguous runs, as types that cannot be mixed up.
//!
//! Ranges hold their *last* address, not their end, so that the full 64-bit space is a value like any other.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address `raw`, in bytes.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The address in bytes.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Whether the address is a multiple of `align`, a power of two of bytes.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The address `bytes` further on; `None` where that would wrap.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// The address `bytes` further on, modulo 2^64: for a caller that has already checked the range.
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// An I/O virtual address: what a device puts on the bus.
    Iova
);
address!(
    /// A physical address of the host.
    PhysAddr
);

/// The smallest page every format here maps, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// A non-empty range of I/O virtual addresses, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IovaRange {
    start: Iova,
    last: Iova,
}

impl IovaRange {
    /// Every address there is.
    pub const FULL: Self = Self { start: Iova::new(0), last: Iova::new(u64::MAX) };

    /// The range from `start` to `last`, both included; `None` where `start` lies above `last`.
    pub const fn new(start: Iova, last: Iova) -> Option<Self> {
        if start.get() <= last.get() { Some(Self { start, last }) } else { None }
    }

    /// The `len` bytes from `start`; `None` where `len` is zero or the range would wrap.
    pub const fn from_len(start: Iova, len: u64) -> Option<Self> {
        match len.checked_sub(1) {
            Some(less) => match start.checked_add(less) {
                Some(last) => Some(Self { start, last }),
                None => None,
            },
            None => None,
        }
    }

    /// The lowest address.
    pub const fn start(self) -> Iova {
        self.start
    }

    /// The highest address.
    pub const fn last(self) -> Iova {
        self.last
    }

    /// The length in bytes; `None` for the full 64-bit range, whose length does not fit.
    pub const fn len(self) -> Option<u64> {
        (self.last.get() - self.start.get()).checked_add(1)
    }

    /// Never: a range holds at least one address.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether `iova` lies inside.
    pub const fn contains(self, iova: Iova) -> bool {
        self.start.get() <= iova.get() && iova.get() <= self.last.get()
    }

    /// Whether all of `other` lies inside.
    pub const fn covers(self, other: Self) -> bool {
        self.start.get() <= other.start.get() && other.last.get() <= self.last.get()
    }

    /// Whether the two share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.get() <= other.last.get() && other.start.get() <= self.last.get()
    }

    /// The smallest range that holds both.
    #[inline]
    pub fn union(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), last: self.last.max(other.last) }
    }

    /// The same range up to `last`, where that lies above its own last address.
    #[inline]
    pub fn extended_to(self, last: Iova) -> Self {
        Self { start: self.start, last: self.last.max(last) }
    }

    /// Whether `other` begins right after this range ends.
    #[inline]
    pub fn is_followed_by(self, other: Self) -> bool {
        self.last.checked_add(1) == Some(other.start)
    }

    /// Whether both ends lie on multiples of `align`, a power of two of bytes.
    pub const fn is_aligned(self, align: u64) -> bool {
        self.start.is_aligned(align) && self.last.wrapping_add(1).is_aligned(align)
    }
}

impl fmt::Debug for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iova[{:#x}..={:#x}]", self.start.get(), self.last.get())
    }
}

impl fmt::Display for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.start.get(), self.last.get())
    }
}

/// A physically contiguous run of memory. May be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PhysExtent {
    /// Where it begins.
    pub start: PhysAddr,
    /// How long it is, in bytes.
    pub len: u64,
}

impl PhysExtent {
    /// The `len` bytes from `start`.
    pub const fn new(start: PhysAddr, len: u64) -> Self {
        Self { start, len }
    }

    /// The last address of the run; `None` where the run is empty or would wrap.
    pub const fn last(self) -> Option<PhysAddr> {
        match self.len.checked_sub(1) {
            Some(less) => self.start.checked_add(less),
            None => None,
        }
    }

    /// Whether both ends lie on multiples of `align`, a power of two of bytes.
    pub const fn is_aligned(self, align: u64) -> bool {
        (self.start.get() | self.len) & (align - 1) == 0
    }
}

/// The total length of `extents` in bytes; `None` where the sum does not fit in 64 bits.
pub fn total_len(extents: &[PhysExtent]) -> Option<u64> {
    extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_wraps_and_is_never_empty() {
        assert_eq!(IovaRange::from_len(Iova::new(0x1000), 0), None);
        assert_eq!(IovaRange::from_len(Iova::new(u64::MAX), 2), None);
        assert_eq!(IovaRange::new(Iova::new(2), Iova::new(1)), None);
        let top = IovaRange::from_len(Iova::new(u64::MAX), 1).unwrap();
        assert_eq!(top.last().get(), u64::MAX);
        assert_eq!(IovaRange::FULL.len(), None);
    }

    #[test]
    fn overlap_counts_the_last_byte() {
        let a = IovaRange::from_len(Iova::new(0x1000), 0x1000).unwrap();
        let b = IovaRange::from_len(Iova::new(0x2000), 0x1000).unwrap();
        let c = IovaRange::from_len(Iova::new(0x1fff), 1).unwrap();
        assert!(!a.overlaps(b) && a.is_followed_by(b) && !b.is_followed_by(a));
        assert!(a.overlaps(c) && a.covers(c) && !c.covers(a));
        assert_eq!(a.union(b).len(), Some(0x2000));
        assert!(a.is_aligned(0x1000) && !c.is_aligned(0x1000) && IovaRange::FULL.is_aligned(1 << 30));
    }

    #[test]
    fn lengths_that_overflow_are_seen() {
        let huge = PhysExtent::new(PhysAddr::new(0), u64::MAX);
        assert_eq!(total_len(&[huge, PhysExtent::new(PhysAddr::new(0), 1)]), None);
        assert_eq!(total_len(&[]), Some(0));
        assert_eq!(PhysExtent::new(PhysAddr::new(u64::MAX), 2).last(), None);
        assert_eq!(PhysExtent::new(PhysAddr::new(8), 0).last(), None);
    }
}
