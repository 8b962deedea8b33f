//! Which SMMUv3 a world has.

use super::numbers::Numbers;
use crate::smmuv3::case::Case;
use iommu_core::hw::Stage;
use iommu_models::smmuv3::{Config, Execution, Model, Order};
use iommu_smmuv3::Completion;

/// IDR5.GRAN4K, GRAN16K and GRAN64K.
const GRANULES: u32 = 7 << 4;
/// IDR3.BBML.
const BBML: u32 = 3 << 11;
/// IDR0.ASID16 and VMID16.
const LONG_IDS: u32 = 1 << 12 | 1 << 18;

/// A kind of unit.
type Base = (&'static str, fn() -> Config);

/// A unit chosen by `numbers`, with bits of its own.
pub fn choose(numbers: &mut Numbers<'_>) -> Case {
    let bases: [Base; 8] = [
        ("both stages", Config::nested),
        ("stage 1 only", Config::stage_1),
        ("stage 2 only", Config::stage_2),
        ("small", Config::small),
        // More often: there is more to go wrong.
        ("server", Config::server),
        ("server", Config::server),
        ("server", Config::server),
        ("server", Config::server),
    ];
    let (name, config) = numbers.choose(&bases);
    let mut config = config();
    let mut name = (*name).to_string();
    let mut once_in = |n: u64, what: &str, change: &dyn Fn(Config) -> Config| {
        if numbers.once_in(n) {
            config = change(config);
            name += what;
        }
    };
    once_in(2, ", no ranges", &Config::without_ril);
    once_in(4, ", linear", &|config| config.linear().sid_bits(9));
    once_in(4, ", queues of two", &|config| config.queues(1));
    once_in(4, ", short ids", &|config| config.idr0_bits(LONG_IDS, false));
    once_in(4, ", no CD2L", &|config| config.idr0_bits(Config::CD2L, false));
    once_in(4, ", no HTTU", &|config| config.idr0_bits(3 << 6, false));
    once_in(4, ", BBML 0", &|config| Config { idr3: config.idr3 & !BBML, ..config });
    once_in(4, ", ATTR_TYPES_OVR", &|config| Config { idr1: config.idr1 ^ Config::ATTR_TYPES_OVR, ..config });
    let only = |granule: u32| {
        move |config: Config| match config.idr5 & GRANULES {
            GRANULES => Config { idr5: config.idr5 & !GRANULES | granule, ..config },
            _ => config,
        }
    };
    once_in(5, ", 16 KiB", &only(1 << 5));
    once_in(6, ", 64 KiB", &only(1 << 6));
    let snooped = !numbers.once_in(3);
    if !snooped {
        config = config.non_coherent();
        name += ", not snooped";
    }
    let completion = *numbers.choose(&[Completion::Poll, Completion::Message, Completion::Event]);
    Case {
        name,
        config,
        stage: Stage::Second,
        non_coherent: !snooped || config.idr0 & Config::COHACC == 0,
        coherent: None,
        stream_bits: 16,
        completion,
    }
}

/// Freedoms that hardware has, and this unit takes.
pub fn disturb(model: &Model, numbers: &mut Numbers<'_>) {
    model.translations_first(numbers.once_in(2));
    model.set_execution(*numbers.choose(&[
        Execution::Queued,
        Execution::Late,
        Execution::Reversed,
        Execution::Shuffled(7),
    ]));
    model.set_order(*numbers.choose(&[Order::Ascending, Order::Descending, Order::Shuffled(7)]));
    if numbers.once_in(4) {
        model.evict(1 + numbers.below(1000), 2 + numbers.below(20) as usize);
    }
    if numbers.once_in(3) {
        model.execute_after(1 + numbers.below(3) as u32);
    }
}
