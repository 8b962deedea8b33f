//! The holes that drivers of every architecture may have, each by the name that a list of peers gives it; the suites `vtd` and
//! `smmuv3` run them beside those of their own architecture.

use crate::bench::{extent, map, range, try_unmap, unmap};
use crate::house::{Driver, HUNG, House, Queue, Refusal, each, function};
use crate::spaces::map_fixed;
use crate::watched::{Watched, device};
use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::device::AttachTo;
use iommu_core::hw::{Gather, HwError, Prot, Target};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_core::region::{RegionKind, ReservedRegion};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A page of every granule.
const PAGE: u64 = 0x1_0000;
const RED: u64 = 0x10_0000_0000;
const BLUE: u64 = 0x18_0000_0000;

/// Makes a test of each of these holes over a driver.
#[macro_export]
macro_rules! holes {
    ($driver:ty: $($name:ident,)*) => {
        $(#[test]
        fn $name() {
            iommu_tests::holes::$name::<$driver>();
        })*
    };
}

/// At each doorbell of a detach the entry leads nowhere in memory already.
pub fn invalidation_before_the_table_write_and_none_after<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, RED, PAGE);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(RED));
        let seen = Arc::new(AtomicUsize::new(0));
        let (count, memory, model) = (seen.clone(), house.memory.clone(), house.model.clone());
        house.at_doorbell(move || {
            let found = D::walk(&model, &|phys| memory.device_read64(phys), function(red), PAGE, false);
            assert_eq!(found, Err(Refusal::Detached), "the entry still leads somewhere");
            count.fetch_add(1, Ordering::Relaxed);
        });
        house.detach(red);
        house.spy.set_hook(None);
        assert!(seen.load(Ordering::Relaxed) > 0, "{}: an invalidation after", house.name());
        house.expect(red, PAGE, Err(Refusal::Detached));
        house.check();
    });
}

/// On when translation is there already, off while it is still there.
pub fn bus_mastering_still_on_while_translation_is_removed<D: Driver>() {
    for case in D::cases() {
        let house = Arc::new(House::<D>::up(&case));
        let [red, ..] = house.kind.streams;
        let (unit, ioas) = (house.handle(), Ioas::new(IoasConfig::default()).unwrap());
        let hwpt = Hwpt::new(&ioas, &unit, HwptConfig::new(house.kind.stage)).unwrap();
        map_fixed(&ioas, PAGE, &[extent(RED, PAGE)], Prot::READ_WRITE).unwrap();
        let model = house.model.clone();
        let watched = Arc::new(Watched::new(move || D::access(&model, function(red), PAGE, false).is_ok()));
        let device = device(&unit, function(red), Some(watched.clone()), &[]);
        device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
        device.detach().unwrap();
        assert_eq!(watched.log(), [(true, true), (false, true)], "{}", house.name());
        house.expect(red, PAGE, Err(Refusal::Detached));
    }
}

/// What firmware says that a device goes on using stays reachable for it, where it is.
pub fn reserved_memory_regions_ignored<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (start, len) = (0x7b00_0000, 0x10_0000);
        let direct = ReservedRegion { range: range(start, len), kind: RegionKind::Direct { prot: Prot::READ_WRITE } };
        let (unit, ioas) = (house.handle(), Ioas::new(IoasConfig::default()).unwrap());
        let device = device(&unit, function(red), None, &[direct]);
        let hwpt = Hwpt::new(&ioas, &unit, HwptConfig::new(house.kind.stage)).unwrap();
        // Nowhere without its memory.
        assert!(matches!(device.attach(AttachTo::Hwpt(&hwpt)), Err(Error::Invalid(_))), "{}", house.name());
        house.expect(red, start, Err(Refusal::Detached));
        map_fixed(&ioas, start, &[extent(start, len)], Prot::READ_WRITE).unwrap();
        device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
        // From now on it cannot be taken away.
        for at in [start, start + len - 1] {
            house.expect(red, at, Ok(at));
        }
        assert!(ioas.unmap(range(start, len)).is_err(), "{}", house.name());
        house.expect(red, start, Ok(start));
        device.detach().unwrap();
        house.expect(red, start, Err(Refusal::Detached));
    });
}

/// A wait that hardware never confirms ends, and says so.
pub fn a_completion_spun_on_for_ever_or_a_time_out_only_logged<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, RED, PAGE);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(RED));
        house.set_queue(Queue::Mute);
        assert_eq!(try_unmap(&*domain, PAGE, PAGE), Err(HUNG), "{}", house.name());
        house.set_queue(Queue::Running);
        // Nor is a queue that stands still waited for for ever; what it still has to do may be reached.
        map(&*domain, 2 * PAGE, BLUE, PAGE);
        house.expect(red, 2 * PAGE, Ok(BLUE));
        house.set_queue(Queue::Stopped);
        assert_eq!(try_unmap(&*domain, 2 * PAGE, PAGE), Err(HUNG), "{}", house.name());
        house.expect(red, 2 * PAGE, Ok(BLUE));
        house.set_queue(Queue::Running);
    });
}

