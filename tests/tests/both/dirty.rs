//! What is written through a domain is recorded by hardware and found again: once, and after each clearing again, whatever is
//! cached, whoever writes.
//!
//! A unit that records nothing refuses such domains by name.

use super::{LARGE, PAGE};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Domain, DomainConfig, Gather, HwError, Target, Unit as _};
use iommu_tests::bench::{map, range, unmap};
use iommu_tests::house::{
    Driver, Guest, HOST, HUNG, House, MEMORY, Queue, Refusal, each, each_of, function, parent_config, part,
};
use iommu_tests::over_both;

over_both! {
    writes_are_found_once_and_again_after_each_clearing,
    every_stream_that_leads_there_is_recorded,
    what_is_taken_out_or_moved_leaves_no_trace_of_its_writes,
    a_switch_or_a_clearing_that_is_not_confirmed_is_made_up_for,
    guests_record_with_their_parent,
    who_cannot_record_says_so,
}

const PHYS: u64 = 0x10_0000_0000;

fn config<D: Driver>(house: &House<D>) -> DomainConfig {
    DomainConfig { dirty_tracking: true, ..house.config() }
}

/// A domain that records, with two neighbouring pages and a large one.
fn domain<D: Driver>(house: &House<D>) -> Box<dyn Domain> {
    let domain = house.unit.create_domain(&config(house));
    let domain = domain.unwrap_or_else(|error| panic!("{}: a domain that records: {error}", house.name()));
    map(&*domain, PAGE, PHYS + PAGE, 2 * PAGE);
    map(&*domain, LARGE, PHYS + LARGE, LARGE);
    domain
}

/// What was written in `part`, joined where it lies together.
fn dirty_in(domain: &dyn Domain, part: IovaRange) -> Vec<IovaRange> {
    let mut found = Vec::new();
    domain.read_dirty(part, &mut |range| found.push(range)).expect("a read");
    joined(found)
}

fn dirty(domain: &dyn Domain) -> Vec<IovaRange> {
    dirty_in(domain, domain.geometry().aperture)
}

/// Reads, clears and flushes.
fn clear(domain: &dyn Domain, part: IovaRange) -> Vec<IovaRange> {
    let (mut found, mut gather) = (Vec::new(), Gather::new());
    domain.read_and_clear_dirty(part, &mut gather, &mut |range| found.push(range)).expect("a read");
    domain.flush(&mut gather).expect("a flush");
    joined(found)
}

fn joined(found: Vec<IovaRange>) -> Vec<IovaRange> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for one in found {
        let (first, last) = (one.start().get(), one.last().get());
        match all.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => all.push((first, last)),
        }
    }
    all.into_iter().map(|(first, last)| range(first, last - first + 1)).collect()
}

#[track_caller]
fn write<D: Driver>(house: &House<D>, id: u32, at: u64) {
    assert_eq!(house.write(id, at), Ok(PHYS + at), "{}", house.name());
}

fn all<D: Driver>(test: impl Fn(&House<D>)) {
    each_of::<D>(D::recording(), |house| {
        assert!(house.capabilities().dirty_tracking, "{}", house.name());
        test(house);
    });
}

