//! A guest's stage 1 on top of a domain: the guest changes what it likes, and its devices reach what the host lets them.

use super::PAGE;
use iommu_core::hw::{Domain, Gather, HwError, Invalidation, NestedConfig, Stream, Target, Unit as _};
use iommu_tests::bench::{map, range, unmap};
use iommu_tests::house::{
    Driver, Guest, HOST, HUNG, House, MEMORY, Own, Queue, Refusal, TABLES, each_of, function, parent_config,
};
use iommu_tests::over_both;

over_both! {
    accesses_go_through_the_guests_stage_and_then_through_the_hosts,
    what_the_host_takes_away_is_gone_for_every_guest_at_once,
    what_a_guest_says_reaches_its_own_translations_and_no_others,
    a_guest_that_goes_leaves_its_neighbours_and_its_parent,
    a_parent_that_goes_first_takes_its_guests_along,
    hardware_that_fails_anywhere_blocks_and_recovers,
    an_end_that_is_not_confirmed_is_waited_for_by_the_host,
    device_tlbs_forget_what_the_host_takes_and_what_their_guest_says,
    what_cannot_be_is_refused_and_changes_nothing,
}

const NOTHING: Result<u64, Refusal> = Err(Refusal::NotMapped);
const DETACHED: Result<u64, Refusal> = Err(Refusal::Detached);

/// The second page that a guest's stage 1 leads to, and where it is.
const SECOND: u64 = 2 * PAGE;

fn all<D: Driver>(test: impl Fn(&House<D>)) {
    each_of::<D>(D::nesting(), |house| {
        assert!(house.capabilities().nesting, "{}", house.name());
        test(house);
    });
}

/// The guest, whose stages 1 are gone, goes, and nothing is left.
#[track_caller]
fn end<D: Driver>(house: &House<D>, guest: Guest<'_, D>) {
    drop(guest);
    house.check_empty();
}

fn accesses_go_through_the_guests_stage_and_then_through_the_hosts<D: Driver>() {
    all::<D>(|house| {
        let [red, blue, far] = house.kind.streams;
        let guest = Guest::new(house);
        let own = guest.own();
        // Where the host has nothing; where it has a page of a large one.
        guest.map(&own, 7 * PAGE, MEMORY + 16 * PAGE);
        guest.map(&own, 8 * PAGE, MEMORY + (3 << 21) + 9 * PAGE);
        guest.attach(function(red), &own);
        guest.attach(function(far), &own);
        house.attach(blue, &*guest.parent);
        for id in [red, far] {
            guest.expect_all(function(id));
            house.expect(id, 7 * PAGE, NOTHING);
            house.expect(id, 8 * PAGE + 5, Ok(HOST + (3 << 21) + 9 * PAGE + 5));
            // The guest's physical addresses are none of its devices'.
            house.expect(id, MEMORY, NOTHING);
            house.expect(id, TABLES, NOTHING);
        }
        house.expect(blue, MEMORY + 5, Ok(HOST + 5));
        house.expect(blue, 5 * PAGE, NOTHING);
        house.detach(far);
        house.expect(far, 5 * PAGE, DETACHED);
        guest.expect_all(function(red));
        // There and back again.
        for _ in 0..2 {
            house.attach(red, &*guest.parent);
            house.expect(red, MEMORY + SECOND, Ok(HOST + SECOND));
            house.expect(red, 5 * PAGE, NOTHING);
            guest.attach(function(red), &own);
            guest.expect_all(function(red));
            house.expect(red, MEMORY + SECOND, NOTHING);
        }
        drop(own);
        house.expect(red, 5 * PAGE, DETACHED);
        house.expect(blue, MEMORY, Ok(HOST));
        end(house, guest);
    });
}

