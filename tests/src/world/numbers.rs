//! Where a world takes its decisions from: a seed, or a fuzzer's bytes.

use crate::random::Random;

/// A source of decisions.
#[derive(Clone, Debug)]
pub enum Numbers<'a> {
    /// Without end.
    Random(Random),
    /// Until they are used up, then zeros.
    Bytes(&'a [u8]),
}

impl Numbers<'_> {
    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        match self {
            Self::Random(random) => random.below(end),
            Self::Bytes(bytes) => {
                let Some((first, rest)) = bytes.split_first() else { return 0 };
                *bytes = rest;
                u64::from(*first) % end
            }
        }
    }

    /// Once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// One of `all`, which are not none.
    pub fn choose<'b, T>(&mut self, all: &'b [T]) -> &'b T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// Whether there is nothing left to decide from.
    pub fn are_spent(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }
}
