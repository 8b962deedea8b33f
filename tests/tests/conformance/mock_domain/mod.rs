//! What domains hold: one or two of them, over scattered memory, contiguous memory, and memory that is shared by handle.

mod aligns;
mod domains;
mod maps;

use crate::common::*;
use aligns::*;
use domains::*;
use iommu_core::Error;
use iommu_core::hw::{Prot, Stage};
use iommu_core::hwpt::HwptConfig;
use iommu_core::ioas::Ioas;
use iommu_tests::mock::*;
use maps::*;
use std::sync::Arc;

/// What memory is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// In pages of 4 KiB, none next to another; each map is of a source of its own.
    Plain,
    /// In one run, aligned to a large page.
    Huge,
    /// As `Plain`, of one source that all maps share.
    File,
}

variants! { [
    one_plain = (1, Kind::Plain), one_huge = (1, Kind::Huge), one_file = (1, Kind::File),
    two_plain = (2, Kind::Plain), two_huge = (2, Kind::Huge), two_file = (2, Kind::File),
]:
    basic, ro_unshare, all_aligns, all_aligns_copy, user_copy, replace, alloc_hwpt,
}

type Case = (usize, Kind);

/// Memory of a kind.
struct Buffer {
    kind: Kind,
    whole: Source,
}

impl Buffer {
    fn new(rig: &Rig, kind: Kind, len: u64) -> Self {
        Self::with(rig, kind, len, |config| config)
    }

    fn with(rig: &Rig, kind: Kind, len: u64, change: fn(MemoryConfig) -> MemoryConfig) -> Self {
        let config = match kind {
            Kind::Huge => MemoryConfig::contiguous(len, MOCK_HUGE),
            _ => MemoryConfig::scattered(len),
        };
        let whole = rig.source_of(change(config));
        whole.memory.fill();
        Self { kind, whole }
    }

    fn memory(&self) -> &Arc<MockMemory> {
        &self.whole.memory
    }

    /// A source for one map.
    fn source(&self) -> Source {
        match self.kind {
            Kind::Plain => Source::of(self.whole.memory.alias(), None),
            _ => Source { memory: self.whole.memory.clone(), pages: self.whole.pages.clone() },
        }
    }

    /// How often each page must be pinned with this many maps.
    fn pins(&self, maps: u32) -> u32 {
        if self.kind == Kind::Plain { maps } else { maps.min(1) }
    }

    #[track_caller]
    fn expect_pins(&self, rig: &Rig, maps: u32) {
        for page in [0, self.whole.pages.len() / 2, self.whole.pages.len() - 1] {
            assert_eq!(rig.world.pins(self.memory().phys(page)), self.pins(maps));
        }
    }
}

/// An address space with `domains`, each made on its own, without devices.
fn rig(domains: usize) -> Rig {
    let mut rig = Rig::new(common_case());
    rig.base = APERTURE_START;
    for number in 0..domains {
        add(&mut rig, number as u32).unwrap();
    }
    rig
}

fn common_case() -> crate::common::Case {
    crate::common::Case::NoDomain
}

fn add(rig: &mut Rig, number: u32) -> Result<(), Error> {
    let unit = MockUnit::new(&rig.world);
    let lead = Lead::domain(&unit, 0x200 + number, &rig.ioas, HwptConfig::new(Stage::Second))?;
    rig.leads.push(lead);
    Ok(())
}

fn map(ioas: &Ioas, source: &Source, start: u64, end: u64, place: u64, prot: Prot) {
    let got = ioas.map(&source.pages, start, end - start, at(place), prot).unwrap();
    assert_eq!(got.get(), place);
}

/// As much memory as a test needs to meet all edges.
fn length(kind: Kind) -> u64 {
    if kind == Kind::Huge { 2 * MOCK_HUGE } else { 8 * PAGE }
}
