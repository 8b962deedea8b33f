//! What may be mapped, where, and what an unmap takes.

use super::*;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::Ordering;

#[test]
fn maps_reach_every_domain_and_unmaps_leave_none() {
    let (ioas, domains) = with_domains(2);
    let at = Placement::Fixed(Iova::new(0x4000));
    ioas.map_extents(&[extent(0x1_0000, 0x1000), extent(0x9_0000, 0x2000)], at, Prot::READ).unwrap();
    for (one, _) in &domains {
        let pages = one.pages.lock().unwrap().clone();
        let expected = [(0x4000, 0x1_0000), (0x5000, 0x9_0000), (0x6000, 0x9_1000)];
        assert_eq!(pages, expected.into_iter().map(|(iova, phys)| (iova, (phys, Prot::READ))).collect());
    }
    assert_eq!(ioas.unmap(range(0x4000, 0x3000)), Ok(0x3000));
    assert!(domains.iter().all(|(one, _)| one.reachable() == 0 && one.flushes.load(Ordering::Relaxed) == 1));
    assert!(areas(&ioas).is_empty());
}

#[test]
fn bad_maps_change_nothing() {
    let (ioas, domains) = with_domains(1);
    map(&ioas, 0x4000, 0x1_0000, 0x2000).unwrap();
    let area = range(0x4000, 0x2000);
    let overlap = Err(Error::Overlap { area });
    assert_eq!(map(&ioas, 0x4000, 0x2_0000, 0x1000), overlap);
    assert_eq!(map(&ioas, 0x3000, 0x2_0000, 0x2000), overlap);
    assert_eq!(map(&ioas, 0x5000, 0x2_0000, 0x1000), overlap);
    assert_eq!(map(&ioas, 0x0, 0x2_0000, 0x10000), overlap);
    assert_eq!(map(&ioas, 0x8800, 0, 0x1000), Err(Error::Misaligned { value: 0x8800, align: 0x1000 }));
    assert_eq!(map(&ioas, 0x8000, 0, 0x1234), Err(Error::Misaligned { value: 0x1234, align: 0x1000 }));
    assert_eq!(map(&ioas, 0x8000, 0, 0), Err(Error::Empty));
    let top = Iova::new(u64::MAX - 0xfff);
    assert_eq!(map(&ioas, top.get(), 0, 0x2000), Err(Error::Overflow { iova: top }));
    let huge = [extent(0, !0xfff), extent(0, 0x1000), extent(0, 0x1000)];
    let at = Placement::Fixed(Iova::new(0x8000));
    assert_eq!(ioas.map_extents(&huge, at, Prot::READ).map_err(Error::errno), Err(75));
    let none = Prot { read: false, write: false };
    assert_eq!(ioas.map_extents(&[extent(0, 0x1000)], at, none), Err(Error::Protection(none)));
    let beyond = Iova::new(1 << 39);
    let outside = IovaRange::new(beyond, Iova::new(beyond.get() + 0xfff)).unwrap();
    assert_eq!(map(&ioas, beyond.get(), 0, 0x1000), Err(Error::Reserved { reserved: outside }));
    assert_eq!(domains[0].0.pages.lock().unwrap().len(), 2);
    assert_eq!(areas(&ioas).len(), 1);
}

#[test]
fn unmap_takes_whole_areas_and_something() {
    let (ioas, domains) = with_domains(1);
    map(&ioas, 0x4000, 0x1_0000, 0x2000).unwrap();
    map(&ioas, 0x8000, 0x2_0000, 0x1000).unwrap();
    assert_eq!(ioas.unmap(range(0x1000, 0x1000)), Err(Error::NotFound { iova: Iova::new(0x1000) }));
    assert_eq!(ioas.unmap(range(0x4000, 0x1000)), Err(Error::CutsArea { area: range(0x4000, 0x2000) }));
    assert_eq!(ioas.unmap(range(0x5000, 0x4000)), Err(Error::CutsArea { area: range(0x4000, 0x2000) }));
    assert_eq!(domains[0].0.reachable(), 3);
    // The gap in the middle is no error.
    assert_eq!(ioas.unmap(range(0, 0x10000)), Ok(0x3000));
    assert_eq!(domains[0].0.reachable(), 0);
    assert_eq!(ioas.unmap_all(), Ok(0));
}

