//! Bitmaps, and reads of a domain whose hardware keeps to the letter of what it must do.

mod bitmaps;
mod domains;
mod fake;

extern crate std;

use super::*;
use crate::addr::PAGE_SIZE;
use alloc::vec::Vec;

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// Numbers that look random (xorshift).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
