//! Refused commands, hardware that cannot read, hangs, loses messages or is gone, and CPUs that are held up.

use super::*;
use iommu_hal::wait::Deadline;
use iommu_models::smmuv3::Queue as Behaviour;

#[test]
fn a_refused_command_is_the_error_of_whoever_submitted_it() {
    for bed in (0..8).flat_map(|_| beds(8)).zip(0..).map(|(bed, n)| (bed, n / 4)) {
        // 0..2 and 2..5 are others', 5..7 the caller's; 7 is the CMD_SYNC, which the caller wrote.
        let (bed, refused) = bed;
        let all: Vec<_> = (0..7).map(|n| domain(0x100 + n)).collect();
        let others = [bed.join(&all[..2]), bed.join(&all[2..5])];
        bed.model.fail_command_after(refused);
        let found = bed.run(&all[5..]);
        let mut failed = others
            .map(|seat| match bed.outcome(seat) {
                Some(Told::Refused { code: ILLEGAL, entry }) => Some(entry),
                Some(Told::Confirmed(8)) => None,
                other => panic!("{other:?}"),
            })
            .to_vec();
        failed.push(match found {
            Err(HwError::Queue { code: ILLEGAL, entry }) => Some(entry),
            Ok(8) => None,
            other => panic!("{other:?}"),
        });
        let owner = [0, 0, 1, 1, 1, 2, 2, 2][refused];
        let seen: Vec<_> = failed.iter().map(|entry| entry.map(|entry| entry & 0xffff_0000_0000_00ff)).collect();
        let entry = if refused == 7 { 0x46 } else { all[refused].0[0] };
        let expected: Vec<_> = (0..3).map(|who| (who == owner).then_some(entry)).collect();
        assert_eq!(seen, expected, "command {refused}");
        let executed = bed.executed();
        for (at, command) in all.iter().enumerate() {
            assert_eq!(executed.contains(&command.0), at != refused);
        }
        assert_eq!(executed.len(), 8, "a CMD_SYNC in its place");
        bed.check();
        bed.run(&[domain(1)]).expect("the queue works again");
    }
}

#[test]
fn refused_wherever_it_stands_the_others_are_done() {
    for log2 in 1..=4 {
        for bed in beds(log2) {
            for n in 0..40u16 {
                bed.model.fail_command_after(usize::from(n % 3));
                let batch = [domain(2 * n), domain(2 * n + 1)];
                // A refusal that is left over is the next one's.
                if let Err(error) = bed.run(&batch) {
                    let HwError::Queue { code: ILLEGAL, entry } = error else { panic!("{error}") };
                    let own = batch.iter().any(|it| it.0[0] == entry) || entry & 0xff == 0x46;
                    assert!(own, "2^{log2}, {n}: {entry:#x}");
                }
                bed.model.fail_command_after(usize::MAX);
                bed.executed();
                bed.run(&batch).unwrap();
                assert!(batch.iter().all(|it| bed.model.take_log().len() < 9 || it.0[0] != 0));
            }
            bed.check();
        }
    }
}

#[test]
fn what_cannot_be_read_is_read_again_and_nobody_notices() {
    for bed in beds(8) {
        for aborts in 0..=8 {
            bed.model.abort_fetches(aborts);
            bed.run(&[domain(1), domain(2)]).unwrap_or_else(|error| panic!("{aborts}: {error}"));
            assert_eq!(bed.executed().len(), 3);
        }
        bed.check();
    }
}

