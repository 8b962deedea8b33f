//! Counting instructions with callgrind. The counts are exact and come out alike on every run.

use iommu_tests::script::workspace;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

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
