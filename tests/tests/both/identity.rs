//! Identity, whatever a unit has for it: a stream reaches the memory that it names, and what it reached before no more.

use super::{HUGE, PAGE};
use iommu_core::hw::{Target, Transition};
use iommu_tests::house::{Driver, Refusal, each, function};
use iommu_tests::over_both;

over_both! {
    identity_reaches_all_of_memory_until_it_is_taken_away,
    who_was_passed_through_keeps_nothing_of_it,
    without_memory_for_it_the_stream_stays_where_it_was,
}

fn identity_reaches_all_of_memory_until_it_is_taken_away<D: Driver>() {
    each::<D>(|house| {
        assert!(house.capabilities().identity, "{}", house.name());
        let last = (1u64 << house.kind.output_bits.min(40)) - 1;
        for id in house.kind.streams {
            assert_eq!(house.lead(function(id), Target::Identity), Ok(Transition::Hitless), "{}", house.name());
            for at in [0, PAGE, 0x1fff, 7 * HUGE + 5, last] {
                house.expect(id, at, Ok(at));
            }
            assert_eq!(house.lead(function(id), Target::Identity), Ok(Transition::Hitless), "{}", house.name());
            if let Some((start, len)) = house.kind.special {
                assert!(house.write(id, start).is_err() && house.write(id, start + len - 4).is_err());
                house.expect(id, start - 1, Ok(start - 1));
                house.expect(id, start + len, Ok(start + len));
            }
        }
        for id in house.kind.streams {
            house.detach(id);
            house.expect(id, PAGE, Err(Refusal::Detached));
        }
        house.check();
    });
}

fn who_was_passed_through_keeps_nothing_of_it<D: Driver>() {
    each::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        for _ in 0..2 {
            house.lead(function(red), Target::Identity).unwrap();
            house.lead(function(blue), Target::Identity).unwrap();
            [red, blue].into_iter().for_each(|id| house.expect(id, 2 * PAGE, Ok(2 * PAGE)));
            house.attach(red, &*domain);
            house.expect(red, PAGE, Ok(0x5000_0000));
            house.expect(red, 2 * PAGE, Err(Refusal::NotMapped));
            house.expect(blue, PAGE, Ok(PAGE));
        }
        drop(domain);
        house.expect(red, PAGE, Err(Refusal::Detached));
        house.expect(blue, PAGE, Ok(PAGE));
        house.check();
    });
}

fn without_memory_for_it_the_stream_stays_where_it_was<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*domain);
        for n in 0.. {
            house.memory.exhaust_after(n);
            let found = house.lead(function(red), Target::Identity);
            house.memory.fail_never();
            if found.is_ok() {
                break;
            }
            house.expect(red, PAGE, Ok(0x5000_0000));
        }
        house.expect(red, 3 * HUGE, Ok(3 * HUGE));
        house.check();
    });
}
