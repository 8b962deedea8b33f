//! Frames in a chain whose links stand in the frames themselves, so that it needs no memory and cannot fail.
//!
//! The link is the physical address of the next frame and stands in entry 0. Its low 12 bits are zero, so in every
//! format it reads as an entry that is not present: hardware that still walks a frame of the chain finds in entry 0
//! nothing, and in the others what stood there.

use iommu_core::addr::PhysAddr;
use iommu_core::hw::FreedFrames;
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// `chain` with `frame` as its new head. What entry 0 of the frame held is lost.
pub(crate) fn push<H: Hal + ?Sized>(chain: FreedFrames, frame: &Frame<'_, H>) -> FreedFrames {
    // Not cleaned: a walker that does not snoop may go on to see what stood there.
    frame.store(0, chain.head.map_or(0, PhysAddr::get));
    FreedFrames { head: Some(frame.phys()), count: chain.count + 1 }
}

/// `chain` without its head `frame`. The link stays in entry 0.
pub(crate) fn pop<H: Hal + ?Sized>(chain: FreedFrames, frame: &Frame<'_, H>) -> FreedFrames {
    // The count ends the chain, not the link: 0 may be the address of a frame.
    match chain.count {
        0 | 1 => FreedFrames::default(),
        count => FreedFrames { head: Some(PhysAddr::new(frame.load(0))), count: count - 1 },
    }
}