fn writes_are_found_once_and_again_after_each_clearing<D: Driver>() {
    all::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = domain(house);
        house.attach(red, &*domain);
        domain.set_dirty_tracking(true).unwrap();
        assert_eq!(dirty(&*domain), [], "{}", house.name());
        for _ in 0..3 {
            // Reads leave no trace, though they are cached.
            [PAGE, 2 * PAGE, LARGE].into_iter().for_each(|at| assert_eq!(house.read(red, at), Ok(PHYS + at)));
            assert_eq!(dirty(&*domain), [], "{}", house.name());
            write(house, red, 2 * PAGE + 5);
            assert_eq!(dirty(&*domain), [range(2 * PAGE, PAGE)], "{}", house.name());
            write(house, red, PAGE);
            write(house, red, LARGE + 7 * PAGE);
            let expected = [range(PAGE, 2 * PAGE), range(LARGE, LARGE)];
            assert_eq!(dirty(&*domain), expected, "{}: whole leaves", house.name());
            // Cut to the range, and kept where some of the leaf was not asked for.
            assert_eq!(clear(&*domain, range(LARGE + PAGE, PAGE)), [range(LARGE + PAGE, PAGE)]);
            assert_eq!(dirty(&*domain), expected, "{}: some of a leaf", house.name());
            assert_eq!(clear(&*domain, range(0, LARGE)), expected[..1]);
            assert_eq!(clear(&*domain, domain.geometry().aperture), expected[1..]);
            assert_eq!(clear(&*domain, domain.geometry().aperture), []);
        }
        write(house, red, LARGE);
        assert_eq!(dirty(&*domain), [range(LARGE, LARGE)], "{}", house.name());
        drop(domain);
        house.check_empty();
    });
}

/// Two functions, one that comes before recording and one after, and a part of a function where there are such.
fn every_stream_that_leads_there_is_recorded<D: Driver>() {
    all::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let domain = domain(house);
        house.attach(red, &*domain);
        write(house, red, PAGE);
        domain.set_dirty_tracking(true).unwrap();
        clear(&*domain, domain.geometry().aperture);
        house.attach(blue, &*domain);
        let parts = house.capabilities().pasid_bits != 0 && house.kind.stage_of_parts;
        let streams = [function(red), function(blue)].into_iter().chain(parts.then(|| part(blue, 1)));
        let streams: Vec<_> = streams.collect();
        for stream in streams.iter().skip(2) {
            house.lead(*stream, Target::Paging(&*domain)).unwrap();
        }
        for _ in 0..2 {
            for stream in &streams {
                // All of them have it cached as written to.
                assert_eq!(house.access(*stream, PAGE, true), Ok(PHYS + PAGE), "{}: {stream}", house.name());
                assert_eq!(clear(&*domain, range(0, LARGE)), [range(PAGE, PAGE)], "{}: {stream}", house.name());
            }
        }
        // Off and on again: nothing of before is found, and nothing of after is missed.
        domain.set_dirty_tracking(false).unwrap();
        domain.set_dirty_tracking(true).unwrap();
        clear(&*domain, domain.geometry().aperture);
        streams.iter().for_each(|stream| assert!(house.access(*stream, LARGE, true).is_ok()));
        assert_eq!(dirty(&*domain), [range(LARGE, LARGE)], "{}", house.name());
        drop(domain);
        house.check();
    });
}

fn what_is_taken_out_or_moved_leaves_no_trace_of_its_writes<D: Driver>() {
    all::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (one, other) = (domain(house), domain(house));
        [&one, &other].into_iter().for_each(|domain| domain.set_dirty_tracking(true).unwrap());
        house.attach(red, &*one);
        write(house, red, PAGE);
        unmap(&*one, PAGE, 2 * PAGE);
        house.expect(red, PAGE, Err(Refusal::NotMapped));
        assert_eq!(dirty(&*one), [], "{}", house.name());
        map(&*one, PAGE, PHYS + PAGE, 2 * PAGE);
        assert_eq!(dirty(&*one), [], "{}", house.name());
        write(house, red, PAGE);
        house.attach(red, &*other);
        assert_eq!((dirty(&*one), dirty(&*other)), (vec![range(PAGE, PAGE)], vec![]), "{}", house.name());
        write(house, red, 2 * PAGE);
        house.attach(red, &*one);
        assert_eq!((dirty(&*one), dirty(&*other)), (vec![range(PAGE, PAGE)], vec![range(2 * PAGE, PAGE)]));
        drop((one, other));
        house.check();
    });
}

