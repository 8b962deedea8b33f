//! Hardware that refuses, or does not confirm, at any time.

use super::*;
use crate::hw::HwError;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

const HUNG: Result<(), Error> = Err(Error::Hardware(TIMEOUT));

#[test]
fn a_failing_domain_rolls_the_others_back() {
    let (ioas, domains) = with_domains(3);
    domains[2].0.fail_map(Some(HwError::OutOfMemory));
    assert_eq!(map(&ioas, 0x4000, 0x1_0000, 0x2000), Err(Error::OutOfMemory));
    assert!(domains.iter().all(|(one, _)| one.reachable() == 0));
    assert!(areas(&ioas).is_empty());
}

#[test]
fn a_map_that_fails_between_batches_leaves_nothing() {
    let (ioas, domains) = with_domains(2);
    let frames: std::vec::Vec<_> = (0..200u64).map(|n| extent(n * 0x2000, 0x1000)).collect();
    for good in 0..4 {
        domains[1].0.good_maps.store(good, Ordering::Relaxed);
        domains[1].0.fail_map(Some(HwError::OutOfMemory));
        let at = Placement::Fixed(Iova::new(0x10_0000));
        assert_eq!(ioas.map_extents(&frames, at, Prot::READ), Err(Error::OutOfMemory));
        assert!(domains.iter().all(|(one, _)| one.reachable() == 0 && one.pages.lock().unwrap().is_empty()));
        assert!(areas(&ioas).is_empty());
    }
}

#[test]
fn a_copy_of_several_areas_is_undone_whole() {
    let (ioas, domains) = with_domains(2);
    (0..3).for_each(|n| map(&ioas, 0x4000 + n * 0x1000, n << 16, 0x1000).unwrap());
    domains[1].0.good_maps.store(2, Ordering::Relaxed);
    domains[1].0.fail_map(Some(HwError::OutOfMemory));
    let copy = ioas.copy(&ioas, range(0x4000, 0x3000), Placement::Anywhere, Prot::READ);
    assert_eq!(copy, Err(Error::OutOfMemory));
    assert!(domains.iter().all(|(one, _)| one.reachable() == 3) && areas(&ioas).len() == 3);
}

#[test]
fn a_map_that_hardware_does_not_confirm_is_taken_back_or_drains() {
    let (ioas, domains) = with_domains(2);
    domains[1].0.fail_map(Some(TIMEOUT));
    assert_eq!(map(&ioas, 0x4000, 0x1_0000, 0x1000), HUNG);
    assert!(domains.iter().all(|(one, _)| one.reachable() == 0));
    assert!(areas(&ioas).is_empty());

    domains[1].0.fail_flush(Some(TIMEOUT));
    assert_eq!(map(&ioas, 0x4000, 0x1_0000, 0x1000), HUNG);
    assert!(areas(&ioas).iter().all(|area| area.draining) && areas(&ioas).len() == 1);
    domains[1].0.fail_flush(None);
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert!(domains.iter().all(|(one, _)| one.reachable() == 0));
}

#[test]
fn an_undo_that_hardware_does_not_confirm_is_what_the_caller_hears_of() {
    let (ioas, domains) = with_domains(2);
    domains[0].0.fail_flush(Some(TIMEOUT));
    domains[1].0.fail_map(Some(HwError::OutOfMemory));
    // Not OutOfMemory: that would say that nothing is reachable.
    assert_eq!(map(&ioas, 0x4000, 0x1_0000, 0x1000), HUNG);
    assert!(domains[0].0.reachable() == 1 && areas(&ioas)[0].draining);
    domains[0].0.fail_flush(None);
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert_eq!(domains[0].0.reachable(), 0);
}

