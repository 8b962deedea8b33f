//! Many schedules of few CPUs: another goes on at every store to the ring, access to a register, and poll.

use super::*;
use iommu_models::smmuv3::Queue as Behaviour;

const DEAD: u32 = 0x0208;

/// Runs `workers` on CPUs of a unit that `prepare` was done to, under many schedules, with queues of every size and kind.
fn explore(times: usize, prepare: fn(&Bed), workers: &'static [fn(&Bed)]) {
    for (log2, completion) in [(1, Completion::Poll), (2, Completion::Message), (8, Completion::Poll)] {
        let world = move || {
            SHUTTLE.set(false);
            let bed = Arc::new(Bed::new(Config::server().sid_bits(32), log2, completion));
            bed.memory.set_clock_step(0);
            prepare(&bed);
            SHUTTLE.set(true);
            let workers = workers.iter().map(|worker| {
                let bed = bed.clone();
                shuttle::thread::spawn(move || worker(&bed))
            });
            workers.collect::<Vec<_>>().into_iter().for_each(|worker| worker.join().unwrap());
            SHUTTLE.set(false);
            // Nobody is left in any round, and everybody's seat came back.
            bed.model.set_unanswering(DEAD, false);
            // What was given up is read by now, which nobody has had a look at.
            bed.run(&[]).unwrap();
            let seats: Vec<_> = (0..63).map(|_| bed.join(&[])).collect();
            bed.run(&[]).unwrap();
            assert!(seats.into_iter().all(|seat| matches!(bed.outcome(seat), Some(Told::Confirmed(_)))));
            assert_eq!(bed.probe().retrying(), 0);
            bed.check();
        };
        // The model's frames are large without optimisation.
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 20;
        shuttle::Runner::new(shuttle::scheduler::RandomScheduler::new(times), config).run(world);
    }
}

/// Two batches, each done when the call returns.
fn flush<const WORKER: u16>(bed: &Bed) {
    for n in 0..2 {
        let batch = [config(u32::from(WORKER)), domain(WORKER << 8 | n), domain(WORKER << 8 | 0x80 | n)];
        bed.run(&batch).unwrap();
        done(bed, &batch);
    }
}

#[track_caller]
fn done(bed: &Bed, batch: &[Command]) {
    let mut seen = bed.seen.lock().unwrap();
    seen.extend(bed.executed());
    for command in batch {
        assert!(seen.contains(&command.0), "{command:x?} was not done");
    }
}

#[test]
fn each_is_done_when_its_call_returns() {
    explore(100, |_| {}, &[flush::<1>, flush::<2>, flush::<3>]);
    explore(100, |bed| bed.model.execute_after(3), &[flush::<1>, flush::<2>, flush::<3>]);
}

#[test]
fn a_refusal_is_one_callers_error() {
    fn tries<const WORKER: u16>(bed: &Bed) {
        let batch = [domain(WORKER), domain(WORKER | 0x80)];
        match bed.run(&batch) {
            Ok(_) => done(bed, &batch),
            Err(HwError::Queue { code: ILLEGAL, entry }) => {
                let own = entry & 0xff == 0x46 || batch.iter().any(|it| it.0[0] == entry);
                assert!(own, "{entry:#x} is another's");
            }
            Err(other) => panic!("{other}"),
        }
    }
    explore(100, |bed| bed.model.fail_command_after(3), &[tries::<1>, tries::<2>, tries::<3>]);
}

#[test]
fn a_fetch_that_is_aborted_is_nobodys_error() {
    explore(100, |bed| bed.model.abort_fetches(5), &[flush::<1>, flush::<2>]);
}

#[test]
fn a_dead_device_is_the_error_of_its_own_callers() {
    fn dead(bed: &Bed) {
        for _ in 0..2 {
            let found = bed.run(&[domain(1), device(DEAD)]);
            assert_eq!(found, Err(HwError::Queue { code: UNANSWERED, entry: DEAD.into() }));
        }
    }
    fn alive(bed: &Bed) {
        let batch = [domain(2), device(0x100)];
        bed.run(&batch).unwrap();
        done(bed, &batch);
    }
    explore(100, |bed| bed.model.set_unanswering(DEAD, true), &[dead, alive, flush::<3>]);
    let again = |bed: &Bed| {
        bed.model.set_unanswering(DEAD, true);
        bed.model.time_out_again(2);
    };
    explore(100, again, &[dead, alive, flush::<3>]);
}

#[test]
fn hardware_that_hangs_ends_at_the_deadlines_of_those_who_wait_for_it() {
    fn tries<const WORKER: u16>(bed: &Bed) {
        let batch = [domain(WORKER)];
        for _ in 0..3 {
            match bed.run(&batch) {
                Ok(_) => return done(bed, &batch),
                Err(error) => assert_eq!(error, HUNG),
            }
        }
    }
    fn revive(bed: &Bed) {
        assert_eq!(bed.run(&[]), Err(HUNG));
        bed.model.set_queue(Behaviour::Running);
    }
    let stopped = |bed: &Bed| {
        bed.memory.set_clock_step(10_000);
        bed.model.set_queue(Behaviour::NoSync);
    };
    explore(100, stopped, &[revive, tries::<2>]);
}
