//! Maps and unmaps reach every domain, whatever fails, and from however many CPUs.

use super::{LAYOUTS, NOTHING, Space, spaces};
use crate::{HUGE, LARGE};
use iommu_core::Error;
use iommu_core::addr::IovaRange;
use iommu_core::hw::{HwError, Prot, Target};
use iommu_tests::bench::{extent, range};
use iommu_tests::house::{Driver, Refusal, function};
use iommu_tests::over_both;
use iommu_tests::random::Random;
use iommu_tests::spaces::{areas, iova_ranges, map_fixed};

over_both! {
    a_map_reaches_every_domain_and_an_unmap_none,
    what_is_refused_changes_no_domain,
    memory_that_runs_out_anywhere_rolls_every_domain_back,
    several_cpus_map_and_unmap_in_one_address_space,
    streams_of_several_functions_share_an_address_space,
}

fn a_map_reaches_every_domain_and_an_unmap_none<D: Driver>() {
    for space in spaces::<D>() {
        let before = space.in_use();
        space.expect(0x4000, NOTHING);
        let scattered = [extent(0x5000_0000, 0x1000), extent(0x5000_9000, 0x2000), extent(0x6000_0000, LARGE)];
        map_fixed(&space.ioas, LARGE - 0x3000, &scattered, Prot::READ_WRITE).unwrap();
        space.map(HUGE, 6 * HUGE, HUGE).unwrap();
        for (iova, expected) in [
            (LARGE - 0x4000, NOTHING),
            (LARGE - 0x3000, Ok(0x5000_0000)),
            (LARGE - 0x2000, Ok(0x5000_9000)),
            (LARGE - 1, Ok(0x5000_afff)),
            (LARGE, Ok(0x6000_0000)),
            (2 * LARGE - 1, Ok(0x6000_0000 + LARGE - 1)),
            (2 * LARGE, NOTHING),
            (HUGE - 1, NOTHING),
            (HUGE, Ok(6 * HUGE)),
            (2 * HUGE - 1, Ok(7 * HUGE - 1)),
            (2 * HUGE, NOTHING),
        ] {
            space.expect(iova, expected);
        }
        let error = Err(Error::CutsArea { area: range(LARGE - 0x3000, LARGE + 0x3000) });
        assert_eq!(space.ioas.unmap(range(LARGE, LARGE)), error);
        space.expect(LARGE, Ok(0x6000_0000));
        assert_eq!(space.ioas.unmap(range(0, 2 * LARGE)), Ok(LARGE + 0x3000));
        space.expect(LARGE, NOTHING);
        space.expect(LARGE - 0x3000, NOTHING);
        space.expect(HUGE, Ok(6 * HUGE));
        assert_eq!(space.ioas.unmap_all(), Ok(HUGE));
        space.expect(HUGE, NOTHING);
        assert!(space.in_use().iter().zip(before).all(|(now, before)| *now >= before && *now <= before + 9));
        space.check();
    }
}

fn what_is_refused_changes_no_domain<D: Driver>() {
    for space in spaces::<D>() {
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        let before = space.in_use();
        let area = range(0x4000, 0x2000);
        let overlap = Err(Error::Overlap { area });
        for (iova, len) in [(0x4000, 0x1000), (0x5000, 0x1000), (0x3000, 0x2000), (0, 0x8000)] {
            assert_eq!(space.map(iova, 0x9000_0000, len), overlap);
        }
        let special = space.houses[0].kind.special;
        if let Some((start, len)) = special {
            let (reserved, last) = (range(start, len), start + len - 0x1000);
            for (iova, len) in [(start, 0x1000), (last, 0x1000), (start - 0x1000, 0x2000), (start - LARGE, HUGE)] {
                assert_eq!(space.map(iova, 0x9000_0000, len), Err(Error::Reserved { reserved }));
            }
            for (phys, len) in [(start, 0x1000), (last, 0x1000), (start - 0x1000, 0x2000), (start & !(HUGE - 1), HUGE)]
            {
                let found = space.map(0x1_0000_0000, phys, len);
                assert!(matches!(found, Err(Error::Hardware(HwError::Reserved { .. }))), "{phys:#x}: {found:?}");
            }
            space.map(start - 0x1000, start - 0x1000, 0x1000).expect("right before");
            space.map(start + len, start + len, 0x1000).expect("right behind");
            assert_eq!(space.ioas.unmap(range(start - 0x1000, len + 0x2000)), Ok(0x2000));
        } else {
            // Interrupts of another architecture are memory like any other.
            space.map(0xfee0_0000, 0xfee0_0000, 0x1000).unwrap();
            space.expect(0xfee0_0000, Ok(0xfee0_0000));
            assert_eq!(space.ioas.unmap(range(0xfee0_0000, 0x1000)), Ok(0x1000));
        }
        let end = space.houses[0].kind.end;
        let found = space.map(end - 0x1000, 0x9000_0000, 0x2000);
        assert_eq!(found, Err(Error::Reserved { reserved: range(end, 0x1000) }));
        let wide = space.map(0x8000, 1 << space.houses[0].kind.output_bits, 0x1000);
        assert!(matches!(wide, Err(Error::Hardware(HwError::OutputTooWide { .. }))), "{wide:?}");
        let ranges: Vec<IovaRange> = iova_ranges(&space.ioas);
        match special {
            Some((at, len)) => assert_eq!(ranges, [range(0, at), range(at + len, end - at - len)]),
            None => assert_eq!(ranges, [range(0, end)]),
        }
        assert_eq!(areas(&space.ioas).len(), 1);
        space.expect(0x4000, Ok(0x5000_0000));
        space.expect(0x6000, NOTHING);
        assert!(space.in_use().iter().zip(before).all(|(now, before)| *now <= before + 6), "tables only");
        space.check();
    }
}

