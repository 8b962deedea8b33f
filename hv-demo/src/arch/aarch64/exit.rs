//! The end of the boot, by semihosting's SYS_EXIT (`-semihosting-config enable=on,target=native`), whose code becomes
//! QEMU's exit status.
//!
//! A success is no zero: QEMU also ends with that when it is asked to quit, and with one on errors of its own.

use qemu_exit::{AArch64, QEMUExit};

/// What only a success gives; the same as on x86_64.
const SUCCESS: u32 = 33;
const FAILURE: u32 = 35;

/// Ends the boot as a success: exit status 33.
pub fn success() -> ! {
    AArch64::new().exit(SUCCESS)
}

/// Ends the boot as a failure: exit status 35.
pub fn failure() -> ! {
    AArch64::new().exit(FAILURE)
}
