//! The formats and configurations that every test runs for.

use super::raw::{Layout, Raw};
use iommu_core::hw::PageSizes;
use iommu_hal::{Hal, WalkerMemory};
use iommu_pgtable::{
    Armv8, Armv8Options, Armv8Stage, Armv8Stage1, Armv8Stage2, Config, FirstStageOptions, Format, Granule4K,
    Granule16K, Granule64K, GranuleSize, PageTable, Riscv64, SecondStageOptions, Shareability, Stage1Options,
    Stage2Options, Vtd, VtdFirstStage, VtdOptions, VtdSecondStage,
};

const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

/// One format in one configuration.
pub trait Kind {
    type F: Format;

    /// The decoder that stands for the hardware, which snoops.
    const RAW: Raw;

    /// Entries hold physical addresses below 2^this.
    const OUTPUT_BITS: u8;

    /// Levels from the root down.
    const LEVELS: u8 = Self::RAW.levels as u8;

    /// Addresses lie below 2^this.
    const INPUT_BITS: u8 = Self::RAW.input_bits as u8;

    /// The first address above all that are translated.
    const TOP: u64 = Self::RAW.top();

    /// Bytes of the smallest page.
    const PAGE: u64 = Self::RAW.entry_size(1);

    /// Bytes that one table of smallest pages translates: the large leaf, which every format has.
    const LARGE: u64 = Self::RAW.entry_size(2);

    /// Bytes that one table above that translates.
    const HUGE: u64 = Self::RAW.entry_size(3);

    /// Bytes of the largest leaf, contiguous groups counted.
    const LARGEST: u64 = 1 << Self::RAW.sizes.ilog2();

    /// Entries of a table below the root.
    const ENTRIES: u64 = 1 << Self::RAW.index_bits;

    fn options() -> <Self::F as Format>::Options {
        Default::default()
    }

    /// The memories that its tables may lie in: hardware notes what is written through only where it snoops.
    fn memories() -> &'static [WalkerMemory] {
        match Self::RAW.tracked {
            true => &[WalkerMemory::Coherent],
            false => &[WalkerMemory::Coherent, WalkerMemory::NonCoherent],
        }
    }

    /// The decoder that stands for hardware which reads the tables in this way.
    fn raw(memory: WalkerMemory) -> Raw {
        match memory {
            WalkerMemory::Coherent => Self::RAW,
            WalkerMemory::NonCoherent => Self::RAW.non_coherent(),
        }
    }

    /// As the unit would have it.
    fn config(memory: WalkerMemory) -> Config<Self::F> {
        Config {
            levels: Self::LEVELS,
            page_sizes: PageSizes::new(Self::RAW.sizes),
            input_bits: Self::INPUT_BITS,
            output_bits: 46,
            memory,
            address_bits: 46,
            track_dirty: Self::RAW.tracked,
            options: Self::options(),
        }
    }

    fn table<H: Hal>(hal: H) -> PageTable<H, Self::F> {
        Self::table_in(hal, WalkerMemory::Coherent)
    }

    fn table_in<H: Hal>(hal: H, memory: WalkerMemory) -> PageTable<H, Self::F> {
        PageTable::new(hal, Self::config(memory)).unwrap()
    }

    /// The leaf sizes, from the smallest up.
    fn sizes() -> Vec<u64> {
        (0..64).map(|bit| 1 << bit).filter(|size| Self::RAW.sizes & size != 0).collect()
    }
}

/// A decoder for entries with this layout.
const fn raw(layout: Layout, granule: (u32, u32), levels: u32, input_bits: u32, sizes: u64) -> Raw {
    let (page_bits, index_bits) = granule;
    Raw { layout, page_bits, index_bits, levels, input_bits, address_bits: 46, sizes, tracked: false, coherent: true }
}

const fn tracked(raw: Raw) -> Raw {
    Raw { tracked: true, ..raw }
}

/// Address bits of a page, and those that a table translates.
const G4K: (u32, u32) = (12, 9);
const G16K: (u32, u32) = (14, 11);
const G64K: (u32, u32) = (16, 13);

