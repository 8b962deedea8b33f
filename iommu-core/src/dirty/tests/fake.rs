//! A domain that forgets as much as the contract of [`Domain`] allows.

use super::*;
use crate::addr::{PhysAddr, PhysExtent};
use crate::hw::{
    DomainConfig, Fault, FaultReport, Geometry, HwError, PageSizes, Prot, Stream, Target, Transition, Translation,
    Unit, UnitCapabilities, Wait,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

#[derive(Clone, Copy)]
struct Leaf {
    size: u64,
    dirty: bool,
    /// Hardware remembers that it has noted a write, and notes none until this is invalidated.
    noted: bool,
}

#[derive(Default)]
pub(super) struct Hardware {
    leaves: BTreeMap<u64, Leaf>,
    pub(super) tracking: bool,
    /// Notes writes also where tracking is off.
    pub(super) always: bool,
    /// Flushes are not confirmed.
    pub(super) flush_fails: bool,
    pub(super) switch_fails: bool,
    /// Clearing ends with an error after so many leaves.
    pub(super) clear_fails_after: Option<usize>,
    /// Calls to read, and to clear.
    pub(super) reads: usize,
    pub(super) clears: usize,
}

/// Hardware with pages of `smallest` bytes and large ones of `large`.
#[derive(Clone)]
pub(super) struct Fake {
    hardware: Arc<Mutex<Hardware>>,
    aperture: IovaRange,
    smallest: u64,
    large: u64,
}

impl Fake {
    pub(super) fn new(aperture: IovaRange, smallest: u64, large: u64) -> Self {
        Self { hardware: Arc::default(), aperture, smallest, large }
    }

    pub(super) fn hardware(&self) -> MutexGuard<'_, Hardware> {
        self.hardware.lock().unwrap()
    }

    /// Maps `range` by the largest leaves that fit.
    pub(super) fn fill(&self, range: IovaRange) {
        let mut at = range.start().get();
        loop {
            let left = range.last().get() - at;
            let size = if at.is_multiple_of(self.large) && left >= self.large - 1 { self.large } else { self.smallest };
            let leaf = Leaf { size, dirty: false, noted: false };
            assert!(self.hardware().leaves.insert(at, leaf).is_none());
            if left < size {
                return;
            }
            at += size;
        }
    }

    /// A device writes at `iova`.
    pub(super) fn write(&self, iova: u64) {
        let mut hardware = self.hardware();
        let notes = hardware.tracking || hardware.always;
        let (start, leaf) = hardware.leaves.range_mut(..=iova).next_back().expect("mapped");
        assert!(iova - start < leaf.size, "mapped");
        if notes && !leaf.noted {
            (leaf.dirty, leaf.noted) = (true, true);
        }
    }

    fn scan(
        &self,
        range: IovaRange,
        mut gather: Option<&mut Gather>,
        sink: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        if !self.aperture.covers(range) {
            return Err(HwError::OutOfRange { iova: range.start(), len: range.len().unwrap_or(u64::MAX) });
        }
        assert!(range.is_aligned(self.smallest));
        let mut hardware = self.hardware();
        let hardware = &mut *hardware;
        if gather.is_some() {
            hardware.clears += 1
        } else {
            hardware.reads += 1
        };
        let mut cleared = 0;
        for (start, leaf) in &mut hardware.leaves {
            let last = *start + (leaf.size - 1);
            let (from, to) = (range.start().get().max(*start), range.last().get().min(last));
            if !leaf.dirty || from > to {
                continue;
            }
            if gather.is_some() && hardware.clear_fails_after == Some(cleared) {
                return Err(HwError::Hardware("a leaf does not stop changing"));
            }
            sink(IovaRange::new(Iova::new(from), Iova::new(to)).unwrap());
            if let Some(gather) = &mut gather {
                // The whole leaf, whatever was asked for: it has one bit.
                leaf.dirty = false;
                cleared += 1;
                gather.add_leaves(IovaRange::new(Iova::new(*start), Iova::new(last)).unwrap(), 0);
            }
        }
        Ok(())
    }
}

impl Domain for Fake {
    fn geometry(&self) -> Geometry {
        Geometry { aperture: self.aperture, page_sizes: PageSizes::new(self.smallest | self.large), output_bits: 64 }
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], _: Prot) -> Result<(), HwError> {
        let len = crate::addr::total_len(extents).unwrap();
        self.fill(range(iova.get(), len));
        Ok(())
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        self.hardware().leaves.retain(|start, _| !range.contains(Iova::new(*start)));
        gather.add_leaves(range, 0);
        Ok(())
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        let mut hardware = self.hardware();
        if hardware.flush_fails {
            return Err(HwError::TimedOut(Wait::Completion));
        }
        for (start, leaf) in &mut hardware.leaves {
            let whole = IovaRange::from_len(Iova::new(*start), leaf.size).unwrap();
            if gather.everything() || gather.ranges().any(|range| range.overlaps(whole)) {
                leaf.noted = false;
            }
        }
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        Ok(())
    }

    fn set_dirty_tracking(&self, on: bool) -> Result<(), HwError> {
        let mut hardware = self.hardware();
        if hardware.switch_fails {
            return Err(HwError::TimedOut(Wait::Completion));
        }
        hardware.tracking = on;
        Ok(())
    }

    fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.scan(range, None, dirty)
    }

    fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.scan(range, Some(gather), dirty)
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        let hardware = self.hardware();
        let (start, leaf) = hardware.leaves.range(..=iova.get()).next_back()?;
        let inside = iova.get() - start < leaf.size;
        let phys = PhysAddr::new(iova.get());
        inside.then_some(Translation { phys, prot: Prot::READ_WRITE, page_size: leaf.size })
    }
}

/// A unit that has this one domain.
impl Unit for Fake {
    fn capabilities(&self) -> UnitCapabilities {
        UnitCapabilities { second_stage: true, dirty_tracking: true, ..UnitCapabilities::default() }
    }

    fn create_domain(&self, _: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        Ok(Box::new(self.clone()))
    }

    fn attach(&self, _: Stream, _: Target<'_>) -> Result<Transition, HwError> {
        Ok(Transition::Hitless)
    }

    fn report_faults(&self, _: &mut dyn FnMut(&Fault)) -> FaultReport {
        FaultReport::default()
    }
}
