//! The domains that address spaces are measured on: one that costs nothing, and one with real page tables.

use crate::common::host::Host;
use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::{
    Domain, DomainConfig, Fault, FaultReport, Gather, Geometry, HwError, PageSizes, Prot, Stream, Target, Transition,
    Translation, Unit, UnitCapabilities,
};
use iommu_hal::WalkerMemory;
use iommu_pgtable::{Config, Flush, PageTable, VtdSecondStage};
use std::hint::black_box;

/// Bits of the addresses that both take.
pub const BITS: u8 = 48;
/// Valgrind has memory at low addresses: physical ones lie below.
type Frames = Host<{ 1 << 16 }>;

/// A kind of domain, and the unit that makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Maps nothing and costs nothing: what is left is the address space.
    Null,
    /// The tables of VT-d's second stage, four levels of them. There is no hardware to wait for.
    SecondStage,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Null, Self::SecondStage];

    /// For people, and for `--count`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::SecondStage => "vtd-second-stage",
        }
    }

    /// A new one.
    pub fn domain(self) -> Box<dyn Domain> {
        match self {
            Self::Null => Box::new(Nothing),
            Self::SecondStage => Box::new(Tables::new()),
        }
    }
}

impl Unit for Kind {
    fn capabilities(&self) -> UnitCapabilities {
        UnitCapabilities { second_stage: true, ..UnitCapabilities::default() }
    }

    fn create_domain(&self, _: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        Ok(self.domain())
    }

    fn attach(&self, _: Stream, _: Target<'_>) -> Result<Transition, HwError> {
        Err(HwError::Unsupported("streams"))
    }

    fn report_faults(&self, _: &mut dyn FnMut(&Fault)) -> FaultReport {
        FaultReport::default()
    }
}

const SIZES: PageSizes = PageSizes::new(1 << 12 | 1 << 21 | 1 << 30);

struct Nothing;

impl Domain for Nothing {
    fn geometry(&self) -> Geometry {
        let aperture = IovaRange::new(Iova::new(0), Iova::new((1 << BITS) - 1)).expect("not empty");
        Geometry { aperture, page_sizes: SIZES, output_bits: BITS }
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        black_box((iova, extents, prot));
        Ok(())
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        black_box((range, gather));
        Ok(())
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        black_box(gather);
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        Ok(())
    }

    fn translate(&self, _: Iova) -> Option<Translation> {
        None
    }
}

struct Tables(PageTable<Frames, VtdSecondStage>);

impl Tables {
    fn new() -> Self {
        let config = Config {
            levels: 4,
            page_sizes: SIZES,
            input_bits: BITS,
            output_bits: BITS,
            memory: WalkerMemory::Coherent,
            address_bits: BITS,
            track_dirty: false,
            options: Default::default(),
        };
        Self(PageTable::new(Host, config).expect("a table that is usual"))
    }
}

/// A unit that has nothing to invalidate: what that costs is the unit's affair.
struct Still;

// SAFETY: no hardware ever walks the tables.
unsafe impl Flush for Still {
    fn flush(&mut self, gather: &Gather) -> Result<(), HwError> {
        black_box(gather);
        Ok(())
    }
}

impl Domain for Tables {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        let len = extents.iter().map(|extent| extent.len).sum();
        let range = IovaRange::from_len(iova, len).ok_or(HwError::OutOfRange { iova, len })?;
        // SAFETY: one thread, and no claim outlives the call that it is made for.
        let claim = unsafe { self.0.claim(range) };
        claim.ok_or(HwError::OutOfRange { iova, len })?.map(iova, extents, prot, &mut Still)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        // SAFETY: as above.
        let claim = unsafe { self.0.claim(range) };
        let outside = HwError::OutOfRange { iova: range.start(), len: range.len().unwrap_or(u64::MAX) };
        claim.ok_or(outside)?.unmap(range, gather, &mut |_| ())
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        black_box(&gather);
        // SAFETY: no hardware ever walks the tables.
        unsafe { self.0.free_gathered(gather) };
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        Ok(())
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        self.0.translate(iova)
    }
}
