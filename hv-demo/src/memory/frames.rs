//! Who owns which frame: one buddy allocator below 4 GiB and one above, so that small things, which come from below,
//! do not break up the runs of 1 GiB above.
//!
//! The bookkeeping lies outside of the frames it is about: a device that wrongly writes to a free frame breaks nothing.

use super::{heap, usable_parts};
use buddy_system_allocator::FrameAllocator;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_core::addr::{PAGE_SIZE, PhysAddr, PhysExtent};
use spin::Mutex;

/// Runs of up to 2^18 frames: 1 GiB.
const MAX_ORDER: u8 = 18;
/// Width of an address below the border between the two, in bits.
const LOW_BITS: u8 = 32;
const BORDER: u64 = 1 << LOW_BITS;

type Zone = FrameAllocator<{ MAX_ORDER as usize + 1 }>;

static LOW: Mutex<Zone> = Mutex::new(Zone::new());
static HIGH: Mutex<Zone> = Mutex::new(Zone::new());
static FREE: AtomicU64 = AtomicU64::new(0);

/// Takes over all RAM that may be used. To be called once, with the heap not yet there.
pub fn init(memory: &[PhysExtent]) {
    for part in memory.iter().flat_map(|&run| usable_parts(run)) {
        let low = part.start..part.end.min(BORDER);
        let high = part.start.max(BORDER)..part.end;
        for (zone, range) in [(&LOW, low), (&HIGH, high)] {
            if range.is_empty() {
                continue;
            }
            let frames = (range.start / PAGE_SIZE) as usize..(range.end / PAGE_SIZE) as usize;
            heap::with_bookkeeping(|| zone.lock().insert(frames));
            FREE.fetch_add(range.end - range.start, Ordering::Relaxed);
        }
    }
}

/// Allocates 2^`order` frames, contiguous and aligned to their size, every byte below 2^`below_bits`; from below 4 GiB
/// as long as there are any. Their content is whatever it was. `None` where there are none.
pub fn alloc_frames(order: u8, below_bits: u8) -> Option<PhysAddr> {
    if order > MAX_ORDER {
        return None;
    }
    let found = take(&LOW, order, below_bits);
    if found.is_none() && below_bits > LOW_BITS { take(&HIGH, order, below_bits) } else { found }
}

/// Gives frames back.
///
/// # Safety
///
/// They came from [`alloc_frames`] with the same `order`, were not freed since, and nobody will touch them again.
pub unsafe fn free_frames(frames: PhysAddr, order: u8) {
    let zone = if frames.get() < BORDER { &LOW } else { &HIGH };
    heap::with_bookkeeping(|| zone.lock().dealloc((frames.get() / PAGE_SIZE) as usize, 1 << order));
    FREE.fetch_add(PAGE_SIZE << order, Ordering::Relaxed);
}

/// How many bytes are free.
pub fn free_bytes() -> u64 {
    FREE.load(Ordering::Relaxed)
}

fn take(zone: &Mutex<Zone>, order: u8, below_bits: u8) -> Option<PhysAddr> {
    let mut zone = zone.lock();
    heap::with_bookkeeping(|| {
        let frame = zone.alloc(1 << order)?;
        let start = frame as u64 * PAGE_SIZE;
        let last = start + (PAGE_SIZE << order) - 1;
        if below_bits < 64 && last >> below_bits != 0 {
            // The allocator knows no upper bound. It hands out the lowest run that fits best, so a bound below the
            // zone's own is met where the zone is little used, and else refused.
            zone.dealloc(frame, 1 << order);
            return None;
        }
        FREE.fetch_sub(PAGE_SIZE << order, Ordering::Relaxed);
        Some(PhysAddr::new(start))
    })
}
