//! Which unit a world has.

use super::numbers::Numbers;
use crate::case::{Case, narrow, server_without_snooping};
use iommu_core::hw::Stage;
use iommu_models::vtd::{Config, Execution, Model};

/// CAP.PSI.
const CAP_PSI: u64 = 1 << 39;
/// CAP.DWD and CAP.DRD.
const CAP_DRAIN: u64 = 3 << 54;
/// CAP.MAMV.
const CAP_MAMV: u64 = 0x3f << 48;
/// CAP.ND.
const CAP_ND: u64 = 7;
/// CAP.SSLPS.
const CAP_LARGE: u64 = 3 << 34;

/// A kind of unit, and the stage of its domains where it has a choice.
type Base = (&'static str, fn() -> Config, Stage);

/// A unit of legacy mode without an invalidation queue.
fn without_queue() -> Config {
    Config::legacy().ecap_bits(Config::ECAP_QI, false)
}

/// A unit chosen by `numbers`, with bits of its own.
pub fn choose(numbers: &mut Numbers<'_>) -> Case {
    let bases: [Base; 11] = [
        ("second stage", Config::second_stage, Stage::Second),
        ("first stage", Config::first_stage, Stage::First),
        ("server, second stage", Config::server, Stage::Second),
        ("server, first stage", Config::server, Stage::First),
        ("narrow", narrow, Stage::Second),
        ("unsnooped, second stage", server_without_snooping, Stage::Second),
        ("unsnooped, first stage", server_without_snooping, Stage::First),
        // More often: there is more to go wrong.
        ("server, nested", Config::server_nested, Stage::Second),
        ("server, nested", Config::server_nested, Stage::Second),
        ("legacy", Config::legacy, Stage::Second),
        ("legacy by registers", without_queue, Stage::Second),
    ];
    let (name, config, stage) = numbers.choose(&bases);
    let mut config = config();
    let mut name = (*name).to_string();
    let mut toggle = |numbers: &mut Numbers<'_>, mask: u64, what: &str| {
        if numbers.once_in(2) {
            config.cap ^= mask;
            name += what;
        }
    };
    toggle(numbers, Config::CAP_CM, ", CM");
    toggle(numbers, Config::CAP_RWBF, ", RWBF");
    toggle(numbers, Config::CAP_ESRTPS, ", ESRTPS");
    if numbers.once_in(4) {
        toggle(numbers, CAP_PSI, ", PSI");
        toggle(numbers, CAP_DRAIN, ", DRAIN");
        toggle(numbers, CAP_LARGE, ", SSLPS");
        // Few domain ids, so that they come back soon: 16.
        config.cap &= !CAP_ND;
        config.cap = config.cap & !CAP_MAMV | numbers.below(20) << 48;
        name += ", 16 domain ids";
    }
    let non_coherent = numbers.once_in(2);
    Case { name, config, stage: *stage, non_coherent }
}

/// Freedoms that hardware has, and this unit takes.
pub fn disturb(model: &Model, numbers: &mut Numbers<'_>) {
    model.set_execution(*numbers.choose(&[
        Execution::Queued,
        Execution::Late,
        Execution::Reversed,
        Execution::Shuffled(7),
    ]));
    if numbers.once_in(3) {
        // The driver looks at the registers seldom, and has a hundred looks at the clock.
        model.report_after(1);
    }
    if numbers.once_in(3) {
        model.answer_after(1 + numbers.below(3) as u32);
    }
    if numbers.once_in(4) {
        model.evict(1 + numbers.below(1000), 2 + numbers.below(20) as usize);
    }
    if numbers.once_in(4) {
        model.linger(true);
    }
}
