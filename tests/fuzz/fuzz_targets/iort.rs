//! Bytes as an IORT of firmware: the same as the suite `hostile_iort`, with a fuzzer that looks for tables no random number
//! comes up with.
//!
//! `cargo +nightly fuzz run iort -- -max_len=4096` in this crate's folder runs it until it finds something. Each
//! input is read as it is, and once more with its node count, length and checksum made right: a fuzzer hardly gets past them.
#![no_main]

use iommu_tests::hostile_iort::{check, repair};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut table = bytes.to_vec();
    repair(&mut table);
    check(&table);
});
