//! Arithmetic on the sizes of leaves, each by its log2: those of the levels, and those of contiguous groups between them.

use crate::format::Grain;
use iommu_core::hw::PageSizes;

/// log2 of the largest of `sizes` that fits `len` bytes and the alignment of `at`. The smallest size always fits.
#[inline]
pub(crate) fn largest(sizes: PageSizes, at: u64, len: u64) -> u32 {
    // The low bits up to the lowest set in `at`: the sizes that it is aligned to.
    let aligned = at ^ at.wrapping_sub(1);
    let fitting = sizes.mask() & aligned & (u64::MAX >> len.leading_zeros());
    63 ^ (fitting | 1).leading_zeros()
}

/// log2 of the smallest of `sizes` above 2^`bits`.
#[inline]
pub(crate) fn next_larger(sizes: PageSizes, bits: u32) -> Option<u32> {
    let above = sizes.mask() & !((2 << bits) - 1);
    (above != 0).then(|| above.trailing_zeros())
}

/// The level whose leaves are 2^`bits` bytes large, and log2 of how many of them form a group of that size.
#[inline]
pub(crate) fn split<G: Grain>(grain: G, bits: u32) -> (u8, u32) {
    let above = bits - grain.page_bits();
    ((above / grain.index_bits()) as u8, above % grain.index_bits())
}

/// Every size that leaves of a table with `levels` levels may have in this format.
pub(crate) fn known<G: Grain>(grain: G, levels: u8) -> u64 {
    (0..=grain.top_leaf_level().min(levels - 1)).fold(0, |mask, level| {
        let size = grain.size(level);
        mask | size | size << grain.group_bits(level)
    })
}
