//! The scenarios: one run of all checks each.
//!
//! | Name | What is told apart | By |
//! |---|---|---|
//! | `second-stage`, `stage-2` | functions | second stage |
//! | `first-stage`, `stage-1` | functions | first stage |
//! | `legacy` | functions | second stage, on a VT-d unit without scalable mode |
//! | `nested` | functions | a guest's own stage 1, on top of stage 2 |
//! | `adi` | parts of one function, by PASID only | whichever stage the unit offers, second if both |

mod adi;
mod nested;
mod whole;

use crate::checks::Device;
use crate::cmdline::CommandLine;
use crate::iommu::DemoUnit;
use crate::report::Report;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use iommu_core::hw::Stage;

/// What a scenario runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Whole functions, with partitions translated by this stage.
    Whole(Stage),
    /// Whole functions, with guests' own stages 1 on top of the partitions' stage 2.
    Nested,
    /// Parts of one function.
    Parts,
}

impl Scenario {
    /// The scenario of this name; `None` where there is none. Both architectures' names are known.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "first-stage" | "stage-1" => Some(Self::Whole(Stage::First)),
            "second-stage" | "stage-2" | "legacy" => Some(Self::Whole(Stage::Second)),
            "nested" => Some(Self::Nested),
            "adi" => Some(Self::Parts),
            _ => None,
        }
    }

    /// Runs every check on `unit`, with four functions that it serves, the last of which stands behind a bridge.
    pub fn run(self, unit: &Arc<dyn DemoUnit>, devices: [Device; 4], report: &mut Report) {
        match self {
            Self::Whole(stage) => whole::run(unit, stage, devices, report),
            Self::Nested => nested::run(unit, devices, report),
            Self::Parts => adi::run(unit, devices, report),
        }
    }
}

/// Checks that the options given to the IOMMU on QEMU's command line took effect: some are ignored silently.
pub fn check_options(unit: &dyn DemoUnit, cmdline: CommandLine<'_>, report: &mut Report) {
    for (key, value) in cmdline.options() {
        match unit.option_effect(key, value) {
            Some((expected, seen)) => report.state(&format!("option {key}={value}"), expected, seen),
            None => println!("  option {key}={value} shows in no register"),
        }
    }
}

/// Prints what a unit can do.
pub fn print_unit(unit: &dyn DemoUnit) {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = unit.describe(&mut text);
    println!("{text}");
    text.clear();
    let _ = unit.print_registers(&mut text);
    text.lines().for_each(|line| println!("  {line}"));
}