#[test]
fn a_domain_that_joins_late_gets_every_area_or_does_not_join() {
    let (ioas, _domains) = with_domains(1);
    map(&ioas, 0x4000, 0x1_0000, 0x2000).unwrap();
    let refuses = Arc::new(Hardware { reserved: vec![range(0x5000, 0x1000)], ..Hardware::default() });
    let refused = hwpt(&ioas, &refuses).err();
    assert_eq!(refused, Some(Error::AddressInUse { range: range(0x4000, 0x2000) }));
    assert_eq!(refuses.reachable(), 0);
    let late = Arc::new(Hardware { reserved: vec![range(0x10_0000, 0x1000)], ..Hardware::default() });
    let joined = hwpt(&ioas, &late).unwrap();
    assert_eq!(late.reachable(), 2);
    assert_eq!(map(&ioas, 0x10_0000, 0, 0x1000), Err(Error::Reserved { reserved: range(0x10_0000, 0x1000) }));
    assert!(joined.domain().translate(Iova::new(0x5123)).unwrap().phys == PhysAddr::new(0x1_1123));
    drop(joined);
    map(&ioas, 0x10_0000, 0, 0x1000).unwrap();
    assert_eq!(late.reachable(), 0);
}

#[test]
fn ranges_are_what_is_neither_reserved_nor_out_of_reach() {
    let (ioas, _) = with_domains(0);
    assert_eq!(iova_ranges(&ioas), [IovaRange::FULL]);
    let owner = Owner::Embedder(1);
    ioas.reserve(range(0, 0x1000), owner).unwrap();
    ioas.reserve(range(0x5000, 0x3000), owner).unwrap();
    ioas.reserve(range(0x6000, 0x1000), Owner::Embedder(2)).unwrap();
    ioas.reserve(range(u64::MAX - 0xfff, 0x1000), owner).unwrap();
    let expected = [range(0x1000, 0x4000), IovaRange::new(Iova::new(0x8000), Iova::new(u64::MAX - 0x1000)).unwrap()];
    assert_eq!(iova_ranges(&ioas), expected);
    let _hwpt = hwpt(&ioas, &Arc::default()).unwrap();
    assert_eq!(iova_ranges(&ioas).last(), IovaRange::new(Iova::new(0x8000), Iova::new((1 << 39) - 1)).as_ref());
    ioas.release(owner);
    assert_eq!(iova_ranges(&ioas).first(), Some(&range(0, 0x6000)));
    ioas.reserve(IovaRange::FULL, owner).unwrap();
    assert!(iova_ranges(&ioas).is_empty());
}

#[test]
fn without_domains_every_byte_counts() {
    let (ioas, _) = with_domains(0);
    assert_eq!(ioas.alignment(), 1);
    map(&ioas, 0x1001, 0x7003, 5).unwrap();
    map(&ioas, u64::MAX, 0x7003, 1).unwrap();
    map(&ioas, 0, 0x7003, 1).unwrap();
    assert_eq!(ioas.translate(Iova::new(0x1005)), Some(PhysAddr::new(0x7007)));
    assert_eq!(ioas.translate(Iova::new(0x1006)), None);
    assert!(matches!(hwpt(&ioas, &Arc::default()), Err(Error::AddressInUse { .. })));
    assert_eq!(ioas.unmap_all(), Ok(7));
    let _hwpt = hwpt(&ioas, &Arc::default()).unwrap();
    assert_eq!(ioas.alignment(), 0x1000);
}

#[test]
fn the_lowest_hole_is_as_even_as_its_memory() {
    let (ioas, _domains) = with_domains(1);
    let anywhere =
        |phys: u64, len: u64| ioas.map_extents(&[extent(phys, len)], Placement::Anywhere, Prot::READ).map(Iova::get);
    assert_eq!(anywhere(0x5000, 0x1000), Ok(0x1000));
    assert_eq!(anywhere(0x1_4000, 0x3000), Ok(0x4000));
    assert_eq!(anywhere(0x5000, 0x1000), Ok(0x2000));
    // Large pages, no more.
    assert_eq!(anywhere(0x4000_0000, 0x40_0000), Ok(0x20_0000));
    assert_eq!(anywhere(0x4000_0000, 0x20_0000), Ok(0x60_0000));
    ioas.allow(&[range(0x7000, 0x3000), range(0, 0x1000)]).unwrap();
    assert_eq!(anywhere(0x2000, 0x2000), Ok(0x8000));
    // Unevenly rather than not at all.
    assert_eq!(anywhere(0x2000, 0x1000), Ok(0x7000));
    assert_eq!(anywhere(0x2000, 0x1000), Err(Error::NoSpace { len: 0x1000 }));
}

