//! PVH's boot information, and what the ACPI tables add to it.

use super::acpi;
use crate::platform::{PciHost, Platform};
use alloc::vec::Vec;
use core::ptr;
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_discovery::mcfg::Mcfg;
use spin::Once;

/// How many runs of RAM are kept. QEMU lists two or three, boards some dozens.
const MAX_RUNS: usize = 64;
/// The longest command line that is kept, in bytes.
const MAX_CMDLINE: usize = 2048;
/// The loader's mark in its structure.
const MAGIC: u32 = 0x336e_c578;
/// The type of an entry of the memory map that is RAM.
const TYPE_RAM: u32 = 1;

/// `hvm_start_info` of Xen's public headers, version 1.
#[derive(Clone, Copy)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    cmdline: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_memmap_table_entry`.
#[derive(Clone, Copy)]
#[repr(C)]
struct MapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<StartInfo>() == 56 && size_of::<MapEntry>() == 24);

/// A copy of what the loader left: its own lies in memory that will be handed out.
pub(super) struct BootInformation {
    runs: [PhysExtent; MAX_RUNS],
    run_count: usize,
    rsdp: u64,
    cmdline: [u8; MAX_CMDLINE],
    cmdline_len: usize,
}

impl BootInformation {
    /// The runs of RAM.
    pub(super) fn memory(&self) -> &[PhysExtent] {
        &self.runs[..self.run_count]
    }
}

/// Copies the boot information at physical address `start_info`.
///
/// # Safety
///
/// The address is the one that a PVH loader passed, nothing has overwritten what it points to, and the first 4 GiB are
/// mapped to themselves.
pub(super) unsafe fn read_boot_information(start_info: u64) -> &'static BootInformation {
    static COPY: Once<BootInformation> = Once::new();
    COPY.call_once(|| {
        // SAFETY: as the caller promises.
        let info: StartInfo = unsafe { read(start_info) };
        assert!(info.magic == MAGIC && info.version >= 1, "no PVH start information with a memory map");
        let mut copy = BootInformation {
            runs: [PhysExtent::new(PhysAddr::new(0), 0); MAX_RUNS],
            run_count: 0,
            rsdp: info.rsdp,
            cmdline: [0; MAX_CMDLINE],
            cmdline_len: 0,
        };
        for index in 0..u64::from(info.memory_map_entries) {
            // SAFETY: as the caller promises; the loader's table has this many entries.
            let entry: MapEntry = unsafe { read(info.memory_map + index * size_of::<MapEntry>() as u64) };
            if entry.kind == TYPE_RAM && copy.run_count < MAX_RUNS {
                copy.runs[copy.run_count] = PhysExtent::new(PhysAddr::new(entry.address), entry.size);
                copy.run_count += 1;
            }
        }
        if info.cmdline != 0 {
            for (index, slot) in copy.cmdline.iter_mut().enumerate() {
                // SAFETY: as the caller promises; the string ends with a zero, at which this stops.
                *slot = unsafe { read(info.cmdline + index as u64) };
                if *slot == 0 {
                    break;
                }
                copy.cmdline_len += 1;
            }
        }
        copy
    })
}

/// Reads a `T` at a physical address that is mapped to itself.
///
/// # Safety
///
/// There is a valid `T` there.
unsafe fn read<T: Copy>(address: u64) -> T {
    // SAFETY: as the caller promises; alignment is not asked for.
    unsafe { ptr::read_unaligned(ptr::with_exposed_provenance(address as usize)) }
}

/// The platform: the boot information and the firmware's tables.
pub(super) fn discover(boot: &'static BootInformation) -> Platform {
    let cmdline = core::str::from_utf8(&boot.cmdline[..boot.cmdline_len]).unwrap_or_else(|error| {
        println!("the command line is cut where it is no longer text");
        let valid = &boot.cmdline[..error.valid_up_to()];
        core::str::from_utf8(valid).unwrap_or_default()
    });
    let rsdp = (boot.rsdp != 0).then(|| PhysAddr::new(boot.rsdp));
    let tables = rsdp.map(|rsdp| {
        // SAFETY: the loader found the RSDP there, and the firmware's tables are where they were.
        unsafe { acpi::find(rsdp) }
    });
    let tables = tables.unwrap_or_default();
    let ecam = tables.mcfg.map(Mcfg::parse).transpose().unwrap_or_else(|error| {
        println!("MCFG: {error}");
        None
    });
    let hosts =
        ecam.map_or_else(Vec::new, |mcfg| mcfg.regions().iter().map(|&ecam| PciHost { ecam, windows: None }).collect());
    Platform { memory: boot.memory(), rsdp, hosts, dmar: tables.dmar, devicetree: None, cmdline }
}
