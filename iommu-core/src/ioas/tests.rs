//! The address space over a domain that is a plain map of pages and can be told to fail.

use super::*;
use crate::addr::PhysAddr;
use crate::hw::{Geometry, PageSizes, Translation, Wait};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

extern crate std;

const TIMEOUT: HwError = HwError::TimedOut(Wait::Completion);

/// What the fake hardware did and shall do.
#[derive(Default)]
struct Hardware {
    /// Every page the tables lead to.
    pages: Mutex<BTreeMap<u64, (u64, Prot)>>,
    /// Every page a device can still reach: `pages` and what was unmapped and not flushed.
    reachable: Mutex<BTreeMap<u64, u64>>,
    fail_map: Mutex<Option<HwError>>,
    fail_flush: Mutex<Option<HwError>>,
    flushes: AtomicUsize,
}

struct FakeDomain {
    hardware: Arc<Hardware>,
    reserved: Vec<IovaRange>,
}

impl Domain for FakeDomain {
    fn geometry(&self) -> Geometry {
        Geometry { aperture: range(0, 1 << 39), page_sizes: PageSizes::new(1 << 12), output_bits: 48 }
    }

    fn reserved_ranges(&self) -> &[IovaRange] {
        &self.reserved
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        let fail = *self.hardware.fail_map.lock().unwrap();
        if let Some(error) = fail
            && !is_unconfirmed(error)
        {
            return Err(error);
        }
        let frames = extents.iter().flat_map(|extent| (0..extent.len / 4096).map(|n| extent.start.get() + n * 4096));
        for (page, frame) in frames.enumerate() {
            let at = iova.get() + page as u64 * 4096;
            assert!(self.hardware.pages.lock().unwrap().insert(at, (frame, prot)).is_none());
            self.hardware.reachable.lock().unwrap().insert(at, frame);
        }
        fail.map_or(Ok(()), Err)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        let mut pages = self.hardware.pages.lock().unwrap();
        let mut step = (range.start().get()..=range.last().get()).step_by(4096);
        if let Some(hole) = step.find(|page| !pages.contains_key(page)) {
            return Err(HwError::NotMapped { iova: Iova::new(hole) });
        }
        pages.retain(|page, _| !range.contains(Iova::new(*page)));
        gather.add_leaves(range, 0);
        Ok(())
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        if let Some(error) = *self.hardware.fail_flush.lock().unwrap() {
            return Err(error);
        }
        self.hardware.flushes.fetch_add(1, Ordering::Relaxed);
        let pages = self.hardware.pages.lock().unwrap();
        let gone = |page: u64| gather.everything() || gather.ranges().any(|range| range.contains(Iova::new(page)));
        self.hardware.reachable.lock().unwrap().retain(|page, _| pages.contains_key(page) || !gone(*page));
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        if let Some(error) = *self.hardware.fail_flush.lock().unwrap() {
            return Err(error);
        }
        self.hardware.reachable.lock().unwrap().clear();
        Ok(())
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        let pages = self.hardware.pages.lock().unwrap();
        let (frame, prot) = *pages.get(&(iova.get() & !0xfff))?;
        Some(Translation { phys: PhysAddr::new(frame | iova.get() & 0xfff), prot, page_size: 4096 })
    }
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

fn extent(start: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(start), len)
}

fn with_domains(count: usize) -> (Ioas, Vec<Arc<Hardware>>) {
    let mut ioas = Ioas::new();
    let hardware: Vec<Arc<Hardware>> = (0..count).map(|_| Arc::default()).collect();
    for one in &hardware {
        ioas.add_domain(Box::new(FakeDomain { hardware: one.clone(), reserved: vec![] })).unwrap();
    }
    (ioas, hardware)
}

fn map(ioas: &mut Ioas, iova: u64, phys: u64, len: u64) -> Result<(), IoasError> {
    ioas.map_fixed(Iova::new(iova), &[extent(phys, len)], Prot::READ_WRITE)
}

