//! The address space on SMMUv3: several domains on one and on two units are kept alike, whatever fails, and
//! what hardware did not confirm stays taken.

use iommu_core::Error;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{HwError, Prot, Stage, Target, Unit as _, Wait};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{AreaInfo, Ioas, IoasConfig};
use iommu_models::smmuv3::{FaultCode, Queue};
use iommu_tests::random::Random;
use iommu_tests::smmuv3::bench::{Bench, extent, range, stream};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::spaces::{areas, iova_ranges, map_fixed};

const HUNG: Error = Error::Hardware(HwError::TimedOut(Wait::Completion));
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

/// An address space whose domains lie on the units `at`; each domain has one stream attached: its number.
struct Space {
    benches: Vec<Bench>,
    ioas: Ioas,
    domains: Vec<(usize, Hwpt)>,
}

impl Space {
    fn new(case: &Case, units: usize, at: &[usize]) -> Self {
        let benches: Vec<Bench> = (0..units).map(|_| Bench::up(case)).collect();
        let mut space = Self { benches, ioas: Ioas::new(IoasConfig::default()).unwrap(), domains: Vec::new() };
        at.iter().for_each(|unit| assert!(space.join(*unit).is_ok()));
        space
    }

    /// Adds a domain on a unit, with a stream of its own.
    fn join(&mut self, unit: usize) -> Result<u32, Error> {
        let hwpt = self.add(unit)?;
        let sid = self.domains.len() as u32 * 8;
        self.benches[unit].attach(sid, hwpt.domain());
        self.domains.push((unit, hwpt));
        Ok(sid)
    }

    /// A domain on a unit.
    fn add(&self, unit: usize) -> Result<Hwpt, Error> {
        let bench = &self.benches[unit];
        Hwpt::new(&self.ioas, &bench.handle(), HwptConfig::new(bench.case.stage))
    }

    fn map(&self, iova: u64, phys: u64, len: u64) -> Result<(), Error> {
        map_fixed(&self.ioas, iova, &[extent(phys, len)], Prot::READ_WRITE)
    }

    /// Every domain's stream is given the same.
    #[track_caller]
    fn expect(&self, iova: u64, expected: Result<u64, FaultCode>) {
        for (number, (unit, _)) in self.domains.iter().enumerate() {
            self.benches[*unit].expect(number as u32 * 8, iova, expected);
        }
    }

    fn blocked(&self) -> Result<u64, FaultCode> {
        Err(self.benches[0].case.not_mapped())
    }

    fn in_use(&self) -> Vec<usize> {
        self.benches.iter().map(|bench| bench.memory.in_use()).collect()
    }

    #[track_caller]
    fn check(&self) {
        self.benches.iter().for_each(Bench::check);
    }
}

/// Whether every area is.
fn draining(ioas: &Ioas) -> bool {
    areas(ioas).iter().all(|area: &AreaInfo| area.draining)
}

/// One unit with one domain, one with two, two units, and two with three domains.
const LAYOUTS: [(usize, &[usize]); 4] = [(1, &[0]), (1, &[0, 0]), (2, &[0, 1]), (2, &[0, 1, 0])];

fn spaces() -> impl Iterator<Item = Space> {
    Case::all().into_iter().flat_map(|case| LAYOUTS.map(|(units, at)| Space::new(&case, units, at)))
}

