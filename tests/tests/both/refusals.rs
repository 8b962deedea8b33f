//! What a driver refuses, and that nothing has changed afterwards, neither in memory nor in a register: streams that it
//! cannot attach, what belongs to others, ranges that cannot be, and memory that runs out at every allocation.

use super::{HUGE, LARGE, PAGE};
use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::{
    Domain, DomainConfig, Gather, Geometry, HwError, Invalidation, Nested, NestedConfig, PageResponse, PageSizes, Prot,
    ResponseCode, Stage, Target, Translation, Unit as _,
};
use iommu_tests::bench::{extent, map, range, unmap};
use iommu_tests::house::{Driver, House, Refusal, each, each_of, function, part};
use iommu_tests::over_both;

over_both! {
    streams_that_are_none_are_refused_and_change_nothing,
    pasids_that_a_unit_has_not_are_refused_and_change_nothing,
    what_belongs_to_others_is_refused_and_changes_nothing,
    a_gather_that_holds_nothing_belongs_to_nobody,
    maps_and_unmaps_that_cannot_be_are_refused_and_change_nothing,
    what_a_domain_was_not_made_for_is_refused,
    what_a_unit_cannot_do_is_refused_however_often_it_is_asked_for,
    memory_that_runs_out_anywhere_in_attach_leaves_the_stream_blocked,
    memory_that_runs_out_anywhere_in_map_leaves_it_undone,
}

fn streams_that_are_none_are_refused_and_change_nothing<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        let before = house.memory.in_use();
        house.spy.take_writes();
        for raw in house.kind.no_streams.clone() {
            for target in [Target::Paging(&*domain), Target::Identity, Target::Blocked] {
                assert_eq!(house.lead(function(raw), target), Err(HwError::NoSuchStream { stream: raw }));
            }
            assert_eq!(house.unit.detach(function(raw)), Err(HwError::NoSuchStream { stream: raw }));
        }
        house.expect(red, PAGE, Err(Refusal::Detached));
        // A detach of what was never attached is none.
        house.detach(red);
        assert_eq!((house.memory.in_use(), house.spy.take_writes()), (before, vec![]), "{}", house.name());
        house.check();
    });
}

/// Where there are PASIDs, 0 is what requests without are looked up by (VT-d: RID_PASID, section 9.6; SMMUv3: S1DSS,
/// section 5.2). Requests with a PASID that leads nowhere meet nothing, whatever the function leads to.
fn pasids_that_a_unit_has_not_are_refused_and_change_nothing<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        let before = (house.memory.in_use(), house.memory.snapshot());
        house.spy.take_writes();
        let there = house.capabilities().pasid_bits != 0;
        for pasid in if there { &[0][..] } else { &[0, 1, 0xf_ffff] } {
            for target in [Target::Paging(&*domain), Target::Identity, Target::Blocked] {
                let found = house.lead(part(red, *pasid), target);
                let refused = match found {
                    Err(HwError::Unsupported(_)) => true,
                    Err(HwError::Missing(_)) => !there,
                    _ => false,
                };
                assert!(refused, "{}: {pasid:#x}: {found:?}", house.name());
            }
        }
        assert_eq!((house.memory.in_use(), house.memory.snapshot()), before, "{}", house.name());
        assert_eq!(house.spy.take_writes(), [], "{}", house.name());
        house.attach(red, &*domain);
        house.expect_of(part(red, 1), PAGE, Err(Refusal::Detached));
        house.expect(red, PAGE, Ok(0x5000_0000));
        house.check();
    });
}

/// A domain of another driver.
struct Foreign;

impl Domain for Foreign {
    fn geometry(&self) -> Geometry {
        Geometry { aperture: IovaRange::FULL, page_sizes: PageSizes::new(1 << 12), output_bits: 52 }
    }
    fn map(&self, _: Iova, _: &[PhysExtent], _: Prot) -> Result<(), HwError> {
        Ok(())
    }
    fn unmap(&self, _: IovaRange, _: &mut Gather) -> Result<(), HwError> {
        Ok(())
    }
    fn flush(&self, _: &mut Gather) -> Result<(), HwError> {
        Ok(())
    }
    fn retire(&self) -> Result<(), HwError> {
        Ok(())
    }
    fn translate(&self, _: Iova) -> Option<Translation> {
        None
    }
}

