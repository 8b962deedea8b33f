//! What the suites share: the formats under test, a decoder of raw entries, a flat oracle.
#![allow(dead_code, reason = "each suite is a crate of its own and uses part of this")]

pub mod raw;

use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{PageSizes, Prot};
use iommu_hal::{Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::{
    Armv8Stage1, Armv8Stage2, Config, Format, PageTable, SecondStageOptions, Stage1Options, VtdFirstStage,
    VtdSecondStage,
};
use raw::{Layout, Leaf, Raw};
use std::collections::BTreeMap;

pub const K4: u64 = 0x1000;
pub const M2: u64 = 0x20_0000;
pub const G1: u64 = 0x4000_0000;

/// One format with one number of levels.
pub trait Kind {
    type F: Format;
    const LEVELS: u8;
    /// The decoder that stands for the hardware.
    const RAW: Raw;
    /// Addresses lie below 2^this.
    const INPUT_BITS: u8;
    /// Entries hold physical addresses below 2^this.
    const OUTPUT_BITS: u8;

    fn options() -> <Self::F as Format>::Options {
        Default::default()
    }

    /// As a unit with everything would have it.
    fn config(memory: WalkerMemory) -> Config<Self::F> {
        Config {
            levels: Self::LEVELS,
            page_sizes: PageSizes::new(K4 | M2 | G1),
            input_bits: 57,
            output_bits: 46,
            memory,
            address_bits: 46,
            options: Self::options(),
        }
    }

    fn table<H: Hal>(hal: H) -> PageTable<H, Self::F> {
        Self::table_in(hal, WalkerMemory::Coherent)
    }

    fn table_in<H: Hal>(hal: H, memory: WalkerMemory) -> PageTable<H, Self::F> {
        PageTable::new(hal, Self::config(memory)).unwrap()
    }
}

pub struct Second3;
pub struct Second4;
pub struct First4;
pub struct ArmFirst4;
pub struct ArmSecond3;
pub struct ArmSecond4;

impl Kind for Second3 {
    type F = VtdSecondStage;
    const LEVELS: u8 = 3;
    const RAW: Raw = Raw { layout: Layout::VtdSecondStage { snoop: false }, levels: 3, address_bits: 46 };
    const INPUT_BITS: u8 = 39;
    const OUTPUT_BITS: u8 = 52;
}

impl Kind for Second4 {
    type F = VtdSecondStage;
    const LEVELS: u8 = 4;
    const RAW: Raw = Raw { layout: Layout::VtdSecondStage { snoop: true }, levels: 4, address_bits: 46 };
    const INPUT_BITS: u8 = 48;
    const OUTPUT_BITS: u8 = 52;

    fn options() -> SecondStageOptions {
        SecondStageOptions { snoop: true }
    }
}

impl Kind for First4 {
    type F = VtdFirstStage;
    const LEVELS: u8 = 4;
    const RAW: Raw = Raw { layout: Layout::VtdFirstStage, levels: 4, address_bits: 46 };
    const INPUT_BITS: u8 = 47;
    const OUTPUT_BITS: u8 = 52;
}

impl Kind for ArmFirst4 {
    type F = Armv8Stage1;
    const LEVELS: u8 = 4;
    const RAW: Raw = Raw { layout: Layout::Armv8Stage1 { attribute_index: 5 }, levels: 4, address_bits: 46 };
    const INPUT_BITS: u8 = 48;
    const OUTPUT_BITS: u8 = 48;

    fn options() -> Stage1Options {
        Stage1Options { attribute_index: 5 }
    }
}

impl Kind for ArmSecond3 {
    type F = Armv8Stage2;
    const LEVELS: u8 = 3;
    const RAW: Raw = Raw { layout: Layout::Armv8Stage2, levels: 3, address_bits: 46 };
    const INPUT_BITS: u8 = 39;
    const OUTPUT_BITS: u8 = 48;
}

impl Kind for ArmSecond4 {
    type F = Armv8Stage2;
    const LEVELS: u8 = 4;
    const RAW: Raw = Raw { layout: Layout::Armv8Stage2, levels: 4, address_bits: 46 };
    const INPUT_BITS: u8 = 48;
    const OUTPUT_BITS: u8 = 48;
}

/// Runs generic tests for each kind.
#[macro_export]
macro_rules! for_each_kind {
    ($($test:ident),* $(,)?) => {
        mod second_stage_3_levels { $(#[test] fn $test() { super::$test::<super::common::Second3>() })* }
        mod second_stage_4_levels { $(#[test] fn $test() { super::$test::<super::common::Second4>() })* }
        mod first_stage_4_levels { $(#[test] fn $test() { super::$test::<super::common::First4>() })* }
        mod armv8_stage_1_4_levels { $(#[test] fn $test() { super::$test::<super::common::ArmFirst4>() })* }
        mod armv8_stage_2_3_levels { $(#[test] fn $test() { super::$test::<super::common::ArmSecond3>() })* }
        mod armv8_stage_2_4_levels { $(#[test] fn $test() { super::$test::<super::common::ArmSecond4>() })* }
    };
}

/// 2 MiB of tables, far from what the tests map.
pub fn memory() -> TestMemory {
    TestMemory::new(PhysAddr::new(0x3f_0000_0000), 512)
}

pub fn non_coherent() -> TestMemory {
    TestMemory::non_coherent(PhysAddr::new(0x3f_0000_0000), 512)
}

pub fn run(phys: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(phys), len)
}

pub fn iova(raw: u64) -> Iova {
    Iova::new(raw)
}

pub fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// What one page leads to: physical address, read, write.
pub type Page = (u64, bool, bool);

/// The pages that leaves map, in their order.
fn pages(leaves: &[Leaf]) -> impl Iterator<Item = (u64, Page)> + '_ {
    leaves.iter().flat_map(|leaf| {
        let Leaf { iova, phys, size, read, write } = *leaf;
        (0..size / K4).map(move |page| (iova + page * K4, (phys + page * K4, read, write)))
    })
}

/// The flat oracle: page address to what it leads to.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Flat(pub BTreeMap<u64, Page>);

impl Flat {
    /// The pages that leaves map.
    pub fn of(leaves: &[Leaf]) -> Self {
        Self(pages(leaves).collect())
    }

    /// Whether the leaves, in rising order, map these pages and no others.
    pub fn is_mapped_by(&self, leaves: &[Leaf]) -> bool {
        pages(leaves).eq(self.0.iter().map(|(at, page)| (*at, *page)))
    }

    /// The pages of a map call.
    pub fn map(&mut self, iova: u64, extents: &[PhysExtent], prot: Prot) {
        let mut at = iova;
        for extent in extents {
            for page in (0..extent.len).step_by(K4 as usize) {
                let old = self.0.insert(at, (extent.start.get() + page, prot.read, prot.write));
                assert_eq!(old, None, "the oracle lets nothing be mapped twice");
                at += K4;
            }
        }
    }

    pub fn unmap(&mut self, range: IovaRange) {
        let mut upper = self.0.split_off(&range.start().get());
        if let Some(next) = range.last().get().checked_add(1) {
            self.0.append(&mut upper.split_off(&next));
        }
    }
}
