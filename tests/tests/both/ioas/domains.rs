//! Domains that join and leave, areas that are split.

use super::{LAYOUTS, NOTHING, Space, spaces, stream_of};
use crate::{HUGE, LARGE};
use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange};
use iommu_tests::bench::range;
use iommu_tests::house::{Driver, HUNG, Queue, Refusal};
use iommu_tests::over_both;
use iommu_tests::spaces::areas;

over_both! {
    a_domain_that_joins_late_gets_what_is_mapped_and_nothing_that_drains,
    a_domain_that_joins_in_vain_leaves_nothing,
    a_domain_that_leaves_blocks_its_streams,
    an_area_is_split_and_its_parts_go_alone,
    a_split_that_a_domain_cannot_do_leaves_the_area_whole,
}

fn a_domain_that_joins_late_gets_what_is_mapped_and_nothing_that_drains<D: Driver>() {
    for case in D::cases() {
        let mut space = Space::<D>::new(&case, 2, &[0]);
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        space.map(LARGE, 0x6000_0000, LARGE).unwrap();
        space.expect(0x4000, Ok(0x5000_0000));
        space.houses[0].set_queue(Queue::Stopped);
        assert_eq!(space.ioas.unmap(range(0x4000, 0x2000)), Err(Error::Hardware(HUNG)));
        let late = space.join(1).unwrap();
        space.houses[1].expect(late, LARGE, Ok(0x6000_0000));
        // Its owner wants it back: nobody may be given it any more.
        space.houses[1].expect(late, 0x4000, NOTHING);
        space.houses[0].set_queue(Queue::Running);
        assert_eq!(space.ioas.unmap(range(0x4000, 0x2000)), Ok(0x2000));
        space.expect(0x4000, NOTHING);
        space.map(0x4000, 0x9000_0000, 0x1000).unwrap();
        space.expect(0x4000, Ok(0x9000_0000));
        space.check();
    }
}

fn a_domain_that_joins_in_vain_leaves_nothing<D: Driver>() {
    for case in D::cases() {
        let space = Space::<D>::new(&case, 2, &[0]);
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        space.map(HUGE, 0x6000_1000, LARGE).unwrap();
        let before = space.in_use();
        // The domain itself is made; what it needs for the areas fails.
        let empty = space.houses[1].memory.allocations();
        let domain = space.houses[1].domain();
        let own = space.houses[1].memory.allocations() - empty;
        drop(domain);
        for n in own.. {
            space.houses[1].memory.exhaust_after(n);
            let found = space.add(1);
            space.houses[1].memory.fail_never();
            match found {
                Err(found) => assert_eq!(found, Error::OutOfMemory),
                Ok(late) => {
                    assert!(n >= own + 2);
                    space.houses[1].attach(0x10, late.domain());
                    space.houses[1].expect(0x10, HUGE, Ok(0x6000_1000));
                    break;
                }
            }
            assert_eq!(space.in_use(), before, "{}: allocation {n}", space.name());
        }
        space.check();
    }
}

fn a_domain_that_leaves_blocks_its_streams<D: Driver>() {
    for mut space in spaces::<D>() {
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        space.expect(0x4000, Ok(0x5000_0000));
        let (unit, hwpt) = space.domains.pop().unwrap();
        let id = stream_of(space.domains.len());
        hwpt.destroy().map_err(|(_, error)| error).unwrap();
        space.houses[unit].expect(id, 0x4000, Err(Refusal::Detached));
        space.expect(0x4000, Ok(0x5000_0000));
        assert_eq!(space.ioas.unmap_all(), Ok(0x2000));
        space.expect(0x4000, NOTHING);
        space.check();
    }
}

fn an_area_is_split_and_its_parts_go_alone<D: Driver>() {
    for space in spaces::<D>() {
        for (size, below) in [(LARGE, 0x5000), (LARGE, LARGE - 0x1000), (HUGE, 0x1000), (HUGE, HUGE / 2)] {
            let (start, phys, at) = (2 * HUGE, 6 * HUGE, 2 * HUGE + below);
            let probes = [0, below - 1, below, size / 2 + 0x7777, size - 1];
            space.map(start, phys, size).unwrap();
            probes.iter().for_each(|probe| space.expect(start + probe, Ok(phys + probe)));
            space.ioas.split(Iova::new(at)).unwrap();
            let found: Vec<IovaRange> = areas(&space.ioas).iter().map(|area| area.range).collect();
            assert_eq!(found, [range(start, below), range(at, size - below)]);
            probes.iter().for_each(|probe| space.expect(start + probe, Ok(phys + probe)));
            assert_eq!(space.ioas.unmap(range(start, below)), Ok(below));
            for probe in probes {
                space.expect(start + probe, if probe < below { NOTHING } else { Ok(phys + probe) });
            }
            assert_eq!(space.ioas.unmap_all(), Ok(size - below));
            probes.iter().for_each(|probe| space.expect(start + probe, NOTHING));
        }
        space.check();
    }
}

fn a_split_that_a_domain_cannot_do_leaves_the_area_whole<D: Driver>() {
    for case in D::cases() {
        for (units, at) in LAYOUTS {
            for failing in 0..units {
                let space = Space::<D>::new(&case, units, at);
                space.map(HUGE, 6 * HUGE, HUGE).unwrap();
                let middle = HUGE + HUGE / 2 + 0x3000;
                let whole = |space: &Space<D>| {
                    assert_eq!(
                        areas(&space.ioas).iter().map(|area| area.range).collect::<Vec<_>>(),
                        [range(HUGE, HUGE)]
                    );
                    for probe in [HUGE, middle - 1, middle, 2 * HUGE - 1] {
                        space.expect(probe, Ok(probe + 5 * HUGE));
                    }
                };
                let mut failed = 0;
                for n in 0.. {
                    space.houses[failing].memory.exhaust_after(n);
                    let found = space.ioas.split(Iova::new(middle));
                    space.houses[failing].memory.fail_never();
                    if found.is_ok() {
                        break;
                    }
                    assert_eq!(found, Err(Error::OutOfMemory));
                    whole(&space);
                    failed += 1;
                }
                assert!(failed >= 1, "{}: {failed}", space.name());
                assert_eq!(space.ioas.unmap_all(), Ok(HUGE));
                // The same where hardware does not confirm; the area may be split in some domains.
                space.map(HUGE, 6 * HUGE, HUGE).unwrap();
                whole(&space);
                space.houses[failing].set_queue(Queue::Stopped);
                assert_eq!(space.ioas.split(Iova::new(middle)), Err(Error::Hardware(HUNG)), "{}", space.name());
                space.houses[failing].set_queue(Queue::Running);
                whole(&space);
                assert_eq!(space.ioas.unmap_all(), Ok(HUGE));
                space.expect(middle, NOTHING);
                space.end();
            }
        }
    }
}