impl Nested for Foreign {
    fn invalidate(&self, _: &Invalidation) -> Result<(), HwError> {
        Ok(())
    }
}

fn what_belongs_to_others_is_refused_and_changes_nothing<D: Driver>() {
    for case in D::cases() {
        let (ours, theirs) = (House::<D>::up(&case), House::<D>::up(&case));
        let [red, blue, _] = ours.kind.streams;
        let domain = ours.domain_with(PAGE, 0x5000_0000, PAGE);
        let other = theirs.domain_with(PAGE, 0x6000_0000, PAGE);
        ours.attach(red, &*domain);
        ours.spy.take_writes();
        let before = ours.memory.in_use();
        for target in [Target::Paging(&*other), Target::Paging(&Foreign)] {
            for id in [red, blue] {
                assert_eq!(ours.lead(function(id), target), Err(HwError::ForeignDomain));
            }
        }
        // A guest's first stage of another driver, on a domain of another unit, and on one of another driver.
        for id in [red, blue] {
            let found = ours.lead(function(id), Target::Nested(&Foreign));
            let refused = matches!(found, Err(HwError::ForeignDomain | HwError::Unsupported(_) | HwError::Missing(_)));
            assert!(refused, "{}: {found:?}", ours.name());
        }
        let parents: [&dyn Domain; 2] = [&*other, &Foreign];
        for parent in parents {
            let found = ours.unit.create_nested(parent, &NestedConfig { kind: u32::MAX, words: &[0; 4] }).err();
            assert!(found.is_some(), "{}", ours.name());
        }
        assert_eq!(ours.spy.take_writes(), [], "{}", ours.name());
        // A gather with another domain's work.
        let second = ours.domain_with(PAGE, 0x7000_0000, PAGE);
        let mut gather = Gather::new();
        second.unmap(range(PAGE, PAGE), &mut gather).unwrap();
        assert_eq!(domain.unmap(range(PAGE, PAGE), &mut gather), Err(HwError::ForeignDomain));
        assert_eq!(domain.flush(&mut gather), Err(HwError::ForeignDomain));
        assert!(domain.translate(Iova::new(PAGE)).is_some());
        assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(PAGE, PAGE)]);
        second.flush(&mut gather).unwrap();
        ours.expect(red, PAGE, Ok(0x5000_0000));
        drop(second);
        assert_eq!(ours.memory.in_use(), before);
        ours.check();
    }
}

fn a_gather_that_holds_nothing_belongs_to_nobody<D: Driver>() {
    let house = House::<D>::up(&D::cases()[0]);
    let (one, other) = (house.domain(), house.domain_with(PAGE, 0x5000_0000, PAGE));
    let mut gather = Gather::new();
    assert!(matches!(one.unmap(range(PAGE, PAGE), &mut gather), Err(HwError::NotMapped { .. })));
    // The error has changed nothing, so the gather is still free for others.
    assert_eq!(other.unmap(range(PAGE, PAGE), &mut gather), Ok(()));
    other.flush(&mut gather).unwrap();
}

