//! Device TLBs that do not answer: the error of those who asked for them, and of nobody else.

use super::super::CODE_DEVICE_TLB_TIMEOUT;
use super::*;
use iommu_models::vtd::{Execution, Queue as Behaviour};
use std::thread;

const DEAD: u16 = 0x0208;

fn timed_out(source: u16) -> Result<Marker, HwError> {
    Err(HwError::Queue { code: CODE_DEVICE_TLB_TIMEOUT, entry: source.into() })
}

const ORDERS: [Execution; 4] = [Execution::Queued, Execution::Late, Execution::Reversed, Execution::Shuffled(11)];

#[test]
fn it_is_named_to_whoever_asked_and_others_of_the_round_go_again() {
    for order in ORDERS {
        for mine in [&[domain(1)][..], &[domain(1), device(0x100)], &[]] {
            let bed = Bed::server();
            bed.model.set_execution(order);
            bed.model.set_unanswering(DEAD, true);
            let other = bed.join(&[domain(9), device(DEAD)]);
            bed.run(mine).expect("confirmed the second time");
            assert_eq!(bed.outcome(other), Some(Told::Aborted(Some(DEAD.into()))));
            let executed = bed.executed();
            for invalidation in mine {
                let last = executed.iter().rposition(|done| *done == (word(*invalidation), true));
                let ended = executed.iter().position(|(raw, _)| *raw == word(device(DEAD))).unwrap();
                assert!(last.unwrap() > ended, "{executed:x?}");
            }
            bed.check();
            // The one who asked.
            assert_eq!(bed.run(&[domain(9), device(DEAD)]), timed_out(DEAD));
            assert_eq!(bed.run(&[device(0x100), device(DEAD), device(0x300)]), timed_out(DEAD));
            bed.model.set_unanswering(DEAD, false);
            bed.run(&[device(DEAD)]).expect("it answers again");
            bed.check();
        }
    }
}

#[test]
fn by_pasid_too() {
    let bed = Bed::server();
    bed.model.set_unanswering(DEAD, true);
    let target = TlbTarget { source: RequesterId::new(DEAD), physical: None, queue_depth: 32 };
    let all = |pasid| Invalidation::PasidDeviceTlb { target, pasid, pages: TlbPages::All };
    assert_eq!(bed.run(&[all(Some(7))]), timed_out(DEAD));
    assert_eq!(bed.run(&[all(None)]), timed_out(DEAD));
    bed.check();
}

#[test]
fn several_at_once_are_found_one_after_the_other() {
    for order in ORDERS {
        let bed = Bed::server();
        bed.model.set_execution(order);
        let dead: Vec<u16> = (0..6).map(|n| DEAD + n).collect();
        dead.iter().for_each(|source| bed.model.set_unanswering(*source, true));
        let batch: Vec<_> = dead.iter().map(|source| device(*source)).collect();
        assert!(matches!(bed.run(&batch), Err(HwError::Queue { code: CODE_DEVICE_TLB_TIMEOUT, .. })));
        bed.run(&[domain(1), device(0x100)]).unwrap();
        bed.check();
    }
}

#[test]
fn where_hardware_names_nobody_those_with_devices_go_alone() {
    for order in ORDERS {
        let bed = Bed::server();
        bed.model.set_execution(order);
        bed.model.hide_error_records(true);
        bed.model.set_unanswering(DEAD, true);
        let other = bed.join(&[domain(9), device(DEAD)]);
        bed.run(&[domain(1), device(0x100)]).expect("it answers, alone");
        assert_eq!(bed.outcome(other), Some(Told::Aborted(None)));
        assert_eq!(bed.run(&[domain(9), device(DEAD)]), timed_out(DEAD));
        // And those without never fail.
        let other = bed.join(&[device(DEAD)]);
        bed.run(&[domain(2)]).unwrap();
        assert_eq!(bed.outcome(other), Some(Told::Aborted(None)));
        bed.check();
    }
}

#[test]
fn one_that_is_nobodys_fails_nobody() {
    let bed = Bed::server();
    for source in [0, DEAD, 0x100] {
        bed.model.raise_time_out(source);
        bed.run(&[domain(1)]).unwrap();
        bed.model.raise_time_out(source ^ 1);
        bed.run(&[domain(1), device(0x100)]).unwrap();
    }
    bed.check();
}

