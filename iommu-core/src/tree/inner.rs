//! Inner nodes: what lies one level below, and what is known of it.

use super::node::{Node, STRIDE, Summary, count, put, take};
use crate::slab::Spot;

/// Nodes one level below, each with its summary.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Inner<const N: usize> {
    starts: [u64; N],
    /// Entries; in a free node the link.
    len: u32,
    nodes: [Spot; N],
    /// What is looked at together lies together.
    ends: [End; N],
}

/// The rest of a summary.
#[derive(Clone, Copy)]
struct End {
    last: u64,
    gap: u64,
}

impl<const N: usize> Inner<N> {
    /// A node with one below it.
    pub(super) fn new(summary: Summary, node: Spot) -> Self {
        const { assert!((N - 1) % STRIDE == STRIDE - 1) };
        let ends = [End { last: 0, gap: 0 }; N];
        let mut inner = Self { starts: [u64::MAX; N], len: 1, nodes: [node; N], ends };
        inner.set(0, summary);
        inner
    }

    /// The last node that begins at or below `key`, or the first one.
    #[inline]
    pub(super) fn find(&self, key: u64) -> usize {
        count(&self.starts[1..], self.len() - 1, key)
    }

    #[inline]
    pub(super) fn start(&self, at: usize) -> u64 {
        self.starts[at]
    }

    #[inline]
    pub(super) fn last(&self, at: usize) -> u64 {
        self.ends[at].last
    }

    #[inline]
    pub(super) fn gap(&self, at: usize) -> u64 {
        self.ends[at].gap
    }

    /// Where the node at `at` lies.
    #[inline]
    pub(super) fn node(&self, at: usize) -> Spot {
        self.nodes[at]
    }

    /// What is known of the node at `at`.
    #[inline]
    pub(super) fn get(&self, at: usize) -> Summary {
        Summary { start: self.starts[at], last: self.ends[at].last, gap: self.ends[at].gap }
    }

    /// Notes what is known of the node at `at`.
    #[inline]
    pub(super) fn set(&mut self, at: usize, summary: Summary) {
        self.starts[at] = summary.start;
        self.ends[at] = End { last: summary.last, gap: summary.gap };
    }

    /// Puts a node at `at`. There is room.
    pub(super) fn insert(&mut self, at: usize, summary: Summary, node: Spot) {
        let len = self.len();
        put(&mut self.starts, len, at, summary.start);
        put(&mut self.ends, len, at, End { last: summary.last, gap: summary.gap });
        put(&mut self.nodes, len, at, node);
        self.len += 1;
    }

    /// Takes out the node at `at`.
    pub(super) fn remove(&mut self, at: usize) {
        let len = self.len();
        take(&mut self.starts, len, at);
        take(&mut self.ends, len, at);
        take(&mut self.nodes, len, at);
        self.starts[len - 1] = u64::MAX;
        self.len -= 1;
    }

    /// Bytes free between the node at `at` and the one before it. Both are there.
    #[inline]
    pub(super) fn gap_before(&self, at: usize) -> u64 {
        self.starts[at] - self.ends[at - 1].last - 1
    }
}

impl<const N: usize> Node for Inner<N> {
    const MOST: usize = N;
    const LEAST: usize = if N < 8 { 2 } else { N.div_ceil(4) };

    #[inline]
    fn len(&self) -> usize {
        (self.len as usize).min(N)
    }

    fn largest_gap(&self, bound: u64) -> u64 {
        let mut most = self.ends[0].gap;
        for at in 1..self.len() {
            if most >= bound {
                break;
            }
            most = most.max(self.ends[at].gap).max(self.gap_before(at));
        }
        most
    }

    fn summary(&self) -> Summary {
        let last = self.ends[self.len() - 1].last;
        Summary { start: self.starts[0], last, gap: self.largest_gap(u64::MAX) }
    }

    fn split_off(&mut self, at: usize) -> Self {
        let mut upper = *self;
        let len = self.len();
        upper.starts.copy_within(at..len, 0);
        upper.ends.copy_within(at..len, 0);
        upper.nodes.copy_within(at..len, 0);
        upper.starts[len - at..].fill(u64::MAX);
        upper.len = (len - at) as u32;
        self.starts[at..].fill(u64::MAX);
        self.len = at as u32;
        upper
    }

    fn append(&mut self, other: &Self) {
        let (len, more) = (self.len(), other.len());
        self.starts[len..len + more].copy_from_slice(&other.starts[..more]);
        self.ends[len..len + more].copy_from_slice(&other.ends[..more]);
        self.nodes[len..len + more].copy_from_slice(&other.nodes[..more]);
        self.len = (len + more) as u32;
    }

    fn link(&self) -> u32 {
        self.len
    }

    fn set_link(&mut self, link: u32) {
        self.len = link;
    }
}