#[test]
fn what_is_draining_is_not_mapped_in_a_new_domain() {
    let (ioas, domains) = with_domains(1);
    map(&ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    map(&ioas, 0x8000, 0x2_0000, 0x1000).unwrap();
    domains[0].0.fail_flush(Some(TIMEOUT));
    assert_eq!(ioas.unmap(range(0x4000, 0x1000)).map(|_| ()), HUNG);
    let late = Arc::<Hardware>::default();
    let _late = hwpt(&ioas, &late).unwrap();
    assert_eq!(late.pages.lock().unwrap().keys().copied().collect::<std::vec::Vec<_>>(), [0x8000]);
    assert!(matches!(
        ioas.copy(&ioas, range(0x4000, 0x1000), Placement::Anywhere, Prot::READ),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(ioas.lock(range(0x4000, 0x1000), false), Err(Error::NotFound { .. })));
    domains[0].0.fail_flush(None);
    assert_eq!(ioas.unmap_all(), Ok(0x2000));
    assert!(late.reachable() == 0 && domains[0].0.reachable() == 0);
}

#[test]
fn a_domain_that_hardware_does_not_let_go_stays() {
    let (ioas, mut domains) = with_domains(1);
    let (held, hwpt) = domains.remove(0);
    map(&ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    held.fail_flush(Some(TIMEOUT));
    let (hwpt, error) = hwpt.destroy().err().unwrap();
    assert_eq!(error, Error::Hardware(TIMEOUT));
    // Dropped it is nobody's, but it is still there.
    drop(hwpt);
    assert_eq!(ioas.unmap_all().map(|_| ()), HUNG);
    assert_eq!(ioas.reclaim(), HUNG);
    held.fail_flush(None);
    ioas.reclaim().unwrap();
    assert_eq!(held.reachable(), 0);
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert_eq!(ioas.alignment(), 1);
}

#[test]
fn an_unmap_that_hardware_does_not_confirm_keeps_the_address_until_it_does() {
    let (ioas, domains) = with_domains(3);
    map(&ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    map(&ioas, 0x6000, 0x2_0000, 0x1000).unwrap();
    domains[1].0.fail_flush(Some(TIMEOUT));
    assert_eq!(ioas.unmap_all().map(|_| ()), HUNG);
    // The others are unmapped all the same.
    assert_eq!(domains.iter().map(|(one, _)| one.reachable()).collect::<std::vec::Vec<_>>(), [0, 2, 0]);
    assert_eq!(map(&ioas, 0x4000, 0x9_0000, 0x1000), Err(Error::Overlap { area: range(0x4000, 0x1000) }));
    domains[1].0.fail_flush(None);
    assert_eq!(ioas.unmap_all(), Ok(0x2000));
    assert!(domains.iter().all(|(one, _)| one.reachable() == 0));
    map(&ioas, 0x4000, 0x9_0000, 0x1000).unwrap();
}

#[test]
fn what_a_domain_does_not_take_out_stays_pinned() {
    let (ioas, domains) = with_domains(2);
    let stuck = HwError::SplitsLeaf { iova: Iova::new(0), size: 1 << 21 };
    let refused = Err(Error::Hardware(stuck));
    map(&ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    domains[1].0.fail_unmap(Some(stuck));
    for _ in 0..3 {
        assert_eq!(ioas.unmap_all(), refused);
        assert!(areas(&ioas).len() == 1 && areas(&ioas)[0].draining && domains[1].0.reachable() == 1);
    }
    domains[1].0.fail_unmap(None);
    assert_eq!(ioas.unmap_all(), Ok(0x1000));
    assert!(domains.iter().all(|(one, _)| one.reachable() == 0));

    // The same where a map is undone: in the domain that failed, and in those before it.
    let frames: std::vec::Vec<_> = (0..100u64).map(|n| extent(n * 0x2000, 0x1000)).collect();
    for (bad, good) in [(1, 1), (0, 0)] {
        domains[1].0.good_maps.store(good, Ordering::Relaxed);
        domains[1].0.fail_map(Some(HwError::OutOfMemory));
        domains[bad].0.fail_unmap(Some(stuck));
        let at = Placement::Fixed(Iova::new(0x10_0000));
        assert_eq!(ioas.map_extents(&frames, at, Prot::READ).map(|_| 0), refused);
        assert!(areas(&ioas)[0].draining && domains[bad].0.reachable() != 0);
        assert_eq!(ioas.unmap_all(), refused);
        domains[bad].0.fail_unmap(None);
        assert_eq!(ioas.unmap_all(), Ok(100 * 0x1000));
        assert!(domains.iter().all(|(one, _)| one.reachable() == 0));
    }
}

#[test]
fn a_domain_that_was_not_destroyed_belongs_to_its_address_space() {
    let (ioas, _) = with_domains(0);
    let stop = core::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = ioas.reclaim();
            }
        });
        let mut lost = 0;
        for _ in 0..30_000 {
            let hardware = Arc::<Hardware>::default();
            let hwpt = hwpt(&ioas, &hardware).unwrap();
            hardware.bad_retires.store(1, Ordering::Relaxed);
            let Err((hwpt, _)) = hwpt.destroy() else { continue };
            // Whoever is attached to it now must lose what is unmapped.
            map(&ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
            lost += usize::from(hwpt.domain().translate(Iova::new(0x4000)).is_none());
            ioas.unmap_all().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0);
    });
}

/// Lets go of nothing.
struct Deaf;

impl crate::access::AccessUser for Deaf {
    fn unmap(&self, _: IovaRange) {}
}

#[test]
fn an_address_space_that_is_gone_keeps_no_memory_once_nobody_uses_it() {
    use crate::access::{Access, AccessConfig};

    for revocable in [false, true] {
        let (ioas, _) = with_domains(0);
        let mut memory = crate::test_support::MockMemory::new(&[extent(0x1_0000, 0x2000)]);
        memory.revocable = revocable;
        let memory = memory.shared();
        let pages = Pages::new(memory.clone(), None).unwrap();
        ioas.map(&pages, 0, 0x1000, Placement::Anywhere, Prot::READ).unwrap();
        let at = ioas.map(&pages, 0x1000, 0x1000, Placement::Anywhere, Prot::READ).unwrap();
        let access = Access::new(AccessConfig { user: Some(Arc::new(Deaf)), ..AccessConfig::default() }).unwrap();
        access.attach(&ioas).unwrap();
        let pin = access.pin(range(at.get(), 0x1000), Prot::READ).unwrap();
        drop(ioas);
        drop(access);
        assert!(memory.is_pinned());
        drop(pin);
        assert!(!memory.is_pinned(), "revocable: {revocable}");
        drop(pages);
        assert_eq!(Arc::strong_count(&memory), 1, "revocable: {revocable}");
    }
}

#[test]
fn an_address_space_that_is_gone_keeps_no_memory_once_nothing_reaches_it() {
    for revocable in [false, true] {
        let (ioas, mut domains) = with_domains(1);
        let (hardware, hwpt) = domains.remove(0);
        let mut memory = crate::test_support::MockMemory::new(&[extent(0x1_0000, 0x1000)]);
        memory.revocable = revocable;
        let memory = memory.shared();
        let pages = Pages::new(memory.clone(), None).unwrap();
        ioas.map(&pages, 0, 0x1000, Placement::Anywhere, Prot::READ).unwrap();
        hardware.fail_flush(Some(TIMEOUT));
        drop(ioas);
        assert!(memory.is_pinned());
        hardware.fail_flush(None);
        drop(hwpt);
        assert!(!memory.is_pinned(), "revocable: {revocable}");
    }
}

#[test]
fn what_went_in_page_by_page_comes_out_page_by_page() {
    let (ioas, domains) = with_domains(1);
    let hardware = &domains[0].0;
    ioas.set_large_pages(false).unwrap();
    hardware.good_maps.store(1, Ordering::Relaxed);
    hardware.fail_map(Some(TIMEOUT));
    hardware.fail_unmap(Some(HwError::SplitsLeaf { iova: Iova::new(0), size: 1 << 21 }));
    assert!(map(&ioas, 0x4000, 0x1_0000, 0x3000).is_err());
    assert_eq!((areas(&ioas)[0].draining, hardware.reachable()), (true, 2));
    hardware.fail_unmap(None);
    ioas.set_large_pages(true).unwrap();
    assert_eq!(ioas.unmap_all(), Ok(0x3000));
    assert_eq!(hardware.reachable(), 0);
}

/// Lets go of the pin that begins where it is told, and of nothing else; counts how often it was told.
#[derive(Default)]
struct InRange {
    pins: std::sync::Mutex<std::collections::BTreeMap<u64, crate::access::Pin>>,
    told: core::sync::atomic::AtomicUsize,
}

impl crate::access::AccessUser for InRange {
    fn unmap(&self, range: IovaRange) {
        self.told.fetch_add(1, Ordering::Relaxed);
        let gone = self.pins.lock().unwrap().remove(&range.start().get());
        drop(gone);
    }
}

#[test]
fn one_word_is_enough_for_each_area() {
    use crate::access::{Access, AccessConfig};

    let (ioas, _) = with_domains(0);
    let user = Arc::new(InRange::default());
    let access = Access::new(AccessConfig { user: Some(user.clone()), ..AccessConfig::default() }).unwrap();
    access.attach(&ioas).unwrap();
    let pin = |at: u64| access.pin(range(at, 0x1000), Prot::READ).unwrap();
    for n in 0..300u64 {
        map(&ioas, n << 12, n << 20, 0x1000).unwrap();
        if n % 3 == 1 {
            user.pins.lock().unwrap().insert(n << 12, pin(n << 12));
        }
    }
    // One that stays: everything is as before, but for what was let go of.
    let stays = pin(200 << 12);
    assert_eq!(ioas.unmap_all(), Err(Error::Deadlock));
    let pinned = areas(&ioas).iter().filter(|area| area.pins != 0).count();
    assert_eq!((areas(&ioas).len(), pinned), (300, 1 + 33));
    assert!(user.told.swap(0, Ordering::Relaxed) >= 67 + 100);
    drop(stays);
    assert_eq!(ioas.unmap_all(), Ok(300 << 12));
    assert_eq!(user.told.load(Ordering::Relaxed), 33);
}
