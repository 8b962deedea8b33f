//! Attach, detach, replacement and identity against a unit whose caches are as stale as they may be: what is allowed
//! goes through to the right place, and everything else is refused with the right code.

use iommu_core::addr::{Iova, PhysExtent};
use iommu_core::hw::{Domain, HwError, Prot, Stage, Target, Transition, Unit as _};
use iommu_models::vtd::FaultCode;
use iommu_tests::bench::{Bench, extent, map, stream, unmap};
use iommu_tests::case::Case;

const RED: u16 = 0x0108;
const BLUE: u16 = 0x01a0;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
const NOT_PRESENT: Result<u64, FaultCode> = Err(FaultCode::CONTEXT_NOT_PRESENT);

/// The lowest page, scattered pages, large pages, the highest page.
fn layout(case: &Case) -> Vec<(u64, PhysExtent)> {
    vec![
        (0, extent(0x5000_0000, 0x1000)),
        (0x2000, extent(0x5000_8000, 0x1000)),
        (0x3000, extent(0x5000_4000, 0x2000)),
        (LARGE, extent(0x6000_0000, 2 * LARGE)),
        (HUGE, extent(6 * HUGE, HUGE)),
        (case.end() - 0x1000, extent(0x7100_0000, 0x1000)),
    ]
}

fn fill(case: &Case, domain: &dyn Domain) {
    for (iova, memory) in layout(case) {
        map(domain, iova, memory.start.get(), memory.len);
    }
}

/// Everything that [`layout`] maps is reached by `requester`, its neighbours are not.
#[track_caller]
fn check_layout(bench: &Bench, requester: u16) {
    let all = layout(&bench.case);
    for (iova, memory) in &all {
        for offset in [0, 0xfff, memory.len / 2, memory.len - 1] {
            bench.expect(requester, iova + offset, Ok(memory.start.get() + offset));
        }
        for neighbour in [iova.wrapping_sub(1), iova.wrapping_sub(0x1000), iova + memory.len] {
            let inside = all.iter().find(|(iova, memory)| (*iova..iova + memory.len).contains(&neighbour));
            let expected = match inside {
                Some((iova, memory)) => Ok(memory.start.get() + (neighbour - iova)),
                None if neighbour >= bench.case.end() => Err(beyond(&bench.case, neighbour)),
                None => Err(bench.case.not_mapped()),
            };
            bench.expect(requester, neighbour, expected);
        }
    }
}

/// The fault of an address that the domain does not translate at all.
fn beyond(case: &Case, iova: u64) -> FaultCode {
    match case.stage {
        Stage::Second => FaultCode::BEYOND_WIDTH,
        // The upper half is canonical, and nothing is there.
        Stage::First if iova >> case.canonical_bits() == u64::MAX >> case.canonical_bits() => {
            FaultCode::FIRST_NOT_PRESENT
        }
        Stage::First => FaultCode::NOT_CANONICAL,
    }
}

/// Requests everywhere, so that every cache holds what it may, negative entries included.
fn warm(bench: &Bench, requesters: &[u16]) {
    for requester in requesters {
        for iova in layout(&bench.case).iter().flat_map(|(iova, _)| [*iova, iova.wrapping_sub(0x1000)]) {
            let _ = (bench.read(*requester, iova), bench.write(*requester, iova));
        }
    }
}

#[test]
fn a_stream_reaches_its_domain_and_nothing_else() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        warm(&bench, &[RED, BLUE]);
        let domain = bench.domain();
        assert_eq!(bench.attach(RED, &*domain), Transition::Hitless);
        bench.expect(RED, 0, Err(case.not_mapped()));
        warm(&bench, &[RED, BLUE]);
        // Mapped after the attach, over whatever negative entries there are.
        fill(&case, &*domain);
        check_layout(&bench, RED);
        bench.expect(BLUE, 0, Err(FaultCode::ROOT_NOT_PRESENT));
        bench.expect(RED ^ 8, 0, NOT_PRESENT);
        bench.expect(RED ^ 0x100, 0, Err(FaultCode::ROOT_NOT_PRESENT));
        for (iova, memory) in layout(&case) {
            let found = bench.model.translate(RED, None, Iova::new(iova), true).unwrap();
            let size = [HUGE, LARGE, 0x1000].into_iter().find(|size| memory.len >= *size);
            assert_eq!(Some(found.size), size, "{}: at {iova:#x}", case.name);
            assert!(found.domain > 1, "{}: domain id 0 is hardware's, 1 is identity's", case.name);
        }
        bench.check();
    }
}

