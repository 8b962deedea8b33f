//! The host's side of `cargo run`: hands over to the workspace's `qemu-run.sh` with the same arguments.

use std::path::Path;
use std::process::{Command, ExitCode};

/// Runs `qemu-run.sh` and returns its exit status; 2 where it cannot be run.
pub fn run() -> ExitCode {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu-run.sh");
    match Command::new(&script).args(std::env::args_os().skip(1)).status() {
        // A status without a code is a death by signal; 1 keeps it a failure.
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("{} cannot be run: {error}", script.display());
            ExitCode::from(2)
        }
    }
}
