//! Configurations beside those that every suite runs for: contiguous groups whose size may change while hardware uses
//! them. And those of all in which hardware notes what is written through.
#![allow(dead_code, reason = "each suite is a crate of its own and uses part of this")]

use crate::common::raw::Raw;
use crate::common::{ArmFirst4, ArmSecond4, Kind};
use iommu_pgtable::{Armv8Stage1, Armv8Stage2, Stage1Options, Stage2Options};

/// Stage 1 of Armv8 with pages of 4 KiB, four levels and contiguous groups.
pub struct ArmFirst4Live;
/// Stage 2 likewise, and hardware notes what is written through.
pub struct ArmSecond4Live;

impl Kind for ArmFirst4Live {
    type F = Armv8Stage1;
    const RAW: Raw = ArmFirst4::RAW;
    const OUTPUT_BITS: u8 = ArmFirst4::OUTPUT_BITS;

    fn options() -> Stage1Options {
        Stage1Options { resizes_live: true, ..Stage1Options::default() }
    }
}

impl Kind for ArmSecond4Live {
    type F = Armv8Stage2;
    const RAW: Raw = ArmSecond4::RAW;
    const OUTPUT_BITS: u8 = ArmSecond4::OUTPUT_BITS;

    fn options() -> Stage2Options {
        Stage2Options { resizes_live: true, ..Stage2Options::default() }
    }
}

/// Runs generic tests for these.
#[macro_export]
macro_rules! for_each_live_kind {
    ($($test:ident),* $(,)?) => {
        mod armv8_stage_1_4k_4_levels_live { $(#[test] fn $test() { super::$test::<super::live::ArmFirst4Live>() })* }
        mod armv8_stage_2_4k_4_levels_live_tracked { $(#[test] fn $test() { super::$test::<super::live::ArmSecond4Live>() })* }
    };
}

/// Runs generic tests for each kind in which hardware notes what is written through.
#[macro_export]
macro_rules! for_each_tracked_kind {
    ($($test:ident),* $(,)?) => {
        mod tracked {
            $(mod $test {
                use super::super::common::{ArmFirst4Tracked, ArmSecond4, First4Tracked, Second4Tracked};

                #[test] fn vtd_second_stage() { super::super::$test::<Second4Tracked>() }
                #[test] fn vtd_first_stage() { super::super::$test::<First4Tracked>() }
                #[test] fn armv8_stage_1() { super::super::$test::<ArmFirst4Tracked>() }
                #[test] fn armv8_stage_2() { super::super::$test::<ArmSecond4>() }
                #[test] fn armv8_stage_2_live() { super::super::$test::<super::super::live::ArmSecond4Live>() }
            })*
        }
    };
}
