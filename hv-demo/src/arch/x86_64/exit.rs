//! The end of the boot, by QEMU's `isa-debug-exit` at port 0xf4: it makes 2v + 1 of the value v written.

use qemu_exit::{QEMUExit, X86};

/// QEMU's exit status for a success, which only a write of 0x10 gives.
const SUCCESS_STATUS: u32 = 0x10 << 1 | 1;
/// What is written for a failure; QEMU exits with 35.
const FAILURE: u32 = 0x11;

// SAFETY: the port is the one that qemu-run.sh gives the device; without the device a write there goes nowhere.
const DEVICE: X86 = unsafe { X86::new(0xf4, SUCCESS_STATUS) };

/// Ends the boot as a success: exit status 33.
pub fn success() -> ! {
    DEVICE.exit_success()
}

/// Ends the boot as a failure: exit status 35.
pub fn failure() -> ! {
    DEVICE.exit(FAILURE)
}