#[test]
fn a_map_reaches_every_domain_and_an_unmap_none() {
    for space in spaces() {
        let blocked = space.blocked();
        let before = space.in_use();
        space.expect(0x4000, blocked);
        let scattered = [extent(0x5000_0000, 0x1000), extent(0x5000_9000, 0x2000), extent(0x6000_0000, LARGE)];
        map_fixed(&space.ioas, LARGE - 0x3000, &scattered, Prot::READ_WRITE).unwrap();
        space.map(HUGE, 6 * HUGE, HUGE).unwrap();
        for (iova, expected) in [
            (LARGE - 0x4000, blocked),
            (LARGE - 0x3000, Ok(0x5000_0000)),
            (LARGE - 0x2000, Ok(0x5000_9000)),
            (LARGE - 1, Ok(0x5000_afff)),
            (LARGE, Ok(0x6000_0000)),
            (2 * LARGE - 1, Ok(0x6000_0000 + LARGE - 1)),
            (2 * LARGE, blocked),
            (HUGE - 1, blocked),
            (HUGE, Ok(6 * HUGE)),
            (2 * HUGE - 1, Ok(7 * HUGE - 1)),
            (2 * HUGE, blocked),
        ] {
            space.expect(iova, expected);
        }
        let error = Err(Error::CutsArea { area: range(LARGE - 0x3000, LARGE + 0x3000) });
        assert_eq!(space.ioas.unmap(range(LARGE, LARGE)), error);
        space.expect(LARGE, Ok(0x6000_0000));
        assert_eq!(space.ioas.unmap(range(0, 2 * LARGE)), Ok(LARGE + 0x3000));
        space.expect(LARGE, blocked);
        space.expect(LARGE - 0x3000, blocked);
        space.expect(HUGE, Ok(6 * HUGE));
        assert_eq!(space.ioas.unmap_all(), Ok(HUGE));
        space.expect(HUGE, blocked);
        assert!(space.in_use().iter().zip(before).all(|(now, before)| *now >= before && *now <= before + 9));
        space.check();
    }
}

#[test]
fn what_is_refused_changes_no_domain() {
    for space in spaces() {
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        let before = space.in_use();
        let area = range(0x4000, 0x2000);
        let overlap = Err(Error::Overlap { area });
        for (iova, len) in [(0x4000, 0x1000), (0x5000, 0x1000), (0x3000, 0x2000), (0, 0x8000)] {
            assert_eq!(space.map(iova, 0x9000_0000, len), overlap);
        }
        let end = space.benches[0].case.end();
        let found = space.map(end - 0x1000, 0x9000_0000, 0x2000);
        assert_eq!(found, Err(Error::Reserved { reserved: range(end, 0x1000) }));
        let wide = space.map(0x8000, 1 << space.benches[0].case.config.output_bits().min(48), 0x1000);
        assert!(matches!(wide, Err(Error::Hardware(HwError::OutputTooWide { .. }))), "{wide:?}");
        // Nothing is reserved: interrupts are memory like any other to this unit.
        let ranges: Vec<IovaRange> = iova_ranges(&space.ioas);
        assert_eq!(ranges, [range(0, end)]);
        space.map(0xfee0_0000, 0x9000_0000, 0x1000).unwrap();
        assert_eq!(space.ioas.unmap(range(0xfee0_0000, 0x1000)), Ok(0x1000));
        assert_eq!(areas(&space.ioas).len(), 1);
        space.expect(0x4000, Ok(0x5000_0000));
        space.expect(0x6000, space.blocked());
        assert!(space.in_use().iter().zip(before).all(|(now, before)| *now <= before + 6), "tables only");
        space.check();
    }
}

#[test]
fn memory_that_runs_out_anywhere_rolls_every_domain_back() {
    for case in Case::all() {
        for (units, at) in LAYOUTS {
            // The unit whose memory fails.
            for failing in 0..units {
                let space = Space::new(&case, units, at);
                space.map(0x1000, 0x7000_0000, 0x1000).unwrap();
                let before = space.in_use();
                let mut failed = 0;
                for n in 0.. {
                    // All of one map, across two tables on every level.
                    space.benches[failing].memory.exhaust_after(n);
                    let found = space.map(0x40 * HUGE - 0x1000, 0x5000_0000, 0x2000);
                    space.benches[failing].memory.fail_never();
                    if found.is_ok() {
                        break;
                    }
                    failed += 1;
                    assert_eq!(found, Err(Error::OutOfMemory));
                    assert_eq!(areas(&space.ioas).len(), 1);
                    space.expect(0x40 * HUGE - 0x1000, space.blocked());
                    space.expect(0x40 * HUGE, space.blocked());
                    space.expect(0x1000, Ok(0x7000_0000));
                    // Tables emptied piece by piece may stay, but never more and more of them.
                    let now = space.in_use();
                    let extra: usize = now.iter().zip(&before).map(|(now, before)| now - before).sum();
                    assert!(extra <= 6 * at.len(), "{}: {extra} frames after {n}", case.name);
                }
                assert!(failed >= 3, "{}: {failed}", case.name);
                space.expect(0x40 * HUGE - 0x1000, Ok(0x5000_0000));
                space.expect(0x40 * HUGE, Ok(0x5000_1000));
                space.check();
            }
        }
    }
}

