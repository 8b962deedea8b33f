//! Frames in chains whose links stand in the frames themselves, so that they need no memory and cannot fail.
//!
//! The link stands in entry 0: the physical address of the next frame with bit 63 set, or 0 at the end. Entry 1 holds a
//! number, the *ticket* of the gather that a retired frame waits for, shifted so that its low 12 bits are zero like those
//! of the link. In every format such values read as entries that are not present: hardware that still walks a frame of a
//! chain finds nothing in these two entries, and in the others what stood there.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use iommu_core::addr::PhysAddr;
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// Entry that holds the link.
const LINK: usize = 0;
/// Entry that holds the ticket.
const TICKET: usize = 1;
/// How far the ticket is shifted. Numbers of more than 52 bits are not reached in the lifetime of a machine.
const TICKET_SHIFT: u32 = 12;
/// Set in a link that leads somewhere: 0 may be the address of a frame.
const SOME: u64 = 1 << 63;

fn link_to(phys: PhysAddr) -> u64 {
    phys.get() | SOME
}

fn follow(link: u64) -> Option<PhysAddr> {
    (link & SOME != 0).then(|| PhysAddr::new(link & !SOME))
}

/// A chain of one owner.
#[derive(Default)]
pub(crate) struct Chain {
    link: u64,
}

impl Chain {
    /// Puts `frame` in as the new head.
    pub(crate) fn push<H: Hal + ?Sized>(&mut self, frame: &Frame<'_, H>) {
        frame.store(LINK, self.link);
        self.link = link_to(frame.phys());
    }

    /// The frame put in last.
    pub(crate) fn head(&self) -> Option<PhysAddr> {
        follow(self.link)
    }

    /// Takes the head `frame` out, and returns the ticket that it was retired under. Both words stay where they are.
    pub(crate) fn pop<H: Hal + ?Sized>(&mut self, frame: &Frame<'_, H>) -> u64 {
        self.link = frame.load(LINK);
        frame.load(TICKET) >> TICKET_SHIFT
    }
}

/// Makes the entries that a chain has used in `frame` zero again.
pub(crate) fn wipe<H: Hal + ?Sized>(frame: &Frame<'_, H>) {
    // Not cleaned: where link and ticket did reach memory, they read as not present.
    frame.store(LINK, 0);
    frame.store(TICKET, 0);
}

/// The frames of one table that were taken out of it and that hardware may still walk. Any CPU may put frames in at any
/// time.
#[derive(Default)]
pub(crate) struct Retired {
    link: AtomicU64,
    count: AtomicUsize,
    /// Somebody is sorting the chain. Whoever would as well has to wait: frames could be missed otherwise.
    sorting: AtomicBool,
}

impl Retired {
    /// How many frames wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Puts `frame` in under `ticket`. What its first two entries held is lost.
    pub(crate) fn push<H: Hal + ?Sized>(&self, frame: &Frame<'_, H>, ticket: u64) {
        // Not cleaned: a walker that does not snoop may go on to see what stood there.
        frame.store(TICKET, ticket << TICKET_SHIFT);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.link_in(frame);
    }

    fn link_in<H: Hal + ?Sized>(&self, frame: &Frame<'_, H>) {
        let mut head = self.link.load(Ordering::Relaxed);
        loop {
            frame.store(LINK, head);
            // Frames are only ever taken out all at once, so an old head that stands here again is the same chain.
            match self.link.compare_exchange_weak(head, link_to(frame.phys()), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => head = other,
            }
        }
    }

    /// Takes out every frame with this ticket and hands it to `free`; `view` makes the view of a frame.
    pub(crate) fn take<'t, H: Hal + ?Sized + 't>(
        &self,
        hal: &H,
        ticket: u64,
        view: impl Fn(PhysAddr) -> Frame<'t, H>,
        mut free: impl FnMut(PhysAddr),
    ) {
        while self.sorting.swap(true, Ordering::Acquire) {
            hal.relax();
        }
        let mut left = Chain { link: self.link.swap(0, Ordering::Acquire) };
        while let Some(head) = left.head() {
            let frame = view(head);
            if left.pop(&frame) == ticket {
                self.count.fetch_sub(1, Ordering::Relaxed);
                free(head);
            } else {
                // Another gather's.
                self.link_in(&frame);
            }
        }
        self.sorting.store(false, Ordering::Release);
    }

    /// Takes out every frame.
    pub(crate) fn take_all(&mut self) -> Chain {
        *self.count.get_mut() = 0;
        Chain { link: core::mem::take(self.link.get_mut()) }
    }
}
