//! Device TLBs that do not answer: the error of those who asked for them, and of nobody else.

use super::*;
use iommu_models::smmuv3::Queue as Behaviour;
use std::thread;

const DEAD: u32 = 0x8000_0208;

fn timed_out(stream: u32) -> Result<Marker, HwError> {
    Err(HwError::Queue { code: UNANSWERED, entry: stream.into() })
}

#[test]
fn the_only_one_is_named_to_whoever_asked_and_others_of_the_round_go_again() {
    for bed in beds(8) {
        bed.model.set_unanswering(DEAD, true);
        for mine in [&[domain(1)][..], &[config(1), domain(1)], &[]] {
            let other = bed.join(&[domain(9), device(DEAD)]);
            bed.run(mine).expect("confirmed the second time");
            assert_eq!(bed.outcome(other), Some(Told::Aborted(Some(DEAD))));
            let executed = bed.executed();
            let ended = executed.iter().position(|raw| *raw == device(DEAD).0).unwrap();
            for command in mine {
                assert!(executed.iter().rposition(|raw| *raw == command.0).unwrap() > ended, "{executed:x?}");
            }
            bed.check();
            // Who was told would go again, alone; this one does not.
            bed.probe().forget_retries();
        }
        assert_eq!(bed.run(&[domain(9), device(DEAD)]), timed_out(DEAD));
        bed.model.set_unanswering(DEAD, false);
        bed.run(&[device(DEAD)]).expect("it answers again");
        bed.check();
    }
}

#[test]
fn the_sync_before_tells_devices_apart() {
    // The second caller's CMD_SYNC between ranks waits for the first one's device, the last for the second one's.
    for (dead, others) in [(0x100, DEAD), (DEAD, 0x100)] {
        let bed = Bed::server();
        bed.model.set_unanswering(dead, true);
        let seat = bed.join(&[domain(1), device(0x100)]);
        let result = bed.run(&[domain(2), device(DEAD)]);
        match dead {
            DEAD => assert_eq!(result, timed_out(DEAD)),
            _ => assert!(result.is_ok(), "{result:?}"),
        }
        assert_eq!(bed.outcome(seat), Some(Told::Aborted(Some(dead))), "and not {others:#x}");
        bed.check();
    }
}

#[test]
fn of_several_that_one_sync_waits_for_each_caller_goes_alone() {
    for bed in beds(8) {
        bed.model.set_unanswering(DEAD, true);
        let other = bed.join(&[device(DEAD)]);
        bed.run(&[device(0x100)]).expect("it answers, alone");
        assert_eq!(bed.outcome(other), Some(Told::Aborted(None)));
        bed.probe().forget_retries();
        // And those without never fail.
        let others = [device(DEAD), device(0x200)].map(|command| bed.join(&[command]));
        bed.run(&[domain(2)]).unwrap();
        assert_eq!(others.map(|seat| bed.outcome(seat)), [Some(Told::Aborted(None)); 2]);
        bed.check();
    }
}

#[test]
fn a_caller_with_several_devices_is_told_the_first_of_them() {
    let bed = Bed::server();
    bed.model.set_unanswering(DEAD, true);
    assert_eq!(bed.run(&[domain(1), device(0x100), device(DEAD), device(0x300)]), timed_out(0x100));
    assert_eq!(bed.probe().retrying(), 0);
    bed.run(&[device(0x100), device(0x300)]).unwrap();
    bed.check();
}

#[test]
fn what_is_given_up_on_later_is_nobody_elses() {
    // The CMD_SYNC fails again after it was acknowledged: another device TLB of a round that is over.
    for log2 in [2, 8] {
        for again in 1..6 {
            let bed = Bed::new(Config::server().sid_bits(32), log2, Completion::Poll);
            bed.model.set_unanswering(DEAD, true);
            bed.model.time_out_again(again);
            assert_eq!(bed.run(&[device(DEAD)]), timed_out(DEAD));
            bed.run(&[domain(1), device(0x100)]).unwrap_or_else(|error| panic!("{again} more: {error}"));
            bed.run(&[domain(2)]).unwrap();
            bed.check();
        }
    }
}

#[test]
fn what_is_given_up_on_later_is_acknowledged_even_where_the_ring_is_full_of_it() {
    let bed = Bed::new(Config::server().sid_bits(32), 1, Completion::Poll);
    bed.model.set_unanswering(DEAD, true);
    bed.model.time_out_again(5);
    assert_eq!(bed.run(&[device(DEAD)]), timed_out(DEAD));
    bed.run(&[domain(1)]).expect("there is room again");
    bed.check();
}

