//! Figures that a suite prints whether it passes or fails: how much was tried.

use std::io::Write;

/// Prints a line past the capture of tests' output, which is for what fails.
pub fn print(line: &str) {
    // One write, so that lines of tests that run at once are not mixed. Where nobody reads, there is nobody to tell.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