const SIZES_4K: u64 = (4 * KB) | (2 * MB) | GB;
const SIZES_16K: u64 = (16 * KB) | (32 * MB);
const SIZES_64K: u64 = (64 * KB) | (512 * MB);

/// Those of contiguous groups.
const GROUPS_4K: u64 = (64 * KB) | (32 * MB) | (16 * GB);
const GROUPS_16K: u64 = (2 * MB) | GB;
const GROUPS_64K: u64 = (2 * MB) | (16 * GB);

const fn second(levels: u32, snoop: bool) -> Raw {
    raw(Layout::VtdSecondStage { snoop }, G4K, levels, 12 + 9 * levels, SIZES_4K)
}

/// Second stage of VT-d, three levels.
pub struct Second3;
/// Four, with snoop control.
pub struct Second4;
/// Five.
pub struct Second5;
/// Four, and hardware notes what is written through.
pub struct Second4Tracked;

impl Kind for Second3 {
    type F = VtdSecondStage;
    const RAW: Raw = second(3, false);
    const OUTPUT_BITS: u8 = 52;
}

impl Kind for Second4 {
    type F = VtdSecondStage;
    const RAW: Raw = second(4, true);
    const OUTPUT_BITS: u8 = 52;

    fn options() -> SecondStageOptions {
        SecondStageOptions { snoop: true }
    }
}

impl Kind for Second5 {
    type F = VtdSecondStage;
    const RAW: Raw = second(5, false);
    const OUTPUT_BITS: u8 = 52;
}

impl Kind for Second4Tracked {
    type F = VtdSecondStage;
    const RAW: Raw = tracked(second(4, false));
    const OUTPUT_BITS: u8 = 52;
}

const fn first(levels: u32, supervisor: bool, no_execute: bool) -> Raw {
    raw(Layout::VtdFirstStage { supervisor, no_execute }, G4K, levels, 11 + 9 * levels, SIZES_4K)
}

/// First stage of VT-d, four levels.
pub struct First4;
/// Five.
pub struct First5;
/// Four, for supervisors, without execution.
pub struct First4Supervisor;
/// Four, and hardware notes what is written through.
pub struct First4Tracked;

impl Kind for First4 {
    type F = VtdFirstStage;
    const RAW: Raw = first(4, false, false);
    const OUTPUT_BITS: u8 = 52;
}

impl Kind for First5 {
    type F = VtdFirstStage;
    const RAW: Raw = first(5, false, false);
    const OUTPUT_BITS: u8 = 52;
}

impl Kind for First4Supervisor {
    type F = VtdFirstStage;
    const RAW: Raw = first(4, true, true);
    const OUTPUT_BITS: u8 = 52;

    fn options() -> FirstStageOptions {
        FirstStageOptions { supervisor: true, no_execute: true }
    }
}

impl Kind for First4Tracked {
    type F = VtdFirstStage;
    const RAW: Raw = tracked(first(4, false, false));
    const OUTPUT_BITS: u8 = 52;
}

/// Either stage of VT-d, here the second: four levels, with snoop control.
pub struct EitherSecond4;
/// Three, and hardware notes what is written through.
pub struct EitherSecond3Tracked;
/// Here the first: five levels, for supervisors, without execution.
pub struct EitherFirst5;
/// Four, and hardware notes what is written through.
pub struct EitherFirst4Tracked;

impl Kind for EitherSecond4 {
    type F = Vtd;
    const RAW: Raw = second(4, true);
    const OUTPUT_BITS: u8 = 52;

    fn options() -> VtdOptions {
        VtdOptions::Second(SecondStageOptions { snoop: true })
    }
}

impl Kind for EitherSecond3Tracked {
    type F = Vtd;
    const RAW: Raw = tracked(second(3, false));
    const OUTPUT_BITS: u8 = 52;
}

impl Kind for EitherFirst5 {
    type F = Vtd;
    const RAW: Raw = first(5, true, true);
    const OUTPUT_BITS: u8 = 52;

