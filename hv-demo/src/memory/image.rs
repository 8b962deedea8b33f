//! Where the linker put the image's sections.

use core::ops::Range;

/// What may be done with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read and execute.
    Execute,
    /// Read.
    Read,
    /// Read and write.
    Write,
}

// Symbols of the linker script: only their addresses mean anything.
unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __stack_guard: u8;
}

/// The address of a symbol of the linker script.
macro_rules! address_of {
    ($symbol:ident) => {
        (&raw const $symbol).addr() as u64
    };
}

/// The image, its stack and static data included.
pub fn image_range() -> Range<u64> {
    address_of!(__image_start)..address_of!(__image_end)
}

/// What is to be mapped of the image, whole pages each. The guard page below the stack is in none of them.
pub fn sections() -> [(Range<u64>, Access); 4] {
    let guard = address_of!(__stack_guard);
    [
        (address_of!(__text_start)..address_of!(__text_end), Access::Execute),
        (address_of!(__rodata_start)..address_of!(__rodata_end), Access::Read),
        (address_of!(__data_start)..guard, Access::Write),
        (guard + 4096..address_of!(__data_end), Access::Write),
    ]
}
