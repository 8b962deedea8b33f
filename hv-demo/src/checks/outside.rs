//! DMA to everything that is not the partition's own.

use super::Device;
use super::lab::{Lab, Transfer, holds, pattern};
use crate::iommu::Refusal;
use crate::memory;
use crate::partition::Partition;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::AccessKind;

/// Middle of a frame.
const MIDDLE: u64 = 0x800;

/// How much a refused transfer tries to move: within one page, so that the fault has one address.
const LEN: usize = 64;
/// The least that is written at once: a device's transfer that goes wrong half way leaves whole pieces.
const PIECE: usize = 4;

/// A function that is attached to nothing: both ways refused, at the physical address of a page that could show it.
pub fn blocked(lab: &mut Lab<'_>, when: &str, device: &mut Device, victim: &Partition, refusal: Refusal, seed: u8) {
    let name = device.name;
    let bytes = pattern(seed);
    victim.page.write(0, &bytes);
    let Some(frame) = victim.page.extents().first().map(|extent| extent.start) else { return };
    // Both as a physical address, which bypassed translation would reach, and as the partition's own.
    for (iova, what) in [(Iova::new(frame.get()), "a physical address"), (victim.page.iova(), "a partition's address")]
    {
        for transfer in [Transfer::write(iova, LEN), Transfer::read(iova, LEN)] {
            let check = format!("{when}: {name} {}s {what}", transfer.access);
            lab.refused(&check, device, transfer, refusal, || holds(&victim.page, 0, &bytes));
        }
    }
}

/// A function of `own` at what only `other` maps.
pub fn other_partition(lab: &mut Lab<'_>, device: &mut Device, own: &Partition, other: &Partition, seed: u8) {
    let (me, them) = (own.name, other.name);
    let secret = pattern(seed);
    other.private.write(0, &secret);
    // What the device holds before: nothing of the secret.
    let harmless = pattern(seed + 1);
    lab.round_trip(&format!("{me}: fills its function"), device, &harmless, (&own.page, 0), (&own.private, 0));

    let iova = other.private.iova();
    let frame = own.private.extents().first().map(|extent| extent.start);
    lab.explain(&format!("{me}: the tables lead to its own private page"), device, own.private.iova(), frame);
    lab.explain(&format!("{me}: and not to that of {them}"), device, iova, None);
    let refusal = |access| Refusal::NotMapped(lab.stage, access);
    let (write, read) = (refusal(AccessKind::Write), refusal(AccessKind::Read));
    lab.refused(
        &format!("{me}: writes where only {them} has memory"),
        device,
        Transfer::write(iova, LEN),
        write,
        || holds(&other.private, 0, &secret),
    );
    lab.refused(&format!("{me}: reads where only {them} has memory"), device, Transfer::read(iova, LEN), read, || true);
    // Whatever a refused read left in the device, it is nothing of the other's.
    let transfer = Transfer::write(own.page.iova(), LEN);
    let frames = own.page.frames(0, LEN as u64);
    lab.moved(&format!("{me}: the refused read brought nothing"), device, transfer, &frames, || {
        !holds(&own.page, 0, &secret[..LEN])
    });
}

/// The same address in two partitions leads to the frame of each.
pub fn same_address(lab: &mut Lab<'_>, device: &mut Device, own: &Partition, other: &Partition, seed: u8) {
    let (mine, theirs) = (pattern(seed), pattern(seed + 1));
    other.page.write(0, &theirs);
    lab.round_trip(
        &format!("{}: its own frame at a shared address", own.name),
        device,
        &mine,
        (&own.large, 0),
        (&own.page, 0),
    );
    lab.report.state(
        &format!("{}: keeps what it had at that address", other.name),
        true,
        holds(&other.page, 0, &theirs) && holds(&own.page, 0, &mine),
    );
}

/// A partition's function at the hypervisor's image and at everything that the IOMMU reads, by their physical
/// addresses.
///
/// All writes come before the first read, which leaves nobody knows what in the function.
pub fn hypervisor(lab: &mut Lab<'_>, device: &mut Device, own: &Partition) {
    let Some(held) = device.held.get(..LEN).map(<[u8]>::to_vec) else {
        return lab.report.trouble(&format!("{}: foreign memory", own.name), &"what the function holds is not known");
    };
    let mut targets = Vec::new();
    targets.push((PhysAddr::new(memory::image_range().start), String::from("the image of the hypervisor")));
    lab.unit.for_each_structure(&mut |structure, frame| {
        let name = format!("the IOMMU's {structure}");
        // One of each kind; in its middle.
        if targets.iter().all(|(_, held)| *held != name) {
            targets.push((frame.wrapping_add(MIDDLE), name));
        }
    });
    for access in [AccessKind::Write, AccessKind::Read] {
        for (phys, what) in &targets {
            let transfer = Transfer { access, iova: Iova::new(phys.get()), len: LEN };
            // An address of a partition's own would be let through, to the partition's own memory.
            if own.hwpt().domain().translate(transfer.iova).is_some() {
                lab.report.trouble(&format!("{}: {what}", own.name), &"lies at an address that the partition maps");
                continue;
            }
            // SAFETY: the image and the structures of a unit that is up are RAM in use.
            let content = || unsafe { memory::peek(*phys, LEN) };
            let before = content();
            let refusal = Refusal::NotMapped(lab.stage, access);
            let check = format!("{}: {access}s {what}", own.name);
            lab.refused(&check, device, transfer, refusal, || none_arrived(&held, &before, &content()));
        }
    }
}

/// Whether memory that held `before` and now holds `now` got nothing of what a device holds. The unit itself works on
/// its queues meanwhile: a piece may have changed, but not to what the device has for it.
fn none_arrived(held: &[u8], before: &[u8], now: &[u8]) -> bool {
    held.chunks(PIECE)
        .zip(before.chunks(PIECE))
        .zip(now.chunks(PIECE))
        .all(|((held, before), now)| now == before || now != held)
}