    fn options() -> VtdOptions {
        VtdOptions::First(FirstStageOptions { supervisor: true, no_execute: true })
    }
}

impl Kind for EitherFirst4Tracked {
    type F = Vtd;
    const RAW: Raw = tracked(first(4, false, false));
    const OUTPUT_BITS: u8 = 52;

    fn options() -> VtdOptions {
        VtdOptions::First(FirstStageOptions::default())
    }
}

/// Stage 1 of Armv8 with MAIR index 0, inner shareable, for unprivileged accesses, without execution.
const ARM_FIRST: Layout =
    Layout::Armv8Stage1 { attribute_index: 0, shareability: 3, privileged: false, executable: false };

/// Pages of 4 KiB, three levels.
pub struct ArmFirst3;
/// Four, with contiguous groups.
pub struct ArmFirst4;
/// The same, and hardware notes what is written through. Another MAIR index.
pub struct ArmFirst4Tracked;
/// Pages of 16 KiB, three levels. Outer shareable, privileged, executable.
pub struct ArmFirst16K3;
/// Four, with contiguous groups.
pub struct ArmFirst16K4;
/// Pages of 64 KiB, two levels.
pub struct ArmFirst64K2;
/// Three, with contiguous groups.
pub struct ArmFirst64K3;

impl Kind for ArmFirst3 {
    type F = Armv8Stage1<Granule4K>;
    const RAW: Raw = raw(ARM_FIRST, G4K, 3, 39, SIZES_4K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmFirst4 {
    type F = Armv8Stage1<Granule4K>;
    const RAW: Raw = raw(ARM_FIRST, G4K, 4, 48, SIZES_4K | GROUPS_4K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmFirst4Tracked {
    type F = Armv8Stage1<Granule4K>;
    const RAW: Raw = tracked(raw(
        Layout::Armv8Stage1 { attribute_index: 5, shareability: 3, privileged: false, executable: false },
        G4K,
        4,
        48,
        SIZES_4K | GROUPS_4K,
    ));
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Stage1Options {
        Stage1Options { attribute_index: 5, ..Stage1Options::default() }
    }
}

impl Kind for ArmFirst16K3 {
    type F = Armv8Stage1<Granule16K>;
    const RAW: Raw = raw(
        Layout::Armv8Stage1 { attribute_index: 7, shareability: 2, privileged: true, executable: true },
        G16K,
        3,
        47,
        SIZES_16K,
    );
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Stage1Options {
        Stage1Options {
            attribute_index: 7,
            shareability: Shareability::Outer,
            privileged: true,
            executable: true,
            resizes_live: true,
        }
    }
}

impl Kind for ArmFirst16K4 {
    type F = Armv8Stage1<Granule16K>;
    const RAW: Raw = raw(ARM_FIRST, G16K, 4, 48, SIZES_16K | GROUPS_16K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmFirst64K2 {
    type F = Armv8Stage1<Granule64K>;
    const RAW: Raw = raw(ARM_FIRST, G64K, 2, 42, SIZES_64K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmFirst64K3 {
    type F = Armv8Stage1<Granule64K>;
    const RAW: Raw = raw(ARM_FIRST, G64K, 3, 48, SIZES_64K | GROUPS_64K);
    const OUTPUT_BITS: u8 = 48;
}

/// Stage 2 of Armv8, write-back, inner shareable, without execution.
const ARM_SECOND: Layout = Layout::Armv8Stage2 { memory_attributes: 15, shareability: 3, executable: false };

/// Pages of 4 KiB, three levels.
pub struct ArmSecond3;
/// Three, two tables at the root.
pub struct ArmSecond3By2;
/// Three, sixteen tables at the root.
pub struct ArmSecond3By16;
/// Four, with contiguous groups, and hardware notes what is written through.
pub struct ArmSecond4;
/// Two, sixteen tables at the root.
pub struct ArmSecond2;
/// Pages of 16 KiB, three levels, two tables at the root. Device memory, not shareable, executable.
pub struct ArmSecond16K3;
/// Pages of 64 KiB, three levels.
pub struct ArmSecond64K3;
/// Two, four tables at the root.
pub struct ArmSecond64K2;

impl Kind for ArmSecond3 {
    type F = Armv8Stage2<Granule4K>;
    const RAW: Raw = raw(ARM_SECOND, G4K, 3, 39, SIZES_4K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmSecond3By2 {
    type F = Armv8Stage2<Granule4K>;
    const RAW: Raw = raw(ARM_SECOND, G4K, 3, 40, SIZES_4K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmSecond3By16 {
    type F = Armv8Stage2<Granule4K>;
    const RAW: Raw = raw(ARM_SECOND, G4K, 3, 43, SIZES_4K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmSecond4 {
    type F = Armv8Stage2<Granule4K>;
    const RAW: Raw = tracked(raw(ARM_SECOND, G4K, 4, 48, SIZES_4K | GROUPS_4K));
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmSecond2 {
    type F = Armv8Stage2<Granule4K>;
    const RAW: Raw = raw(ARM_SECOND, G4K, 2, 34, SIZES_4K & !GB);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmSecond16K3 {
    type F = Armv8Stage2<Granule16K>;
    const RAW: Raw =
        raw(Layout::Armv8Stage2 { memory_attributes: 1, shareability: 0, executable: true }, G16K, 3, 48, SIZES_16K);
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Stage2Options {
        Stage2Options { memory_attributes: 1, shareability: Shareability::Non, executable: true, resizes_live: true }
    }
}

impl Kind for ArmSecond64K3 {
    type F = Armv8Stage2<Granule64K>;
    const RAW: Raw = raw(ARM_SECOND, G64K, 3, 48, SIZES_64K);
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmSecond64K2 {
    type F = Armv8Stage2<Granule64K>;
    const RAW: Raw = raw(ARM_SECOND, G64K, 2, 44, SIZES_64K);
    const OUTPUT_BITS: u8 = 48;
}

/// Any table of Armv8, here as [`ArmFirst4Tracked`].
pub struct AnyFirst4Tracked;
/// As [`ArmFirst16K4`].
pub struct AnyFirst16K4;
/// As [`ArmFirst64K3`].
pub struct AnyFirst64K3;
/// As [`ArmSecond3By2`].
pub struct AnySecond3By2;
/// As [`ArmSecond16K3`], but with contiguous groups, and hardware notes what is written through.
pub struct AnySecond16K3Tracked;
/// As [`ArmSecond64K2`].
pub struct AnySecond64K2;

impl Kind for AnyFirst4Tracked {
    type F = Armv8;
    const RAW: Raw = ArmFirst4Tracked::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Armv8Options {
        Armv8Options { granule: GranuleSize::Kib4, stage: Armv8Stage::First(ArmFirst4Tracked::options()) }
    }
}

impl Kind for AnyFirst16K4 {
    type F = Armv8;
    const RAW: Raw = ArmFirst16K4::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Armv8Options {
        Armv8Options { granule: GranuleSize::Kib16, stage: Armv8Stage::First(Stage1Options::default()) }
    }
}

impl Kind for AnyFirst64K3 {
    type F = Armv8;
    const RAW: Raw = ArmFirst64K3::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Armv8Options {
        let stage = Stage1Options { resizes_live: true, ..Stage1Options::default() };
        Armv8Options { granule: GranuleSize::Kib64, stage: Armv8Stage::First(stage) }
    }
}

impl Kind for AnySecond3By2 {
    type F = Armv8;
    const RAW: Raw = ArmSecond3By2::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Armv8Options {
        Armv8Options { granule: GranuleSize::Kib4, stage: Armv8Stage::Second(Stage2Options::default()) }
    }
}

impl Kind for AnySecond16K3Tracked {
    type F = Armv8;
    const RAW: Raw = Raw { sizes: SIZES_16K | GROUPS_16K, ..tracked(ArmSecond16K3::RAW) };
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Armv8Options {
        Armv8Options { granule: GranuleSize::Kib16, stage: Armv8Stage::Second(ArmSecond16K3::options()) }
    }
}

impl Kind for AnySecond64K2 {
    type F = Armv8;
    const RAW: Raw = ArmSecond64K2::RAW;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Armv8Options {
        Armv8Options { granule: GranuleSize::Kib64, stage: Armv8Stage::Second(Stage2Options::default()) }
    }
}

/// RISC-V, three levels: Sv39.
pub struct Sv39;
/// Four: Sv48.
pub struct Sv48;

impl Kind for Sv39 {
    type F = Riscv64;
    const RAW: Raw = raw(Layout::Riscv64, G4K, 3, 38, SIZES_4K);
    const OUTPUT_BITS: u8 = 56;
}

impl Kind for Sv48 {
    type F = Riscv64;
    const RAW: Raw = raw(Layout::Riscv64, G4K, 4, 47, SIZES_4K | (512 * GB));
    const OUTPUT_BITS: u8 = 56;
}

/// Runs generic tests for each kind.
#[macro_export]
macro_rules! for_each_kind {
    ($($test:ident),* $(,)?) => {
        $crate::for_each_kind!(@each [$($test)*]
            vtd_second_stage_3_levels Second3,
            vtd_second_stage_4_levels Second4,
            vtd_second_stage_5_levels Second5,
            vtd_second_stage_4_levels_tracked Second4Tracked,
            vtd_first_stage_4_levels First4,
            vtd_first_stage_5_levels First5,
            vtd_first_stage_4_levels_supervisor First4Supervisor,
            vtd_first_stage_4_levels_tracked First4Tracked,
            vtd_either_as_second_stage_4_levels EitherSecond4,
            vtd_either_as_second_stage_3_levels_tracked EitherSecond3Tracked,
            vtd_either_as_first_stage_5_levels EitherFirst5,
            vtd_either_as_first_stage_4_levels_tracked EitherFirst4Tracked,
            armv8_stage_1_4k_3_levels ArmFirst3,
            armv8_stage_1_4k_4_levels ArmFirst4,
            armv8_stage_1_4k_4_levels_tracked ArmFirst4Tracked,
            armv8_stage_1_16k_3_levels ArmFirst16K3,
            armv8_stage_1_16k_4_levels ArmFirst16K4,
            armv8_stage_1_64k_2_levels ArmFirst64K2,
            armv8_stage_1_64k_3_levels ArmFirst64K3,
            armv8_stage_2_4k_3_levels ArmSecond3,
            armv8_stage_2_4k_3_levels_40_bits ArmSecond3By2,
            armv8_stage_2_4k_3_levels_43_bits ArmSecond3By16,
            armv8_stage_2_4k_4_levels_tracked ArmSecond4,
            armv8_stage_2_4k_2_levels_34_bits ArmSecond2,
            armv8_stage_2_16k_3_levels_48_bits ArmSecond16K3,
            armv8_stage_2_64k_3_levels ArmSecond64K3,
            armv8_stage_2_64k_2_levels_44_bits ArmSecond64K2,
            armv8_any_as_stage_1_4k_4_levels_tracked AnyFirst4Tracked,
            armv8_any_as_stage_1_16k_4_levels AnyFirst16K4,
            armv8_any_as_stage_1_64k_3_levels AnyFirst64K3,
            armv8_any_as_stage_2_4k_3_levels_40_bits AnySecond3By2,
            armv8_any_as_stage_2_16k_3_levels_48_bits_tracked AnySecond16K3Tracked,
            armv8_any_as_stage_2_64k_2_levels_44_bits AnySecond64K2,
            riscv64_sv39 Sv39,
            riscv64_sv48 Sv48,
        );
    };
    (@each $tests:tt $($module:ident $kind:ident,)*) => {
        $($crate::for_each_kind!(@kind $tests $module $kind);)*
    };
    (@kind [$($test:ident)*] $module:ident $kind:ident) => {
        mod $module { $(#[test] fn $test() { super::$test::<super::common::$kind>() })* }
    };
}
