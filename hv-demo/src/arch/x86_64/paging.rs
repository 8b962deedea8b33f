//! The hypervisor's own page tables. Everything is mapped to itself; nothing is both writable and executable. Neither
//! page 0 nor the page below the stack is mapped.

use crate::memory::{self, Access};
use core::fmt;
use core::ops::Range;
use core::ptr::{self, NonNull};
use iommu_core::addr::{PhysAddr, PhysExtent};
use spin::Mutex;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::mapper::{MapToError, MappedFrame, Mapper, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, OffsetPageTable, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
    Translate,
};

static TABLES: Mutex<Option<OffsetPageTable<'static>>> = Mutex::new(None);

/// Memory: writable, never executable.
const WRITE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::NO_EXECUTE);
const READ: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);
const EXECUTE: PageTableFlags = PageTableFlags::PRESENT;
/// Registers: uncached, by entry 3 of the page attribute table as it is after reset.
const DEVICE: PageTableFlags = WRITE.union(PageTableFlags::NO_CACHE).union(PageTableFlags::WRITE_THROUGH);

/// Why a range was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The range is empty, wraps, holds page 0 or needs more than 47 bits.
    BadRange,
    /// Part of it is mapped already in another way.
    Conflict {
        /// The first such address.
        at: u64,
    },
    /// No frame for a table.
    OutOfMemory,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRange => f.write_str("not a range that can be mapped"),
            Self::Conflict { at } => write!(f, "{at:#x} is mapped already in another way"),
            Self::OutOfMemory => f.write_str("no memory for page tables"),
        }
    }
}

/// Builds the tables for the image and for all RAM that may be used, and goes over to them.
pub(super) fn init(memory: &[PhysExtent]) {
    let frame = TableFrames.allocate_frame().expect("no memory for page tables");
    let root: *mut PageTable = ptr::with_exposed_provenance_mut(frame.start_address().as_u64() as usize);
    // SAFETY: the frame was just allocated, and the boot tables map it to itself.
    let root = unsafe {
        root.write(PageTable::new());
        &mut *root
    };
    // SAFETY: all frames of tables come from below 4 GiB, mapped to themselves by the boot tables and by these.
    let mut tables = unsafe { OffsetPageTable::new(root, VirtAddr::zero()) };
    for (range, access) in memory::sections() {
        let flags = match access {
            Access::Execute => EXECUTE,
            Access::Read => READ,
            Access::Write => WRITE,
        };
        map(&mut tables, range, flags).expect("the image cannot be mapped");
    }
    for part in memory.iter().flat_map(|&run| memory::usable_parts(run)) {
        map(&mut tables, part, WRITE).expect("the memory cannot be mapped");
    }
    *TABLES.lock() = Some(tables);
    // SAFETY: the tables map the code that runs, its stack and all its data where they were before.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
}

/// Maps the `len` bytes of registers at `phys`, uncached, and returns where. May be called again for the same range.
///
/// # Errors
///
/// As [`MapError`] says; what of the range was mapped by then stays so.
pub fn map_device(phys: PhysAddr, len: usize) -> Result<NonNull<u8>, MapError> {
    map_on_demand(phys, len, DEVICE)
}

/// Maps the `len` bytes that firmware left at `phys` for reading, and returns where. May be called again for the same
/// range, and for memory that is mapped anyhow.
///
/// # Errors
///
/// As [`MapError`] says; what of the range was mapped by then stays so.
pub fn map_read_only(phys: PhysAddr, len: usize) -> Result<NonNull<u8>, MapError> {
    map_on_demand(phys, len, READ)
}

fn map_on_demand(phys: PhysAddr, len: usize, flags: PageTableFlags) -> Result<NonNull<u8>, MapError> {
    let start = phys.get() & !(Size4KiB::SIZE - 1);
    let end = phys.checked_add(len as u64).ok_or(MapError::BadRange)?.get();
    if start == 0 || len == 0 || end > 1 << 47 {
        return Err(MapError::BadRange);
    }
    let mut tables = TABLES.lock();
    let tables = tables.as_mut().expect("the page tables are not there yet");
    map(tables, start..end.next_multiple_of(Size4KiB::SIZE), flags)?;
    NonNull::new(ptr::with_exposed_provenance_mut(phys.get() as usize)).ok_or(MapError::BadRange)
}

/// Maps whole pages to themselves, the largest that fit. Skips what is mapped in the same way already.
fn map(tables: &mut OffsetPageTable<'_>, range: Range<u64>, flags: PageTableFlags) -> Result<(), MapError> {
    let mut at = range.start;
    while at < range.end {
        let left = range.end - at;
        let fits = |size: u64| at.is_multiple_of(size) && left >= size;
        at += if let Some(size) = present(tables, at, flags)? {
            size - at % size
        } else if fits(Size1GiB::SIZE) && map_page::<Size1GiB>(tables, at, flags)? {
            Size1GiB::SIZE
        } else if fits(Size2MiB::SIZE) && map_page::<Size2MiB>(tables, at, flags)? {
            Size2MiB::SIZE
        } else if map_page::<Size4KiB>(tables, at, flags)? {
            Size4KiB::SIZE
        } else {
            return Err(MapError::Conflict { at });
        };
    }
    Ok(())
}

/// The size of the page that maps `at` as `flags` ask for; `None` where nothing is mapped.
fn present(tables: &OffsetPageTable<'_>, at: u64, wanted: PageTableFlags) -> Result<Option<u64>, MapError> {
    let TranslateResult::Mapped { frame, flags, .. } = tables.translate(VirtAddr::new(at)) else { return Ok(None) };
    let device = PageTableFlags::NO_CACHE | PageTableFlags::WRITE_THROUGH;
    let enough = (flags & wanted).contains(wanted & !PageTableFlags::NO_EXECUTE);
    if !enough || flags & device != wanted & device {
        return Err(MapError::Conflict { at });
    }
    Ok(Some(match frame {
        MappedFrame::Size4KiB(_) => Size4KiB::SIZE,
        MappedFrame::Size2MiB(_) => Size2MiB::SIZE,
        MappedFrame::Size1GiB(_) => Size1GiB::SIZE,
    }))
}

/// Maps one page to itself; false where smaller pages are in its place or the CPU has none of this size.
fn map_page<S: PageSize>(tables: &mut OffsetPageTable<'_>, at: u64, flags: PageTableFlags) -> Result<bool, MapError>
where
    for<'a> OffsetPageTable<'a>: Mapper<S>,
{
    if S::SIZE == Size1GiB::SIZE && !has_huge_pages() {
        return Ok(false);
    }
    let frame = PhysFrame::<S>::containing_address(x86_64::PhysAddr::new(at));
    // SAFETY: nothing was mapped here before, so nothing in use changes; and all that is mapped is mapped to itself, so
    // there is one way only to reach it.
    match unsafe { tables.identity_map(frame, flags, &mut TableFrames) } {
        Ok(flush) => {
            flush.flush();
            Ok(true)
        }
        Err(MapToError::FrameAllocationFailed) => Err(MapError::OutOfMemory),
        Err(MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage) => Ok(false),
    }
}

fn has_huge_pages() -> bool {
    core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 26 != 0
}

/// Frames for tables, from below 4 GiB, where the boot tables reach.
struct TableFrames;

// SAFETY: the frames are allocated, so nobody else has them.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = memory::alloc_frames(0, 32)?;
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(frame.get())))
    }
}
