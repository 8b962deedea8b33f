//! Bytes as operations on address spaces, domains, devices, accesses and memory, compared with a flat map after each: the
//! same as the suite `oracle`, with a fuzzer that looks for sequences no random number comes up with.
//!
//! `cargo +nightly fuzz run ioas -- -max_len=4096 -len_control=0` in this crate's folder runs it until it finds something;
//! it needs a nightly compiler and `cargo install cargo-fuzz`.
#![no_main]

use iommu_tests::oracle::{Layout, Op, World};
use libfuzzer_sys::fuzz_target;

/// Most operations of one input: more make it slow, and few are enough for most of what can happen.
const MOST: usize = 400;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let layout = if first % 8 == 7 { Layout::Wide } else { Layout::Small };
    let mut bytes = rest.iter().copied();
    let mut world = World::new(layout);
    for op in std::iter::from_fn(|| Op::take(&mut bytes)).take(MOST) {
        world.step(op);
    }
    world.finish();
});
