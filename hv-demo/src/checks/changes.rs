//! What a change takes away is gone at once, and what comes in its place is all that is there.

use super::Device;
use super::lab::{Lab, Transfer, holds, pattern};
use crate::iommu::Refusal;
use crate::partition::{Buffer, Partition, address};
use crate::report::Entry;
use alloc::format;
use iommu_core::Error;
use iommu_core::hw::{AccessKind, Prot};
use iommu_core::quota::Resource;

/// Order of a buffer that is larger than what the quota leaves.
const OVER_QUOTA: u8 = 11;

/// How much a refused transfer tries to move.
const LEN: usize = 64;

/// Map, use, unmap, use again: refused at once. Map other memory there: the new frame is reached and never the old.
pub fn unmap_and_remap(lab: &mut Lab<'_>, device: &mut Device, partition: &Partition, order: u8, seed: u8) {
    let (name, stage) = (partition.name, lab.stage);
    let size = if order == 0 { "4 KiB" } else { "2 MiB" };
    let memory = || Buffer::contiguous(address::CHANGING, order, Prot::READ_WRITE);
    let (Some(mut buffer), Some(mut fresh)) = (memory(), memory()) else {
        return lab.report.trouble(&format!("{name}: {size}"), &"out of memory");
    };
    if let Err(error) = partition.map(&buffer) {
        return lab.report.trouble(&format!("{name}: map {size}"), &error);
    }
    let bytes = pattern(seed);
    let check = format!("{name}: {size} before the unmap");
    lab.round_trip(&check, device, &bytes, (&partition.page, 0), (&buffer, 0));

    if !unmap(lab, &format!("{name}: unmap {size}"), device, partition, &buffer) {
        return;
    }
    let old = pattern(seed + 1);
    buffer.write(0, &old);
    for transfer in [Transfer::write(buffer.iova(), LEN), Transfer::read(buffer.iova(), LEN)] {
        let check = format!("{name}: {} of {size} after the unmap", transfer.access);
        let refusal = Refusal::NotMapped(stage, transfer.access);
        lab.refused(&check, device, transfer, refusal, || holds(&buffer, 0, &old));
    }

    // The same address, other memory. From here on `buffer` is the new one and `fresh` holds the old frames.
    buffer.swap_memory(&mut fresh);
    if let Err(error) = partition.map(&buffer) {
        return lab.report.trouble(&format!("{name}: remap {size}"), &error);
    }
    let bytes = pattern(seed + 2);
    let check = format!("{name}: {size} after the remap");
    lab.round_trip(&check, device, &bytes, (&partition.page, 0), (&buffer, 0));
    lab.report.state(&format!("{name}: the old {size} are untouched"), true, holds(&fresh, 0, &old));
    unmap(lab, &format!("{name}: unmap {size} again"), device, partition, &buffer);
}

/// Takes `buffer` away and checks that hardware was made to forget it; `false` where the partition could not.
pub fn unmap(lab: &mut Lab<'_>, check: &str, device: &Device, partition: &Partition, buffer: &Buffer) -> bool {
    let begin = lab.unit.sync();
    let unmapped = partition.unmap(buffer);
    // The wait of the flush itself: nothing else has been submitted since.
    let end = lab.unit.marker();
    let (begin, bytes) = match (begin, unmapped) {
        (Ok(begin), Ok(bytes)) => (begin, bytes),
        (Err(error), _) => return trouble(lab, check, &error),
        (_, Err(error)) => return trouble(lab, check, &error),
    };
    let entry = Entry {
        stream: Some(device.stream),
        iova: Some(buffer.iova().get()),
        length: Some(bytes),
        frames: &buffer.extents(),
        markers: Some((begin, end)),
        ..Entry::new("unmap", check)
    };
    let seen = if end != begin { "invalidated" } else { "not invalidated" };
    lab.report.check(&entry, "invalidated", seen, None);
    true
}

fn trouble(lab: &mut Lab<'_>, check: &str, what: &dyn core::fmt::Display) -> bool {
    lab.report.trouble(check, what);
    false
}

