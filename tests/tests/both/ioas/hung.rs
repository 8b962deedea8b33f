//! What hardware did not confirm stays taken.

use super::{LAYOUTS, NOTHING, Space, draining, stream_of};
use crate::LARGE;
use iommu_core::Error;
use iommu_tests::bench::range;
use iommu_tests::house::{Driver, HUNG, Queue, Refusal};
use iommu_tests::over_both;
use iommu_tests::spaces::areas;

over_both! {
    a_unit_that_does_not_answer_while_it_is_asked_for_a_map_keeps_the_memory,
    an_unmap_that_is_not_confirmed_keeps_its_address_and_frames_until_it_is,
    a_map_that_is_not_confirmed_is_taken_back_or_drains,
    a_domain_that_hardware_does_not_let_go_of_keeps_the_memory_taken,
    a_domain_that_hardware_does_not_let_go_of_when_dropped_is_kept_until_it_does,
}

fn a_unit_that_does_not_answer_while_it_is_asked_for_a_map_keeps_the_memory<D: Driver>() {
    for case in D::cases() {
        let space = Space::<D>::new(&case, 1, &[0]);
        let house = &space.houses[0];
        D::set_absent(&house.model, true);
        let found = space.map(0x4000, 0x5000_0000, 0x1000);
        D::set_absent(&house.model, false);
        // Whoever reaches it reaches memory that counts as in use.
        let reached = house.read(0, 0x4000).is_ok();
        assert!(!reached || areas(&space.ioas).len() == 1, "{}: {found:?}, but reached", space.name());
    }
}

fn an_unmap_that_is_not_confirmed_keeps_its_address_and_frames_until_it_is<D: Driver>() {
    for case in D::cases() {
        for (units, at) in LAYOUTS {
            for hung in 0..units {
                let space = Space::<D>::new(&case, units, at);
                space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
                space.map(LARGE, 0x6000_1000, LARGE).unwrap();
                space.expect(0x4000, Ok(0x5000_0000));
                space.expect(LARGE, Ok(0x6000_1000));
                let before = space.in_use();
                space.houses[hung].set_queue(Queue::Stopped);
                assert_eq!(space.ioas.unmap_all(), Err(Error::Hardware(HUNG)));
                assert!(draining(&space.ioas) && areas(&space.ioas).len() == 2);
                assert_eq!(space.in_use()[hung], before[hung], "{}: hardware may still walk them", space.name());
                for (number, (unit, _)) in space.domains.iter().enumerate() {
                    if *unit != hung {
                        space.houses[*unit].expect(stream_of(number), LARGE, NOTHING);
                    }
                }
                let taken = Err(Error::Overlap { area: range(0x4000, 0x2000) });
                assert_eq!(space.map(0x5000, 0x9000_0000, 0x1000), taken);
                assert_eq!(space.ioas.unmap_all(), Err(Error::Hardware(HUNG)));
                assert_eq!(space.map(0x5000, 0x9000_0000, 0x1000), taken);
                space.houses[hung].set_queue(Queue::Running);
                assert_eq!(space.ioas.unmap_all(), Ok(LARGE + 0x2000));
                space.expect(0x4000, NOTHING);
                space.expect(LARGE, NOTHING);
                space.map(0x5000, 0x9000_0000, 0x1000).unwrap();
                space.expect(0x5000, Ok(0x9000_0000));
                assert_eq!(space.ioas.unmap_all(), Ok(0x1000));
                // Nothing was lost on the way.
                space.end();
            }
        }
    }
}

fn a_map_that_is_not_confirmed_is_taken_back_or_drains<D: Driver>() {
    for case in D::cases() {
        for (units, at) in LAYOUTS {
            for hung in 0..units {
                let space = Space::<D>::new(&case, units, at);
                space.expect(0x4000, NOTHING);
                space.houses[hung].set_queue(Queue::Stopped);
                let found = space.map(0x4000, 0x5000_0000, 0x2000);
                space.houses[hung].set_queue(Queue::Running);
                if !space.houses[hung].kind.keeps_absence {
                    assert_eq!(found, Ok(()), "{}: hardware need not know", space.name());
                    space.expect(0x4000, Ok(0x5000_0000));
                    space.check();
                    continue;
                }
                assert_eq!(found, Err(Error::Hardware(HUNG)));
                // It could not be taken back either.
                assert!(draining(&space.ioas));
                assert_eq!(areas(&space.ioas).len(), 1);
                assert!(matches!(space.map(0x4000, 0x9000_0000, 0x1000), Err(Error::Overlap { .. })));
                assert_eq!(space.ioas.unmap_all(), Ok(0x2000));
                space.expect(0x4000, NOTHING);
                space.map(0x4000, 0x9000_0000, 0x1000).unwrap();
                space.expect(0x4000, Ok(0x9000_0000));
                space.check();
            }
        }
    }
}

fn a_domain_that_hardware_does_not_let_go_of_keeps_the_memory_taken<D: Driver>() {
    for case in D::cases() {
        for (units, at) in LAYOUTS {
            let mut space = Space::<D>::new(&case, units, at);
            space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
            space.expect(0x4000, Ok(0x5000_0000));
            let (unit, hwpt) = space.domains.remove(0);
            space.houses[unit].set_queue(Queue::Stopped);
            let removed = hwpt.destroy();
            // Its stream still has the translation cached, so nobody may be told that the memory is free.
            space.houses[unit].expect(0, 0x4000, Ok(0x5000_0000));
            let unmapped = space.ioas.unmap_all();
            assert_eq!(unmapped, Err(Error::Hardware(HUNG)), "{}", space.name());
            let Err((hwpt, error)) = removed else { panic!("{}: nobody confirmed that", space.name()) };
            assert_eq!(error, Error::Hardware(HUNG));
            space.houses[unit].set_queue(Queue::Running);
            assert!(hwpt.destroy().is_ok(), "{}: now", space.name());
            space.houses[unit].expect(0, 0x4000, Err(Refusal::Detached));
            space.ioas.unmap_all().expect("now");
            assert_eq!(areas(&space.ioas).len(), 0);
            space.check();
        }
    }
}

/// As above, where its owner has dropped the domain: then the address space has it, and all that it maps.
fn a_domain_that_hardware_does_not_let_go_of_when_dropped_is_kept_until_it_does<D: Driver>() {
    for case in D::cases() {
        for (units, at) in LAYOUTS {
            let mut space = Space::<D>::new(&case, units, at);
            space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
            space.expect(0x4000, Ok(0x5000_0000));
            let (unit, hwpt) = space.domains.remove(0);
            space.houses[unit].set_queue(Queue::Stopped);
            let before = space.in_use();
            drop(hwpt);
            assert_eq!(space.in_use(), before, "{}: hardware may still walk it", space.name());
            space.houses[unit].expect(0, 0x4000, Ok(0x5000_0000));
            assert_eq!(
                (space.ioas.reclaim(), space.ioas.unmap_all()),
                (Err(Error::Hardware(HUNG)), Err(Error::Hardware(HUNG))),
                "{}",
                space.name()
            );
            assert!(draining(&space.ioas) && areas(&space.ioas).len() == 1);
            space.houses[unit].set_queue(Queue::Running);
            assert_eq!(space.ioas.reclaim(), Ok(()), "{}", space.name());
            space.houses[unit].expect(0, 0x4000, Err(Refusal::Detached));
            assert_eq!(space.ioas.unmap_all(), Ok(0x2000));
            space.end();
        }
    }
}