#[test]
fn what_can_never_be_read_is_an_error_for_everybody_and_ends_with_its_cause() {
    for bed in beds(8) {
        let other = bed.join(&[domain(1)]);
        bed.model.abort_fetches(usize::MAX);
        let given_up = HwError::Queue { code: ABORTED, entry: 0 };
        assert_eq!(bed.run(&[domain(2)]), Err(given_up));
        assert_eq!(bed.outcome(other), Some(Told::Refused { code: ABORTED, entry: 0 }));
        for _ in 0..300 {
            bed.counts();
            assert_eq!(bed.run(&[domain(3)]), Err(given_up), "at once, and as often as anybody comes");
            assert!(bed.counts().0 < 500);
        }
        bed.model.abort_fetches(0);
        bed.run(&[domain(4)]).expect("the queue works again");
        assert!(bed.executed().contains(&domain(4).0));
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
            // CMDQ_ERR is active whatever is written; with reasons that nobody knows.
            match offset {
                GERROR_REG => self.0.read32(GERRORN_REG) ^ 1,
                CMDQ_CONS_REG => self.0.read32(offset) | 0x7f << 24,
                _ => self.0.read32(offset),
            }
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
    let regs = Regs::new(Refusing(&bed.model), Duration::from_millis(1), false);
    let before = Deadline::after(&bed.memory, Duration::from_millis(3));
    assert!(bed.queue.run(&bed.hal, &regs, &[domain(1)]).is_err());
    assert!(!before.has_passed(&bed.memory));
}

#[test]
fn an_index_that_cannot_be_ends_at_the_deadline() {
    struct Lost<'m>(&'m Model, u32);
    impl Registers for Lost<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read32(&self, offset: usize) -> u32 {
            if offset == CMDQ_CONS_REG { self.1 } else { self.0.read32(offset) }
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
    for index in [0x1ff, 0x103, 0x80, u32::MAX] {
        let bed = Bed::server();
        let regs = Regs::new(Lost(&bed.model, index), Duration::from_millis(1), false);
        for _ in 0..300 {
            assert_eq!(bed.queue.run(&bed.hal, &regs, &[]), Err(HUNG), "{index:#x}");
        }
        for _ in 0..3 {
            bed.run(&[domain(1)]).expect("what hardware really did counts");
        }
        bed.check();
    }
}

#[test]
fn a_unit_that_is_gone_is_an_error_at_once_for_everybody() {
    for bed in beds(8) {
        let other = bed.join(&[domain(1)]);
        bed.model.set_absent(true);
        for _ in 0..200 {
            assert!(matches!(bed.run(&[domain(2)]), Err(HwError::Hardware(_))));
            assert!(bed.counts().0 < 40, "not polled to the deadline");
        }
        assert_eq!(bed.outcome(other), Some(Told::Gone));
    }
}

#[test]
fn a_message_that_is_lost_costs_a_look_at_the_index() {
    let bed = Bed::new(Config::server().sid_bits(32), 8, Completion::Message);
    bed.model.lose_messages(true);
    for n in 0..300 {
        bed.run(&[domain(n)]).unwrap();
        assert!(bed.counts().0 < 10);
    }
    bed.model.lose_messages(false);
    bed.run(&[domain(1)]).unwrap();
    assert_eq!(bed.counts().0, 0);
    bed.check();
}

#[test]
fn a_message_of_another_round_confirms_nothing() {
    let bed = Bed::new(Config::server().sid_bits(32), 8, Completion::Message);
    let mut cells = None;
    bed.queue.for_each_frame(|structure, frame| {
        if structure == Structure::QueueStatus {
            cells = Some(frame);
        }
    });
    let cells = cells.unwrap();
    bed.model.set_queue(Behaviour::Stopped);
    for marker in 0..6 {
        // The second command is the CMD_SYNC; those that follow stand in slots of their own.
        for cell in 0..16 {
            if (cell, marker) != (1, 2) {
                let at = cells.wrapping_add(cell * 8);
                bed.memory.device_write32(at, marker).unwrap();
            }
        }
        if marker == 0 {
            assert_eq!(bed.run(&[domain(1)]), Err(HUNG));
        }
        let _ = bed.run(&[]);
        assert_eq!(bed.model.take_log().len(), 0);
    }
    bed.model.set_queue(Behaviour::Running);
    bed.run(&[domain(3)]).unwrap();
    bed.check();
}

#[test]
fn a_queue_that_hangs_costs_everybody_a_deadline_and_is_not_overrun() {
    for log2 in [1, 2, 8] {
        for hang in [Behaviour::Stopped, Behaviour::NoSync] {
            for bed in beds(log2) {
                bed.model.set_queue(hang);
                for n in 0..300 {
                    bed.counts();
                    assert_eq!(bed.run(&[domain(n)]), Err(HUNG));
                    assert!(bed.counts().0 < 700);
                }
                bed.model.set_queue(Behaviour::Running);
                bed.run(&[domain(400)]).unwrap_or_else(|error| panic!("2^{log2}, {hang:?}: {error}"));
                assert_eq!(bed.executed().into_iter().filter(|raw| *raw == domain(400).0).count(), 1);
                bed.check();
            }
        }
    }
}

#[test]
fn whoever_is_held_up_costs_others_their_deadline_and_no_more() {
    for bed in beds(8) {
        let elapsed = |what: &dyn Fn()| {
            let start = bed.memory.now();
            what();
            bed.memory.now() - start
        };
        // A CPU that stopped while it leads, and one that stopped with the lock held.
        assert!(bed.probe().try_lead());
        let led = elapsed(&|| assert_eq!(bed.run(&[domain(1)]), Err(HUNG)));
        bed.probe().stop_leading();
        bed.run(&[domain(2)]).expect("works again");
        let locked = bed.probe().with_lock(|| elapsed(&|| assert_eq!(bed.run(&[domain(3)]), Err(HUNG))));
        bed.run(&[domain(4)]).expect("works again");
        assert!(led < 2_000_000 && locked < 2_000_000, "{led} and {locked} ns, of a limit of 1 ms");
        let executed = bed.executed();
        assert!([1, 2, 4].into_iter().all(|n| executed.contains(&domain(n).0)), "{executed:x?}");
        bed.check();
    }
}

#[test]
fn a_leader_that_gives_up_leaves_the_round_to_another() {
    for bed in beds(8) {
        let follower = bed.join(&[domain(1)]);
        bed.model.set_queue(Behaviour::Stopped);
        assert_eq!(bed.run(&[domain(2)]), Err(HUNG));
        assert_eq!(bed.outcome(follower), None, "its own deadline counts");
        bed.model.set_queue(Behaviour::Running);
        // Whoever comes next finds the round complete.
        bed.run(&[]).unwrap();
        assert_eq!(bed.outcome(follower), Some(Told::Confirmed(3)));
        bed.check();
    }
}