fn reachable(hardware: &Hardware) -> usize {
    hardware.reachable.lock().unwrap().len()
}

#[test]
fn maps_reach_every_domain_and_unmaps_leave_none() {
    let (mut ioas, hardware) = with_domains(2);
    ioas.map_fixed(Iova::new(0x4000), &[extent(0x1_0000, 0x1000), extent(0x9_0000, 0x2000)], Prot::READ).unwrap();
    for one in &hardware {
        let pages = one.pages.lock().unwrap().clone();
        let expected = [(0x4000, 0x1_0000), (0x5000, 0x9_0000), (0x6000, 0x9_1000)];
        assert_eq!(pages, expected.into_iter().map(|(iova, phys)| (iova, (phys, Prot::READ))).collect());
    }
    assert_eq!(ioas.unmap(range(0x4000, 0x3000)), Ok(0x3000));
    assert!(hardware.iter().all(|one| reachable(one) == 0 && one.flushes.load(Ordering::Relaxed) == 1));
    assert_eq!(ioas.areas().count(), 0);
}

#[test]
fn bad_maps_change_nothing() {
    let (mut ioas, hardware) = with_domains(1);
    map(&mut ioas, 0x4000, 0x1_0000, 0x2000).unwrap();
    let area = range(0x4000, 0x2000);
    let overlap = Err(IoasError::Overlap { area });
    assert_eq!(map(&mut ioas, 0x4000, 0x2_0000, 0x1000), overlap);
    assert_eq!(map(&mut ioas, 0x3000, 0x2_0000, 0x2000), overlap);
    assert_eq!(map(&mut ioas, 0x5000, 0x2_0000, 0x1000), overlap);
    assert_eq!(map(&mut ioas, 0x0, 0x2_0000, 0x10000), overlap);
    assert_eq!(map(&mut ioas, 0x8800, 0, 0x1000), Err(IoasError::Misaligned { value: 0x8800, align: 0x1000 }));
    assert_eq!(map(&mut ioas, 0x8000, 0x10, 0x1000), Err(IoasError::Misaligned { value: 0x10, align: 0x1000 }));
    assert_eq!(map(&mut ioas, 0x8000, 0, 0x1234), Err(IoasError::Misaligned { value: 0x1234, align: 0x1000 }));
    assert_eq!(map(&mut ioas, 0x8000, 0, 0), Err(IoasError::Empty));
    let top = Iova::new(u64::MAX - 0xfff);
    assert_eq!(map(&mut ioas, top.get(), 0, 0x2000), Err(IoasError::Overflow { iova: top }));
    let huge = [extent(0, !0xfff), extent(0, 0x1000), extent(0, 0x1000)];
    let iova = Iova::new(0x8000);
    assert_eq!(ioas.map_fixed(iova, &huge, Prot::READ), Err(IoasError::Overflow { iova }));
    let none = Prot { read: false, write: false };
    assert_eq!(ioas.map_fixed(iova, &[extent(0, 0x1000)], none), Err(IoasError::Protection(none)));
    assert_eq!(hardware[0].pages.lock().unwrap().len(), 2);
    assert_eq!(ioas.areas().count(), 1);
}

#[test]
fn unmap_takes_whole_areas_and_something() {
    let (mut ioas, hardware) = with_domains(1);
    map(&mut ioas, 0x4000, 0x1_0000, 0x2000).unwrap();
    map(&mut ioas, 0x8000, 0x2_0000, 0x1000).unwrap();
    assert_eq!(ioas.unmap(range(0x1000, 0x1000)), Err(IoasError::NotFound { iova: Iova::new(0x1000) }));
    assert_eq!(ioas.unmap(range(0x4000, 0x1000)), Err(IoasError::CutsArea { area: range(0x4000, 0x2000) }));
    assert_eq!(ioas.unmap(range(0x5000, 0x4000)), Err(IoasError::CutsArea { area: range(0x4000, 0x2000) }));
    assert_eq!(reachable(&hardware[0]), 3);
    // The gap in the middle is no error.
    assert_eq!(ioas.unmap(range(0, 0x10000)), Ok(0x3000));
    assert_eq!(reachable(&hardware[0]), 0);
    assert_eq!(ioas.unmap_all(), Ok(0));
}

