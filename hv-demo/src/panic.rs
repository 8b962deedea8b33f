//! A panic prints what happened and ends the boot as a failure.

use crate::arch;
use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // The panic may have come out of the middle of a console write.
    arch::console::seize();
    println!("\n{info}");
    arch::exit::failure()
}
