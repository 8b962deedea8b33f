//! The smallest hypervisor that shows DMA isolation on real DMA. It runs no guest code: its partitions own memory and
//! PCIe functions, and the functions' DMA is what is kept apart.
//!
//! Built for a bare target this is the image that boots; everything that depends on the architecture is in `arch`.
//! Built for the host it is a launcher, so that `cargo run` does the main job.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(any(target_os = "none", test))]
extern crate alloc;

// First, so that every other module has its macros.
#[cfg(target_os = "none")]
#[macro_use]
mod console;

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod checks;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, allow(dead_code, unused_imports, reason = "the host's tests need only parts of it"))]
mod cmdline;
#[cfg(target_os = "none")]
mod crash;
#[cfg(target_os = "none")]
mod demo;
#[cfg(target_os = "none")]
mod doorbell;
#[cfg(target_os = "none")]
mod edu;
#[cfg(target_os = "none")]
mod function;
#[cfg(target_os = "none")]
mod hal;
#[cfg(target_os = "none")]
mod iommu;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod partition;
#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, allow(dead_code, unused_imports, reason = "the host's tests need only parts of it"))]
mod pci;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod scenario;

#[cfg(not(target_os = "none"))]
mod launcher;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    launcher::run()
}
