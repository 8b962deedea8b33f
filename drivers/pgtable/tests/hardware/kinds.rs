//! Configurations beside those of all suites: formats with contiguous groups whose leaves resize live, and more that track.

use crate::common::raw::Raw;
use crate::common::{ArmFirst4Tracked, ArmFirst16K4, ArmSecond4, Kind, Second4, Sv48};
use iommu_pgtable::{
    Armv8Stage1, Armv8Stage2, Granule4K, Granule16K, Riscv64, SecondStageOptions, Stage1Options, Stage2Options,
    VtdSecondStage,
};

/// Stage 1 of Armv8, pages of 4 KiB, four levels, contiguous groups; hardware notes what is written through.
pub struct LiveFirst4Tracked;
/// Stage 2 of Armv8, otherwise as the first.
pub struct LiveSecond4Tracked;
/// Stage 1, pages of 16 KiB, contiguous groups.
pub struct LiveFirst16K4;
/// The same, not live, and hardware notes what is written through.
pub struct First16K4Tracked;
/// Sv48, and hardware notes what is written through.
pub struct Sv48Tracked;
/// Second stage of VT-d, without pages of 2 MiB.
pub struct SecondGap;

impl Kind for LiveFirst4Tracked {
    type F = Armv8Stage1<Granule4K>;
    const RAW: Raw = ArmFirst4Tracked::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Stage1Options {
        Stage1Options { resizes_live: true, ..ArmFirst4Tracked::options() }
    }
}

impl Kind for LiveFirst16K4 {
    type F = Armv8Stage1<Granule16K>;
    const RAW: Raw = ArmFirst16K4::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Stage1Options {
        Stage1Options { resizes_live: true, ..ArmFirst16K4::options() }
    }
}

impl Kind for LiveSecond4Tracked {
    type F = Armv8Stage2<Granule4K>;
    const RAW: Raw = ArmSecond4::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Stage2Options {
        Stage2Options { resizes_live: true, ..ArmSecond4::options() }
    }
}

impl Kind for First16K4Tracked {
    type F = Armv8Stage1<Granule16K>;
    const RAW: Raw = Raw { tracked: true, ..ArmFirst16K4::RAW };
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for Sv48Tracked {
    type F = Riscv64;
    const RAW: Raw = Raw { tracked: true, ..Sv48::RAW };
    const OUTPUT_BITS: u8 = 56;
}

impl Kind for SecondGap {
    type F = VtdSecondStage;
    const RAW: Raw = Raw { sizes: 1 << 12 | 1 << 30, ..Second4::RAW };
    const OUTPUT_BITS: u8 = 52;

    fn options() -> SecondStageOptions {
        Second4::options()
    }
}

/// Runs generic tests for every configuration, these among them.
#[macro_export]
macro_rules! for_all_kinds {
    ($($test:ident),* $(,)?) => {
        $crate::for_each_kind!($($test),*);
        $crate::for_kinds_here!([$($test)*]
            live_stage_1_4k_tracked hardware::LiveFirst4Tracked,
            live_stage_2_4k_tracked hardware::LiveSecond4Tracked,
            live_stage_1_16k hardware::LiveFirst16K4,
            stage_1_16k_tracked hardware::First16K4Tracked,
            sv48_tracked hardware::Sv48Tracked,
        );
    };
}

/// Runs generic tests for those that track.
#[macro_export]
macro_rules! for_tracked_kinds {
    ($($test:ident),* $(,)?) => {
        mod tracked {
            use super::{common, hardware, $($test),*};
            $crate::for_kinds_here!([$($test)*]
                live_stage_1_4k hardware::LiveFirst4Tracked,
                live_stage_2_4k hardware::LiveSecond4Tracked,
                stage_1_4k common::ArmFirst4Tracked,
                stage_2_4k common::ArmSecond4,
                stage_1_16k hardware::First16K4Tracked,
                sv48 hardware::Sv48Tracked,
                vtd_first_stage common::First4Tracked,
                vtd_second_stage common::Second4Tracked,
            );
        }
    };
}

/// Runs generic tests for these.
#[macro_export]
macro_rules! for_kinds_here {
    ($tests:tt $($module:ident $of:ident::$kind:ident,)*) => {
        $($crate::for_kinds_here!(@kind $tests $module $of $kind);)*
    };
    (@kind [$($test:ident)*] $module:ident $of:ident $kind:ident) => {
        mod $module { $(#[test] fn $test() { super::$test::<super::$of::$kind>() })* }
    };
}
