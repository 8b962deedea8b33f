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

/// The scenarios of x86_64, in the order in which they run.
const ALL: [&str; 4] = ["second-stage", "first-stage", "legacy", "adi"];
/// Those of whole functions.
const WHOLE: [&str; 3] = ["second-stage", "first-stage", "legacy"];
/// Those whose tables QEMU takes with 39 bits as well.
const NARROW: [&str; 2] = ["second-stage", "legacy"];
/// The scenarios of aarch64.
const ARM: [&str; 4] = ["stage-1", "stage-2", "nested", "adi"];

/// Checks that each scenario has at least.
const LEAST: u32 = 100;

/// One run for each scenario, with extra arguments for QEMU.
#[track_caller]
fn each_passes(qemu: &str, scenarios: &[&str], extra: &[&str]) {
    for scenario in scenarios {
        let arguments = [&["--qemu", qemu, "--scenario", scenario, "--"], extra].concat();
        passes(&arguments, &[scenario], LEAST);
    }
}

#[test]
fn aarch64_passes_on_qemu_10() {
    passes(&["aarch64", "--qemu", "10"], &ARM, 4 * LEAST);
}

#[test]
fn aarch64_passes_on_qemu_11() {
    passes(&["aarch64", "--qemu", "11"], &ARM, 4 * LEAST);
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
    passes(&["--qemu", "10"], &ALL, 4 * LEAST);
}

#[test]
fn qemu_11_passes() {
    passes(&["--qemu", "11"], &ALL, 4 * LEAST);
}

#[test]
fn qemu_10_passes_with_caching_mode() {
    each_passes("10", &WHOLE, &["-global", "intel-iommu.caching-mode=on"]);
}

#[test]
fn qemu_11_passes_with_caching_mode() {
    each_passes("11", &WHOLE, &["-global", "intel-iommu.caching-mode=on"]);
}

#[test]
fn qemu_10_passes_with_39_bits() {
    each_passes("10", &NARROW, &["-global", "intel-iommu.aw-bits=39"]);
}

#[test]
fn qemu_11_passes_with_39_bits() {
    each_passes("11", &NARROW, &["-global", "intel-iommu.aw-bits=39"]);
}

/// The parts of a function once more, in what the scenario does not choose by itself.
#[test]
fn parts_of_a_function_pass_with_a_first_stage_and_with_caching_mode() {
    for (qemu, first) in [("10", "intel-iommu.x-flts=on"), ("11", "intel-iommu.fsts=on")] {
        each_passes(qemu, &["adi"], &["-global", first]);
        each_passes(qemu, &["adi"], &["-global", "intel-iommu.caching-mode=on"]);
    }
}

/// On a QEMU of which it does not know how it is made the plugin ends the run, and says why.
#[test]
fn the_plugin_refuses_what_it_does_not_know() {
    // Whatever ran before, this builds it.
    let run = qemu_run(&["--setup"]);
    assert_eq!(run.status, Some(0), "{}", describe(&["--setup"], &run, "the plugin"));
    let plugin = workspace().join("target/qemu-plugin/pasid-doorbell.so");
    let plugin = plugin.to_str().expect("a path in UTF-8");
    let window = "region=edu-mmio[0],offset=0x80000";
    for (scenario, arguments, words) in [
        ("second-stage", format!("device=edu0,{window}"), "the unit takes no PASIDs"),
        ("adi", format!("device=edu9,{window}"), "device=edu9: there is no PCI function with this id"),
        ("adi", format!("device=edu3,{window}"), "device=edu3: the unit knows it by another address"),
        (
            "adi",
            "device=edu0,region=other[0],offset=0".into(),
            "region=other[0]: device=edu0 has no such memory region",
        ),
        ("adi", "device=edu0,region=edu-mmio[0],offset=0xff000".into(), "offset=0xff000: no place for a window"),
        ("adi", format!("device=edu0,{window},more=1"), "unknown argument more=1"),
        ("stage-1", format!("device=edu0,{window}"), "this QEMU has no "),
    ] {
        let given = format!("file={plugin},{arguments}");
        let arch = if scenario == "stage-1" { "aarch64" } else { "x86_64" };
        let arguments = [arch, "--scenario", scenario, "--", "-plugin", &given];
        let run = qemu_run(&arguments);
        let fine = run.status == Some(1) && run.output.contains(&format!("pasid-doorbell: {words}"));
        let fine = fine && run.output.contains("QEMU ended with status 1");
        assert!(fine, "{}", describe(&arguments, &run, "QEMU to end with the plugin's message"));
    }
}

#[test]
fn the_default_passes() {
    passes(&[], &ALL, 4 * LEAST);
    passes(&["x86_64", "--scenario", "first-stage"], &ALL[1..2], LEAST);
}

#[test]
fn the_demo_as_an_elf_file_passes_as_cargos_runner_has_it() {
    // Whatever ran before, this builds it.
    passes(&["--scenario", "second-stage"], &ALL[..1], LEAST);
    let elf = workspace().join("target/x86_64-unknown-none/debug/hv-demo");
    let elf = elf.to_str().expect("a path in UTF-8");
    passes(&[elf, "--scenario", "second-stage"], &ALL[..1], LEAST);
}

#[test]
fn the_scenarios_are_listed_and_nothing_else() {
    for arguments in [&["--list"][..], &["x86_64", "--list"]] {
        let run = qemu_run(arguments);
        assert_eq!((run.status, &*run.output), (Some(0), "second-stage\nfirst-stage\nlegacy\nadi\n"));
    }
    let run = qemu_run(&["aarch64", "--list"]);
    assert_eq!((run.status, &*run.output), (Some(0), "stage-1\nstage-2\nnested\nadi\n"));
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
        &["aarch64", "--scenario", "legacy"],
        &["--scenario", "nested"],
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