fn maps_and_unmaps_that_cannot_be_are_refused_and_change_nothing<D: Driver>() {
    each::<D>(|house| {
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        map(&*domain, LARGE, 0x6000_0000, LARGE);
        house.attach(house.kind.streams[0], &*domain);
        house.spy.take_writes();
        let before = (house.memory.in_use(), house.memory.snapshot());
        let try_map = |iova, phys, len| domain.map(Iova::new(iova), &[extent(phys, len)], Prot::READ_WRITE);
        let (end, host) = (house.kind.end, 1u64 << house.kind.output_bits);
        assert!(matches!(try_map(0x1800, 0, PAGE), Err(HwError::Misaligned { value: 0x1800, .. })));
        assert!(matches!(try_map(0x8000, 0x10, PAGE), Err(HwError::Misaligned { value: 0x10, .. })));
        assert!(matches!(try_map(0x8000, 0, 0x1001), Err(HwError::Misaligned { value: 0x1001, .. })));
        assert!(matches!(try_map(end, 0, PAGE), Err(HwError::OutOfRange { .. })));
        assert!(matches!(try_map(end - PAGE, 0, 2 * PAGE), Err(HwError::OutOfRange { .. })));
        assert!(matches!(try_map(u64::MAX - 0xfff, 0, 2 * PAGE), Err(HwError::OutOfRange { .. })));
        assert!(matches!(try_map(0x8000, host, PAGE), Err(HwError::OutputTooWide { .. })));
        assert!(matches!(try_map(0x8000, host - PAGE, 2 * PAGE), Err(HwError::OutputTooWide { .. })));
        let none = domain.map(Iova::new(0x8000), &[extent(0, PAGE)], Prot { read: false, write: false });
        assert!(matches!(none, Err(HwError::Protection { .. })), "{}: {none:?}", house.name());
        assert_eq!(domain.map(Iova::new(0x8000), &[], Prot::READ), Ok(()), "nothing");
        let taken = |found| matches!(found, Err(HwError::AlreadyMapped { .. }));
        assert!(taken(try_map(PAGE, 0, PAGE)) && taken(try_map(0, 0, 3 * PAGE)));
        assert!(taken(try_map(LARGE + PAGE, 0, PAGE)) && taken(try_map(0, 0, 2 * HUGE)));
        if let Some((start, len)) = house.kind.special {
            // As input and as output, whole or in part.
            let around = start & !(HUGE - 1);
            for (address, len) in [(start, PAGE), (start + len - PAGE, PAGE), (start - PAGE, 2 * PAGE), (around, HUGE)]
            {
                assert!(matches!(try_map(address, 0x9000_0000, len), Err(HwError::Reserved { .. })), "{address:#x}");
                assert!(matches!(try_map(8 * HUGE, address, len), Err(HwError::Reserved { .. })), "to {address:#x}");
            }
        }
        let try_unmap = |iova, len| {
            let mut gather = Gather::new();
            let found = domain.unmap(range(iova, len), &mut gather);
            assert!(gather.is_empty() || found.is_ok());
            found
        };
        assert_eq!(try_unmap(PAGE, 2 * PAGE), Err(HwError::NotMapped { iova: Iova::new(2 * PAGE) }));
        assert_eq!(try_unmap(0, PAGE), Err(HwError::NotMapped { iova: Iova::new(0) }));
        assert!(matches!(try_unmap(PAGE, 0x800), Err(HwError::Misaligned { .. })));
        assert!(matches!(try_unmap(end, PAGE), Err(HwError::OutOfRange { .. })));
        let cut = HwError::SplitsLeaf { iova: Iova::new(LARGE), size: LARGE };
        assert_eq!((try_unmap(LARGE, PAGE), try_unmap(LARGE + PAGE, LARGE - PAGE)), (Err(cut), Err(cut)));
        assert_eq!((house.memory.in_use(), house.memory.snapshot()), before, "{}", house.name());
        assert_eq!(house.spy.take_writes(), [], "{}", house.name());
        house.check();
    });
}

/// What was not asked for when the domain was made.
fn what_a_domain_was_not_made_for_is_refused<D: Driver>() {
    each::<D>(|house| {
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        let before = (house.memory.in_use(), house.memory.snapshot());
        house.spy.take_writes();
        let found = house.unit.create_nested(&*domain, &NestedConfig { kind: 0, words: &[0; 4] }).err();
        let refused = matches!(found, Some(HwError::Unsupported(_) | HwError::Missing(_)));
        assert!(refused, "{}: {found:?}", house.name());
        let mut gather = Gather::new();
        let dirty = [
            domain.set_dirty_tracking(true),
            domain.read_dirty(range(0, PAGE), &mut |_| ()),
            domain.read_and_clear_dirty(range(0, PAGE), &mut gather, &mut |_| ()),
        ];
        let refused = dirty.iter().all(|found| matches!(found, Err(HwError::Unsupported(_))));
        assert!(refused && gather.is_empty(), "{}: {dirty:?}", house.name());
        assert_eq!((house.memory.in_use(), house.memory.snapshot()), before, "{}", house.name());
        assert_eq!(house.spy.take_writes(), [], "{}", house.name());
        house.check();
    });
}