#[test]
fn an_unmap_that_is_not_confirmed_keeps_its_address_and_frames_until_it_is() {
    for case in Case::all() {
        for (units, at) in LAYOUTS {
            for hung in 0..units {
                let space = Space::new(&case, units, at);
                space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
                space.map(LARGE, 0x6000_1000, LARGE).unwrap();
                space.expect(0x4000, Ok(0x5000_0000));
                space.expect(LARGE, Ok(0x6000_1000));
                let before = space.in_use();
                space.benches[hung].model.set_queue(Queue::Stopped);
                assert_eq!(space.ioas.unmap_all(), Err(HUNG));
                assert!(draining(&space.ioas) && areas(&space.ioas).len() == 2);
                assert_eq!(space.in_use()[hung], before[hung], "{}: hardware may still walk them", case.name);
                for (number, (unit, _)) in space.domains.iter().enumerate() {
                    if *unit != hung {
                        space.benches[*unit].expect(number as u32 * 8, LARGE, space.blocked());
                    }
                }
                let taken = Err(Error::Overlap { area: range(0x4000, 0x2000) });
                assert_eq!(space.map(0x5000, 0x9000_0000, 0x1000), taken);
                assert_eq!(space.ioas.unmap_all(), Err(HUNG));
                assert_eq!(space.map(0x5000, 0x9000_0000, 0x1000), taken);
                space.benches[hung].model.set_queue(Queue::Running);
                assert_eq!(space.ioas.unmap_all(), Ok(LARGE + 0x2000));
                space.expect(0x4000, space.blocked());
                space.expect(LARGE, space.blocked());
                space.map(0x5000, 0x9000_0000, 0x1000).unwrap();
                space.expect(0x5000, Ok(0x9000_0000));
                assert_eq!(space.ioas.unmap_all(), Ok(0x1000));
                space.check();
                // Nothing was lost on the way.
                let Space { benches, ioas, domains } = space;
                drop((ioas, domains));
                for bench in &benches {
                    assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
                }
            }
        }
    }
}

#[test]
fn a_map_needs_no_queue() {
    for case in Case::all() {
        for (units, at) in LAYOUTS {
            let space = Space::new(&case, units, at);
            space.expect(0x4000, space.blocked());
            space.benches.iter().for_each(|bench| bench.model.set_queue(Queue::Stopped));
            space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
            space.expect(0x4000, Ok(0x5000_0000));
            space.benches.iter().for_each(|bench| bench.model.set_queue(Queue::Running));
            space.check();
        }
    }
}

#[test]
fn a_domain_that_joins_late_gets_what_is_mapped_and_nothing_that_drains() {
    for case in Case::all() {
        let mut space = Space::new(&case, 2, &[0]);
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        space.map(LARGE, 0x6000_0000, LARGE).unwrap();
        space.expect(0x4000, Ok(0x5000_0000));
        space.benches[0].model.set_queue(Queue::Stopped);
        assert_eq!(space.ioas.unmap(range(0x4000, 0x2000)), Err(HUNG));
        let late = space.join(1).unwrap();
        space.benches[1].expect(late, LARGE, Ok(0x6000_0000));
        // Its owner wants it back: nobody may be given it any more.
        space.benches[1].expect(late, 0x4000, space.blocked());
        space.benches[0].model.set_queue(Queue::Running);
        assert_eq!(space.ioas.unmap(range(0x4000, 0x2000)), Ok(0x2000));
        space.expect(0x4000, space.blocked());
        space.map(0x4000, 0x9000_0000, 0x1000).unwrap();
        space.expect(0x4000, Ok(0x9000_0000));
        space.check();
    }
}

