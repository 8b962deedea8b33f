//! Bytes as operations on a SMMUv3, its domains and streams, over the device model, compared with what ought to be after
//! each: the same as the suite `smmuv3`'s random part, with a fuzzer that looks for sequences no random number comes up with.
//!
//! `cargo +nightly fuzz run smmuv3 -- -max_len=2048 -len_control=0 -rss_limit_mb=0`, with `ASAN_OPTIONS=detect_leaks=0`, in this
//! crate's folder runs it until it finds something; it needs a nightly compiler and `cargo install cargo-fuzz`. What hardware
//! reads is never freed while translation is on, which a detector of leaks takes for one.
#![no_main]

use iommu_tests::world::{Numbers, SmmuMachine, World};
use libfuzzer_sys::fuzz_target;

/// Most operations of one input: more make it slow, and few are enough for most of what can happen.
const MOST: usize = 300;

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::<SmmuMachine>::new(Numbers::Bytes(bytes));
    for _ in 0..MOST {
        if world.is_spent() {
            break;
        }
        world.step();
    }
    world.finish();
});