/// Two guests' stages on one parent, one on another, and streams of the parents themselves; everything is cached.
fn what_the_host_takes_away_is_gone_for_every_guest_at_once<D: Driver>() {
    all::<D>(|house| {
        let [red, blue, far] = house.kind.streams;
        let guest = Guest::new(house);
        let (one, other) = (guest.own(), guest.own());
        let outside = Guest::new(house);
        let stranger = outside.own();
        guest.attach(function(red), &one);
        guest.attach(function(blue), &other);
        outside.attach(function(far), &stranger);
        for with_parent in [false, true] {
            if with_parent {
                house.attach(red + 1, &*guest.parent);
                house.expect(red + 1, MEMORY + PAGE, Ok(HOST + PAGE));
            }
            [red, blue, far].into_iter().for_each(|id| guest.expect_all(function(id)));
            unmap(&*guest.parent, MEMORY + PAGE, PAGE);
            for id in [red, blue] {
                house.expect(id, 5 * PAGE, NOTHING);
                house.expect(id, 6 * PAGE, Ok(HOST + SECOND));
            }
            // Several ranges at once, the guest's tables among them.
            let mut gather = Gather::new();
            guest.parent.unmap(range(MEMORY + SECOND, PAGE), &mut gather).unwrap();
            guest.parent.unmap(range(TABLES, Guest::<D>::tables_len()), &mut gather).unwrap();
            guest.parent.flush(&mut gather).unwrap();
            for id in [red, blue] {
                [5, 6].into_iter().for_each(|page| assert!(house.read(id, page * PAGE).is_err(), "{}", house.name()));
            }
            if with_parent {
                house.expect(red + 1, MEMORY + PAGE, NOTHING);
            }
            guest.expect_all(function(far));
            guest.map_tables();
            map(&*guest.parent, MEMORY + PAGE, HOST + 9 * PAGE, SECOND);
            for id in [red, blue] {
                house.expect(id, 5 * PAGE, Ok(HOST + 9 * PAGE));
                house.expect(id, 6 * PAGE, Ok(HOST + 10 * PAGE));
            }
            unmap(&*guest.parent, MEMORY + PAGE, SECOND);
            [1, 2].into_iter().for_each(|page| map(&*guest.parent, MEMORY + page * PAGE, HOST + page * PAGE, PAGE));
        }
        drop((one, other, stranger, outside));
        end(house, guest);
    });
}

fn what_a_guest_says_reaches_its_own_translations_and_no_others<D: Driver>() {
    all::<D>(|house| {
        let [red, blue, far] = house.kind.streams;
        let (guest, outside) = (Guest::new(house), Guest::new(house));
        // The stranger has the number of the first.
        let (one, other, stranger) = (guest.own(), guest.own(), outside.own());
        assert_eq!(one.number, stranger.number);
        guest.attach(function(red), &one);
        guest.attach(function(blue), &other);
        outside.attach(function(far), &stranger);
        let all = [(&guest, red, &one), (&guest, blue, &other), (&outside, far, &stranger)];
        let show = |ids: [u32; 3], page: u64| {
            ids.into_iter().for_each(|id| house.expect(id, 5 * PAGE, Ok(HOST + page * PAGE)));
        };
        show([red, blue, far], 1);
        all.iter().for_each(|(guest, _, own)| guest.map(own, 5 * PAGE, MEMORY + 3 * PAGE));
        show([red, blue, far], 1);
        for (number, (guest, id, own)) in all.iter().enumerate() {
            D::take_log(&house.model);
            guest.say(own, 5 * PAGE).unwrap();
            let (requests, _) = D::take_log(&house.model);
            assert_eq!(requests, 1, "{}", house.name());
            house.expect(*id, 5 * PAGE, Ok(HOST + 3 * PAGE));
            all[number + 1..].iter().for_each(|(_, id, _)| house.expect(*id, 5 * PAGE, Ok(HOST + PAGE)));
        }
        // What is taken out of tables, too; the neighbour's page stays.
        guest.unmap(&one, 5 * PAGE);
        guest.say(&one, 5 * PAGE).unwrap();
        house.expect(red, 5 * PAGE, NOTHING);
        house.expect(red, 6 * PAGE, Ok(HOST + SECOND));
        // Nothing that no guest can mean is asked for.
        D::take_log(&house.model);
        for kind in [0, 2, u32::MAX] {
            let found = one.nested.invalidate(&Invalidation { kind, words: [0, 1] });
            assert!(matches!(found, Err(HwError::Unsupported(_))), "{}: {found:?}", house.name());
        }
        assert_eq!(D::take_log(&house.model), (0, 0), "{}", house.name());
        // Who does not confirm is told.
        house.set_queue(Queue::Stopped);
        assert_eq!(guest.say(&one, 6 * PAGE), Err(HUNG), "{}", house.name());
        house.set_queue(Queue::Running);
        guest.say(&one, 6 * PAGE).unwrap();
        drop((one, other, stranger, outside));
        end(house, guest);
    });
}

