//! The hypervisor's own page tables. Everything is mapped to itself; nothing is both writable and executable. Neither
//! page 0 nor the page below the stack is mapped.

use crate::memory::{self, Access};
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ReadWriteable, SCTLR_EL2};
use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El23Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El2, MemoryRegion, PAGE_SIZE, PageTable, Translation};
use core::arch::asm;
use core::fmt;
use core::ops::Range;
use core::ptr::{self, NonNull};
use iommu_core::addr::{PhysAddr, PhysExtent};
use spin::Mutex;

static TABLES: Mutex<Option<Tables>> = Mutex::new(None);

type Tables = Mapping<TableFrames, El2>;

/// 48 bits of addresses, as boot.s has set TCR_EL2 up.
const ROOT_LEVEL: usize = 0;
const ADDRESS_BITS: u32 = 48;
/// The boot tables reach that far, and so do frames of tables.
const TABLE_BITS: u8 = 31;

/// What every leaf has. The user's bit is one at EL2; attribute 0 is memory, write-back.
const READ: El23Attributes = El23Attributes::VALID
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::USER_RES1)
    .union(El23Attributes::INNER_SHAREABLE)
    .union(El23Attributes::READ_ONLY)
    .union(El23Attributes::XN);
const EXECUTE: El23Attributes = READ.difference(El23Attributes::XN);
/// Memory: writable, never executable.
const WRITE: El23Attributes = READ.difference(El23Attributes::READ_ONLY);
/// Registers: attribute 1 is device-nGnRE.
const DEVICE: El23Attributes =
    WRITE.difference(El23Attributes::INNER_SHAREABLE).union(El23Attributes::ATTRIBUTE_INDEX_1);

/// Why a range was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The range is empty, wraps, holds page 0 or needs more than 48 bits.
    BadRange,
    /// Part of it is mapped already in another way.
    Conflict {
        /// The first such address.
        at: u64,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRange => f.write_str("not a range that can be mapped"),
            Self::Conflict { at } => write!(f, "{at:#x} is mapped already in another way"),
        }
    }
}

/// Builds the tables for the image and for all RAM that may be used, and goes over to them.
pub(super) fn init(memory: &[PhysExtent]) {
    let mut tables = Mapping::new(TableFrames, ROOT_LEVEL, El2);
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
    // SAFETY: the tables map the code that runs, its stack and all its data where they were before.
    unsafe { tables.activate() };
    // SAFETY: drops what is cached of the boot tables; what replaces it is mapped alike, or not at all.
    unsafe { asm!("tlbi alle2", "dsb nsh", "isb", options(nostack, preserves_flags)) };
    // From here on the CPU itself takes every writable page as not executable.
    SCTLR_EL2.modify(SCTLR_EL2::WXN::Enable);
    barrier::isb(barrier::SY);
    *TABLES.lock() = Some(tables);
}

/// Maps the `len` bytes of registers at `phys` as device-nGnRE, and returns where. May be called again for the same
/// range.
///
/// # Errors
///
/// As [`MapError`] says: nothing has changed.
pub fn map_device(phys: PhysAddr, len: usize) -> Result<NonNull<u8>, MapError> {
    map_on_demand(phys, len, DEVICE)
}

/// Maps the `len` bytes that the loader left at `phys` for reading, and returns where. May be called again for the same
/// range.
///
/// # Errors
///
/// As [`MapError`] says: nothing has changed.
pub fn map_read_only(phys: PhysAddr, len: usize) -> Result<NonNull<u8>, MapError> {
    map_on_demand(phys, len, READ)
}

fn map_on_demand(phys: PhysAddr, len: usize, flags: El23Attributes) -> Result<NonNull<u8>, MapError> {
    let start = phys.get() & !(PAGE_SIZE as u64 - 1);
    let end = phys.checked_add(len as u64).ok_or(MapError::BadRange)?.get();
    if start == 0 || len == 0 || end > 1 << ADDRESS_BITS {
        return Err(MapError::BadRange);
    }
    let mut tables = TABLES.lock();
    let tables = tables.as_mut().expect("the page tables are not there yet");
    map(tables, start..end.next_multiple_of(PAGE_SIZE as u64), flags)?;
    NonNull::new(ptr::with_exposed_provenance_mut(phys.get() as usize)).ok_or(MapError::BadRange)
}

/// Maps whole pages to themselves, in the largest blocks that fit. What is mapped in the same way already stays.
fn map(tables: &mut Tables, range: Range<u64>, flags: El23Attributes) -> Result<(), MapError> {
    if range.is_empty() {
        return Ok(());
    }
    let mut gap = range.start;
    // Runs that are not mapped yet: looked for first, so that a conflict changes nothing.
    while let Some(run) = next_hole(tables, gap..range.end, flags)? {
        gap = run.end;
    }
    let mut at = range.start;
    while let Some(run) = next_hole(tables, at..range.end, flags)? {
        let region = MemoryRegion::new(run.start as usize, run.end as usize);
        tables
            .map_range(&region, PhysicalAddress(run.start as usize), flags, Constraints::NO_CONTIGUOUS_HINT)
            .map_err(|_| MapError::Conflict { at: run.start })?;
        at = run.end;
    }
    Ok(())
}

/// The first run of `range` that nothing maps.
fn next_hole(tables: &Tables, range: Range<u64>, wanted: El23Attributes) -> Result<Option<Range<u64>>, MapError> {
    let (mut hole, mut conflict): (Option<Range<u64>>, _) = (None, None);
    if range.is_empty() {
        return Ok(None);
    }
    // An error of the closure only ends the walk early.
    let _ = tables.walk_range(&MemoryRegion::new(range.start as usize, range.end as usize), &mut |part, entry, _| {
        let (start, end) = (part.start().0 as u64, part.end().0 as u64);
        if entry.is_valid() {
            // A page has a bit that a block has not.
            if entry.flags().difference(El23Attributes::TABLE_OR_PAGE) != wanted {
                conflict.get_or_insert(start);
                return Err(());
            }
            return if hole.is_some() { Err(()) } else { Ok(()) };
        }
        match &mut hole {
            Some(found) => found.end = end,
            None => hole = Some(start..end),
        }
        Ok(())
    });
    conflict.map_or(Ok(hole), |at| Err(MapError::Conflict { at }))
}

/// Frames for tables, from where the boot tables reach.
#[derive(Debug)]
struct TableFrames;

impl Translation<El23Attributes> for TableFrames {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El23Attributes>>, PhysicalAddress) {
        let frame = memory::alloc_frames(0, TABLE_BITS).expect("no memory for page tables");
        let phys = PhysicalAddress(frame.get() as usize);
        let table = self.physical_to_virtual(phys);
        // SAFETY: the frame was just allocated, and both the boot tables and these map it to itself.
        unsafe { table.write(PageTable::EMPTY) };
        (table, phys)
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El23Attributes>>) {
        // SAFETY: the caller promises that the table came from `allocate_table` and is in use no more.
        unsafe { memory::free_frames(PhysAddr::new(table.addr().get() as u64), 0) };
    }

    fn physical_to_virtual(&self, phys: PhysicalAddress) -> NonNull<PageTable<El23Attributes>> {
        // Page 0 is never allocated.
        NonNull::new(ptr::with_exposed_provenance_mut(phys.0)).unwrap_or(NonNull::dangling())
    }
}
