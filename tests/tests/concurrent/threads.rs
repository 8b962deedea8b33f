//! Real threads.

use crate::explore::platform;
use crate::meeting::{Meeting, MeetingUnit};
use crate::serial::{Op, real};
use crate::world::{AT, PAGE, RW, World};
use iommu_core::Error;
use iommu_core::access::{Access, AccessConfig};
use iommu_core::addr::{Iova, PhysExtent};
use iommu_core::hw::{Prot, Stage, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig, Placement};
use iommu_tests::mock::{MockUser, range};
use iommu_tests::random::Random;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Two CPUs map ranges that do not touch: both are in the driver at the same time. So are two that unmap.
#[test]
fn disjoint_maps_are_in_a_domain_at_the_same_time() {
    platform();
    let meeting = Arc::new(Meeting::default());
    let unit: Arc<dyn Unit> = Arc::new(MeetingUnit(meeting.clone()));
    let ioas = Ioas::new(IoasConfig::default()).unwrap();
    let hwpt = Hwpt::new(&ioas, &unit, HwptConfig::new(Stage::Second)).unwrap();
    meeting.on.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for at in [0x10_0000, 0x20_0000] {
            let ioas = &ioas;
            scope.spawn(move || {
                let run = [PhysExtent::new(iommu_core::addr::PhysAddr::new(at), PAGE)];
                for _ in 0..50 {
                    ioas.map_extents(&run, Placement::Fixed(Iova::new(at)), RW).unwrap();
                    assert_eq!(ioas.unmap(range(at, PAGE)), Ok(PAGE));
                }
            });
        }
    });
    assert!(!meeting.missed.load(Ordering::SeqCst), "one waited for the other to be through");
    meeting.on.store(false, Ordering::SeqCst);
    drop(hwpt);
}

/// Each thread has pages of its own between those of the others, and knows what is there; a domain comes and goes.
#[test]
fn neighbours_side_by_side() {
    const THREADS: u64 = 3;
    let world = World::new();
    let hwpt = world.domain(0, 0);
    let done = AtomicBool::new(false);
    let operations = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (world, operations) = (&world, &operations);
                scope.spawn(move || {
                    let mut random = Random::new(thread + 1);
                    let base = AT + thread * 16 * PAGE;
                    for _ in 0..300 {
                        let memory = random.below(3) as usize;
                        let pages = 1 + random.below(3);
                        assert_eq!(real(world, base, Op::Map { at: 0, memory, pages }), Ok(base));
                        assert_eq!(real(world, base, Op::Map { at: 0, memory, pages }), Err("Overlap".into()));
                        let copied = real(world, base, Op::Copy { from: 0, pages: 1, to: 8 });
                        assert_eq!(copied, Ok(base + 8 * PAGE));
                        if pages > 1 {
                            assert_eq!(real(world, base, Op::Split { at: 1 }), Ok(0));
                        }
                        assert_eq!(real(world, base, Op::Unmap { at: 0, pages: 12 }), Ok((pages + 1) * PAGE));
                        operations.fetch_add(5, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let other = world.domain(0, 1);
                world.ioas[0].iova_ranges(&mut []);
                drop(other);
            }
        });
        let failed = workers.into_iter().any(|worker| worker.join().is_err());
        done.store(true, Ordering::Relaxed);
        assert!(!failed);
    });
    println!("{} operations of {THREADS} threads", operations.load(Ordering::Relaxed));
    assert!(world.areas(0).is_empty());
    world.check_domain(0, &hwpt);
    drop(hwpt);
    world.finish();
}

/// One maps and unmaps, others pin, read and write what is there.
#[test]
fn users_of_what_comes_and_goes() {
    let world = World::new();
    let hwpt = world.domain(0, 0);
    let user = MockUser::new();
    let config = AccessConfig { user: Some(user.clone()), alignment: 2048, ..AccessConfig::default() };
    let access = Access::new(config).unwrap();
    access.attach(&world.ioas[0]).unwrap();
    let done = AtomicBool::new(false);
    let (pinned, copied) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let gone = |error: Error| {
        let expected = matches!(error, Error::NotFound { .. } | Error::Busy | Error::Invalid(_));
        assert!(expected, "{error:?}");
    };
    std::thread::scope(|scope| {
        let workers = [
            scope.spawn(|| {
                for _ in 0..400 {
                    real(&world, AT, Op::Map { at: 0, memory: 0, pages: 4 }).unwrap();
                    std::thread::yield_now();
                    while let Err(error) = world.ioas[0].unmap_all() {
                        assert!(matches!(error, Error::Deadlock), "{error:?}");
                    }
                }
            }),
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match access.pin(range(AT + PAGE, 2 * PAGE), Prot::READ) {
                        Ok(pin) => {
                            user.hold(pin);
                            pinned.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => gone(error),
                    }
                }
                user.let_go();
            }),
            scope.spawn(|| {
                let mut bytes = [0; 100];
                while !done.load(Ordering::Relaxed) {
                    let wrote = access.write(Iova::new(AT + 50), &[7; 100]);
                    match wrote.and_then(|()| access.read(Iova::new(AT + 50), &mut bytes)) {
                        Ok(()) => {
                            assert_eq!(bytes, [7; 100]);
                            copied.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => gone(error),
                    }
                }
            }),
        ];
        let mut failed = false;
        for worker in workers {
            failed |= worker.join().is_err();
            done.store(true, Ordering::Relaxed);
        }
        assert!(!failed);
    });
    println!("{} pins, {} copies", pinned.load(Ordering::Relaxed), copied.load(Ordering::Relaxed));
    user.let_go();
    access.detach().unwrap();
    drop(hwpt);
    world.finish();
}