#[test]
fn what_the_caches_held_before_does_not_matter() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        fill(&case, &*domain);
        for _ in 0..3 {
            warm(&bench, &[RED]);
            bench.attach(RED, &*domain);
            check_layout(&bench, RED);
            bench.detach(RED);
            for (iova, _) in layout(&case) {
                bench.expect(RED, iova, NOT_PRESENT);
            }
        }
        bench.check();
    }
}

#[test]
fn rights_are_those_asked_for() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        bench.attach(RED, &*domain);
        for (iova, len, phys) in [(0x1000, 0x1000, 0x5000_1000), (LARGE, LARGE, 0x6000_0000), (HUGE, HUGE, 6 * HUGE)] {
            domain.map(Iova::new(iova), &[extent(phys, len)], Prot::READ).unwrap();
            assert_eq!(bench.read(RED, iova + len - 1), Ok(phys + len - 1), "{}", case.name);
            assert_eq!(bench.write(RED, iova + len - 1), Err(case.not_writable()), "{}", case.name);
            assert_eq!(bench.read(RED, iova), Ok(phys), "{}", case.name);
        }
        let write_only = domain.map(Iova::new(3 * HUGE), &[extent(0x5000_0000, 0x1000)], Prot::WRITE);
        match case.stage {
            Stage::First => assert_eq!(write_only, Err(HwError::Protection(Prot::WRITE))),
            Stage::Second => {
                assert_eq!(write_only, Ok(()));
                assert_eq!(bench.write(RED, 3 * HUGE), Ok(0x5000_0000), "{}", case.name);
                assert_eq!(bench.read(RED, 3 * HUGE), Err(FaultCode::NO_READ), "{}", case.name);
            }
        }
        let none = Prot { read: false, write: false };
        let refused = domain.map(Iova::new(4 * HUGE), &[extent(0, 0x1000)], none);
        assert_eq!(refused, Err(HwError::Protection(none)));
        bench.check();
    }
}

#[test]
fn leaves_are_of_sizes_that_the_unit_has() {
    // CAP.SSLPS: 2 MiB in bit 34, 1 GiB in bit 35. CAP.FS1GP: bit 56; the first stage always has 2 MiB.
    for case in Case::plain() {
        let rows: &[(u64, u64)] = match case.stage {
            Stage::Second => &[(0, 0x1000), (1 << 34, LARGE), (1 << 35, HUGE), (3 << 34, HUGE)],
            Stage::First => &[(0, LARGE), (1 << 56, HUGE)],
        };
        for (bits, largest) in rows {
            let case = case.with_cap(3 << 34 | 1 << 56, false).with_cap(*bits, true);
            let bench = Bench::up(&case);
            let domain = bench.domain();
            bench.attach(RED, &*domain);
            // Large enough for one of the largest, and both of the others at its ends.
            let len = if *bits == 1 << 35 { HUGE } else { (*largest).max(LARGE) } + 0x2000;
            map(&*domain, 2 * HUGE - len + 0x1000, 6 * HUGE - len + 0x1000, len);
            map(&*domain, 4 * HUGE, 6 * HUGE, *largest);
            let size = |iova: u64| bench.model.translate(RED, None, Iova::new(iova), true).unwrap().size;
            assert_eq!(size(4 * HUGE), *largest, "{}", case.name);
            assert_eq!(size(2 * HUGE), 0x1000, "{}", case.name);
            for iova in [2 * HUGE - len + 0x1000, 2 * HUGE, 2 * HUGE + 0xfff, 2 * HUGE - LARGE] {
                bench.expect(RED, iova, Ok(iova + 4 * HUGE));
            }
            let sizes = domain.geometry().page_sizes;
            assert!(sizes.contains(*largest) && sizes.contains(0x1000), "{}: {sizes:?}", case.name);
            assert_eq!(sizes.contains(HUGE), *largest == HUGE, "{}: {sizes:?}", case.name);
            bench.check();
        }
    }
}

