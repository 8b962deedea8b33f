//! Frames in a chain whose links stand in the frames themselves, so that it needs no memory and cannot fail.
//!
//! The link is the physical address of the next frame and stands in entry 0; entry 1 holds a number, the frame's
//! *ticket*, shifted so that its low 12 bits are zero like those of the link. In every format such values read as entries
//! that are not present: hardware that still walks a frame of the chain finds nothing in these two entries, and in the
//! others what stood there.

use iommu_core::addr::PhysAddr;
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// Entry that holds the link.
const LINK: usize = 0;
/// Entry that holds the ticket.
const TICKET: usize = 1;
/// How far the ticket is shifted. Numbers of more than 52 bits are not reached in the lifetime of a machine.
const TICKET_SHIFT: u32 = 12;

/// A chain of frames. The count ends it, not the link: 0 may be the address of a frame.
#[derive(Clone, Copy, Default)]
pub(crate) struct Chain {
    /// The frame put in last.
    pub(crate) head: Option<PhysAddr>,
    /// How many frames it holds.
    pub(crate) count: usize,
}

impl Chain {
    /// Puts `frame` in as the new head, under `ticket`. What its first two entries held is lost.
    pub(crate) fn push<H: Hal + ?Sized>(&mut self, frame: &Frame<'_, H>, ticket: u64) {
        // Not cleaned: a walker that does not snoop may go on to see what stood there.
        frame.store(LINK, self.head.map_or(0, PhysAddr::get));
        frame.store(TICKET, ticket << TICKET_SHIFT);
        *self = Self { head: Some(frame.phys()), count: self.count + 1 };
    }

    /// Takes the head `frame` out, and returns its ticket. Link and ticket stay where they are.
    pub(crate) fn pop<H: Hal + ?Sized>(&mut self, frame: &Frame<'_, H>) -> u64 {
        *self = match self.count {
            0 | 1 => Self::default(),
            count => Self { head: Some(PhysAddr::new(frame.load(LINK))), count: count - 1 },
        };
        frame.load(TICKET) >> TICKET_SHIFT
    }
}

/// Makes the entries that a chain has used in `frame` zero again.
pub(crate) fn wipe<H: Hal + ?Sized>(frame: &Frame<'_, H>) {
    // Not cleaned: where link and ticket did reach memory, they read as not present.
    frame.store(LINK, 0);
    frame.store(TICKET, 0);
}