/// Nobody gets a domain that falls short of what was asked for, and what is refused costs no id.
fn what_a_unit_cannot_do_is_refused_however_often_it_is_asked_for<D: Driver>() {
    let few = D::few_ids().into_iter().map(|(case, _)| case);
    each_of::<D>(D::cases().into_iter().chain(few).collect(), |house| {
        let [red, ..] = house.kind.streams;
        let (told, plain, before) = (house.capabilities(), house.config(), house.memory.in_use());
        let nest = told.nesting && house.kind.stage == Stage::Second;
        let asked = [
            (nest, DomainConfig { nest_parent: true, ..plain }),
            (told.dirty_tracking, DomainConfig { dirty_tracking: true, ..plain }),
            (told.enforce_coherency, DomainConfig { enforce_coherency: true, ..plain }),
            (
                nest && told.dirty_tracking && told.enforce_coherency,
                DomainConfig { nest_parent: true, dirty_tracking: true, enforce_coherency: true, ..plain },
            ),
        ];
        for (there, config) in asked {
            // More often than there are ids, where there are few.
            for _ in 0..if there { 1 } else { 0x110 } {
                let found = house.unit.create_domain(&config).map(drop);
                // Where a unit can it may be able to with the other stage alone, and says so.
                let known = match found {
                    Ok(()) => there,
                    Err(HwError::Missing(_)) => true,
                    Err(HwError::Unsupported(_)) => !there,
                    Err(_) => false,
                };
                assert!(known, "{}: {config:?}: {found:?}", house.name());
            }
        }
        assert_eq!(house.memory.in_use(), before, "{}", house.name());
        // Where accesses cannot wait, and there are no page requests, there is nothing to answer.
        let response = PageResponse { stream: function(red), group: 0, code: ResponseCode::Invalid };
        if !told.stalls {
            let found = house.unit.respond(&response);
            assert!(matches!(found, Err(HwError::Unsupported(_))), "{}: {found:?}", house.name());
        }
        // What is asked for without any of that is there.
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(0x5000_0000));
        drop(domain);
        house.check_empty();
    });
}

fn memory_that_runs_out_anywhere_in_attach_leaves_the_stream_blocked<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (domain, other) = (house.domain_with(PAGE, 0x5000_0000, PAGE), house.domain());
        let before = house.memory.in_use();
        for n in 0.. {
            house.memory.exhaust_after(n);
            let found = house.lead(function(red), Target::Paging(&*domain));
            house.memory.fail_never();
            if found.is_ok() {
                // Each frame that it needs was refused once.
                assert!(house.memory.in_use() - before >= n, "{}: {n}", house.name());
                break;
            }
            assert_eq!(found, Err(HwError::OutOfMemory));
            house.expect(red, PAGE, Err(Refusal::Detached));
            assert_eq!(house.memory.in_use(), before, "{}: allocation {n} failed", house.name());
        }
        house.expect(red, PAGE, Ok(0x5000_0000));
        // A replacement of a function that is attached needs no memory at all.
        house.memory.exhaust_after(0);
        house.attach(red, &*other);
        house.expect(red, PAGE, Err(Refusal::NotMapped));
        house.detach(red);
        drop(other);
        house.memory.fail_never();
        house.check();
    });
}

fn memory_that_runs_out_anywhere_in_map_leaves_it_undone<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*domain);
        let before = (house.memory.in_use(), house.memory.snapshot());
        // Across the border of two tables on every level.
        let (iova, len) = (0x40 * HUGE - LARGE - PAGE, 2 * LARGE + 2 * PAGE);
        for n in 0.. {
            house.memory.exhaust_after(n);
            let found = domain.map(Iova::new(iova), &[extent(0x7000_1000, len)], Prot::READ_WRITE);
            house.memory.fail_never();
            if found.is_ok() {
                assert!(n >= 6, "{}: {n} tables", house.name());
                break;
            }
            assert_eq!(found, Err(HwError::OutOfMemory));
            assert_eq!(house.memory.in_use(), before.0, "{}: allocation {n}", house.name());
            house.expect(red, iova, Err(Refusal::NotMapped));
        }
        house.expect(red, iova + len - 1, Ok(0x7000_1000 + len - 1));
        // Taking away needs none.
        house.memory.exhaust_after(0);
        unmap(&*domain, iova, len);
        house.memory.fail_never();
        house.expect(red, iova, Err(Refusal::NotMapped));
        house.check();
    });
}