#[test]
fn a_failing_domain_rolls_the_others_back() {
    let (mut ioas, hardware) = with_domains(3);
    *hardware[2].fail_map.lock().unwrap() = Some(HwError::OutOfMemory);
    assert_eq!(map(&mut ioas, 0x4000, 0x1_0000, 0x2000), Err(IoasError::Domain(HwError::OutOfMemory)));
    assert!(hardware.iter().all(|one| reachable(one) == 0));
    assert_eq!(ioas.areas().count(), 0);
}

#[test]
fn a_map_that_hardware_does_not_confirm_is_taken_back_or_drains() {
    let (mut ioas, hardware) = with_domains(2);
    *hardware[1].fail_map.lock().unwrap() = Some(TIMEOUT);
    assert_eq!(map(&mut ioas, 0x4000, 0x1_0000, 0x1000), Err(IoasError::Domain(TIMEOUT)));
    assert!(hardware.iter().all(|one| reachable(one) == 0));
    assert_eq!(ioas.areas().count(), 0);

    *hardware[1].fail_flush.lock().unwrap() = Some(TIMEOUT);
    assert_eq!(map(&mut ioas, 0x4000, 0x1_0000, 0x1000), Err(IoasError::Domain(TIMEOUT)));
    assert!(ioas.areas().all(Area::is_draining) && ioas.areas().count() == 1);
    *hardware[1].fail_flush.lock().unwrap() = None;
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert!(hardware.iter().all(|one| reachable(one) == 0));
}

#[test]
fn an_undo_that_hardware_does_not_confirm_is_what_the_caller_hears_of() {
    let (mut ioas, hardware) = with_domains(2);
    *hardware[0].fail_flush.lock().unwrap() = Some(TIMEOUT);
    *hardware[1].fail_map.lock().unwrap() = Some(HwError::OutOfMemory);
    // Not OutOfMemory: that would say that nothing is reachable.
    assert_eq!(map(&mut ioas, 0x4000, 0x1_0000, 0x1000), Err(IoasError::Domain(TIMEOUT)));
    assert!(reachable(&hardware[0]) == 1 && ioas.areas().all(Area::is_draining));
    *hardware[0].fail_flush.lock().unwrap() = None;
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert_eq!(reachable(&hardware[0]), 0);
}