#[test]
fn a_domain_that_joins_in_vain_leaves_nothing() {
    for case in Case::all() {
        let space = Space::new(&case, 2, &[0]);
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        space.map(HUGE, 0x6000_1000, LARGE).unwrap();
        let before = space.in_use();
        // The domain itself is made; what it needs for the areas fails.
        let own = if case.stage == Stage::First { 2 } else { 1 };
        for n in own.. {
            space.benches[1].memory.exhaust_after(n);
            let found = space.add(1);
            space.benches[1].memory.fail_never();
            match found {
                Err(found) => assert_eq!(found, Error::OutOfMemory),
                Ok(late) => {
                    assert!(n >= own + 2);
                    space.benches[1].attach(0x10, late.domain());
                    space.benches[1].expect(0x10, HUGE, Ok(0x6000_1000));
                    break;
                }
            }
            assert_eq!(space.in_use(), before, "{}: allocation {n}", case.name);
        }
        space.check();
    }
}

#[test]
fn a_domain_that_leaves_blocks_its_streams() {
    for mut space in spaces() {
        space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
        space.expect(0x4000, Ok(0x5000_0000));
        let (unit, hwpt) = space.domains.pop().unwrap();
        let sid = space.domains.len() as u32 * 8;
        hwpt.destroy().map_err(|(_, error)| error).unwrap();
        space.benches[unit].expect(sid, 0x4000, Err(FaultCode::NONE));
        space.expect(0x4000, Ok(0x5000_0000));
        assert_eq!(space.ioas.unmap_all(), Ok(0x2000));
        space.expect(0x4000, space.blocked());
        space.check();
    }
}

#[test]
fn a_domain_that_hardware_does_not_let_go_of_keeps_the_memory_taken() {
    for case in Case::all() {
        for (units, at) in LAYOUTS {
            let mut space = Space::new(&case, units, at);
            space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
            space.expect(0x4000, Ok(0x5000_0000));
            let (unit, hwpt) = space.domains.remove(0);
            space.benches[unit].model.set_queue(Queue::Stopped);
            let removed = hwpt.destroy();
            // Its stream still has the translation cached, so nobody may be told that the memory is free.
            space.benches[unit].expect(0, 0x4000, Ok(0x5000_0000));
            let unmapped = space.ioas.unmap_all();
            assert_eq!(unmapped, Err(HUNG), "{}", case.name);
            let Err((hwpt, error)) = removed else { panic!("{}: nobody confirmed that", case.name) };
            assert_eq!(error, HUNG);
            space.benches[unit].model.set_queue(Queue::Running);
            assert!(hwpt.destroy().is_ok(), "{}: now", case.name);
            space.benches[unit].expect(0, 0x4000, Err(FaultCode::NONE));
            space.ioas.unmap_all().expect("now");
            assert_eq!(areas(&space.ioas).len(), 0);
            space.check();
        }
    }
}

/// As above, where its owner has dropped the domain: then the address space has it, and all that it maps.
#[test]
fn a_domain_that_hardware_does_not_let_go_of_when_dropped_is_kept_until_it_does() {
    for case in Case::all() {
        for (units, at) in LAYOUTS {
            let mut space = Space::new(&case, units, at);
            space.map(0x4000, 0x5000_0000, 0x2000).unwrap();
            space.expect(0x4000, Ok(0x5000_0000));
            let (unit, hwpt) = space.domains.remove(0);
            space.benches[unit].model.set_queue(Queue::Stopped);
            let before = space.in_use();
            drop(hwpt);
            assert_eq!(space.in_use(), before, "{}: hardware may still walk it", case.name);
            space.benches[unit].expect(0, 0x4000, Ok(0x5000_0000));
            assert_eq!((space.ioas.reclaim(), space.ioas.unmap_all()), (Err(HUNG), Err(HUNG)), "{}", case.name);
            assert!(draining(&space.ioas) && areas(&space.ioas).len() == 1);
            space.benches[unit].model.set_queue(Queue::Running);
            assert_eq!(space.ioas.reclaim(), Ok(()), "{}", case.name);
            space.benches[unit].expect(0, 0x4000, Err(FaultCode::NONE));
            assert_eq!(space.ioas.unmap_all(), Ok(0x2000));
            space.check();
            let Space { benches, ioas, domains } = space;
            drop((domains, ioas));
            for bench in &benches {
                assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
            }
        }
    }
}