fn memory_that_runs_out_anywhere_rolls_every_domain_back<D: Driver>() {
    for case in D::cases() {
        for (units, at) in LAYOUTS {
            // The unit whose memory fails.
            for failing in 0..units {
                let space = Space::<D>::new(&case, units, at);
                space.map(0x1000, 0x7000_0000, 0x1000).unwrap();
                let before = space.in_use();
                let mut failed = 0;
                for n in 0.. {
                    // All of one map, across two tables on every level.
                    space.houses[failing].memory.exhaust_after(n);
                    let found = space.map(0x40 * HUGE - 0x1000, 0x5000_0000, 0x2000);
                    space.houses[failing].memory.fail_never();
                    if found.is_ok() {
                        break;
                    }
                    failed += 1;
                    assert_eq!(found, Err(Error::OutOfMemory));
                    assert_eq!(areas(&space.ioas).len(), 1);
                    space.expect(0x40 * HUGE - 0x1000, NOTHING);
                    space.expect(0x40 * HUGE, NOTHING);
                    space.expect(0x1000, Ok(0x7000_0000));
                    // Tables emptied piece by piece may stay, but never more and more of them.
                    let now = space.in_use();
                    let extra: usize = now.iter().zip(&before).map(|(now, before)| now - before).sum();
                    assert!(extra <= 6 * at.len(), "{}: {extra} frames after {n}", space.name());
                }
                assert!(failed >= 3, "{}: {failed}", space.name());
                space.expect(0x40 * HUGE - 0x1000, Ok(0x5000_0000));
                space.expect(0x40 * HUGE, Ok(0x5000_1000));
                space.check();
            }
        }
    }
}

/// Each worker has its own addresses: 4 MiB, and a page that shares its tables with those of the others.
fn several_cpus_map_and_unmap_in_one_address_space<D: Driver>() {
    for case in D::cases() {
        let space = Space::<D>::new(&case, 2, &[0, 1, 0]);
        // A look of another thread at the clock must not use up this one's time.
        space.houses.iter().for_each(|bench| bench.memory.set_clock_step(0));
        std::thread::scope(|scope| {
            for worker in 0..3u64 {
                let space = &space;
                scope.spawn(move || {
                    let mut random = Random::new(worker + 1);
                    let (base, phys) = ((1 + 2 * worker) * LARGE, 0x10_0000_0000 + 2 * worker * LARGE);
                    for _ in 0..40 {
                        let (at, len, shift) = match random.below(4) {
                            0 => (base, LARGE, 0x1000),
                            1 => (base, LARGE, 0),
                            2 => (worker << 12, 0x1000, 0x3000),
                            _ => (base + (random.below(16) << 12), (1 + random.below(16)) << 12, 0),
                        };
                        let memory = phys + at % LARGE + shift;
                        space.map(at, memory, len).unwrap();
                        space.expect(at, Ok(memory));
                        space.expect(at + len - 1, Ok(memory + len - 1));
                        assert_eq!(space.map(at, memory, 0x1000), Err(Error::Overlap { area: range(at, len) }));
                        assert_eq!(space.ioas.unmap(range(at, len)), Ok(len));
                        space.expect(at, NOTHING);
                        space.expect(at + len - 1, NOTHING);
                    }
                });
            }
        });
        assert_eq!(areas(&space.ioas), []);
        space.end();
    }
}

fn streams_of_several_functions_share_an_address_space<D: Driver>() {
    for space in spaces::<D>() {
        let (unit, hwpt) = &space.domains[0];
        let unit = *unit;
        let [_, beside, far] = space.houses[0].kind.streams;
        let several = [beside + 8, beside + 9, far];
        for id in several {
            space.houses[unit].attach(id, hwpt.domain());
        }
        space.map(0x4000, 0x5000_0000, 0x1000).unwrap();
        for id in several {
            space.houses[unit].expect(id, 0x4000, Ok(0x5000_0000));
        }
        space.houses[unit].lead(function(beside + 9), Target::Blocked).unwrap();
        space.ioas.unmap_all().unwrap();
        space.houses[unit].expect(beside + 8, 0x4000, NOTHING);
        space.houses[unit].expect(beside + 9, 0x4000, Err(Refusal::Detached));
        space.check();
    }
}
