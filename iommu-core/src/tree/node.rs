//! What leaves and inner nodes have in common: ranges stand in leaves, summaries of nodes in the nodes above.
//!
//! Keys stand apart from everything else, so that a search touches few cache lines.

/// What a node above knows of a node: all that lies in it, and the largest hole between two ranges of it. Holes at its
/// edges are the business of those above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Summary {
    /// The first address of the lowest range.
    pub(super) start: u64,
    /// The last address of the highest range.
    pub(super) last: u64,
    /// Bytes of the largest hole between.
    pub(super) gap: u64,
}

/// What leaves and inner nodes have in common.
pub(super) trait Node: Copy {
    /// Entries that it holds at the most.
    const MOST: usize;
    /// Entries that it holds at least, unless it lies at an edge of the tree.
    const LEAST: usize;
    /// Neighbours are made one where this many entries remain, so that the next insert does not cut them again.
    const MERGED: usize = Self::MOST - Self::MOST / 4;

    /// Entries that it holds.
    fn len(&self) -> usize;
    /// The largest hole inside of a node with at least one entry. None is known to be larger than `bound`.
    fn largest_gap(&self, bound: u64) -> u64;
    /// Of a node with at least one entry.
    fn summary(&self) -> Summary;
    /// Takes out the entries from `at` on.
    fn split_off(&mut self, at: usize) -> Self;
    /// Adds the entries of `other`, which fit, behind its own.
    fn append(&mut self, other: &Self);
    /// What was noted in this free node.
    fn link(&self) -> u32;
    /// Notes where the next free node lies.
    fn set_link(&mut self, link: u32);
}

/// Keys from one that is looked at first to the next.
pub(super) const STRIDE: usize = 4;

/// How many of `keys`, of which the first `len` count and rise, are at most `key`.
///
/// Every fourth key is compared first, and then the three behind the last one of these that is: no comparison but one
/// waits for another, and none is a branch. What is beyond the end holds the largest key, which only the largest reaches.
#[inline]
pub(super) fn count(keys: &[u64], len: usize, key: u64) -> usize {
    let (mut groups, mut at) = (0, STRIDE - 1);
    while at < keys.len() {
        groups += usize::from(keys[at] <= key);
        at += STRIDE;
    }
    let first = groups * STRIDE;
    let behind: usize = [first, first + 1, first + 2].map(|at| usize::from(keys[at] <= key)).iter().sum();
    (first + behind).min(len)
}

/// Moves the elements from `at` on up by one, and puts `value` there.
#[inline]
pub(super) fn put<T: Copy, const N: usize>(array: &mut [T; N], len: usize, at: usize, value: T) {
    array.copy_within(at..len, at + 1);
    array[at] = value;
}

/// Moves the elements behind `at` down by one.
#[inline]
pub(super) fn take<T: Copy, const N: usize>(array: &mut [T; N], len: usize, at: usize) {
    array.copy_within(at + 1..len, at);
}
