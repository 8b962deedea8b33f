//! Bytes as a DMAR table of firmware: the same as the suite `hostile_dmar`, with a fuzzer that looks for tables no random
//! number comes up with.
//!
//! `cargo +nightly fuzz run dmar -- -max_len=4096` in this crate's folder runs it until it finds something. Each
//! input is read as it is, and once more with its length and checksum made right: a fuzzer hardly gets past them.
#![no_main]

use iommu_discovery::topology::Topology;
use iommu_tests::hostile_dmar::{check, machine, repair};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static MACHINE: LazyLock<Topology> = LazyLock::new(machine);

fuzz_target!(|bytes: &[u8]| {
    check(bytes, &MACHINE);
    let mut table = bytes.to_vec();
    repair(&mut table);
    check(&table, &MACHINE);
});
