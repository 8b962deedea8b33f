//! Many schedules of few CPUs: another goes on at every store to the ring, access to a register, and poll.

use super::super::CODE_DEVICE_TLB_TIMEOUT;
use super::*;
use iommu_models::vtd::{Execution, Queue as Behaviour};

const DEAD: u16 = 0x0208;

/// Runs `workers` on CPUs of a unit that `prepare` was done to, under many schedules.
fn explore(times: usize, prepare: fn(&Bed), workers: &'static [fn(&Bed)]) {
    let world = move || {
        SHUTTLE.set(false);
        let bed = Arc::new(Bed::server());
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
        let seats: Vec<_> = (0..63).map(|_| bed.join(&[])).collect();
        bed.model.set_unanswering(DEAD, false);
        bed.run(&[]).unwrap();
        assert!(seats.into_iter().all(|seat| matches!(bed.outcome(seat), Some(Told::Confirmed(_)))));
        assert_eq!(bed.queue().retrying(), 0);
        bed.check();
    };
    // The model's frames are large without optimisation.
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    shuttle::Runner::new(shuttle::scheduler::RandomScheduler::new(times), config).run(world);
}

/// Two batches, each done when the call returns.
fn flush<const WORKER: u16>(bed: &Bed) {
    for n in 0..2 {
        let batch = [domain(WORKER << 8 | n), domain(WORKER << 8 | 0x80 | n)];
        bed.run(&batch).unwrap();
        done(bed, &batch);
    }
}

#[track_caller]
fn done(bed: &Bed, batch: &[Invalidation]) {
    let mut seen = bed.seen.lock().unwrap();
    seen.extend(bed.executed());
    for invalidation in batch {
        assert!(seen.contains(&(word(*invalidation), true)), "{invalidation:?} was not done");
    }
}

#[test]
fn each_is_done_when_its_call_returns() {
    explore(300, |_| {}, &[flush::<1>, flush::<2>, flush::<3>]);
    explore(300, |bed| bed.model.set_execution(Execution::Shuffled(3)), &[flush::<1>, flush::<2>, flush::<3>]);
}

#[test]
fn a_refusal_is_one_callers_error() {
    fn tries<const WORKER: u16>(bed: &Bed) {
        let batch = [domain(WORKER), domain(WORKER | 0x80)];
        match bed.run(&batch) {
            Ok(_) => done(bed, &batch),
            Err(HwError::Queue { code: 3, entry }) => {
                assert!(is_wait(entry) || batch.iter().any(|it| word(*it) == entry), "{entry:#x} is another's");
            }
            Err(other) => panic!("{other}"),
        }
    }
    explore(300, |bed| bed.model.fail_descriptor_after(3), &[tries::<1>, tries::<2>, tries::<3>]);
}

#[test]
fn a_dead_device_is_the_error_of_its_own_callers() {
    fn dead(bed: &Bed) {
        for _ in 0..2 {
            let found = bed.run(&[domain(1), device(DEAD)]);
            assert_eq!(found, Err(HwError::Queue { code: CODE_DEVICE_TLB_TIMEOUT, entry: DEAD.into() }));
        }
    }
    fn alive(bed: &Bed) {
        let batch = [domain(2), device(0x100)];
        bed.run(&batch).unwrap();
        done(bed, &batch);
    }
    explore(300, |bed| bed.model.set_unanswering(DEAD, true), &[dead, alive, flush::<3>]);
    let nameless = |bed: &Bed| {
        bed.model.set_unanswering(DEAD, true);
        bed.model.hide_error_records(true);
    };
    explore(300, nameless, &[dead, alive, flush::<3>]);
}

#[test]
fn a_lost_completion_ends_at_the_deadlines_of_those_who_wait_for_it() {
    fn tries<const WORKER: u16>(bed: &Bed) {
        let batch = [domain(WORKER)];
        for _ in 0..3 {
            match bed.run(&batch) {
                Ok(_) => return done(bed, &batch),
                Err(error) => assert_eq!(error, HUNG),
            }
        }
    }
    let lossy = |bed: &Bed| {
        bed.memory.set_clock_step(2_000);
        bed.model.drop_completion_after(1);
    };
    explore(300, lossy, &[tries::<1>, tries::<2>, tries::<3>]);
    let mute = |bed: &Bed| {
        bed.memory.set_clock_step(10_000);
        bed.model.set_queue(Behaviour::Mute);
    };
    fn revive(bed: &Bed) {
        assert_eq!(bed.run(&[]), Err(HUNG));
        bed.model.set_queue(Behaviour::Running);
    }
    explore(300, mute, &[revive, tries::<2>]);
}
