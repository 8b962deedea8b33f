//! Leaves: ranges with their values.

use super::node::{Node, STRIDE, Summary, count, put, take};

/// Ranges with their values.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Leaf<V, const N: usize> {
    starts: [u64; N],
    /// Entries; in a free node the link.
    len: u32,
    lasts: [u64; N],
    values: [V; N],
}

impl<V: Copy, const N: usize> Leaf<V, N> {
    /// A leaf with one range.
    pub(super) fn new(start: u64, last: u64, value: V) -> Self {
        const { assert!(N % STRIDE == STRIDE - 1) };
        let mut leaf = Self { starts: [u64::MAX; N], len: 1, lasts: [0; N], values: [value; N] };
        (leaf.starts[0], leaf.lasts[0]) = (start, last);
        leaf
    }

    /// How many ranges begin at or below `key`.
    #[inline]
    pub(super) fn count(&self, key: u64) -> usize {
        count(&self.starts, self.len(), key)
    }

    #[inline]
    pub(super) fn start(&self, at: usize) -> u64 {
        self.starts[at]
    }

    #[inline]
    pub(super) fn last(&self, at: usize) -> u64 {
        self.lasts[at]
    }

    #[inline]
    pub(super) fn value_mut(&mut self, at: usize) -> &mut V {
        &mut self.values[at]
    }

    #[inline]
    pub(super) fn entry(&self, at: usize) -> (u64, u64, V) {
        (self.starts[at], self.lasts[at], self.values[at])
    }

    /// Puts a range at `at`. There is room.
    #[inline]
    pub(super) fn insert(&mut self, at: usize, start: u64, last: u64, value: V) {
        let len = self.len();
        put(&mut self.starts, len, at, start);
        put(&mut self.lasts, len, at, last);
        put(&mut self.values, len, at, value);
        self.len += 1;
    }

    /// Takes out the range at `at`.
    #[inline]
    pub(super) fn remove(&mut self, at: usize) {
        let len = self.len();
        take(&mut self.starts, len, at);
        take(&mut self.lasts, len, at);
        take(&mut self.values, len, at);
        self.starts[len - 1] = u64::MAX;
        self.len -= 1;
    }

    /// Bytes free between the range at `at` and the one before it. Both are there.
    #[inline]
    pub(super) fn gap_before(&self, at: usize) -> u64 {
        self.starts[at] - self.lasts[at - 1] - 1
    }
}

impl<V: Copy, const N: usize> Node for Leaf<V, N> {
    const MOST: usize = N;
    const LEAST: usize = N.div_ceil(4);

    #[inline]
    fn len(&self) -> usize {
        (self.len as usize).min(N)
    }

    fn largest_gap(&self, bound: u64) -> u64 {
        let mut most = 0;
        for at in 1..self.len() {
            most = most.max(self.gap_before(at));
            // Where areas are alike so are the holes, and the first is as good as any.
            if most >= bound {
                break;
            }
        }
        most
    }

    fn summary(&self) -> Summary {
        let last = self.lasts[self.len() - 1];
        Summary { start: self.starts[0], last, gap: self.largest_gap(u64::MAX) }
    }

    fn split_off(&mut self, at: usize) -> Self {
        let mut upper = *self;
        let len = self.len();
        upper.starts.copy_within(at..len, 0);
        upper.lasts.copy_within(at..len, 0);
        upper.values.copy_within(at..len, 0);
        upper.starts[len - at..].fill(u64::MAX);
        upper.len = (len - at) as u32;
        self.starts[at..].fill(u64::MAX);
        self.len = at as u32;
        upper
    }

    fn append(&mut self, other: &Self) {
        let (len, more) = (self.len(), other.len());
        self.starts[len..len + more].copy_from_slice(&other.starts[..more]);
        self.lasts[len..len + more].copy_from_slice(&other.lasts[..more]);
        self.values[len..len + more].copy_from_slice(&other.values[..more]);
        self.len = (len + more) as u32;
    }

    fn link(&self) -> u32 {
        self.len
    }

    fn set_link(&mut self, link: u32) {
        self.len = link;
    }
}