fn a_guest_that_goes_leaves_its_neighbours_and_its_parent<D: Driver>() {
    all::<D>(|house| {
        let [red, blue, far] = house.kind.streams;
        let guest = Guest::new(house);
        let (one, other) = (guest.own(), guest.own());
        guest.attach(function(red), &one);
        guest.attach(function(blue), &other);
        house.attach(far, &*guest.parent);
        let rest = || {
            guest.expect_all(function(blue));
            house.expect(far, MEMORY, Ok(HOST));
        };
        guest.expect_all(function(red));
        rest();
        drop(one);
        house.expect(red, 5 * PAGE, DETACHED);
        rest();
        // What is cached of it is nobody's, whoever comes to its stream.
        let fresh = house.domain_with(8 * PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*fresh);
        house.expect(red, 5 * PAGE, NOTHING);
        house.expect(red, 8 * PAGE, Ok(0x5000_0000));
        let again = guest.own();
        guest.attach(function(red), &again);
        guest.expect_all(function(red));
        rest();
        unmap(&*guest.parent, MEMORY + PAGE, PAGE);
        [red, blue].into_iter().for_each(|id| house.expect(id, 5 * PAGE, NOTHING));
        drop((fresh, again, other));
        house.expect(far, MEMORY, Ok(HOST));
        end(house, guest);
    });
}

fn a_parent_that_goes_first_takes_its_guests_along<D: Driver>() {
    all::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let guest = Guest::new(house);
        let own = guest.own();
        let attach = || {
            guest.attach(function(red), &own);
            house.attach(blue, &*guest.parent);
            guest.expect_all(function(red));
            house.expect(blue, MEMORY, Ok(HOST));
        };
        attach();
        guest.parent.retire().unwrap();
        house.expect(red, 5 * PAGE, DETACHED);
        house.expect(blue, MEMORY, DETACHED);
        // It is there still.
        attach();
        let requests = D::said_by_guest(&house.case, own.number, 5 * PAGE);
        drop(guest);
        house.expect(red, 5 * PAGE, DETACHED);
        house.expect(blue, MEMORY, DETACHED);
        let found = house.lead(function(red), Target::Nested(&*own.nested));
        assert_eq!(found, Err(HwError::ForeignDomain), "{}", house.name());
        house.expect(red, 5 * PAGE, DETACHED);
        // Nobody leads there, so that nobody is told.
        D::take_log(&house.model);
        own.nested.invalidate(&requests[0]).unwrap();
        drop(own);
        let fresh = house.domain_with(5 * PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*fresh);
        house.expect(red, 5 * PAGE, Ok(0x5000_0000));
        drop(fresh);
        house.check_empty();
    });
}

/// Where a stream of a guest can lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Nowhere,
    Parent,
    One,
    Other,
}