#[test]
fn a_sync_that_never_stops_failing_is_an_error_in_bounded_time() {
    let bed = Bed::server();
    bed.model.set_unanswering(DEAD, true);
    bed.model.time_out_again(u32::MAX);
    assert_eq!(bed.run(&[device(DEAD)]), timed_out(DEAD));
    for _ in 0..3 {
        bed.counts();
        assert_eq!(bed.run(&[domain(1)]), Err(HUNG));
        assert!(bed.counts().0 < 2_000);
    }
    bed.model.time_out_again(0);
    bed.run(&[domain(1)]).expect("it works again");
    bed.check();
}

#[test]
fn what_hardware_had_not_read_of_a_round_that_failed_asks_no_device_again() {
    let bed = Bed::server();
    bed.model.set_unanswering(0x100, true);
    let first = bed.join(&[device(0x100)]);
    // Its CMD_SYNC between ranks fails for the first one's; the device behind it was not read.
    let second = bed.join(&[domain(9), device(DEAD), domain(8)]);
    bed.run(&[]).unwrap();
    assert_eq!([first, second].map(|seat| bed.outcome(seat)), [Some(Told::Aborted(Some(0x100))); 2]);
    let executed = bed.executed();
    assert!(executed.iter().all(|raw| *raw != device(DEAD).0), "{executed:x?}");
    assert!(executed.contains(&domain(8).0), "{executed:x?}");
    bed.check();
}

#[test]
fn until_those_who_go_again_are_through_no_other_device_joins_them() {
    let bed = Bed::server();
    bed.model.set_unanswering(DEAD, true);
    let victim = bed.join(&[domain(1)]);
    assert_eq!(bed.run(&[device(DEAD)]), timed_out(DEAD));
    assert_eq!(bed.outcome(victim), Some(Told::Aborted(Some(DEAD))));
    assert_eq!(bed.probe().retrying(), 1, "one is to go again");
    bed.run(&[domain(2)]).expect("without devices: nothing to wait for");
    let start = bed.memory.now();
    bed.run(&[device(0x100)]).expect("in the end");
    assert!(bed.memory.now() - start > 500_000, "it has waited");
    bed.check();
}

#[test]
fn a_stopped_queue_does_not_make_a_device_guilty() {
    let bed = Bed::server();
    bed.model.set_queue(Behaviour::Stopped);
    assert_eq!(bed.run(&[device(0x100)]), Err(HUNG));
    bed.model.set_queue(Behaviour::Running);
    bed.run(&[device(0x100)]).unwrap();
    bed.check();
}

#[test]
fn a_partition_with_a_dead_device_fails_no_unmap_of_another() {
    for log2 in [1, 3, 8] {
        for bed in beds(log2) {
            // A look of another thread at the clock must not use up this one's time.
            bed.memory.set_clock_step(0);
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
                            let batch = [domain(worker << 8 | n), device(u32::from(worker) << 8)];
                            let batch = if n % 2 == 0 { &batch[..1] } else { &batch };
                            bed.run(batch).unwrap_or_else(|error| panic!("worker {worker}, {n}: {error}"));
                        }
                    });
                }
            });
            assert_eq!(bed.probe().retrying(), 0);
            bed.check();
        }
    }
}

/// Section 4.7.1: an access is answered once. Its tag may be another's after that.
#[test]
fn answers_to_stalled_accesses_are_given_once_whatever_fails_beside_them() {
    for bed in beds(8) {
        bed.model.set_unanswering(DEAD, true);
        let answers = [1, 2].map(|tag| Command::resume(7, tag, false));
        // Read before the CMD_SYNC that fails.
        let before = bed.join(&answers[..1]);
        let dead = bed.join(&[domain(1), device(DEAD)]);
        // The one that fails stands between these two.
        let between = bed.join(&[config(3), domain(3)]);
        // And behind it.
        bed.run(&answers[1..]).expect("it goes again");
        assert!(matches!(bed.outcome(before), Some(Told::Confirmed(_))), "it is done");
        assert_eq!(bed.outcome(dead), Some(Told::Aborted(Some(DEAD))));
        assert_eq!(bed.outcome(between), Some(Told::Aborted(Some(DEAD))));
        let executed = bed.executed();
        let count = |answer: &Command| executed.iter().filter(|raw| **raw == answer.0).count();
        assert_eq!(answers.each_ref().map(count), [1, 1], "{executed:x?}");
        // The model has nobody who waits.
        bed.model.take_violations();
        bed.check();
    }
}
