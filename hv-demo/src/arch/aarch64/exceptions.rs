//! Exceptions. Every one prints what it was and ends the boot as a failure: none is expected, and interrupts stay off.

use super::exit;
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, Readable, SPSR_EL2, VBAR_EL2, Writeable};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, Ordering};

/// The stack that exceptions are handled on. It is not the one that they interrupt: that may have overflowed.
#[repr(C, align(4096))]
struct Stack([u8; STACK_SIZE]);

const STACK_SIZE: usize = 16 * 1024;

static mut STACK: Stack = Stack([0; STACK_SIZE]);

// One slot of 128 bytes for each kind of exception, from each of four places. Nothing is saved, because nothing goes
// on.
global_asm!(
    ".section .text.vectors, \"ax\", @progbits",
    ".balign 2048",
    "exception_vectors:",
    ".irp slot, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    ".balign 128",
    "mov x0, #\\slot",
    "b exception_common",
    ".endr",
    ".balign 128",
    "exception_common:",
    "mov x1, sp",
    "mov x2, x30",
    "adrp x3, {stack}",
    "add x3, x3, :lo12:{stack}",
    "add x3, x3, #{size}",
    "mov sp, x3",
    "mov x29, xzr",
    "mov x30, xzr",
    "b {handle}",
    ".text",
    stack = sym STACK,
    size = const STACK_SIZE,
    handle = sym handle,
);

unsafe extern "C" {
    /// The vectors; only the address means anything.
    #[link_name = "exception_vectors"]
    static VECTORS: u8;
}

/// What the four slots of each group are for.
const KINDS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];
/// Where the groups' exceptions come from.
const SOURCES: [&str; 4] = ["EL2 on SP_EL0", "EL2", "a lower level in AArch64", "a lower level in AArch32"];

/// The classes of synchronous exceptions that a hypervisor without guests can meet (ESR_EL2.EC).
fn class_name(class: u64) -> &'static str {
    match class {
        0x00 => "unknown reason, such as an undefined instruction",
        0x07 => "SIMD or floating point trapped",
        0x0e => "illegal execution state",
        0x18 => "system register access trapped",
        0x21 => "instruction abort",
        0x22 => "misaligned program counter",
        0x25 => "data abort",
        0x26 => "misaligned stack pointer",
        0x2f => "SError",
        0x3c => "BRK instruction",
        _ => "other class",
    }
}

extern "C" fn handle(slot: usize, sp: u64, lr: u64) -> ! {
    static HANDLING: AtomicBool = AtomicBool::new(false);
    // A second exception while printing the first: not even the console works.
    if HANDLING.swap(true, Ordering::Relaxed) {
        exit::failure()
    }
    super::console::seize();
    let class = ESR_EL2.read(ESR_EL2::EC);
    println!("\n{} from {}: {} (class {class:#x})", KINDS[slot % 4], SOURCES[slot / 4 % 4], class_name(class));
    println!("  ESR {:#x}  ELR {:#x}  FAR {:#x}", ESR_EL2.get(), ELR_EL2.get(), FAR_EL2.get());
    println!("  SPSR {:#x}  sp {sp:#x}  lr {lr:#x}", SPSR_EL2.get());
    exit::failure()
}

/// Installs the vectors and lets SErrors in, so that an asynchronous abort does not pass unseen.
pub(super) fn init() {
    VBAR_EL2.set((&raw const VECTORS).addr() as u64);
    barrier::isb(barrier::SY);
    // SAFETY: the vectors are in place; an SError ends the boot and comes back to nothing.
    unsafe { asm!("msr daifclr, #4", options(nomem, nostack, preserves_flags)) };
}
