//! The hypervisor's memory: where the image lies, who owns which frame, the heap. All of it is mapped to itself.

mod frames;
mod heap;
mod image;
mod ram;

pub use frames::{alloc_frames, free_bytes, free_frames, init as init_frames};
pub use heap::init as init_heap;
pub use image::{Access, image_range, sections};
pub use ram::{Ram, peek};

use core::ops::Range;
use iommu_core::addr::{PAGE_SIZE, PhysExtent};

/// Below this firmware and old hardware have their places; nothing is taken from there.
const FIRST_USED: u64 = 1 << 20;

/// The parts of a run of RAM that may be used: whole pages, above the first MiB, without the image. Either may be empty.
pub fn usable_parts(run: PhysExtent) -> [Range<u64>; 2] {
    let start = run.start.get().max(FIRST_USED).next_multiple_of(PAGE_SIZE);
    let end = run.start.get().saturating_add(run.len) & !(PAGE_SIZE - 1);
    let image = image_range();
    if image.end <= start || end <= image.start {
        return [start..end, end..end];
    }
    [start..image.start, image.end..end]
}
