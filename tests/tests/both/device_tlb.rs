//! Device TLBs: a function is given translations while the unit is told of its cache, and is asked to forget all that is
//! taken away from it, and nothing of others.
//!
//! A unit without device TLBs refuses them by name.

use super::{LARGE, PAGE};
use iommu_core::hw::{HwError, Stream, Target};
use iommu_tests::bench::{map, unmap};
use iommu_tests::house::{Driver, Forget, House, Refusal, each, function, part};
use iommu_tests::over_both;

over_both! {
    translations_are_given_while_there_is_a_device_tlb,
    whatever_is_taken_away_is_forgotten_by_the_device_too,
    a_device_that_does_not_answer_holds_up_nobody_else,
    a_device_that_answers_again_is_let_go,
    streams_that_do_not_exist_have_no_device_tlb,
}

const PHYS: u64 = 0x5000_0000;

fn with_device_tlbs<D: Driver>(test: impl Fn(&House<D>)) {
    each::<D>(|house| {
        if house.capabilities().device_tlbs {
            return test(house);
        }
        let [red, ..] = house.kind.streams;
        let one = house.domain_with(PAGE, PHYS, PAGE);
        house.attach(red, &*one);
        let found = house.tell_tlb(red, true);
        assert!(matches!(found, Err(HwError::Missing(_) | HwError::Unsupported(_))), "{}: {found:?}", house.name());
        assert_eq!(house.tell_tlb(red, false), Ok(()), "{}: as it was", house.name());
        assert_eq!(D::ask(&house.model, function(red), PAGE), None, "{}", house.name());
        house.expect(red, PAGE, Ok(PHYS));
        house.check();
    });
}

/// The function, and a part of it where there are parts.
fn streams<D: Driver>(house: &House<D>, id: u32) -> Vec<Stream> {
    let parts = house.capabilities().pasid_bits != 0 && house.kind.stage_of_parts;
    [function(id)].into_iter().chain(parts.then(|| part(id, 1))).collect()
}

fn forgotten(log: &[Forget], stream: Stream, iova: u64) -> bool {
    log.iter().any(|forget| forget.covers(stream, iova))
}

fn translations_are_given_while_there_is_a_device_tlb<D: Driver>() {
    with_device_tlbs::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let all = streams(house, red);
        let one = house.domain_with(PAGE, PHYS, PAGE);
        for told_first in [false, true] {
            if told_first {
                house.tell_tlb(red, true).unwrap();
            }
            all.iter().for_each(|stream| assert!(house.lead(*stream, Target::Paging(&*one)).is_ok()));
            house.attach(blue, &*one);
            if !told_first {
                all.iter().for_each(|stream| assert_eq!(D::ask(&house.model, *stream, PAGE), None, "{}", house.name()));
                assert!(!D::translated(&house.model, red, PHYS), "{}", house.name());
                house.tell_tlb(red, true).unwrap();
            }
            for stream in &all {
                assert_eq!(D::ask(&house.model, *stream, PAGE + 8), Some(PHYS + 8), "{}: {stream}", house.name());
                assert_eq!(D::ask(&house.model, *stream, 2 * PAGE), None, "{}: {stream}", house.name());
                house.expect_of(*stream, PAGE, Ok(PHYS));
            }
            assert!(D::translated(&house.model, red, PHYS), "{}", house.name());
            // Nobody else is believed.
            assert_eq!(D::ask(&house.model, function(blue), PAGE), None, "{}", house.name());
            assert!(!D::translated(&house.model, blue, PHYS), "{}", house.name());
            house.tell_tlb(red, true).unwrap();
            house.tell_tlb(red, false).unwrap();
            assert!(!D::translated(&house.model, red, PHYS), "{}", house.name());
            for stream in &all {
                assert_eq!(D::ask(&house.model, *stream, PAGE), None, "{}: {stream}", house.name());
                house.expect_of(*stream, PAGE, Ok(PHYS));
            }
            // It is asked no more.
            D::take_forgotten(&house.model);
            unmap(&*one, PAGE, PAGE);
            map(&*one, PAGE, PHYS, PAGE);
            all.iter().for_each(|stream| assert!(house.lead(*stream, Target::Blocked).is_ok()));
            assert_eq!(D::take_forgotten(&house.model), [], "{}", house.name());
        }
        drop(one);
        house.check();
    });
}

fn whatever_is_taken_away_is_forgotten_by_the_device_too<D: Driver>() {
    with_device_tlbs::<D>(|house| {
        let [red, blue, far] = house.kind.streams;
        let (one, other) = (house.domain_with(PAGE, PHYS, PAGE), house.domain_with(PAGE, PHYS, PAGE));
        map(&*one, LARGE, 0x6000_0000, LARGE);
        [red, blue].into_iter().for_each(|id| house.tell_tlb(id, true).unwrap());
        let (reds, blues) = (streams(house, red), streams(house, blue));
        reds.iter().for_each(|stream| assert!(house.lead(*stream, Target::Paging(&*one)).is_ok()));
        blues.iter().for_each(|stream| assert!(house.lead(*stream, Target::Paging(&*other)).is_ok()));
        // Without a device TLB, in the same domain.
        house.attach(far, &*one);
        let check = |log: &[Forget], gone: &[Stream], iovas: &[u64], what: &str| {
            for (stream, iova) in gone.iter().flat_map(|stream| iovas.iter().map(move |iova| (*stream, *iova))) {
                assert!(forgotten(log, stream, iova), "{}: {what}: {stream} at {iova:#x}: {log:x?}", house.name());
            }
            let strange = log.iter().find(|forget| !gone.iter().any(|stream| stream.id == forget.id));
            assert_eq!(strange, None, "{}: {what}", house.name());
        };
        D::take_forgotten(&house.model);
        unmap(&*one, PAGE, PAGE);
        check(&D::take_forgotten(&house.model), &reds, &[PAGE, 2 * PAGE - 1], "a page");
        unmap(&*one, LARGE, LARGE);
        check(&D::take_forgotten(&house.model), &reds, &[LARGE, 2 * LARGE - 1], "a large page");
        map(&*one, PAGE, PHYS, PAGE);
        assert_eq!(D::take_forgotten(&house.model), [], "{}: nothing was taken away", house.name());
        for stream in &reds {
            house.lead(*stream, Target::Paging(&*other)).unwrap();
            check(&D::take_forgotten(&house.model), &[*stream], &[0, PAGE, house.kind.end - 1], "a replacement");
        }
        for stream in &reds {
            house.lead(*stream, Target::Blocked).unwrap();
            check(&D::take_forgotten(&house.model), &[*stream], &[0, PAGE, house.kind.end - 1], "a detach");
            house.expect_of(*stream, PAGE, Err(Refusal::Detached));
        }
        other.retire().unwrap();
        check(&D::take_forgotten(&house.model), &blues, &[0, PAGE, house.kind.end - 1], "a retirement");
        blues.iter().for_each(|stream| assert_eq!(D::ask(&house.model, *stream, PAGE), None));
        drop((one, other));
        house.check();
    });
}