#[test]
fn domains_are_apart_at_the_same_addresses() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let red = bench.domain_with(0x1000, 0x5000_0000, 0x3000);
        let blue = bench.domain_with(0x2000, 0x6000_0000, 0x3000);
        warm(&bench, &[RED, BLUE]);
        bench.attach(RED, &*red);
        bench.attach(BLUE, &*blue);
        for page in 0..6u64 {
            let iova = page << 12;
            let at = |first: u64, phys: u64| match page.checked_sub(first) {
                Some(inside) if inside < 3 => Ok(phys + (inside << 12)),
                _ => Err(case.not_mapped()),
            };
            bench.expect(RED, iova, at(1, 0x5000_0000));
            bench.expect(BLUE, iova, at(2, 0x6000_0000));
        }
        // What one loses the other keeps.
        unmap(&*red, 0x1000, 0x3000);
        bench.expect(RED, 0x2000, Err(case.not_mapped()));
        bench.expect(BLUE, 0x2000, Ok(0x6000_0000));
        bench.detach(BLUE);
        bench.expect(BLUE, 0x2000, NOT_PRESENT);
        bench.expect(RED, 0x1000, Err(case.not_mapped()));
        bench.check();
    }
}

#[test]
fn a_stream_moves_and_nothing_of_the_old_domain_stays() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let red = bench.domain_with(0x1000, 0x5000_0000, 0x2000);
        let blue = bench.domain_with(0x2000, 0x6000_0000, 0x2000);
        bench.attach(RED, &*red);
        // Two streams of one domain: one of them moves.
        bench.attach(BLUE, &*red);
        for round in 0..3 {
            warm(&bench, &[RED, BLUE]);
            assert_eq!(bench.attach(RED, &*blue), Transition::ThroughBlocked);
            bench.expect(RED, 0x1000, Err(case.not_mapped()));
            bench.expect(RED, 0x2000, Ok(0x6000_0000));
            bench.expect(RED, 0x3000, Ok(0x6000_1000));
            bench.expect(BLUE, 0x1000, Ok(0x5000_0000));
            bench.model.take_log();
            assert_eq!(bench.attach(RED, &*blue), Transition::Hitless, "where it is");
            assert_eq!(bench.invalidations(), [], "round {round}");
            assert_eq!(bench.attach(RED, &*red), Transition::ThroughBlocked);
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
            bench.expect(RED, 0x2000, Ok(0x5000_1000));
            bench.expect(RED, 0x3000, Err(case.not_mapped()));
        }
        bench.check();
    }
}

#[test]
fn identity_reaches_all_of_memory_until_it_is_taken_away() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        warm(&bench, &[RED]);
        let identity = |rid| bench.unit.attach(stream(rid), Target::Identity);
        assert_eq!(identity(RED), Ok(Transition::Hitless));
        let top = (1u64 << case.config.haw) - 0x1000;
        for iova in [0, 0x1000, 0x5000_0000, top] {
            bench.expect(RED, iova, Ok(iova));
        }
        bench.expect(RED, 1 << case.config.haw, Err(FaultCode::BEYOND_HOST));
        // In the other half of the bus, where nobody is yet.
        bench.expect(BLUE, 0x1000, Err(FaultCode::ROOT_NOT_PRESENT));
        assert_eq!(identity(RED), Ok(Transition::Hitless));
        assert_eq!(identity(BLUE), Ok(Transition::Hitless));
        assert_eq!(bench.attach(RED, &*domain), Transition::ThroughBlocked);
        bench.expect(RED, 0x5000_0000, Err(case.not_mapped()));
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        bench.expect(BLUE, 0x1000, Ok(0x1000));
        assert_eq!(identity(RED), Ok(Transition::ThroughBlocked));
        bench.expect(RED, 0x1000, Ok(0x1000));
        bench.detach(RED);
        bench.expect(RED, 0x1000, NOT_PRESENT);
        bench.check();
    }
}

#[test]
fn a_domain_dropped_while_attached_blocks_its_streams() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let kept = bench.memory.in_use();
        let (red, blue) = (bench.domain(), bench.domain_with(0x1000, 0x6000_0000, 0x1000));
        fill(&case, &*red);
        let streams = [0x0000, 0x0108, 0x01a0, 0xffff];
        for rid in streams {
            bench.attach(rid, &*red);
        }
        bench.attach(0x0110, &*blue);
        warm(&bench, &streams);
        drop(red);
        for rid in streams {
            for (iova, _) in layout(&case) {
                bench.expect(rid, iova, NOT_PRESENT);
            }
        }
        bench.expect(0x0110, 0x1000, Ok(0x6000_0000));
        drop(blue);
        bench.expect(0x0110, 0x1000, NOT_PRESENT);
        // Context tables stay: two for bus 1, one each for 0 and ff. All else is gone.
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        assert_eq!(bench.memory.in_use(), kept + 4, "{}", case.name);
        bench.check();
    }
}
