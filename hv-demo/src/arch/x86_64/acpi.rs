//! Where the ACPI tables are that matter here. What they say is `iommu-discovery`'s to read and check.

use super::paging;
use ::acpi::sdt::{SdtHeader, Signature};
use ::acpi::{AcpiHandler, AcpiResult, AcpiTable, AcpiTables, PhysicalMapping};
use core::mem::ManuallyDrop;
use core::slice;
use iommu_core::addr::PhysAddr;

/// The raw bytes of tables, header included, checksums not checked; `None` for those that are absent.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tables {
    /// Where PCI configuration space lies.
    pub mcfg: Option<&'static [u8]>,
    /// The VT-d units.
    pub dmar: Option<&'static [u8]>,
}

/// Finds the tables. Prints why where there are none at all.
///
/// # Safety
///
/// The firmware put an RSDP at `rsdp`, and tables where it and the root table say.
pub unsafe fn find(rsdp: PhysAddr) -> Tables {
    // SAFETY: as the caller promises; the handler maps what it is asked for.
    match unsafe { AcpiTables::from_rsdp(Mapper, rsdp.get() as usize) } {
        Ok(tables) => Tables { mcfg: bytes_of::<Mcfg>(&tables), dmar: bytes_of::<Dmar>(&tables) },
        Err(error) => {
            println!("ACPI: no root table: {error:?}");
            Tables::default()
        }
    }
}

fn bytes_of<T: AcpiTable>(tables: &AcpiTables<Mapper>) -> Option<&'static [u8]> {
    // Mappings are never taken away, so the table stays where it is.
    let table = ManuallyDrop::new(tables.find_table::<T>().ok()?);
    let start = table.virtual_start().cast::<u8>();
    // SAFETY: the table is mapped for this length and for good, and nobody writes to it.
    Some(unsafe { slice::from_raw_parts(start.as_ptr(), table.region_length()) })
}

macro_rules! raw_table {
    ($($name:ident $signature:ident)*) => { $(
        #[repr(transparent)]
        struct $name(SdtHeader);

        // SAFETY: every table begins with this header, and nothing else of it is read through this type.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = Signature::$signature;

            fn header(&self) -> &SdtHeader {
                &self.0
            }

            /// Takes any table of this name: whoever parses one with a bad checksum reports it; here it would vanish.
            fn validate(&self) -> AcpiResult<()> {
                Ok(())
            }
        }
    )* };
}

raw_table! { Mcfg MCFG Dmar DMAR }

/// Maps tables to themselves, read-only and for good.
#[derive(Clone, Copy)]
struct Mapper;

impl AcpiHandler for Mapper {
    unsafe fn map_physical_region<T>(&self, physical_address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let start = match paging::map_read_only(PhysAddr::new(physical_address as u64), size) {
            Ok(start) => start,
            Err(error) => panic!("ACPI table at {physical_address:#x}: {error}"),
        };
        // SAFETY: the range has just been mapped.
        unsafe { PhysicalMapping::new(physical_address, start.cast(), size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}