/// What a device that does not answer gives.
fn silent<T>(found: &Result<T, HwError>) -> bool {
    matches!(found, Err(HwError::Queue { .. }))
}

/// Fills the device TLBs with a page of a domain.
#[track_caller]
fn fill<D: Driver>(house: &House<D>, streams: &[Stream], phys: u64) {
    for stream in streams {
        assert_eq!(D::through_tlb(&house.model, *stream, PAGE + 8), Some(phys + 8), "{}: {stream}", house.name());
    }
}

fn a_device_that_does_not_answer_holds_up_nobody_else<D: Driver>() {
    with_device_tlbs::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let (one, other) = (house.domain_with(PAGE, PHYS, PAGE), house.domain_with(PAGE, 0x6000_0000, PAGE));
        map(&*other, LARGE, 0x7000_0000, LARGE);
        [red, blue].into_iter().for_each(|id| house.tell_tlb(id, true).unwrap());
        let (reds, blues) = (streams(house, red), streams(house, blue));
        for stream in reds.iter().chain(&blues) {
            house.lead(*stream, Target::Paging(&*one)).unwrap();
        }
        fill(house, &reds, PHYS);
        fill(house, &blues, PHYS);
        D::set_unanswering(&house.model, red, true);
        // It goes as far as it can, however often.
        for _ in 0..2 {
            let found = house.lead(reds[0], Target::Blocked);
            assert!(silent(&found), "{}: {found:?}", house.name());
            assert!(house.access(reds[0], PAGE, true).is_err(), "{}", house.name());
        }
        // Others come, move and go as ever.
        for stream in &blues {
            house.lead(*stream, Target::Paging(&*other)).unwrap();
            house.expect_of(*stream, PAGE, Ok(0x6000_0000));
        }
        fill(house, &blues, 0x6000_0000);
        unmap(&*other, LARGE, LARGE);
        blues.iter().for_each(|blue| assert_eq!(D::through_tlb(&house.model, *blue, LARGE), None, "{}", house.name()));
        // What it holds it may hold for ever: nothing of that may be used again.
        let found = one.retire();
        assert!(silent(&found), "{}: {found:?}", house.name());
        assert!(D::held(&house.model, red) > 0, "{}", house.name());
        reds.iter().for_each(|red| assert!(house.access(*red, PAGE, true).is_err(), "{}: {red}", house.name()));
        // It is no device with such a cache any more, and lets go.
        house.tell_tlb(red, false).unwrap();
        D::reset_function(&house.model, red);
        for stream in &reds {
            house.lead(*stream, Target::Blocked).unwrap_or_else(|error| panic!("{}: {error}", house.name()));
        }
        one.retire().unwrap();
        D::set_unanswering(&house.model, red, false);
        house.attach(red, &*other);
        house.expect(red, PAGE, Ok(0x6000_0000));
        drop((one, other));
        house.check_empty();
    });
}

fn a_device_that_answers_again_is_let_go<D: Driver>() {
    with_device_tlbs::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let one = house.domain_with(PAGE, PHYS, PAGE);
        let reds = streams(house, red);
        house.tell_tlb(red, true).unwrap();
        reds.iter().for_each(|stream| assert!(house.lead(*stream, Target::Paging(&*one)).is_ok()));
        fill(house, &reds, PHYS);
        D::set_unanswering(&house.model, red, true);
        reds.iter().for_each(|stream| assert!(silent(&house.lead(*stream, Target::Blocked)), "{}", house.name()));
        assert!(D::held(&house.model, red) > 0, "{}", house.name());
        D::set_unanswering(&house.model, red, false);
        reds.iter().for_each(|stream| assert!(house.lead(*stream, Target::Blocked).is_ok(), "{}", house.name()));
        assert_eq!(D::held(&house.model, red), 0, "{}", house.name());
        reds.iter().for_each(|stream| assert!(house.lead(*stream, Target::Paging(&*one)).is_ok()));
        fill(house, &reds, PHYS);
        drop(one);
        assert_eq!(D::held(&house.model, red), 0, "{}", house.name());
        house.check_empty();
    });
}

fn streams_that_do_not_exist_have_no_device_tlb<D: Driver>() {
    with_device_tlbs::<D>(|house| {
        for raw in house.kind.no_streams.clone() {
            assert_eq!(house.tell_tlb(raw, true), Err(HwError::NoSuchStream { stream: raw }), "{}", house.name());
        }
        house.check();
    });
}
