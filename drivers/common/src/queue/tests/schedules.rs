//! Many schedules of few CPUs: another goes on at every slot that is written, access to a register, and poll.

use super::*;
use std::string::ToString;

const DEAD: u32 = 7;

/// Runs `workers` on CPUs of hardware that `prepare` was done to, under many schedules, on rings of both kinds.
fn explore(times: usize, prepare: fn(&mut Machine), workers: &'static [Worker]) {
    on::<true>(times, 2, prepare, workers);
    on::<true>(times, 8, prepare, workers);
    on::<false>(times, 4, prepare, workers);
}

/// What a CPU does; it is told of the number of the batch.
type Worker = fn(&dyn Fn(&[Item]) -> Result<Marker, HwError>, &dyn Fn() -> Vec<Item>);

fn on<const WRAPS: bool>(times: usize, slots: u64, prepare: fn(&mut Machine), workers: &'static [Worker]) {
    let world = move || {
        let bed = Arc::new(Bed::<WRAPS>::new(slots));
        prepare(&mut bed.board.0.lock().unwrap());
        SHUTTLE.set(true);
        let threads = workers.iter().map(|worker| {
            let bed = bed.clone();
            shuttle::thread::spawn(move || worker(&|batch| bed.run(batch), &|| bed.done()))
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        SHUTTLE.set(false);
        bed.board.0.lock().unwrap().silent = None;
        bed.run(&[]).unwrap();
        // Nobody is left in any round, and everybody's seat came back.
        let seats: Vec<_> = (0..63).map(|_| bed.queue.probe().join(&[]).expect("a seat")).collect();
        bed.run(&[]).unwrap();
        assert!(seats.into_iter().all(|seat| bed.queue.probe().outcome(seat).is_some()));
        assert_eq!(bed.queue.probe().retrying(), 0);
    };
    shuttle::Runner::new(shuttle::scheduler::RandomScheduler::new(times), shuttle::Config::new()).run(world);
}

/// Two batches, each done when the call returns.
fn flush<const WORKER: u16>(run: &dyn Fn(&[Item]) -> Result<Marker, HwError>, done: &dyn Fn() -> Vec<Item>) {
    for n in 0..2 {
        let batch = [(0, WORKER << 8 | n, None), (1, WORKER << 8 | 0x80 | n, None)];
        run(&batch).unwrap();
        let done = done();
        assert!(batch.iter().all(|item| done.contains(item)), "{batch:?} of {done:?}");
    }
}

#[test]
fn each_is_done_when_its_call_returns() {
    explore(150, |_| {}, &[flush::<1>, flush::<2>, flush::<3>]);
}

#[test]
fn a_refusal_is_one_callers_error() {
    fn tries<const WORKER: u16>(run: &dyn Fn(&[Item]) -> Result<Marker, HwError>, done: &dyn Fn() -> Vec<Item>) {
        let batch = [(0, WORKER, None), (0, WORKER | 0x80, None)];
        match run(&batch) {
            Ok(_) => assert!(batch.iter().all(|item| done().contains(item))),
            Err(HwError::Queue { code: REFUSED, entry }) => {
                assert!(batch.iter().any(|item| u64::from(item.1) == entry), "{entry:#x} is another's");
            }
            Err(other) => panic!("{}", other.to_string()),
        }
    }
    explore(150, |machine| machine.refuse_after = Some(3), &[tries::<1>, tries::<2>, tries::<3>]);
}

#[test]
fn what_cannot_be_read_at_once_is_nobodys_error() {
    explore(150, |machine| machine.unreadable = 6, &[flush::<1>, flush::<2>, flush::<3>]);
}

#[test]
fn a_dead_device_is_the_error_of_its_own_callers() {
    fn dead(run: &dyn Fn(&[Item]) -> Result<Marker, HwError>, _: &dyn Fn() -> Vec<Item>) {
        for _ in 0..2 {
            let found = run(&[(1, 1, None), (2, 2, Some(DEAD))]);
            assert_eq!(found, Err(HwError::Queue { code: SILENT, entry: DEAD.into() }));
        }
    }
    fn alive(run: &dyn Fn(&[Item]) -> Result<Marker, HwError>, done: &dyn Fn() -> Vec<Item>) {
        for n in 0..2 {
            let batch = [(1, 0x100 | n, None), (2, 0x200 | n, Some(8))];
            run(&batch).unwrap();
            assert!(batch.iter().all(|item| done().contains(item)));
        }
    }
    explore(150, |machine| machine.silent = Some(DEAD), &[dead, alive, flush::<3>]);
    explore(150, |machine| machine.silent = Some(DEAD), &[dead, alive, alive]);
}