#[test]
fn allowed_ranges_stay_free_of_reservations() {
    let (ioas, _) = with_domains(0);
    ioas.reserve(range(0x1000, 0x1000), Owner::Embedder(1)).unwrap();
    assert_eq!(ioas.allow(&[range(0, 0x2000)]), Err(Error::AddressInUse { range: range(0x1000, 0x1000) }));
    ioas.allow(&[range(0x4000, 0x2000)]).unwrap();
    assert_eq!(
        ioas.reserve(range(0x5000, 0x1000), Owner::Embedder(1)),
        Err(Error::AddressInUse { range: range(0x4000, 0x2000) })
    );
    // Fixed maps go anywhere.
    map(&ioas, 0x9000, 0, 0x1000).unwrap();
    ioas.allow(&[range(1 << 39, 0x1000)]).unwrap();
    assert!(matches!(hwpt(&ioas, &Arc::default()), Err(Error::AddressInUse { .. })));
}

#[test]
fn a_copy_shares_memory_at_any_part() {
    let (ioas, domains) = with_domains(1);
    let (other, _) = with_domains(0);
    map(&ioas, 0x4000, 0x1_0000, 0x2000).unwrap();
    map(&ioas, 0x6000, 0x8_0000, 0x2000).unwrap();
    let at = Placement::Fixed(Iova::new(0x10_0000));
    assert_eq!(other.copy(&ioas, range(0x5000, 0x2000), at, Prot::READ), Ok(Iova::new(0x10_0000)));
    assert_eq!(other.translate(Iova::new(0x10_0fff)), Some(PhysAddr::new(0x1_1fff)));
    assert_eq!(other.translate(Iova::new(0x10_1000)), Some(PhysAddr::new(0x8_0000)));
    let missing = Err(Error::NotFound { iova: Iova::new(0x8000) });
    assert_eq!(other.copy(&ioas, range(0x7000, 0x2000), Placement::Anywhere, Prot::READ), missing);
    assert_eq!(ioas.copy(&ioas, range(0x4000, 0x4000), at, Prot::READ_WRITE), Ok(Iova::new(0x10_0000)));
    assert_eq!(domains[0].0.reachable(), 8);
    let overlap = ioas.copy(&ioas, range(0x4000, 0x4000), Placement::Fixed(Iova::new(0x10_2000)), Prot::READ_WRITE);
    assert!(matches!(overlap, Err(Error::Overlap { .. })));
    assert_eq!((areas(&ioas).len(), areas(&other).len(), domains[0].0.reachable()), (4, 2, 8));
}

#[test]
fn a_split_makes_two_areas_of_one() {
    let (ioas, domains) = with_domains(1);
    map(&ioas, 0x4000, 0x1_0000, 0x3000).unwrap();
    assert_eq!(ioas.split(Iova::new(0x4800)), Err(Error::Misaligned { value: 0x4800, align: 0x1000 }));
    assert_eq!(ioas.split(Iova::new(0x8000)), Err(Error::NotFound { iova: Iova::new(0x8000) }));
    assert_eq!(ioas.split(Iova::new(0x4000)), Ok(()));
    assert_eq!(ioas.split(Iova::new(0x6000)), Ok(()));
    assert_eq!(
        areas(&ioas).iter().map(|area| (area.range, area.offset)).collect::<std::vec::Vec<_>>(),
        [(range(0x4000, 0x2000), 0), (range(0x6000, 0x1000), 0x2000)]
    );
    assert_eq!(ioas.unmap(range(0x6000, 0x1000)), Ok(0x1000));
    assert_eq!(domains[0].0.reachable(), 2);
    assert_eq!(ioas.translate(Iova::new(0x5fff)), Some(PhysAddr::new(0x1_1fff)));
}

#[test]
fn small_pages_only_where_that_is_asked_for() {
    let (ioas, domains) = with_domains(1);
    map(&ioas, 0x20_0000, 0x20_0000, 0x20_0000).unwrap();
    assert_eq!(domains[0].0.maps.swap(0, Ordering::Relaxed), 1);
    assert!(matches!(ioas.set_large_pages(false), Err(Error::Invalid(_))));
    ioas.unmap_all().unwrap();
    ioas.set_large_pages(false).unwrap();
    map(&ioas, 0x20_0000, 0x20_0000, 0x20_0000).unwrap();
    assert_eq!((domains[0].0.maps.load(Ordering::Relaxed), domains[0].0.reachable()), (512, 512));
    ioas.unmap_all().unwrap();
    let (bytes, _) = with_domains(0);
    map(&bytes, 0x800, 0x800, 0x800).unwrap();
    assert_eq!(bytes.set_large_pages(false), Err(Error::AddressInUse { range: range(0x800, 0x800) }));
    bytes.unmap_all().unwrap();
    bytes.set_large_pages(false).unwrap();
    assert_eq!(bytes.alignment(), 0x1000);
}