fn a_switch_or_a_clearing_that_is_not_confirmed_is_made_up_for<D: Driver>() {
    all::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = domain(house);
        house.attach(red, &*domain);
        write(house, red, PAGE);
        house.set_queue(Queue::Stopped);
        // Where recording is of the domain's whole life there is nothing to confirm.
        let found = domain.set_dirty_tracking(true);
        assert!(matches!(found, Ok(()) | Err(HUNG)), "{}: {found:?}", house.name());
        house.set_queue(Queue::Running);
        domain.set_dirty_tracking(true).unwrap();
        clear(&*domain, domain.geometry().aperture);
        write(house, red, PAGE);
        assert_eq!(dirty(&*domain), [range(PAGE, PAGE)], "{}", house.name());
        // Cleared and not confirmed: in the gather until it is.
        let mut gather = Gather::new();
        domain.read_and_clear_dirty(range(0, LARGE), &mut gather, &mut |_| ()).unwrap();
        house.set_queue(Queue::Stopped);
        assert_eq!(domain.flush(&mut gather), Err(HUNG), "{}", house.name());
        house.set_queue(Queue::Running);
        assert!(!gather.is_empty(), "{}", house.name());
        domain.flush(&mut gather).unwrap();
        write(house, red, PAGE);
        assert_eq!(dirty(&*domain), [range(PAGE, PAGE)], "{}", house.name());
        drop(domain);
        house.check();
    });
}

fn guests_record_with_their_parent<D: Driver>() {
    each_of::<D>(D::nesting(), |house| {
        if !house.capabilities().dirty_tracking {
            let config = DomainConfig { dirty_tracking: true, ..parent_config() };
            assert!(house.unit.create_domain(&config).is_err(), "{}", house.name());
            return;
        }
        let [red, blue, _] = house.kind.streams;
        let guest = Guest::with(house, DomainConfig { dirty_tracking: true, ..parent_config() });
        let memory = range(MEMORY, 16 * PAGE);
        let own = guest.own();
        guest.attach(function(red), &own);
        guest.expect_all(function(red));
        guest.parent.set_dirty_tracking(true).unwrap();
        clear(&*guest.parent, memory);
        for _ in 0..2 {
            assert_eq!(house.read(red, 6 * PAGE), Ok(HOST + 2 * PAGE));
            assert_eq!(dirty_in(&*guest.parent, memory), [], "{}", house.name());
            house.write(red, 5 * PAGE).unwrap();
            assert_eq!(dirty_in(&*guest.parent, memory), [range(MEMORY + PAGE, PAGE)], "{}", house.name());
            assert_eq!(clear(&*guest.parent, memory), [range(MEMORY + PAGE, PAGE)], "{}", house.name());
        }
        let later = guest.own();
        guest.attach(function(blue), &later);
        house.write(blue, 6 * PAGE).unwrap();
        assert_eq!(dirty_in(&*guest.parent, memory), [range(MEMORY + 2 * PAGE, PAGE)], "{}", house.name());
        drop((own, later, guest));
        house.check_empty();
    });
    assert!(D::nesting().iter().any(|case| House::<D>::up(case).capabilities().dirty_tracking), "{}", D::NAME);
}

fn who_cannot_record_says_so<D: Driver>() {
    each::<D>(|house| {
        let before = house.memory.in_use();
        if !house.capabilities().dirty_tracking {
            let found = house.unit.create_domain(&config(house)).map(drop);
            assert!(matches!(found, Err(HwError::Missing(_) | HwError::Unsupported(_))), "{}: {found:?}", house.name());
            assert_eq!(house.memory.in_use(), before, "{}", house.name());
        }
        // One that was not made for it.
        let plain = house.domain();
        let (whole, mut gather) = (range(0, PAGE), Gather::new());
        let asked = [
            plain.set_dirty_tracking(true),
            plain.read_dirty(whole, &mut |_| ()),
            plain.read_and_clear_dirty(whole, &mut gather, &mut |_| ()),
        ];
        assert!(asked.iter().all(|found| matches!(found, Err(HwError::Unsupported(_)))), "{}: {asked:?}", house.name());
        assert!(gather.is_empty());
        drop(plain);
        house.check_empty();
    });
}
