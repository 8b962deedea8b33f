//! Refused descriptors, hardware that hangs, loses completions or is gone, and CPUs that are held up.

use super::*;
use core::sync::atomic::AtomicBool;
use iommu_hal::wait::Deadline;
use iommu_models::vtd::{Execution, Queue as Behaviour};

/// IQERCD.IQEI: invalid descriptor type.
const INVALID_TYPE: u8 = 3;

#[test]
fn a_refused_descriptor_is_the_error_of_whoever_submitted_it() {
    for order in [Execution::Queued, Execution::Late, Execution::Reversed, Execution::Shuffled(7)] {
        // 0..2 and 2..5 are others', 5..7 the caller's; 7 is the wait, which the caller wrote.
        for refused in 0..8 {
            let bed = Bed::server();
            bed.model.set_execution(order);
            let all: Vec<_> = (0..7).map(|n| domain(0x100 + n)).collect();
            let others = [bed.join(&all[..2]), bed.join(&all[2..5])];
            bed.model.fail_descriptor_after(refused);
            let found = bed.run(&all[5..]);
            let mut failed = [bed.outcome(others[0]), bed.outcome(others[1])]
                .map(|outcome| match outcome {
                    Some(Told::Refused { code: INVALID_TYPE, entry }) => Some(entry),
                    Some(Told::Confirmed(1)) => None,
                    other => panic!("{other:?}"),
                })
                .to_vec();
            failed.push(match found {
                Err(HwError::Queue { code: INVALID_TYPE, entry }) => Some(entry),
                Ok(1) => None,
                other => panic!("{other:?}"),
            });
            let owner = [0, 0, 1, 1, 1, 2, 2, 2][refused];
            let entry = if refused == 7 { 5 | 1 << 5 | 1 << 32 } else { word(all[refused]) };
            let expected: Vec<_> = (0..3).map(|who| (who == owner).then_some(entry)).collect();
            assert_eq!(failed, expected, "descriptor {refused}");
            let executed = bed.executed();
            for (at, invalidation) in all.iter().enumerate() {
                assert_eq!(executed.contains(&(word(*invalidation), true)), at != refused);
            }
            bed.check();
            bed.run(&[domain(1)]).expect("the queue works again");
        }
    }
}

#[test]
fn what_takes_the_place_of_a_refused_descriptor_keeps_the_order() {
    // Hardware may report a wait once everything behind the wait before it is done: the one put in must be a fence, or
    // the last would say nothing of the first.
    for seed in 0..50 {
        let bed = Bed::server();
        bed.model.set_execution(Execution::Shuffled(seed));
        bed.model.fail_descriptor_after(1);
        bed.run(&[domain(1), domain(2), domain(3)]).unwrap_err();
        let executed = bed.executed();
        let last = executed.iter().rposition(|(raw, _)| is_wait(*raw)).unwrap();
        assert_eq!(last, executed.len() - 1, "seed {seed}: {executed:x?}");
        bed.check();
    }
}

#[test]
fn a_queue_that_stopped_for_no_descriptor_is_started_again_for_whoever_comes_next() {
    /// Stopped, with IQE and this IQERCD.IQEI, until IQE is cleared.
    struct Stopped<'m>(&'m Model, u64, AtomicBool);
    impl Stopped<'_> {
        fn is(&self) -> bool {
            self.2.load(Ordering::Relaxed)
        }
    }
    impl Registers for Stopped<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read32(&self, offset: usize) -> u32 {
            if offset == FSTS_REG && self.is() { FSTS::IQE::SET.value } else { self.0.read32(offset) }
        }
        fn write32(&self, offset: usize, value: u32) {
            if offset == FSTS_REG && value & FSTS::IQE::SET.value != 0 {
                self.2.store(false, Ordering::Relaxed);
            }
            self.0.write32(offset, value);
        }
        fn read64(&self, offset: usize) -> u64 {
            if offset == IQERCD_REG && self.is() { self.1 } else { self.0.read64(offset) }
        }
        fn write64(&self, offset: usize, value: u64) {
            if offset != IQT_REG || !self.is() {
                self.0.write64(offset, value);
            }
        }
    }
    // The tail, the width of descriptors.
    for code in [1, 5, 6] {
        let bed = Bed::server();
        let regs = Regs::new(Stopped(&bed.model, code, AtomicBool::new(true)), Duration::from_millis(1));
        let run = |id| bed.invalidator.run(&bed.hal, &regs, &[domain(id)]);
        assert_eq!(run(1), Err(HwError::Queue { code: code as u8, entry: 0 }));
        assert_eq!(bed.model.read64(IQT_REG), 2 * 32, "an invalidation and its wait");
        run(2).expect("the queue works again");
        bed.check();
    }
}

#[test]
fn hardware_that_refuses_everything_is_an_error_in_bounded_time() {
    struct Refusing<'m>(&'m Model);
    impl Registers for Refusing<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read32(&self, offset: usize) -> u32 {
            // IQE stays whatever is written.
            if offset == FSTS_REG { 1 << 4 } else { self.0.read32(offset) }
        }
        fn write32(&self, offset: usize, value: u32) {
            self.0.write32(offset, value);
        }
        fn read64(&self, offset: usize) -> u64 {
            self.0.read64(offset)
        }
        fn write64(&self, offset: usize, value: u64) {
            self.0.write64(offset, value);
        }
    }
    let bed = Bed::server();
    bed.model.set_queue(Behaviour::Stopped);
    let regs = Regs::new(Refusing(&bed.model), Duration::from_millis(1));
    let before = Deadline::after(&bed.memory, Duration::from_millis(3));
    assert!(bed.invalidator.run(&bed.hal, &regs, &[domain(1)]).is_err());
    assert!(!before.has_passed(&bed.memory));
}