#[test]
fn hardware_that_gives_up_on_one_after_the_other_of_a_device_has_nobody_else_blamed() {
    for echoes in [0, 1, 2, 8] {
        let bed = Bed::server();
        bed.model.set_unanswering(DEAD, true);
        let other = bed.join(&[domain(9), device(DEAD)]);
        *bed.regs.io().echoes.lock().unwrap() = (DEAD, echoes);
        bed.run(&[domain(1), device(0x100)]).unwrap_or_else(|error| panic!("{echoes} more: {error}"));
        assert_eq!(bed.outcome(other), Some(Told::Aborted(Some(DEAD.into()))));
        bed.check();
    }
}

#[test]
fn hardware_that_names_devices_of_nobody_for_ever_ends_with_the_one_that_is_alone() {
    let bed = Bed::server();
    *bed.regs.io().echoes.lock().unwrap() = (DEAD, usize::MAX);
    bed.model.raise_time_out(DEAD);
    assert_eq!(bed.run(&[domain(1), device(0x100)]), timed_out(0x100));
    assert_eq!(bed.queue().retrying(), 0);
}

#[test]
fn what_hardware_had_not_read_of_a_round_that_failed_asks_no_device_again() {
    let bed = Bed::server();
    let other = bed.join(&[domain(9), device(DEAD), device(DEAD), domain(8)]);
    bed.model.set_queue(Behaviour::Stopped);
    bed.model.raise_time_out(DEAD);
    assert_eq!(bed.run(&[domain(1)]), Err(HUNG));
    assert_eq!(bed.outcome(other), Some(Told::Aborted(Some(DEAD.into()))));
    bed.model.set_unanswering(DEAD, true);
    bed.model.set_queue(Behaviour::Running);
    bed.run(&[domain(2)]).unwrap();
    let executed = bed.executed();
    assert!(executed.iter().all(|(raw, done)| *done && *raw != word(device(DEAD))), "{executed:x?}");
    assert!(executed.contains(&(word(domain(8)), true)), "{executed:x?}");
    bed.check();
}

#[test]
fn until_those_who_go_again_are_through_no_other_device_joins_them() {
    let bed = Bed::server();
    bed.model.set_unanswering(DEAD, true);
    let victim = bed.join(&[domain(1)]);
    assert_eq!(bed.run(&[device(DEAD)]), timed_out(DEAD));
    assert_eq!(bed.outcome(victim), Some(Told::Aborted(Some(DEAD.into()))));
    assert_eq!(bed.queue().retrying(), 1, "one is to go again");
    bed.counts();
    bed.run(&[domain(2)]).expect("without devices: nothing to wait for");
    // A CPU that is held up in the middle of this holds up devices for one time limit at most, and gives no error.
    let start = bed.memory.now();
    bed.run(&[device(0x100)]).expect("in the end");
    assert!(bed.memory.now() - start > 500_000, "it has waited");
    bed.check();
}

#[test]
fn a_partition_with_a_dead_device_fails_no_unmap_of_another() {
    for hidden in [false, true] {
        for order in ORDERS {
            let bed = Bed::server();
            // A look of another thread at the clock must not use up this one's time.
            bed.memory.set_clock_step(0);
            bed.model.set_execution(order);
            bed.model.hide_error_records(hidden);
            bed.model.set_unanswering(DEAD, true);
            thread::scope(|scope| {
                let bed = &bed;
                scope.spawn(move || {
                    for n in 0..50 {
                        assert_eq!(bed.run(&[domain(n), device(DEAD)]), timed_out(DEAD));
                    }
                });
                for worker in 1..4u16 {
                    scope.spawn(move || {
                        for n in 0..50 {
                            let batch = [domain(worker << 8 | n), device(worker << 8)];
                            let batch = if n % 2 == 0 { &batch[..1] } else { &batch };
                            bed.run(batch).unwrap_or_else(|error| panic!("worker {worker}, {n}: {error}"));
                        }
                    });
                }
            });
            assert_eq!(bed.queue().retrying(), 0);
            bed.check();
        }
    }
}