/// The queue stops, or refuses a request, at each place of each way from one target to another.
fn hardware_that_fails_anywhere_blocks_and_recovers<D: Driver>() {
    use Place::{Nowhere, One, Other, Parent};
    all::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let guest = Guest::new(house);
        let (one, other) = (guest.own(), guest.own());
        // Each place leads this page elsewhere.
        let at = 5 * PAGE;
        guest.map(&other, at, MEMORY + 3 * PAGE);
        map(&*guest.parent, at, HOST + 4 * PAGE, PAGE);
        guest.attach(function(blue), &one);
        let leads = |place| match place {
            Nowhere => DETACHED,
            Parent => Ok(HOST + 4 * PAGE),
            One => Ok(HOST + PAGE),
            Other => Ok(HOST + 3 * PAGE),
        };
        let target = |place| match place {
            Nowhere => Target::Blocked,
            Parent => Target::Paging(&*guest.parent),
            One => Target::Nested(&*one.nested),
            Other => Target::Nested(&*other.nested),
        };
        let places = [Nowhere, Parent, One, Other];
        let ways = places.iter().flat_map(|from| places.map(|to| (*from, to))).filter(|(from, to)| from != to);
        for ((from, to), stops) in ways.flat_map(|way| [true, false].map(|stops| (way, stops))) {
            for n in 0.. {
                assert!(n < 32, "{}: {from:?} to {to:?}: never done", house.name());
                house.lead(function(red), target(from)).expect("hardware works");
                house.expect(red, at, leads(from));
                if stops {
                    D::stop_queue_after(&house.model, n);
                } else {
                    D::refuse_request_after(&house.model, n);
                }
                let found = house.lead(function(red), target(to));
                house.set_queue(Queue::Running);
                D::refuse_request_after(&house.model, usize::MAX);
                house.expect(blue, at, leads(One));
                if found.is_ok() {
                    house.expect(red, at, leads(to));
                    break;
                }
                let known = found == Err(HUNG) && stops || matches!(found, Err(HwError::Queue { .. })) && !stops;
                assert!(known, "{}: {from:?} to {to:?}: {found:?}", house.name());
                let left = house.walk(function(red), at).map(|walk| walk.phys);
                assert!(left == leads(from) || left == DETACHED, "{}: {from:?}, {to:?}: {left:x?}", house.name());
            }
        }
        drop((one, other, guest));
        house.check_empty();
    });
}

fn an_end_that_is_not_confirmed_is_waited_for_by_the_host<D: Driver>() {
    all::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let guest = Guest::new(house);
        let own = guest.own();
        guest.attach(function(red), &own);
        guest.expect_all(function(red));
        house.set_queue(Queue::Stopped);
        drop(own);
        // Nobody comes there any more, but for who has it cached.
        assert_eq!(house.walk(function(red), 5 * PAGE), Err(Refusal::Detached), "{}", house.name());
        house.expect(red, 5 * PAGE, Ok(HOST + PAGE));
        let mut gather = Gather::new();
        guest.parent.unmap(range(MEMORY + PAGE, PAGE), &mut gather).unwrap();
        assert_eq!(guest.parent.flush(&mut gather), Err(HUNG), "{}", house.name());
        house.set_queue(Queue::Running);
        guest.parent.flush(&mut gather).unwrap();
        assert!(house.read(red, 5 * PAGE).is_err(), "{}", house.name());
        map(&*guest.parent, MEMORY + PAGE, HOST + PAGE, PAGE);
        let next = guest.own();
        guest.attach(function(blue), &next);
        guest.expect_all(function(blue));
        guest.attach(function(red), &next);
        guest.expect_all(function(red));
        drop((next, guest));
        house.check();
    });
}

