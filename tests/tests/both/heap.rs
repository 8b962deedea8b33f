//! The heap of the driver runs out at every allocation, one after the other: what a partition can trigger gives an error
//! value and changes nothing, and taking away needs none.

use super::PAGE;
use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{Gather, HwError, Prot, Target, Unit as _};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_tests::bench::{extent, map, range};
use iommu_tests::heap::{until_it_succeeds, with_heap_of};
use iommu_tests::house::{Driver, Refusal, each, function};
use iommu_tests::over_both;
use iommu_tests::spaces::{areas, iova_ranges, map_fixed};

over_both! {
    domains_and_attachments_survive_a_heap_that_is_full,
    a_replacement_needs_no_heap,
    an_unmap_and_its_flush_need_no_heap,
    an_address_space_survives_a_heap_that_is_full,
    an_address_space_and_its_domains_are_dropped_without_heap,
}

fn domains_and_attachments_survive_a_heap_that_is_full<D: Driver>() {
    each::<D>(|house| {
        let ([red, blue, _], kept) = (house.kind.streams, house.memory.in_use());
        let (domain, failed) = until_it_succeeds(
            || house.try_domain(),
            HwError::OutOfMemory,
            || assert_eq!(house.memory.in_use(), kept, "{}", house.name()),
        );
        assert!(failed >= 1, "a domain is on the heap");
        let page = || domain.map(Iova::new(PAGE), &[extent(0x5000_0000, PAGE)], Prot::READ_WRITE);
        until_it_succeeds(page, HwError::OutOfMemory, || assert_eq!(domain.translate(Iova::new(PAGE)), None));
        let before = house.memory.in_use();
        let attach = || house.lead(function(red), Target::Paging(&*domain));
        let (_, failed) = until_it_succeeds(attach, HwError::OutOfMemory, || {
            assert_eq!(house.memory.in_use(), before, "{}", house.name());
            house.expect(red, PAGE, Err(Refusal::Detached));
        });
        assert!(failed >= 1, "attachments are on the heap");
        house.expect(red, PAGE, Ok(0x5000_0000));
        // Others, while the first one stays.
        for other in blue..blue + 16 {
            let attach = || house.lead(function(other), Target::Paging(&*domain));
            until_it_succeeds(attach, HwError::OutOfMemory, || {
                house.expect(red, PAGE, Ok(0x5000_0000));
                house.expect(other, PAGE, Err(Refusal::Detached));
            });
        }
        // Taking away needs nothing.
        let taken = with_heap_of(0, || {
            let mut gather = Gather::new();
            let unmapped = domain.unmap(range(PAGE, PAGE), &mut gather);
            let flushed = domain.flush(&mut gather);
            let detached = house.unit.detach(function(red)).map(drop);
            house.unit.report_faults(&mut |_| {});
            let retired = domain.retire();
            drop(domain);
            [unmapped, flushed, detached, retired]
        });
        assert_eq!(taken, [Ok(()); 4], "{}", house.name());
        [red, blue, blue + 15].into_iter().for_each(|id| house.expect(id, PAGE, Err(Refusal::Detached)));
        house.check_empty();
    });
}

fn a_replacement_needs_no_heap<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (one, other) = (house.domain(), house.domain());
        house.attach(red, &*one);
        // Tables for identity may have to be made the first time.
        house.lead(function(house.kind.streams[1]), Target::Identity).unwrap();
        let done = with_heap_of(0, || {
            let to_other = house.lead(function(red), Target::Paging(&*other));
            (to_other, house.lead(function(red), Target::Identity), house.lead(function(red), Target::Paging(&*one)))
        });
        assert!(matches!(done, (Ok(_), Ok(_), Ok(_))), "{}: {done:?}", house.name());
        house.check();
    });
}