/// What was cached is gone, so that the address can lead elsewhere.
pub fn no_flush_on_unmap<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, RED, PAGE);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(RED));
        unmap(&*domain, PAGE, PAGE);
        house.expect(red, PAGE, Err(Refusal::NotMapped));
        map(&*domain, PAGE, BLUE, PAGE);
        house.expect(red, PAGE, Ok(BLUE));
        house.check();
    });
}

/// 512 scattered pages that go together take one doorbell and one wait.
pub fn one_submission_and_wait_for_each_command<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain();
        house.attach(red, &*domain);
        (0..512).for_each(|page| map(&*domain, page * PAGE, RED + 2 * page * PAGE, PAGE));
        house.take_work();
        let mut gather = Gather::new();
        (0..512).for_each(|page| domain.unmap(range(page * PAGE, PAGE), &mut gather).unwrap());
        domain.flush(&mut gather).unwrap();
        let work = house.take_work();
        assert_eq!((work.doorbells, work.waits), (1, 1), "{}", house.name());
        house.check();
    });
}

/// A map is done whole or not at all: where memory runs out, and where something is in the way.
pub fn a_partial_failure_that_leaves_some_mappings<D: Driver>() {
    // Scattered, over several tables.
    let (start, pages) = (0x1f_0000, 100u64);
    let extents: Vec<_> = (0..pages).map(|page| extent(RED + 2 * page * PAGE, PAGE)).collect();
    for case in D::cases() {
        for nth in 0..6 {
            let house = House::<D>::up(&case);
            let [red, ..] = house.kind.streams;
            let domain = house.domain_with(0x8000_0000, BLUE, PAGE);
            house.attach(red, &*domain);
            house.memory.fail_after(nth);
            let found = domain.map(Iova::new(start), &extents, Prot::READ_WRITE);
            house.memory.fail_never();
            let all = found.is_ok();
            assert!(all || found == Err(HwError::OutOfMemory), "{}: {found:?}", house.name());
            for page in 0..pages {
                let expected = if all { Ok(RED + 2 * page * PAGE) } else { Err(Refusal::NotMapped) };
                house.expect(red, start + page * PAGE, expected);
            }
            house.expect(red, 0x8000_0000, Ok(BLUE));
        }
        let house = House::<D>::up(&case);
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(0x40_0000, BLUE, PAGE);
        house.attach(red, &*domain);
        let found = domain.map(Iova::new(start), &extents, Prot::READ_WRITE);
        assert_eq!(found, Err(HwError::AlreadyMapped { iova: Iova::new(0x40_0000) }), "{}", house.name());
        let before = (0..(0x40_0000 - start) / PAGE).map(|page| start + page * PAGE);
        before.for_each(|at| house.expect(red, at, Err(Refusal::NotMapped)));
        house.expect(red, 0x40_0000, Ok(BLUE));
        house.check();
    }
}

/// A BAR of another function is no RAM, and none of the driver's business. But what would be interrupts cannot be had, on
/// either side.
pub fn device_memory_cannot_be_mapped<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0xe000_0000, 0x10_0000);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(0xe000_0000));
        if let Some((address, _)) = house.kind.special {
            for (iova, phys) in [(address, RED), (0x1_0000_0000, address)] {
                let found = domain.map(Iova::new(iova), &[extent(phys, PAGE)], Prot::READ_WRITE);
                assert_eq!(found, Err(HwError::Reserved { address }), "{}", house.name());
            }
        }
        house.check();
    });
}

/// Units are independent of each other: what one is told the other never hears of.
pub fn only_one_unit_or_segment_used<D: Driver>() {
    for pair in D::cases().windows(2) {
        let (one, other) = (House::<D>::up(&pair[0]), House::<D>::up(&pair[1]));
        let [red, ..] = one.kind.streams;
        let domain = one.domain_with(PAGE, RED, PAGE);
        one.attach(red, &*domain);
        one.expect(red, PAGE, Ok(RED));
        let blocked = other.read(red, PAGE);
        assert!(blocked.is_err(), "{}: {blocked:?}", other.name());
        assert_eq!(other.lead(function(red), Target::Paging(&*domain)), Err(HwError::ForeignDomain));
        assert_eq!(other.read(red, PAGE), blocked, "{}", other.name());
    }
}