#[test]
fn a_unit_that_is_gone_is_an_error_at_once_for_everybody() {
    let bed = Bed::server();
    let other = bed.join(&[domain(1)]);
    bed.model.set_absent(true);
    for _ in 0..200 {
        assert!(matches!(bed.run(&[domain(2)]), Err(HwError::Hardware(_))));
        assert!(bed.counts().0 < 5, "not polled to the deadline");
    }
    assert_eq!(bed.outcome(other), Some(Told::Gone));
}

#[test]
fn a_lost_completion_costs_its_round_and_no_other() {
    for order in [Execution::Queued, Execution::Late, Execution::Shuffled(3)] {
        let bed = Bed::server();
        bed.model.set_execution(order);
        for round in 0..300u16 {
            if round % 3 == 0 {
                bed.model.drop_completion_after(0);
                assert_eq!(bed.run(&[domain(round)]), Err(HUNG));
            } else {
                bed.run(&[domain(round)]).unwrap_or_else(|error| panic!("round {round}: {error}"));
                assert!(bed.executed().iter().any(|done| *done == (word(domain(round)), true)));
            }
        }
        bed.check();
    }
}

#[test]
fn a_completion_of_a_round_that_was_given_up_confirms_nothing_else() {
    let bed = Bed::server();
    bed.model.set_queue(Behaviour::Mute);
    assert_eq!(bed.run(&[domain(1)]), Err(HUNG));
    // Every number that was or will be, in every cell but that of the next wait: hardware writes late, not wrong.
    let mut status = None;
    bed.invalidator.for_each_frame(|structure, frame| {
        if structure == crate::tables::Structure::QueueStatus {
            status = Some(frame);
        }
    });
    let cells = status.unwrap();
    for marker in 0..4 {
        bed.memory.device_write32(cells.wrapping_add(8), marker).unwrap();
        assert_eq!(bed.run(&[domain(2)]), Err(HUNG), "taken for {marker}");
    }
    bed.model.set_queue(Behaviour::Running);
    bed.run(&[domain(3)]).unwrap();
    bed.check();
}

#[test]
fn whoever_is_held_up_costs_others_their_deadline_and_no_more() {
    let bed = Bed::server();
    let elapsed = |what: &dyn Fn()| {
        let start = bed.memory.now();
        what();
        bed.memory.now() - start
    };
    // A CPU that stopped while it leads, and one that stopped with the lock held.
    assert!(bed.queue().try_lead());
    let led = elapsed(&|| assert_eq!(bed.run(&[domain(1)]), Err(HUNG)));
    bed.queue().stop_leading();
    bed.run(&[domain(2)]).expect("works again");
    let locked = bed.queue().with_lock(|| elapsed(&|| assert_eq!(bed.run(&[domain(3)]), Err(HUNG))));
    bed.run(&[domain(4)]).expect("works again");
    assert!(led < 2_000_000 && locked < 2_000_000, "{led} and {locked} ns, of a limit of 1 ms");
    // What the first had written was done with the second.
    let executed = bed.executed();
    assert!([1, 2, 4].into_iter().all(|n| executed.contains(&(word(domain(n)), true))), "{executed:x?}");
    bed.check();
}

#[test]
fn a_leader_that_gives_up_leaves_the_round_to_another() {
    let bed = Bed::server();
    let follower = bed.join(&[domain(1)]);
    bed.model.set_queue(Behaviour::Stopped);
    assert_eq!(bed.run(&[domain(2)]), Err(HUNG));
    assert_eq!(bed.outcome(follower), None, "its own deadline counts");
    bed.model.set_queue(Behaviour::Running);
    // Whoever comes next finds the round complete.
    bed.run(&[]).unwrap();
    assert!(matches!(bed.outcome(follower), Some(Told::Confirmed(1))));
    bed.check();
}

#[test]
fn what_hardware_has_yet_to_read_is_not_written_over_after_a_round_that_failed() {
    let bed = Bed::server();
    let all: Vec<_> = (0..200).map(domain).collect();
    let other = bed.join(&all);
    bed.model.set_queue(Behaviour::Stopped);
    bed.model.raise_time_out(0);
    // No room beside the other's; its round fails, and leaves none either as long as nothing of it was read.
    let mine: Vec<_> = (0..100).map(|n| domain(1000 + n)).collect();
    assert_eq!(bed.run(&mine), Err(HUNG));
    assert_eq!(bed.outcome(other), Some(Told::Aborted(None)));
    bed.model.set_queue(Behaviour::Running);
    let executed = bed.executed();
    assert_eq!(executed.len(), 201);
    assert!(executed.iter().zip(&all).all(|(done, wanted)| *done == (word(*wanted), true)));
    bed.run(&mine).expect("there is room now");
    bed.check();
}
