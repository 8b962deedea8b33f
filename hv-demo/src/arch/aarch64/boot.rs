//! From the loader's entry to `demo::kernel_main`, each part of the platform as soon as what it needs is there.

use super::{console, exceptions, paging, platform, time};
use crate::{demo, memory};
use core::arch::global_asm;

global_asm!(include_str!("boot.s"), start = sym start);

/// Called by boot.s on the boot stack, with the GiB of RAM that holds the image mapped to itself.
extern "C" fn start(devicetree: u64) -> ! {
    exceptions::init();
    // SAFETY: boot.s passes on what the loader gave, and nothing was written to memory outside of the image so far.
    let boot = unsafe { platform::read_boot_information(devicetree) };
    // Frames before page tables, which are made of them; both before the heap's memory is touched.
    memory::init_frames(boot.memory());
    paging::init(boot.memory());
    // The consoles need a mapping. Until they have one a failure has no words, only its exit status.
    console::init(boot.serial_ports());
    memory::init_heap();
    time::init();
    demo::kernel_main(platform::discover(boot))
}