/// A map beyond the partition's quota is refused before anything happens; within, it is not.
pub fn quota(lab: &mut Lab<'_>, partition: &Partition) {
    let name = partition.name;
    let before = partition.account.usage();
    let Some(large) = Buffer::contiguous(address::CHANGING, OVER_QUOTA, Prot::READ_WRITE) else {
        return lab.report.trouble(&format!("{name}: memory beyond its quota"), &"out of memory");
    };
    let refused = partition.map(&large).err();
    let expected = Some(Error::Quota(Resource::Pinned));
    lab.report.state(&format!("{name}: more than its quota is refused"), true, refused == expected);
    lab.report.state(&format!("{name}: and costs nothing"), before.pinned, partition.account.usage().pinned);
    lab.report.state(&format!("{name}: nothing of it is mapped"), 0, partition.leaf_size(large.iova()));
}

/// Detach: the function reaches nothing that it reached right before. Attached again, it does.
pub fn detach(lab: &mut Lab<'_>, device: &mut Device, partition: &Partition, seed: u8) {
    let name = partition.name;
    let bytes = pattern(seed);
    // Warm: every cache of the IOMMU knows the way.
    let check = format!("{name}: before the detach");
    lab.round_trip(&check, device, &bytes, (&partition.page, 0), (&partition.private, 0));
    lab.detach(&format!("{name}: detach {}", device.name), device);
    let kept = pattern(seed + 1);
    partition.private.write(0, &kept);
    for transfer in [Transfer::write(partition.private.iova(), LEN), Transfer::read(partition.private.iova(), LEN)] {
        let check = format!("{name}: {} after the detach", transfer.access);
        let refusal = device.detached();
        lab.refused(&check, device, transfer, refusal, || holds(&partition.private, 0, &kept));
    }
    lab.attach(&format!("{name}: attach {} again", device.name), device, partition);
    let bytes = pattern(seed + 2);
    let check = format!("{name}: attached again");
    lab.round_trip(&check, device, &bytes, (&partition.page, 0), (&partition.private, 0));
}

/// Moves a function from one partition to the other: nothing of the first is left.
pub fn change_owner(lab: &mut Lab<'_>, device: &mut Device, from: &Partition, to: &Partition, seed: u8) {
    let (old, new) = (from.name, to.name);
    let bytes = pattern(seed);
    let check = format!("{old}: before {} moves to {new}", device.name);
    lab.round_trip(&check, device, &bytes, (&from.page, 0), (&from.private, 0));
    lab.move_to(&format!("move {} from {old} to {new}", device.name), device, from, to);

    let kept = pattern(seed + 1);
    from.private.write(0, &kept);
    from.page.write(0, &kept);
    for transfer in [Transfer::write(from.private.iova(), LEN), Transfer::read(from.private.iova(), LEN)] {
        let check = format!("moved to {new}: {} where only {old} has memory", transfer.access);
        let refusal = Refusal::NotMapped(lab.stage, transfer.access);
        lab.refused(&check, device, transfer, refusal, || holds(&from.private, 0, &kept));
    }
    // At an address that both have, it is the new owner's memory that is reached.
    let bytes = pattern(seed + 2);
    let check = format!("moved to {new}: its own memory");
    lab.round_trip(&check, device, &bytes, (&to.private, 0), (&to.page, 0));
    lab.report.state(&format!("moved to {new}: {old} keeps its page"), true, holds(&from.page, 0, &kept));
}

/// The end of a partition blocks its functions, `device` and `others`, whatever it had given them.
pub fn end_of_partition(lab: &mut Lab<'_>, device: &mut Device, others: &[&Device], partition: Partition, seed: u8) {
    let name = partition.name;
    let bytes = pattern(seed);
    let check = format!("{name}: before its end");
    lab.round_trip(&check, device, &bytes, (&partition.page, 0), (&partition.private, 0));
    let iova = partition.private.iova();
    lab.end(&format!("{name}: ends"), device, others, partition);
    for access in [AccessKind::Write, AccessKind::Read] {
        let check = format!("{name}: {access} after its end");
        let refusal = device.detached();
        lab.refused(&check, device, Transfer { access, iova, len: LEN }, refusal, || true);
    }
}
