//! What the devicetree says that the loader left.

use super::paging;
use crate::platform::{PciHost, Platform};
use alloc::vec::Vec;
use core::ptr;
use core::slice;
use iommu_core::addr::{PhysAddr, PhysExtent};
use iommu_discovery::devicetree::{DeviceTree, HEADER_LEN, Streams};
use spin::Once;

/// How many runs of RAM are kept. QEMU has one, boards some dozens.
const MAX_RUNS: usize = 64;
/// The longest devicetree that is believed, in bytes. QEMU's blob has 1 MiB, most of it empty.
const MAX_TREE: usize = 2 << 20;

unsafe extern "C" {
    /// The start of RAM, by the linker script: where QEMU leaves the tree for an image that is no Linux kernel, and
    /// passes no address of it.
    static __ram_start: u8;
}

/// What is needed before there is a heap.
pub(super) struct BootInformation {
    tree: &'static [u8],
    runs: [PhysExtent; MAX_RUNS],
    run_count: usize,
    serial_ports: [Option<PhysAddr>; 2],
}

impl BootInformation {
    /// The runs of RAM that nothing is reserved in. The tree lies in none of them.
    pub(super) fn memory(&self) -> &[PhysExtent] {
        &self.runs[..self.run_count]
    }

    /// The PL011s for text and for records.
    pub(super) fn serial_ports(&self) -> [Option<PhysAddr>; 2] {
        self.serial_ports
    }

    fn add(&mut self, run: PhysExtent) {
        if run.len != 0 && self.run_count < MAX_RUNS {
            self.runs[self.run_count] = run;
            self.run_count += 1;
        }
    }

    /// Takes `hole` out of the runs.
    fn cut(&mut self, hole: PhysExtent) {
        let (start, end) = (hole.start.get(), hole.start.get().saturating_add(hole.len));
        for index in 0..self.run_count {
            let run = self.runs[index];
            let run_end = run.start.get().saturating_add(run.len);
            if end <= run.start.get() || run_end <= start {
                continue;
            }
            // What is left of it stays, and what is right of it becomes a run of its own.
            self.runs[index].len = start.saturating_sub(run.start.get());
            self.add(PhysExtent::new(PhysAddr::new(end), run_end.saturating_sub(end)));
        }
        // A run of which nothing is left gives its place to the last one.
        while let Some(index) = self.memory().iter().position(|run| run.len == 0) {
            self.run_count -= 1;
            self.runs[index] = self.runs[self.run_count];
        }
    }
}

/// Reads what the loader left: the devicetree at physical address `given` or, where that is 0, at the start of RAM.
///
/// # Safety
///
/// `given` is what the loader passed, nothing has overwritten the tree, and the GiB that holds it is mapped to itself.
pub(super) unsafe fn read_boot_information(given: u64) -> &'static BootInformation {
    static BOOT: Once<BootInformation> = Once::new();
    BOOT.call_once(|| {
        let address = if given == 0 { (&raw const __ram_start).addr() } else { given as usize };
        let header: *const [u8; HEADER_LEN] = ptr::with_exposed_provenance(address);
        // SAFETY: as the caller promises there is RAM, of which any bytes will do.
        let len = DeviceTree::len_in_header(unsafe { &*header }).expect("no devicetree");
        assert!(len <= MAX_TREE, "the devicetree is too long");
        // SAFETY: as the caller promises, the tree is there; it is kept out of the memory that is handed out, and
        // mapped read-only again once there are tables.
        let tree = unsafe { slice::from_raw_parts(header.cast(), len) };
        read(tree, PhysExtent::new(PhysAddr::new(address as u64), len as u64))
    })
}

fn read(bytes: &'static [u8], place: PhysExtent) -> BootInformation {
    let tree = DeviceTree::parse(bytes).unwrap_or_else(|error| panic!("{error}"));
    let mut boot = BootInformation {
        tree: bytes,
        runs: [PhysExtent::new(PhysAddr::new(0), 0); MAX_RUNS],
        run_count: 0,
        serial_ports: [None; 2],
    };
    for run in tree.memory() {
        let run = run.unwrap_or_else(|error| panic!("{error}"));
        // Nodes that overlap must not hand out a frame twice.
        boot.cut(run);
        boot.add(run);
    }
    for reserved in tree.reserved() {
        boot.cut(reserved.unwrap_or_else(|error| panic!("{error}")));
    }
    boot.cut(place);
    // Text goes where the firmware's does, records to the first other port.
    let stdout = tree.stdout().ok().flatten().map(|port| port.start);
    let [mut text, mut records] = [None; 2];
    let found = tree.for_each_compatible("arm,pl011", |port| {
        let slot = if Some(port.start) == stdout { &mut text } else { &mut records };
        slot.get_or_insert(port.start);
    });
    if found.is_ok() {
        boot.serial_ports = [text, records];
    }
    boot
}

/// The platform, as the tree describes it.
pub(super) fn discover(boot: &'static BootInformation) -> Platform {
    // The page tables that took over know nothing of the tree.
    let start = PhysAddr::new(boot.tree.as_ptr().addr() as u64);
    paging::map_read_only(start, boot.tree.len()).unwrap_or_else(|error| panic!("devicetree: {error}"));
    let tree = DeviceTree::parse(boot.tree).unwrap_or_else(|error| panic!("{error}"));
    let cmdline = tree.bootargs().unwrap_or_else(|error| {
        println!("{error}");
        ""
    });
    let hosts = Streams::hosts_of(&tree).unwrap_or_else(|error| {
        println!("{error}");
        Vec::new()
    });
    // No firmware has run, so none has given addresses.
    let hosts = hosts.into_iter().map(|host| PciHost { ecam: host.ecam, windows: Some(host.windows) }).collect();
    Platform { memory: boot.memory(), rsdp: None, hosts, dmar: None, devicetree: Some(boot.tree), cmdline }
}