fn device_tlbs_forget_what_the_host_takes_and_what_their_guest_says<D: Driver>() {
    all::<D>(|house| {
        if !house.capabilities().device_tlbs {
            return;
        }
        let [red, blue, _] = house.kind.streams;
        let guest = Guest::new(house);
        let (one, other) = (guest.own(), guest.own());
        let ask = |id, iova| D::ask(&house.model, function(id), iova);
        let told = |id: u32, iovas: &[u64]| {
            let log = D::take_forgotten(&house.model);
            let each = |iova: &u64| log.iter().any(|forget| forget.covers(function(id), *iova));
            iovas.iter().all(each)
        };
        [red, blue].into_iter().for_each(|id| house.tell_tlb(id, true).unwrap());
        guest.attach(function(red), &one);
        guest.attach(function(blue), &other);
        for _ in 0..2 {
            for id in [red, blue] {
                assert_eq!((ask(id, 5 * PAGE), ask(id, 6 * PAGE)), (Some(HOST + PAGE), Some(HOST + SECOND)));
                assert_eq!(ask(id, 7 * PAGE), None, "{}", house.name());
                assert!(D::translated(&house.model, id, HOST + PAGE), "{}", house.name());
            }
            D::take_forgotten(&house.model);
            // The guest's, of its own alone.
            guest.map(&one, 5 * PAGE, MEMORY + 3 * PAGE);
            guest.say(&one, 5 * PAGE).unwrap();
            let log = D::take_forgotten(&house.model);
            assert!(log.iter().any(|forget| forget.covers(function(red), 5 * PAGE)), "{}: {log:x?}", house.name());
            assert!(log.iter().all(|forget| forget.id == function(red).id), "{}: {log:x?}", house.name());
            assert_eq!(ask(red, 5 * PAGE), Some(HOST + 3 * PAGE));
            // The host's: nobody knows at which of the guests' addresses.
            for id in [red, blue] {
                unmap(&*guest.parent, MEMORY + SECOND, PAGE);
                assert!(told(id, &[0, 5 * PAGE, 6 * PAGE, (1 << 47) - 1]), "{}: {id:#x}", house.name());
                assert_eq!(ask(id, 6 * PAGE), None);
                map(&*guest.parent, MEMORY + SECOND, HOST + SECOND, PAGE);
            }
            guest.map(&one, 5 * PAGE, MEMORY + PAGE);
            guest.say(&one, 5 * PAGE).unwrap();
        }
        D::take_forgotten(&house.model);
        drop(one);
        assert!(told(red, &[0, 5 * PAGE, 6 * PAGE]), "{}", house.name());
        assert_eq!((ask(red, 5 * PAGE), ask(blue, 5 * PAGE)), (None, Some(HOST + PAGE)), "{}", house.name());
        guest.parent.retire().unwrap();
        assert!(told(blue, &[0, 5 * PAGE, 6 * PAGE]), "{}", house.name());
        drop((other, guest));
        house.check();
    });
    // Small units have none, but not all of them.
    assert!(D::nesting().iter().any(|case| House::<D>::up(case).capabilities().device_tlbs));
}

fn what_cannot_be_is_refused_and_changes_nothing<D: Driver>() {
    all::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let guest = Guest::new(house);
        let own: Own = guest.own();
        let (kind, words) = D::stage_of_guest(&house.case, [TABLES, TABLES + PAGE], 1, &mut |_, _| ());
        let config = NestedConfig { kind, words: &words };
        let before = house.memory.in_use();
        let plain = house.domain();
        let made = |house: &House<D>, parent: &dyn Domain, config: &NestedConfig<'_>| {
            house.unit.create_nested(parent, config).map(drop)
        };
        assert!(matches!(made(house, &*plain, &config), Err(HwError::Unsupported(_))), "{}", house.name());
        drop(plain);
        let unknown = NestedConfig { kind: 7, words: &words };
        assert!(matches!(made(house, &*guest.parent, &unknown), Err(HwError::Unsupported(_))), "{}", house.name());
        for len in (0..words.len()).chain([words.len() + 1]) {
            let mut other = words.clone();
            other.resize(len, 0);
            let config = NestedConfig { kind, words: &other };
            assert!(matches!(made(house, &*guest.parent, &config), Err(HwError::Hardware(_))), "{}", house.name());
        }
        let elsewhere = House::<D>::up(&house.case);
        assert_eq!(made(&elsewhere, &*guest.parent, &config), Err(HwError::ForeignDomain), "{}", house.name());
        let stream: Stream = function(red);
        assert_eq!(elsewhere.lead(stream, Target::Nested(&*own.nested)), Err(HwError::ForeignDomain));
        let found = elsewhere.unit.create_domain(&parent_config()).map(drop);
        assert_eq!(found, Ok(()));
        assert_eq!(house.memory.in_use(), before, "{}", house.name());
        drop((own, guest));
        house.check_empty();
        elsewhere.check_empty();
    });
    // Where there is none it is named.
    for case in D::cases() {
        let house = House::<D>::up(&case);
        if !house.capabilities().nesting {
            let found = house.unit.create_domain(&parent_config()).map(drop);
            assert!(matches!(found, Err(HwError::Missing(_) | HwError::Unsupported(_))), "{}: {found:?}", house.name());
        }
    }
}
