//! Boots of the demo, by the very command that a user types. One that cannot run is a failure; none is ever skipped.
//!
//! The script lets one run in at a time, so these wait for each other.

use iommu_tests::script::{Run, qemu_run, workspace};
use std::time::{Duration, Instant};

/// Runs the script, and asserts that every scenario in `scenarios` passed with at least `least` checks together.
#[track_caller]
fn passes(arguments: &[&str], scenarios: &[&str], least: u32) {
    let run = qemu_run(arguments);
    let sums: Option<Vec<_>> = scenarios.iter().map(|name| run.scenario(name)).collect();
    let total = sums.as_ref().map(|sums| sums.iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1)));
    let fine = run.status == Some(0)
        && run.sum().is_some_and(|(passed, failed)| passed >= least && failed == 0)
        && run.sum() == total
        && sums.is_some_and(|sums| sums.iter().all(|(passed, _)| *passed > 0));
    assert!(fine, "{}", describe(arguments, &run, &format!("every check of {scenarios:?}, {least} at least")));
}

fn describe(arguments: &[&str], run: &Run, wanted: &str) -> String {
    let Run { status, output } = run;
    format!("qemu-run.sh {arguments:?}: wanted {wanted}, ended with {status:?} and:\n{output}")
}

const BOTH: [&str; 2] = ["second-stage", "first-stage"];
const ARM: [&str; 2] = ["stage-1", "stage-2"];

#[test]
fn aarch64_passes_on_qemu_10() {
    passes(&["aarch64", "--qemu", "10"], &ARM, 40);
}

#[test]
fn aarch64_passes_on_qemu_11() {
    passes(&["aarch64", "--qemu", "11"], &ARM, 40);
}

#[test]
fn a_panic_of_the_guest_on_aarch64_fails_the_run() {
    let arguments = ["aarch64", "--scenario", "stage-1", "--", "-append", "scenario=stage-1 crash=panic"];
    let run = qemu_run(&arguments);
    let fine = run.status.is_some_and(|status| status != 0) && run.sum().is_some_and(|(_, failed)| failed >= 1);
    assert!(fine, "{}", describe(&arguments, &run, "a failure that is reported as one"));
}

#[test]
fn qemu_10_passes() {
    passes(&["--qemu", "10"], &BOTH, 40);
}

#[test]
fn qemu_11_passes() {
    passes(&["--qemu", "11"], &BOTH, 40);
}

#[test]
fn qemu_10_passes_with_caching_mode() {
    passes(&["--qemu", "10", "--", "-global", "intel-iommu.caching-mode=on"], &BOTH, 40);
}

#[test]
fn qemu_11_passes_with_caching_mode() {
    passes(&["--qemu", "11", "--", "-global", "intel-iommu.caching-mode=on"], &BOTH, 40);
}

#[test]
fn qemu_10_passes_with_39_bits() {
    let arguments = ["--qemu", "10", "--scenario", "second-stage", "--", "-global", "intel-iommu.aw-bits=39"];
    passes(&arguments, &BOTH[..1], 20);
}

#[test]
fn qemu_11_passes_with_39_bits() {
    let arguments = ["--qemu", "11", "--scenario", "second-stage", "--", "-global", "intel-iommu.aw-bits=39"];
    passes(&arguments, &BOTH[..1], 20);
}

#[test]
fn the_default_passes() {
    passes(&[], &BOTH, 40);
    passes(&["x86_64", "--scenario", "first-stage"], &BOTH[1..], 20);
}

#[test]
fn the_demo_as_an_elf_file_passes_as_cargos_runner_has_it() {
    // Whatever ran before, this builds it.
    passes(&["--scenario", "second-stage"], &BOTH[..1], 20);
    let elf = workspace().join("target/x86_64-unknown-none/debug/hv-demo");
    let elf = elf.to_str().expect("a path in UTF-8");
    passes(&[elf, "--scenario", "second-stage"], &BOTH[..1], 20);
}

#[test]
fn the_scenarios_are_listed_and_nothing_else() {
    for arguments in [&["--list"][..], &["x86_64", "--list"]] {
        let run = qemu_run(arguments);
        assert_eq!((run.status, &*run.output), (Some(0), "second-stage\nfirst-stage\n"));
    }
    let run = qemu_run(&["aarch64", "--list"]);
    assert_eq!((run.status, &*run.output), (Some(0), "stage-1\nstage-2\n"));
}

#[test]
fn what_cannot_be_is_refused_with_one_line_and_status_2() {
    for arguments in [
        &["--scenario", "third-stage"][..],
        &["--scenario", ""],
        &["--scenario"],
        &["--frobnicate"],
        &["riscv64"],
        &["aarch64", "--scenario", "second-stage"],
        &["--qemu", "/nowhere/qemu-system-x86_64"],
    ] {
        let run = qemu_run(arguments);
        let lines = run.output.lines().count();
        assert!(run.status == Some(2) && lines == 1, "{}", describe(arguments, &run, "status 2 and one line"));
    }
}

/// A guest that crashes, in a way that `crash=KIND` names: the command line given last is the one that counts.
#[track_caller]
fn crash(kind: &str) {
    let append = format!("scenario=second-stage crash={kind}");
    let arguments = ["--scenario", "second-stage", "--", "-append", &append];
    let begin = Instant::now();
    let run = qemu_run(&arguments);
    let fine = run.status.is_some_and(|status| status != 0)
        && run.sum().is_some_and(|(_, failed)| failed >= 1)
        && run.output.contains(&format!("crash on purpose: {kind}"));
    assert!(fine, "{}", describe(&arguments, &run, "a failure that is reported as one"));
    // It does not take the time limit to see a crash; waiting for another run may take long.
    assert!(begin.elapsed() < Duration::from_secs(1200));
    assert!(!run.output.contains("killed after"), "{}", describe(&arguments, &run, "an end by itself"));
}

#[test]
fn a_panic_of_the_guest_fails_the_run() {
    crash("panic");
}

#[test]
fn an_exception_of_the_guest_fails_the_run() {
    crash("page-0");
    crash("text");
    crash("stack");
}
