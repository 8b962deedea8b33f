//! The witness: matches what the demo says it saw with QEMU's own trace, one to one.
//!
//! It believes nothing that the guest says. Each record of the demo claims something about DMA or about what the IOMMU
//! was told; the witness looks up what the emulated IOMMU itself traced between the record's two markers and compares.
//! A check passes if the guest passed it *and* the trace shows it. What the trace shows beyond all records (DMA outside
//! of any check, translation never turned on, lines that make no sense) is a failed check each.
//!
//! | module | what |
//! |---|---|
//! | `record`, `journal` | one record of the demo; all of them, with what holds for them together |
//! | `event` | what a trace says, in terms that hold for every IOMMU |
//! | `dialect`, `vtd`, `smmuv3` | from QEMU's lines to events; what a change of tables must show. One dialect an IOMMU |
//! | `format` | numbers out of a line |
//! | `matching` | the comparison |
//!
//! # What it can not see
//!
//! - `state` records have nothing in the trace to compare with: they pass as the guest says.
//! - Stores to tables, and so whether an invalidation came after the store that it is for. The host tests see that.
//! - Invalidations of the PASID cache and the IOTLB say the domain and the PASID, not the requester. Where one record changes a stream
//!   together with its aliases, those of another alias count for it too; the context cache's do not.
//! - Whether the unit drops its caches by itself when it is given a root table (ESRTPS), and so whether that had to be
//!   followed by invalidations.
//! - Whether tables were freed by an unmap, so whether "only leaves changed" (IH) was a true promise.
//! - Direction of a translated access. That the entry used permits it is checked instead.
//! - VT-d: which PASID an access had. The trace has its requester; that it was led to the memory and domain of its PASID
//!   is what is checked, and where a fault's record holds a PASID, that.
//! - Caching mode, but for what `--option` or a `state` record says of it.
//! - SMMUv3: the direction of an access that was aborted or that found nothing mapped, and of an event whatever but
//!   its type and stream. The address is that of the look-up before it; the rest is as the guest read it, from as many
//!   events as the trace has.
//! - SMMUv3: whether a CMD_CFGI_STE reached level 1 of the stream table, and whether a TLB invalidation was for leaves
//!   only.
//! - SMMUv3 with guests' own stages 1: which of a guest's ASIDs an unmap is about, but that something was seen of it; and
//!   which stage refused an access, which is as the guest read it. Guests' tables are of 4 KiB.
//! - QEMU 10.0 does not trace PASID-cache invalidations: there a descriptor that was fetched without being traced is
//!   taken for one, its domain unseen. Newer versions show it.

mod dialect;
mod event;
mod format;
mod journal;
mod matching;
mod record;
mod smmuv3;
mod vtd;

use dialect::{Conditions, Dialect};
use journal::Journal;
use matching::Verdict;
use std::process::ExitCode;

/// What the command line says.
struct Arguments {
    scenario: String,
    iommu: String,
    jsonl: String,
    trace: String,
    guest_ended_well: bool,
    options: Vec<String>,
}

const USAGE: &str = "usage: iommu-witness --scenario NAME --iommu intel-iommu|arm-smmuv3 --jsonl FILE --trace FILE --guest-status ok|failed
                     [--option KEY=VALUE]...   what QEMU's IOMMU was given";

impl Arguments {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut scenario, mut iommu, mut jsonl, mut trace, mut status, mut options) =
            (None, None, None, None, None, Vec::new());
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let (key, value) = match argument.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let value = value.or_else(|| arguments.next()).ok_or_else(|| format!("{key} needs a value"))?;
            match key.as_str() {
                "--scenario" => scenario = Some(value),
                "--iommu" => iommu = Some(value),
                "--jsonl" => jsonl = Some(value),
                "--trace" => trace = Some(value),
                "--guest-status" => status = Some(value),
                "--option" => options.push(value),
                _ => return Err(format!("unknown argument: {key}")),
            }
        }
        let needed = |value: Option<String>, key| value.ok_or_else(|| format!("{key} is missing"));
        let guest_ended_well = match needed(status, "--guest-status")?.as_str() {
            "ok" => true,
            "failed" => false,
            other => return Err(format!("--guest-status {other}: neither ok nor failed")),
        };
        let (scenario, jsonl) = (needed(scenario, "--scenario")?, needed(jsonl, "--jsonl")?);
        let iommu = needed(iommu, "--iommu")?;
        Ok(Self { scenario, iommu, jsonl, trace: needed(trace, "--trace")?, guest_ended_well, options })
    }
}

/// Everything that is wrong or right with one run.
fn judge(arguments: &Arguments, jsonl: &str, trace: &str) -> Verdict {
    let mut verdict = Verdict::default();
    if !arguments.guest_ended_well {
        verdict.finding("the guest did not end with success");
    }
    let journal = Journal::parse(jsonl, &arguments.scenario);
    verdict.findings(&journal.problems);
    // As QEMU was told, or as the guest found.
    let given = |option: &str| arguments.options.iter().any(|given| given == option) || journal.says_option(option);
    let Some(dialect) = Dialect::of(&arguments.iommu, &arguments.scenario, given) else {
        verdict.finding(&format!("no rules for a scenario named {}", arguments.scenario));
        return verdict;
    };
    let conditions = Conditions {
        caching_mode: given("caching-mode=on"),
        // No QEMU has substreams.
        in_software: (arguments.iommu.as_str(), arguments.scenario.as_str()) == ("arm-smmuv3", "adi"),
    };
    matching::compare(&journal.checks, &dialect.read(trace), dialect, conditions, &mut verdict);
    verdict
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("iommu-witness: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut unreadable = Vec::new();
    let mut read = |path: &str| match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            unreadable.push(format!("cannot read {path}: {error}"));
            String::new()
        }
    };
    let (jsonl, trace) = (read(&arguments.jsonl), read(&arguments.trace));
    let mut verdict = judge(&arguments, &jsonl, &trace);
    verdict.findings(&unreadable);

    for line in &verdict.lines {
        println!("{line}");
    }
    println!("{}", verdict.summary());
    println!("{}: {} passed, {} failed", arguments.scenario, verdict.passed, verdict.failed);
    if verdict.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests;
