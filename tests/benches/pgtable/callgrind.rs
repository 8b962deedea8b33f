//! Counting instructions with callgrind. The counts are exact and come out alike on every run.
//!
//! Used by the benchmark and by the test `instructions`.

use iommu_tests::script::workspace;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// The formats, as `--count` takes them.
pub const FORMATS: [&str; 4] = ["vtd-second-stage", "vtd-first-stage", "armv8-stage-1", "armv8-stage-2"];

/// The valgrind to use: the one that `./qemu-run.sh --setup` has unpacked, or else the system's.
pub fn valgrind() -> Option<OsString> {
    let runs = |program: &OsString| {
        let version =
            Command::new(program).args(["--tool=callgrind", "--version"]).env_remove("VALGRIND_OPTS").output();
        version.is_ok_and(|version| version.status.success())
    };
    [workspace().join("target/valgrind/valgrind").into(), "valgrind".into()].into_iter().find(runs)
}

/// Instructions that `program` executes in all.
///
/// # Panics
///
/// Where it fails, or callgrind does not say.
pub fn instructions(valgrind: &OsString, program: &Path, arguments: &[&str]) -> u64 {
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).env_remove("VALGRIND_OPTS");
    let done = command.arg(program).args(arguments).output().expect("valgrind runs");
    let said = String::from_utf8_lossy(&done.stderr);
    // The line is `==PID== Collected : N`.
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if done.status.success() => count,
        _ => panic!("{command:?} ended with {:?} and:\n{said}", done.status),
    }
}

/// Instructions of one call of the benchmark's `--count`: for mapping, and for unmapping, `pages` pages of 4 KiB side by
/// side in a table of `format` that is there.
pub fn map_and_unmap(valgrind: &OsString, program: &Path, format: &str, pages: u64) -> [u64; 2] {
    /// Calls. Twice as many give what one costs, without what comes before and after.
    const CALLS: u64 = 32;
    let total = |mapped: u64, unmapped: u64| {
        let [pages, mapped, unmapped] = [pages, mapped, unmapped].map(|number| number.to_string());
        instructions(valgrind, program, &["--count", format, &pages, &mapped, &unmapped])
    };
    let twice = 2 * CALLS;
    let map = total(twice, 0) - total(CALLS, 0);
    let unmap = total(twice, twice) - total(twice, CALLS);
    // Never in favour of what is counted.
    [map.div_ceil(CALLS), unmap.div_ceil(CALLS)]
}