#[test]
fn an_area_is_split_and_its_parts_go_alone() {
    for space in spaces() {
        let blocked = space.blocked();
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
                space.expect(start + probe, if probe < below { blocked } else { Ok(phys + probe) });
            }
            assert_eq!(space.ioas.unmap_all(), Ok(size - below));
            probes.iter().for_each(|probe| space.expect(start + probe, blocked));
        }
        space.check();
    }
}

#[test]
fn a_split_that_a_domain_cannot_do_leaves_the_area_whole() {
    for case in Case::all() {
        for (units, at) in LAYOUTS {
            for failing in 0..units {
                let space = Space::new(&case, units, at);
                space.map(HUGE, 6 * HUGE, HUGE).unwrap();
                let middle = HUGE + HUGE / 2 + 0x3000;
                let whole = |space: &Space| {
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
                    space.benches[failing].memory.exhaust_after(n);
                    let found = space.ioas.split(Iova::new(middle));
                    space.benches[failing].memory.fail_never();
                    if found.is_ok() {
                        break;
                    }
                    assert_eq!(found, Err(Error::OutOfMemory));
                    whole(&space);
                    failed += 1;
                }
                assert!(failed >= 1, "{}: {failed}", case.name);
                assert_eq!(space.ioas.unmap_all(), Ok(HUGE));
                // The same where hardware does not confirm; the area may be split in some domains.
                space.map(HUGE, 6 * HUGE, HUGE).unwrap();
                whole(&space);
                space.benches[failing].model.set_queue(Queue::Stopped);
                assert_eq!(space.ioas.split(Iova::new(middle)), Err(HUNG), "{}", case.name);
                space.benches[failing].model.set_queue(Queue::Running);
                whole(&space);
                assert_eq!(space.ioas.unmap_all(), Ok(HUGE));
                space.expect(middle, space.blocked());
                space.check();
                let Space { benches, ioas, domains } = space;
                drop((ioas, domains));
                for bench in &benches {
                    assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
                }
            }
        }
    }
}

/// Each worker has its own addresses: 4 MiB, and a page that shares its tables with those of the others.
#[test]
fn several_cpus_map_and_unmap_in_one_address_space() {
    for case in Case::all() {
        let space = Space::new(&case, 2, &[0, 1, 0]);
        // A look of another thread at the clock must not use up this one's time.
        space.benches.iter().for_each(|bench| bench.memory.set_clock_step(0));
        let blocked = space.blocked();
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
                        space.expect(at, blocked);
                        space.expect(at + len - 1, blocked);
                    }
                });
            }
        });
        assert_eq!(areas(&space.ioas), []);
        space.check();
        let Space { benches, ioas, domains } = space;
        drop((ioas, domains));
        for bench in &benches {
            assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        }
    }
}

#[test]
fn streams_of_several_functions_share_an_address_space() {
    for space in spaces() {
        let (unit, hwpt) = &space.domains[0];
        let unit = *unit;
        let [_, beside, far] = space.benches[0].case.streams();
        let several = [beside, beside + 1, far];
        for sid in several {
            space.benches[unit].attach(sid, hwpt.domain());
        }
        space.map(0x4000, 0x5000_0000, 0x1000).unwrap();
        for sid in several {
            space.benches[unit].expect(sid, 0x4000, Ok(0x5000_0000));
        }
        space.benches[unit].unit.attach(stream(beside + 1), Target::Blocked).unwrap();
        space.ioas.unmap_all().unwrap();
        space.benches[unit].expect(beside, 0x4000, space.blocked());
        space.benches[unit].expect(beside + 1, 0x4000, Err(FaultCode::NONE));
        space.check();
    }
}
