//! What the core's own records take: bytes of the heap, and what it says of itself.

use crate::common::host;
use crate::domains::Kind;
use crate::measure::filled;
use crate::spaces::{Ours, Space};
use crate::work::{GIB, KIB, Order, places};
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::hw::Prot;
use iommu_core::ioas::Placement;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// The system's allocator, which counts where it is told to.
pub struct Heap;

static COUNTS: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicIsize = AtomicIsize::new(0);

fn note(bytes: isize) {
    if COUNTS.load(Ordering::Relaxed) {
        BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller promises the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: the caller promises the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as isize - layout.size() as isize);
        // SAFETY: the caller promises the same.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Bytes of the heap that `work` leaves taken.
fn taken<T>(work: impl FnOnce() -> T) -> (T, isize) {
    BYTES.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::Relaxed);
    let result = work();
    COUNTS.store(false, Ordering::Relaxed);
    (result, BYTES.load(Ordering::Relaxed))
}

/// One thing that takes memory.
#[derive(Clone, Debug)]
pub struct MemoryLine {
    /// What it is.
    pub what: &'static str,
    /// How many there are of it.
    pub count: u64,
    /// Bytes of the heap for all.
    pub heap: isize,
    /// Frames of page tables for all.
    pub frames: usize,
}

impl MemoryLine {
    /// Bytes of the heap for one.
    pub fn each(&self) -> f64 {
        self.heap as f64 / self.count as f64
    }
}

/// Maps extents and measures what that leaves taken.
fn mapped(space: &mut Ours, iova: u64, extents: &[PhysExtent]) -> (isize, usize) {
    let frames = host::taken();
    let at = Placement::Fixed(Iova::new(iova));
    let (_, heap) = taken(|| space.ioas.map_extents(extents, at, Prot::READ_WRITE).expect("free"));
    (heap, host::taken() - frames)
}

/// All that is of interest, among `areas` areas where it is about many.
pub fn lines(areas: usize) -> Vec<MemoryLine> {
    let kind = Kind::SecondStage;
    let mut lines = Vec::new();
    let line = |what, count, (heap, frames)| MemoryLine { what, count, heap, frames };

    for (what, order) in
        [("area of 1 page, made in sequence", Order::Sequential), ("area of 1 page, random", Order::Random)]
    {
        let ((space, there), heap) = taken(|| filled(Kind::Null, order, areas));
        // The list of places is not the core's.
        let list = (there.capacity() * size_of::<(u64, u64)>()) as isize;
        lines.push(line(what, areas as u64, (heap - list, 0)));
        if order == Order::Random {
            continue;
        }
        drop(space);
        let (mut space, _) = filled(kind, order, areas);
        // So many that room which is left in pieces of memory hardly counts.
        let many = (areas / 10).max(100);
        let all = places(order, areas, GIB, many);
        let frames = host::taken();
        let (_, heap) = taken(|| all.iter().for_each(|(iova, phys)| space.map(*iova, *phys, GIB)));
        let taken = (heap, host::taken() - frames);
        lines.push(line("contiguous GiB, beside many areas", many as u64, taken));
    }

    let mut space = Ours::new(kind);
    let first = mapped(&mut space, GIB, &[PhysExtent::new(PhysAddr::new(GIB), GIB)]);
    lines.push(line("contiguous GiB, the first of an address space", 1, first));

    let pages = GIB / (4 * KIB);
    let scattered: Vec<_> =
        (0..pages).map(|page| PhysExtent::new(PhysAddr::new((page * 7 % pages) * 8 * KIB), 4 * KIB)).collect();
    let taken = mapped(&mut space, 2 * GIB, &scattered);
    lines.push(line("frame of 4 KiB in a scattered GiB", pages, taken));
    lines.push(line("GiB of scattered frames of 4 KiB", 1, taken));

    // Of one page and of two by turns, so that the length of each must be known.
    let uneven: Vec<_> = (0..1000).map(|run| (run * 16 * KIB, (1 + run % 2) * 4 * KIB)).collect();
    let uneven: Vec<_> = uneven.into_iter().map(|(start, len)| PhysExtent::new(PhysAddr::new(start), len)).collect();
    let taken = mapped(&mut space, 4 * GIB, &uneven);
    lines.push(line("extent of 1000 of two lengths", 1000, taken));
    lines
}
