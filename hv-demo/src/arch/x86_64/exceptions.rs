//! Segments and exceptions. Every exception prints what it was and ends the boot as a failure: none is expected, and
//! interrupts stay off.

use super::exit;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::Cr2;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// Index of the double fault's stack in the TSS. It has one of its own because a stack that has overflowed cannot take
/// the page fault, which then becomes a double fault.
const DOUBLE_FAULT_STACK: u16 = 0;

/// A stack for one exception.
#[repr(C, align(4096))]
struct Stack([u8; 16 * 1024]);

/// What the stubs leave on the stack: the vector above what the CPU pushed.
#[repr(C)]
struct Frame {
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Generates a stub for each exception, the function that enters them all into a table, and their names.
macro_rules! exceptions {
    ($($vector:literal $name:ident $push:literal,)*) => {
        mod stubs {
            use super::naked_asm;
            $(
                /// Makes the stack uniform and goes on to the common part.
                #[unsafe(naked)]
                pub(super) extern "sysv64" fn $name() {
                    naked_asm!($push, "push {vector}", "jmp {common}", vector = const $vector,
                        common = sym super::common)
                }
            )*
        }

        fn fill(idt: &mut InterruptDescriptorTable) {
            $(
                // SAFETY: the stub is code that takes this vector's frame and never returns.
                unsafe { idt.$name.set_handler_addr(VirtAddr::from_ptr(stubs::$name as *const ())) };
            )*
        }

        fn name_of(vector: u64) -> &'static str {
            match vector {
                $($vector => stringify!($name),)*
                _ => "unknown",
            }
        }
    };
}

// The CPU pushes an error code for some vectors; the others' stubs push a zero in its place.
exceptions! {
    0 divide_error "push 0",
    1 debug "push 0",
    2 non_maskable_interrupt "push 0",
    3 breakpoint "push 0",
    4 overflow "push 0",
    5 bound_range_exceeded "push 0",
    6 invalid_opcode "push 0",
    7 device_not_available "push 0",
    8 double_fault "",
    10 invalid_tss "",
    11 segment_not_present "",
    12 stack_segment_fault "",
    13 general_protection_fault "",
    14 page_fault "",
    16 x87_floating_point "push 0",
    17 alignment_check "",
    18 machine_check "push 0",
    19 simd_floating_point "push 0",
    20 virtualization "push 0",
    21 cp_protection_exception "",
    28 hv_injection_exception "push 0",
    29 vmm_communication_exception "",
    30 security_exception "",
}

/// The stubs' common part: calls [`handle`] with the frame, on an aligned stack.
#[unsafe(naked)]
extern "sysv64" fn common() {
    naked_asm!("mov rdi, rsp", "and rsp, -16", "cld", "call {handle}", "ud2", handle = sym handle)
}

extern "sysv64" fn handle(frame: &Frame) -> ! {
    static HANDLING: AtomicBool = AtomicBool::new(false);
    // A second exception while printing the first: not even the console works.
    if HANDLING.swap(true, Ordering::Relaxed) {
        exit::failure()
    }
    super::console::seize();
    println!("\nexception {} ({}), error code {:#x}", frame.vector, name_of(frame.vector), frame.code);
    println!("  rip {:#x}  cs {:#x}  rflags {:#x}", frame.rip, frame.cs, frame.rflags);
    println!("  rsp {:#x}  ss {:#x}  cr2 {:#x}", frame.rsp, frame.ss, Cr2::read_raw());
    exit::failure()
}

/// Loads segments, task state and exception table of our own.
pub(super) fn init() {
    static TSS: Once<TaskStateSegment> = Once::new();
    static GDT: Once<(GlobalDescriptorTable, SegmentSelector, SegmentSelector, SegmentSelector)> = Once::new();
    static IDT: Once<InterruptDescriptorTable> = Once::new();
    static mut STACK: Stack = Stack([0; 16 * 1024]);

    let tss = TSS.call_once(|| {
        let mut tss = TaskStateSegment::new();
        // One past the end: stacks grow down.
        let top = (&raw const STACK).wrapping_add(1);
        tss.interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] = VirtAddr::from_ptr(top);
        tss
    });
    let (gdt, code, data, task) = GDT.call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        let task = gdt.append(Descriptor::tss_segment(tss));
        (gdt, code, data, task)
    });
    gdt.load();
    // SAFETY: the selectors are those of the table just loaded, with the segments' right kinds, and the base addresses
    // stay zero; the task state lives forever.
    unsafe {
        CS::set_reg(*code);
        SS::set_reg(*data);
        DS::set_reg(*data);
        ES::set_reg(*data);
        load_tss(*task);
    }
    let idt = IDT.call_once(|| {
        let mut idt = InterruptDescriptorTable::new();
        fill(&mut idt);
        let stub = VirtAddr::from_ptr(stubs::double_fault as *const ());
        // SAFETY: as in `fill`; the stack is this exception's alone, and the TSS names it.
        unsafe { idt.double_fault.set_handler_addr(stub).set_stack_index(DOUBLE_FAULT_STACK) };
        idt
    });
    idt.load();
}
