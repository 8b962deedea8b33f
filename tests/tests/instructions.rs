//! How many instructions the page tables take: exact, alike on every run, and therefore a test.
//!
//! Callgrind counts what the benchmark's own program executes, built as `cargo bench` builds it.

#[path = "../benches/pgtable/callgrind.rs"]
mod callgrind;
#[path = "../benches/common/mod.rs"]
mod common;

use callgrind::{FORMATS, map_and_unmap, valgrind};
use iommu_tests::script::{qemu_run, workspace};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Variables that would make the build another than a user's.
fn changes_builds(name: &str) -> bool {
    let prefixes = ["CARGO_BUILD_", "CARGO_TARGET_", "CARGO_PROFILE_", "CARGO_UNSTABLE_", "CARGO_ENCODED_", "RUSTC"];
    (prefixes.iter().any(|prefix| name.starts_with(prefix)) || name == "RUSTFLAGS") && name != "CARGO_BUILD_JOBS"
}

/// Builds the benchmark, into a folder of its own, so that no other build has to wait or start anew.
fn program() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(cargo);
    build.args(["bench", "--locked", "--no-run", "--package", "iommu-tests", "--bench", "pgtable"]);
    build.args(["--message-format", "json-render-diagnostics", "--target-dir", "target/instructions"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| changes_builds(&name.to_string_lossy())) {
        build.env_remove(name);
    }
    let done = build.current_dir(workspace()).stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(done.status.success(), "{build:?} ended with {:?}", done.status);
    let messages = String::from_utf8_lossy(&done.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    programs.next().expect("cargo names the program")
}

/// The limits hold with something to spare: a change that comes near them is worth a look at `cargo bench`.
#[test]
fn a_run_of_256_pages_takes_few_instructions() {
    let valgrind = valgrind().or_else(|| {
        let setup = qemu_run(&["--setup"]);
        assert_eq!(
            setup.status,
            Some(0),
            "no valgrind, and ./qemu-run.sh --setup does not bring it:\n{}",
            setup.output
        );
        valgrind()
    });
    let valgrind = valgrind.expect("valgrind is missing: run ./qemu-run.sh --setup, or install it");
    let program = program();
    for format in FORMATS {
        let [map, unmap] = map_and_unmap(&valgrind, &program, format, 256);
        println!("{format}: {map} instructions to map 256 pages, {unmap} to unmap them");
        assert!((256..=2500).contains(&map), "{format}: {map} instructions to map 256 pages");
        assert!((256..=2800).contains(&unmap), "{format}: {unmap} instructions to unmap 256 pages");
    }
}
