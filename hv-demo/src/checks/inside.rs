//! DMA both ways inside of a partition's own memory.

use super::Device;
use super::lab::{Lab, Transfer, holds, pattern};
use crate::iommu::Refusal;
use crate::partition::Partition;
use alloc::format;

/// Leaves of 4 KiB, 2 MiB and 1 GiB, a scattered buffer, and a page that may only be read.
pub fn run(lab: &mut Lab<'_>, device: &mut Device, partition: &Partition, seed: u8) {
    let name = partition.name;
    let Partition { page, large, huge, scattered, .. } = partition;

    for (buffer, size, words) in [(page, 1u64 << 12, "4 KiB"), (large, 1 << 21, "2 MiB"), (huge, 1 << 30, "1 GiB")] {
        lab.report.state(&format!("{name}: {words} of memory are one leaf"), size, partition.leaf_size(buffer.iova()));
    }
    // The ends of each leaf, and its middle at an odd place, across a border of 4 KiB pages.
    let bytes = pattern(seed);
    lab.round_trip(&format!("{name}: 4 KiB page to start of 2 MiB"), device, &bytes, (page, 0), (large, 0));
    let bytes = pattern(seed + 1);
    let (end_of_large, end_of_huge) = (large.len() - 4096, huge.len() - 4096);
    lab.round_trip(
        &format!("{name}: end of 2 MiB to end of 1 GiB"),
        device,
        &bytes,
        (large, end_of_large),
        (huge, end_of_huge),
    );
    let bytes = pattern(seed + 2);
    lab.round_trip(
        &format!("{name}: middle of 1 GiB to scattered pages"),
        device,
        &bytes,
        (huge, 0x2345_6780),
        (scattered, 0x7c0),
    );
    let bytes = pattern(seed + 3);
    lab.round_trip(&format!("{name}: scattered pages to 4 KiB page"), device, &bytes, (scattered, 0x1ff0), (page, 0));
    let bytes = &pattern(seed + 4)[..0x123];
    lab.round_trip(&format!("{name}: odd length and address"), device, bytes, (scattered, 0xfed), (page, 0x771));

    read_only_page(lab, device, partition, seed + 5);
}

/// A read-only page refuses a write, before and after it was read.
fn read_only_page(lab: &mut Lab<'_>, device: &mut Device, partition: &Partition, seed: u8) {
    let (name, stage) = (partition.name, lab.stage);
    let Partition { page, read_only, .. } = partition;
    let (old, new) = (pattern(seed), pattern(seed + 1));
    let write = Transfer::write(read_only.iova(), 64);
    // The device holds what it brought last, which is neither.
    read_only.write(0, &old);
    lab.refused(&format!("{name}: write to the read-only page"), device, write, Refusal::ReadOnly(stage), || {
        holds(read_only, 0, &old)
    });
    lab.round_trip(&format!("{name}: read-only page to 4 KiB page"), device, &new, (read_only, 0), (page, 0));
    read_only.write(0, &old);
    lab.refused_warm(&format!("{name}: write to the read-only page once read"), device, write, stage, || {
        holds(read_only, 0, &old)
    });
}