/// However much is unmapped at once, and whatever of it is left to the next flush.
fn an_unmap_and_its_flush_need_no_heap<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain();
        house.attach(red, &*domain);
        for page in 0..200 {
            map(&*domain, page * 3 * PAGE, 0x5000_0000 + page * PAGE, PAGE);
        }
        let done = with_heap_of(0, || {
            let mut gather = Gather::new();
            let unmapped = (0..200).try_for_each(|page| domain.unmap(range(page * 3 * PAGE, PAGE), &mut gather));
            (unmapped, domain.flush(&mut gather), gather.is_empty())
        });
        assert_eq!(done, (Ok(()), Ok(()), true), "{}", house.name());
        (0..200).for_each(|page| house.expect(red, page * 3 * PAGE, Err(Refusal::NotMapped)));
        house.check();
    });
}

fn an_address_space_survives_a_heap_that_is_full<D: Driver>() {
    each::<D>(|house| {
        let ([red, ..], kept) = (house.kind.streams, house.memory.in_use());
        let new = || Ioas::new(IoasConfig::default());
        let (ioas, failed) = until_it_succeeds(new, Error::OutOfMemory, || ());
        assert!(failed >= 1, "what handles share is on the heap");
        let handle = house.handle();
        let join = || Hwpt::new(&ioas, &handle, HwptConfig::new(house.kind.stage)).map_err(|error| error.errno());
        let (hwpt, failed) = until_it_succeeds(join, Error::OutOfMemory.errno(), || {
            assert_eq!(iova_ranges(&ioas), [IovaRange::FULL], "nothing stays reserved");
            assert_eq!(house.memory.in_use(), kept, "{}", house.name());
        });
        assert!(failed >= 2, "the domain, members and reserved ranges are on the heap");
        house.attach(red, hwpt.domain());
        let mut failed = 0;
        for page in 0..40u64 {
            // Extents of an area are copied, and the list of areas grows.
            let iova = page * 2 * PAGE;
            let memory = [extent(0x5000_0000 + iova, PAGE), extent(0x6000_0000 + iova, PAGE)];
            let map = || map_fixed(&ioas, iova, &memory, Prot::READ_WRITE);
            let ((), times) = until_it_succeeds(map, Error::OutOfMemory, || {
                assert_eq!(areas(&ioas).len() as u64, page);
                house.expect(red, iova, Err(Refusal::NotMapped));
            });
            failed += times;
            house.expect(red, iova, Ok(0x5000_0000 + iova));
            house.expect(red, iova + 2 * PAGE - 1, Ok(0x6000_0000 + iova + PAGE - 1));
        }
        assert!(failed >= 40, "{failed}");
        let unmapped = with_heap_of(0, || {
            let unmapped = (ioas.unmap(range(0, 4 * PAGE)), ioas.unmap_all(), hwpt.destroy().is_ok());
            drop(ioas);
            unmapped
        });
        assert_eq!(unmapped, (Ok(4 * PAGE), Ok(38 * 2 * PAGE), true));
        house.expect(red, 8 * PAGE, Err(Refusal::Detached));
        house.check_empty();
    });
}

/// What is mapped and attached goes without any heap, whichever handle goes first.
fn an_address_space_and_its_domains_are_dropped_without_heap<D: Driver>() {
    for domain_first in [false, true] {
        each::<D>(|house| {
            let [red, ..] = house.kind.streams;
            let ioas = Ioas::new(IoasConfig::default()).unwrap();
            let hwpt = Hwpt::new(&ioas, &house.handle(), HwptConfig::new(house.kind.stage)).unwrap();
            house.attach(red, hwpt.domain());
            for page in 0..40 {
                map_fixed(&ioas, page << 13, &[extent(0x5000_0000 + (page << 12), PAGE)], Prot::READ).unwrap();
            }
            with_heap_of(0, || {
                if domain_first {
                    drop(hwpt);
                    drop(ioas);
                } else {
                    drop(ioas);
                    drop(hwpt);
                }
            });
            house.expect(red, 0, Err(Refusal::Detached));
            house.check_empty();
        });
    }
}
