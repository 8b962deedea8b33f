//! Sizes that follow from a granule.

/// log2 of the bytes of a table and of its smallest leaf: 12, 14 or 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::smmuv3) struct Granule(pub(in crate::smmuv3) u8);

impl Granule {
    /// From the encoding of CD.TG0 and STE.S2TG; `None` where it is reserved.
    pub(super) const fn low(code: u64) -> Option<Self> {
        match code & 3 {
            0 => Some(Self(12)),
            1 => Some(Self(16)),
            2 => Some(Self(14)),
            _ => None,
        }
    }

    /// From the encoding of CD.TG1.
    pub(super) const fn high(code: u64) -> Option<Self> {
        match code & 3 {
            1 => Some(Self(14)),
            2 => Some(Self(12)),
            3 => Some(Self(16)),
            _ => None,
        }
    }

    pub(in crate::smmuv3) const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// log2 of the entries of a table.
    pub(super) const fn stride(self) -> u32 {
        self.bits() - 3
    }

    /// log2 of the bytes below an entry of `level`.
    pub(in crate::smmuv3) const fn shift(self, level: u8) -> u32 {
        self.bits() + (3 - level as u32) * self.stride()
    }

    /// Whether entries of `level` may be leaves, with addresses of 48 bits.
    pub(super) const fn has_leaves(self, level: u8) -> bool {
        matches!((self.0, level), (_, 2 | 3) | (12, 1))
    }

    /// log2 of the leaves of a contiguous group of `level`.
    pub(super) const fn group(self, level: u8) -> u32 {
        match (self.0, level) {
            (12, _) => 4,
            (14, 3) => 7,
            _ => 5,
        }
    }

    /// The level where a walk of `input_bits` begins that has one table at the top.
    pub(super) const fn top(self, input_bits: u32) -> u8 {
        4 - (input_bits - self.bits()).div_ceil(self.stride()) as u8
    }
}