#[test]
fn a_lock_keeps_what_it_covers_mapped() {
    let (ioas, _domains) = with_domains(1);
    map(&ioas, 0x4000, 0x1_0000, 0x1000).unwrap();
    map(&ioas, 0x5000, 0x1_1000, 0x1000).unwrap();
    map(&ioas, 0x6000, 0x9_0000, 0x1000).unwrap();
    let lock = ioas.lock(range(0x4800, 0x1000), true).unwrap();
    assert_eq!(lock.extent(), Some(extent(0x1_0800, 0x1000)));
    assert!(matches!(ioas.lock(range(0x4000, 0x3000), true), Err(Error::BadMemory)));
    assert!(matches!(ioas.lock(range(0x4000, 0x4000), false), Err(Error::NotFound { .. })));
    assert_eq!(ioas.unmap(range(0x4000, 0x3000)), Err(Error::Busy));
    assert_eq!(ioas.unmap(range(0x6000, 0x1000)), Ok(0x1000));
    drop(lock);
    assert_eq!(areas(&ioas).iter().map(|area| area.locks).sum::<u32>(), 0);
    assert_eq!(ioas.unmap_all(), Ok(0x2000));
}

#[test]
fn many_extents_go_in_batches_and_come_out_whole() {
    let (ioas, domains) = with_domains(1);
    let frames: std::vec::Vec<_> = (0..1000u64).map(|n| extent(n * 0x3000, 0x1000 + (n % 2) * 0x1000)).collect();
    let at = ioas.map_extents(&frames, Placement::Anywhere, Prot::READ).unwrap();
    assert_eq!(domains[0].0.reachable(), 1500);
    let mut iova = at.get();
    for frame in &frames {
        assert_eq!(ioas.translate(Iova::new(iova + 8)), Some(PhysAddr::new(frame.start.get() + 8)));
        iova += frame.len;
    }
    assert_eq!(ioas.unmap_all(), Ok(1500 * 0x1000));
    assert_eq!(domains[0].0.reachable(), 0);
}

#[test]
fn lists_are_charged_before_they_grow() {
    let (free, _domains) = with_domains(0);
    (0..4).for_each(|n| map(&free, 0x1000 * n, n << 20, 0x1000).unwrap());
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let ioas = Ioas::new(IoasConfig { account: Some(account.clone()), ..IoasConfig::default() }).unwrap();
    let empty = account.usage();
    let at = Placement::Fixed(Iova::new(0));
    ioas.copy(&free, range(0, 0x4000), at, Prot::READ).unwrap();
    let mapped = account.usage();
    let lock = ioas.lock(range(0, 0x4000), false).unwrap();
    assert!(account.usage().metadata > mapped.metadata);
    drop(lock);
    assert_eq!(account.usage(), mapped);
    let refused = Some(Error::Quota(crate::quota::Resource::Metadata));
    account.set_limits(Amounts { metadata: mapped.metadata + 1, ..Amounts::UNLIMITED });
    assert_eq!(ioas.lock(range(0, 0x4000), false).err(), refused);
    ioas.unmap_all().unwrap();
    assert_eq!(account.usage(), empty);
    // Enough for the areas, not for the list of them.
    assert_eq!(ioas.copy(&free, range(0, 0x4000), at, Prot::READ).err(), refused);
    assert_eq!(account.usage(), empty);
}

#[test]
fn runs_are_charged_to_each_area_that_has_them() {
    crate::test_support::platform();
    let account = Account::new(Amounts::UNLIMITED).unwrap();
    let ioas = Ioas::new(IoasConfig { account: Some(account.clone()), ..IoasConfig::default() }).unwrap();
    let empty = account.usage();
    let frames: std::vec::Vec<_> = (0..100u64).map(|n| extent(n * 0x2000, 0x1000)).collect();
    let at = Placement::Fixed(Iova::new(0));
    ioas.map_extents(&frames, at, Prot::READ).unwrap();
    let one = account.usage().metadata - empty.metadata;
    assert!(one >= 100 * 8, "{one}");
    ioas.split(Iova::new(0x3000)).unwrap();
    assert_eq!(account.usage().metadata - empty.metadata, 2 * one);
    ioas.unmap_all().unwrap();
    assert_eq!(account.usage(), empty);
    account.set_limits(Amounts { metadata: empty.metadata + 100 * 16 - 1, ..Amounts::UNLIMITED });
    let refused = Err(Error::Quota(crate::quota::Resource::Metadata));
    assert_eq!(ioas.map_extents(&frames, at, Prot::READ), refused);
    assert_eq!(account.usage(), empty);
}