#[test]
fn what_is_draining_is_not_mapped_in_a_new_domain() {
    let (mut ioas, hardware) = with_domains(1);
    map(&mut ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    map(&mut ioas, 0x8000, 0x2_0000, 0x1000).unwrap();
    *hardware[0].fail_flush.lock().unwrap() = Some(TIMEOUT);
    assert_eq!(ioas.unmap(range(0x4000, 0x1000)), Err(IoasError::Domain(TIMEOUT)));
    let late = Arc::<Hardware>::default();
    ioas.add_domain(Box::new(FakeDomain { hardware: late.clone(), reserved: vec![] })).unwrap();
    assert_eq!(late.pages.lock().unwrap().keys().copied().collect::<Vec<_>>(), [0x8000]);
    *hardware[0].fail_flush.lock().unwrap() = None;
    assert_eq!(ioas.unmap_all(), Ok(0x2000));
    assert!(reachable(&late) == 0 && reachable(&hardware[0]) == 0);
}

#[test]
fn a_domain_that_hardware_does_not_let_go_stays() {
    let (mut ioas, hardware) = with_domains(0);
    let held = Arc::<Hardware>::default();
    let id = ioas.add_domain(Box::new(FakeDomain { hardware: held.clone(), reserved: vec![] })).unwrap();
    map(&mut ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    *held.fail_flush.lock().unwrap() = Some(TIMEOUT);
    assert_eq!(ioas.remove_domain(id), Err(IoasError::Domain(TIMEOUT)));
    // So that an unmap cannot say that nobody reaches the memory.
    assert_eq!(ioas.unmap_all(), Err(IoasError::Domain(TIMEOUT)));
    *held.fail_flush.lock().unwrap() = None;
    ioas.remove_domain(id).unwrap();
    assert!(reachable(&held) == 0 && hardware.is_empty());
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
}

#[test]
fn an_unmap_that_hardware_does_not_confirm_keeps_the_address_until_it_does() {
    let (mut ioas, hardware) = with_domains(3);
    map(&mut ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    *hardware[1].fail_flush.lock().unwrap() = Some(TIMEOUT);
    assert_eq!(ioas.unmap_all(), Err(IoasError::Domain(TIMEOUT)));
    // The others are unmapped all the same.
    assert_eq!(hardware.iter().map(|one| reachable(one)).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(map(&mut ioas, 0x4000, 0x9_0000, 0x1000), Err(IoasError::Overlap { area: range(0x4000, 0x1000) }));
    *hardware[1].fail_flush.lock().unwrap() = None;
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert!(hardware.iter().all(|one| reachable(one) == 0));
    map(&mut ioas, 0x4000, 0x9_0000, 0x1000).unwrap();
}

#[test]
fn a_domain_that_joins_late_gets_every_area_or_does_not_join() {
    let (mut ioas, _) = with_domains(1);
    map(&mut ioas, 0x4000, 0x1_0000, 0x2000).unwrap();
    let hardware = Arc::<Hardware>::default();
    let late = |reserved| Box::new(FakeDomain { hardware: hardware.clone(), reserved });
    let refused = ioas.add_domain(late(vec![range(0x5000, 0x1000)]));
    assert_eq!(refused, Err(IoasError::Overlap { area: range(0x4000, 0x2000) }));
    assert_eq!(reachable(&hardware), 0);
    let id = ioas.add_domain(late(vec![range(0x10_0000, 0x1000)])).unwrap();
    assert_eq!(reachable(&hardware), 2);
    assert_eq!(map(&mut ioas, 0x10_0000, 0, 0x1000), Err(IoasError::Reserved { reserved: range(0x10_0000, 0x1000) }));
    assert!(ioas.domain(id).unwrap().translate(Iova::new(0x5123)).unwrap().phys == PhysAddr::new(0x1_1123));
    ioas.remove_domain(id).unwrap();
    assert_eq!(ioas.remove_domain(id), Err(IoasError::NoDomain));
    map(&mut ioas, 0x10_0000, 0, 0x1000).unwrap();
}

#[test]
fn ranges_are_what_is_neither_reserved_nor_out_of_reach() {
    let mut ioas = Ioas::new();
    assert_eq!(ioas.iova_ranges().collect::<Vec<_>>(), [IovaRange::FULL]);
    let owner = Owner::Embedder(1);
    ioas.reserve(range(0, 0x1000), owner).unwrap();
    ioas.reserve(range(0x5000, 0x3000), owner).unwrap();
    ioas.reserve(range(0x6000, 0x1000), Owner::Embedder(2)).unwrap();
    ioas.reserve(range(u64::MAX - 0xfff, 0x1000), owner).unwrap();
    let expected = [range(0x1000, 0x4000), IovaRange::new(Iova::new(0x8000), Iova::new(u64::MAX - 0x1000)).unwrap()];
    assert_eq!(ioas.iova_ranges().collect::<Vec<_>>(), expected);
    ioas.add_domain(Box::new(FakeDomain { hardware: Arc::default(), reserved: vec![] })).unwrap();
    assert_eq!(ioas.iova_ranges().last(), IovaRange::new(Iova::new(0x8000), Iova::new((1 << 39) - 1)));
    ioas.release(owner);
    assert_eq!(ioas.iova_ranges().next(), Some(range(0, 0x6000)));
    ioas.reserve(IovaRange::FULL, owner).unwrap();
    assert_eq!(ioas.iova_ranges().count(), 0);
}
