//! Hardware that is a map of pages, and remembers what a device could still reach.

use super::*;
use crate::hw::{
    DomainConfig, Fault, FaultReport, Gather, Geometry, HwError, PageSizes, Stage, Stream, Target, Transition,
    Translation, Unit, UnitCapabilities, Wait,
};
use crate::hwpt::{Hwpt, HwptConfig};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex as StdMutex;

pub(crate) const TIMEOUT: HwError = HwError::TimedOut(Wait::Completion);

/// What the fake hardware did and shall do.
pub(crate) struct Hardware {
    /// Every page the tables lead to.
    pub(crate) pages: StdMutex<BTreeMap<u64, (u64, Prot)>>,
    /// Every page a device can still reach: `pages` and what was unmapped and not flushed.
    pub(crate) reachable: StdMutex<BTreeMap<u64, u64>>,
    pub(crate) fail_map: StdMutex<Option<HwError>>,
    /// So many maps succeed before `fail_map` counts.
    pub(crate) good_maps: AtomicUsize,
    pub(crate) fail_flush: StdMutex<Option<HwError>>,
    /// Unmaps fail with this, and change nothing.
    pub(crate) fail_unmap: StdMutex<Option<HwError>>,
    /// So many more retirements are not confirmed.
    pub(crate) bad_retires: AtomicUsize,
    pub(crate) flushes: AtomicUsize,
    pub(crate) maps: AtomicUsize,
    pub(crate) reserved: std::vec::Vec<IovaRange>,
    pub(crate) aperture: IovaRange,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            pages: StdMutex::default(),
            reachable: StdMutex::default(),
            fail_map: StdMutex::default(),
            good_maps: AtomicUsize::new(0),
            fail_flush: StdMutex::default(),
            fail_unmap: StdMutex::default(),
            bad_retires: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
            maps: AtomicUsize::new(0),
            reserved: std::vec::Vec::new(),
            aperture: range(0, 1 << 39),
        }
    }
}

impl Hardware {
    pub(crate) fn reachable(&self) -> usize {
        self.reachable.lock().unwrap().len()
    }

    pub(crate) fn fail_flush(&self, error: Option<HwError>) {
        *self.fail_flush.lock().unwrap() = error;
    }

    pub(crate) fn fail_unmap(&self, error: Option<HwError>) {
        *self.fail_unmap.lock().unwrap() = error;
    }

    pub(crate) fn fail_map(&self, error: Option<HwError>) {
        *self.fail_map.lock().unwrap() = error;
    }
}

struct FakeDomain(Arc<Hardware>);

impl crate::hw::Domain for FakeDomain {
    fn geometry(&self) -> Geometry {
        let page_sizes = PageSizes::new(1 << 12 | 1 << 21);
        Geometry { aperture: self.0.aperture, page_sizes, output_bits: 48 }
    }

    fn reserved_ranges(&self) -> &[IovaRange] {
        &self.0.reserved
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        self.0.maps.fetch_add(1, Ordering::Relaxed);
        let good = self.0.good_maps.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let fail = self.0.fail_map.lock().unwrap().filter(|_| good.is_err());
        if let Some(error) = fail
            && !matches!(error, HwError::TimedOut(_))
        {
            return Err(error);
        }
        let mut at = iova.get();
        for extent in extents {
            assert!(extent.len > 0 && extent.len.is_multiple_of(4096), "{extent:?}");
            for offset in (0..extent.len).step_by(4096) {
                let frame = extent.start.get() + offset;
                assert!(self.0.pages.lock().unwrap().insert(at, (frame, prot)).is_none());
                self.0.reachable.lock().unwrap().insert(at, frame);
                at += 4096;
            }
        }
        fail.map_or(Ok(()), Err)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        if let Some(error) = *self.0.fail_unmap.lock().unwrap() {
            return Err(error);
        }
        let mut pages = self.0.pages.lock().unwrap();
        let mut step = (range.start().get()..=range.last().get()).step_by(4096);
        if let Some(hole) = step.find(|page| !pages.contains_key(page)) {
            return Err(HwError::NotMapped { iova: Iova::new(hole) });
        }
        pages.retain(|page, _| !range.contains(Iova::new(*page)));
        gather.add_leaves(range, 0);
        Ok(())
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        if let Some(error) = *self.0.fail_flush.lock().unwrap() {
            return Err(error);
        }
        self.0.flushes.fetch_add(1, Ordering::Relaxed);
        let pages = self.0.pages.lock().unwrap();
        let gone = |page: u64| gather.everything() || gather.ranges().any(|range| range.contains(Iova::new(page)));
        self.0.reachable.lock().unwrap().retain(|page, _| pages.contains_key(page) || !gone(*page));
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        if let Some(error) = *self.0.fail_flush.lock().unwrap() {
            return Err(error);
        }
        let bad = self.0.bad_retires.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if bad.is_ok() {
            return Err(TIMEOUT);
        }
        self.0.reachable.lock().unwrap().clear();
        Ok(())
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        let pages = self.0.pages.lock().unwrap();
        let (frame, prot) = *pages.get(&(iova.get() & !0xfff))?;
        Some(Translation { phys: PhysAddr::new(frame | iova.get() & 0xfff), prot, page_size: 4096 })
    }
}

/// A unit whose every domain is the same hardware.
struct FakeUnit(Arc<Hardware>);

impl Unit for FakeUnit {
    fn capabilities(&self) -> UnitCapabilities {
        UnitCapabilities { second_stage: true, ..UnitCapabilities::default() }
    }

    fn create_domain(&self, _: &DomainConfig) -> Result<Box<dyn crate::hw::Domain>, HwError> {
        Ok(Box::new(FakeDomain(self.0.clone())))
    }

    fn attach(&self, _: Stream, _: Target<'_>) -> Result<Transition, HwError> {
        Ok(Transition::Hitless)
    }

    fn report_faults(&self, _: &mut dyn FnMut(&Fault)) -> FaultReport {
        FaultReport::default()
    }
}

pub(crate) fn unit(hardware: &Arc<Hardware>) -> Arc<dyn Unit> {
    Arc::new(FakeUnit(hardware.clone()))
}

pub(crate) fn hwpt(ioas: &Ioas, hardware: &Arc<Hardware>) -> Result<Hwpt, Error> {
    Hwpt::new(ioas, &unit(hardware), HwptConfig::new(Stage::Second))
}

pub(crate) fn with_domains(count: usize) -> (Ioas, std::vec::Vec<(Arc<Hardware>, Hwpt)>) {
    crate::test_support::platform();
    let ioas = Ioas::new(IoasConfig::default()).unwrap();
    let add = |_| {
        let hardware = Arc::<Hardware>::default();
        let hwpt = hwpt(&ioas, &hardware).unwrap();
        (hardware, hwpt)
    };
    let domains = (0..count).map(add).collect();
    (ioas, domains)
}
