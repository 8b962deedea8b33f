//! What a user pays in text: the smallest images that isolate a function, built as a user of small images builds them.
//!
//! The limit is that of the images of one domain, one for each driver, all for the same target so that they can be compared.
//! The one with the objects of `iommu-core` is printed beside them.

use iommu_tests::script::{qemu_run, workspace};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Bytes of text that an image of one domain may have.
const LIMIT: u64 = 96 << 10;

/// Variables that would make the build another than a user's.
fn changes_builds(name: &str) -> bool {
    let prefixes = ["CARGO_BUILD_", "CARGO_TARGET_", "CARGO_PROFILE_", "CARGO_UNSTABLE_", "CARGO_ENCODED_", "RUSTC"];
    (prefixes.iter().any(|prefix| name.starts_with(prefix)) || name == "RUSTFLAGS") && name != "CARGO_BUILD_JOBS"
}

/// Builds the images for size, with LTO, into a folder of their own: the names of the programs.
fn programs() -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--locked", "--release", "--package", "minimal-images", "--target", "x86_64-unknown-none"]);
    build.args(["--config", "profile.release.opt-level=\"s\"", "--target-dir", "target/text-size"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| changes_builds(&name.to_string_lossy())) {
        build.env_remove(name);
    }
    let done = build.current_dir(workspace()).stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(done.status.success(), "{build:?} ended with {:?}", done.status);
    let messages = String::from_utf8_lossy(&done.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect()
}

/// Bytes in the executable sections of a 64-bit ELF file.
fn text(elf: &[u8]) -> u64 {
    assert_eq!(elf[..6], [0x7f, b'E', b'L', b'F', 2, 1], "ELF, 64 bits, little endian");
    let number =
        |at: usize, len: usize| elf[at..at + len].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    // Section headers: where, how long each, how many. In each: flags at 8 (4 is executable), size at 32.
    let (table, len, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
    let headers = (0..count).map(|index| (table + index * len) as usize);
    headers.filter(|at| number(at + 8, 8) & 4 != 0).map(|at| number(at + 32, 8)).sum()
}

#[test]
fn the_smallest_images_fit_their_limit() {
    // The bare target's libraries.
    let setup = qemu_run(&["--setup"]);
    assert_eq!(setup.status, Some(0), "{}", setup.output);
    let mut found = Vec::new();
    for program in programs() {
        let size = text(&std::fs::read(&program).expect("the image"));
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        println!("text of `{name}`: {size} bytes, {:.1} KiB", size as f64 / 1024.0);
        found.push((name, size));
    }
    let size = |name| found.iter().find(|(found, _)| found == name).map(|(_, size)| *size);
    // Of VT-d, and of SMMUv3.
    for name in ["domain", "smmuv3_domain"] {
        let domain = size(name).expect("the image of one domain");
        // Less than this would be an image that does nothing.
        assert!((16 << 10..=LIMIT).contains(&domain), "{domain} bytes of text in `{name}`");
        assert!(size("space").is_some_and(|space| space > domain));
    }
}
