//! Attach, detach, replacement and identity against an SMMU whose caches are as stale as they may be: what is allowed
//! goes through to the right place, and everything else is refused with the right event, or with none.

use iommu_core::addr::{Iova, PhysExtent};
use iommu_core::hw::{Domain, HwError, Pasid, Prot, Stage, Stream, StreamId, Target, Transition, Unit as _};
use iommu_models::smmuv3::{Config, FaultCode};
use iommu_tests::smmuv3::bench::{Bench, LEVEL_2, extent, map, stream, unmap};
use iommu_tests::smmuv3::case::Case;

const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

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

/// Everything that [`layout`] maps is reached by `sid`, its neighbours are not.
#[track_caller]
fn check_layout(bench: &Bench, sid: u32) {
    let all = layout(&bench.case);
    for (iova, memory) in &all {
        for offset in [0, 0xfff, memory.len / 2, memory.len - 1] {
            bench.expect(sid, iova + offset, Ok(memory.start.get() + offset));
        }
        for neighbour in [iova.wrapping_sub(1), iova.wrapping_sub(0x1000), iova + memory.len] {
            let inside = all.iter().find(|(iova, memory)| (*iova..iova + memory.len).contains(&neighbour));
            let expected = match inside {
                Some((iova, memory)) => Ok(memory.start.get() + (neighbour - iova)),
                None => Err(bench.case.beyond(neighbour)),
            };
            bench.expect(sid, neighbour, expected);
        }
    }
}

/// Requests everywhere, so that every cache holds what it may, entries that are not valid included.
fn warm(bench: &Bench, sids: &[u32]) {
    for sid in sids {
        for iova in layout(&bench.case).iter().flat_map(|(iova, _)| [*iova, iova.wrapping_sub(0x1000)]) {
            let _ = (bench.read(*sid, iova), bench.write(*sid, iova));
        }
    }
}

#[test]
fn a_stream_reaches_its_domain_and_nothing_else() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let [near, beside, far] = case.streams();
        warm(&bench, &[near, beside, far]);
        let domain = bench.domain();
        assert_eq!(bench.attach(near, &*domain), Transition::Hitless);
        bench.expect(near, 0, Err(case.not_mapped()));
        warm(&bench, &[near, beside, far]);
        // Mapped after the attach.
        fill(&case, &*domain);
        check_layout(&bench, near);
        // Whatever its neighbour cached of the level-1 descriptor before.
        let found = bench.read(beside, 0).unwrap_err();
        assert!(found == FaultCode::NONE || found == case.untouched(), "{}: {found:?}", case.name);
        bench.expect(far, 0, Err(case.untouched()));
        bench.expect(1 << case.table_bits(), 0, Err(FaultCode::C_BAD_STREAMID));
        for (iova, memory) in layout(&case) {
            let found = bench.model.translate(near, None, Iova::new(iova), true).unwrap();
            let size = [HUGE, LARGE, 0x1000].into_iter().find(|size| memory.len >= *size);
            assert_eq!(Some(found.size), size, "{}: at {iova:#x}", case.name);
            // VMID 0 is stage 1's, ASID 0 nobody's.
            assert_ne!(found.asid, Some(0), "{}", case.name);
            assert_eq!(found.vmid == Some(0), case.stage == Stage::First, "{}", case.name);
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
        for sid in case.streams() {
            for _ in 0..3 {
                warm(&bench, &[sid]);
                assert_eq!(bench.attach(sid, &*domain), Transition::Hitless);
                check_layout(&bench, sid);
                bench.detach(sid);
                for (iova, _) in layout(&case) {
                    bench.expect_blocked(sid, iova);
                }
            }
        }
        bench.check();
    }
}

#[test]
fn a_stream_that_is_blocked_makes_no_event_once_it_has_an_entry() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let [near, ..] = case.streams();
        let domain = bench.domain();
        bench.attach(near, &*domain);
        bench.detach(near);
        bench.model.take_events();
        bench.expect_blocked(near, 0);
        assert_eq!(bench.model.take_events(), [], "{}", case.name);
        bench.check();
    }
}

#[test]
fn rights_are_those_asked_for() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let [near, ..] = case.streams();
        let domain = bench.domain();
        bench.attach(near, &*domain);
        for (iova, len, phys) in [(0x1000, 0x1000, 0x5000_1000), (LARGE, LARGE, 0x6000_0000), (HUGE, HUGE, 6 * HUGE)] {
            domain.map(Iova::new(iova), &[extent(phys, len)], Prot::READ).unwrap();
            assert_eq!(bench.read(near, iova + len - 1), Ok(phys + len - 1), "{}", case.name);
            assert_eq!(bench.write(near, iova + len - 1), Err(case.not_writable()), "{}", case.name);
            assert_eq!(bench.read(near, iova), Ok(phys), "{}", case.name);
        }
        let write_only = domain.map(Iova::new(3 * HUGE), &[extent(0x5000_0000, 0x1000)], Prot::WRITE);
        match case.stage {
            Stage::First => assert_eq!(write_only, Err(HwError::Protection(Prot::WRITE))),
            Stage::Second => {
                assert_eq!(write_only, Ok(()));
                assert_eq!(bench.write(near, 3 * HUGE), Ok(0x5000_0000), "{}", case.name);
                assert_eq!(bench.read(near, 3 * HUGE), Err(FaultCode::F_PERMISSION), "{}", case.name);
            }
        }
        let none = Prot { read: false, write: false };
        let refused = domain.map(Iova::new(4 * HUGE), &[extent(0, 0x1000)], none);
        assert_eq!(refused, Err(HwError::Protection(none)));
        bench.check();
    }
}

#[test]
fn domains_are_apart_at_the_same_addresses() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let streams = case.streams();
        for (red_sid, blue_sid) in [(streams[0], streams[1]), (streams[0], streams[2])] {
            let red = bench.domain_with(0x1000, 0x5000_0000, 0x3000);
            let blue = bench.domain_with(0x2000, 0x6000_0000, 0x3000);
            warm(&bench, &streams);
            bench.attach(red_sid, &*red);
            bench.attach(blue_sid, &*blue);
            for page in 0..6u64 {
                let iova = page << 12;
                let at = |first: u64, phys: u64| match page.checked_sub(first) {
                    Some(inside) if inside < 3 => Ok(phys + (inside << 12)),
                    _ => Err(case.not_mapped()),
                };
                bench.expect(red_sid, iova, at(1, 0x5000_0000));
                bench.expect(blue_sid, iova, at(2, 0x6000_0000));
            }
            // What one loses the other keeps.
            unmap(&*red, 0x1000, 0x3000);
            bench.expect(red_sid, 0x2000, Err(case.not_mapped()));
            bench.expect(blue_sid, 0x2000, Ok(0x6000_0000));
            bench.detach(blue_sid);
            bench.expect_blocked(blue_sid, 0x2000);
            bench.expect(red_sid, 0x1000, Err(case.not_mapped()));
            bench.check();
        }
    }
}

#[test]
fn a_stream_moves_and_nothing_of_the_old_domain_stays() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let [near, beside, _] = case.streams();
        let red = bench.domain_with(0x1000, 0x5000_0000, 0x2000);
        let blue = bench.domain_with(0x2000, 0x6000_0000, 0x2000);
        bench.attach(near, &*red);
        // Two streams of one domain: one of them moves.
        bench.attach(beside, &*red);
        for round in 0..3 {
            warm(&bench, &[near, beside]);
            assert_eq!(bench.attach(near, &*blue), case.moves());
            bench.expect(near, 0x1000, Err(case.not_mapped()));
            bench.expect(near, 0x2000, Ok(0x6000_0000));
            bench.expect(near, 0x3000, Ok(0x6000_1000));
            bench.expect(beside, 0x1000, Ok(0x5000_0000));
            bench.model.take_log();
            assert_eq!(bench.attach(near, &*blue), Transition::Hitless, "where it is");
            assert_eq!(bench.commands(), [], "round {round}");
            assert_eq!(bench.attach(near, &*red), case.moves());
            bench.expect(near, 0x1000, Ok(0x5000_0000));
            bench.expect(near, 0x2000, Ok(0x5000_1000));
            bench.expect(near, 0x3000, Err(case.not_mapped()));
        }
        bench.check();
    }
}

#[test]
fn a_stream_moves_between_the_stages() {
    for case in Case::all().into_iter().filter(|case| case.config.idr0 & 3 == 3 && case.stage == Stage::First) {
        let bench = Bench::up(&case);
        let [near, beside, _] = case.streams();
        let first = bench.domain_with(0x1000, 0x5000_0000, 0x2000);
        let config = iommu_core::hw::DomainConfig::new(Stage::Second);
        let second = bench.unit.create_domain(&config).unwrap();
        map(&*second, 0x2000, 0x6000_0000, 0x2000);
        bench.attach(beside, &*second);
        for _ in 0..3 {
            // From nothing, and from what is not translated.
            assert_eq!(bench.attach(near, &*first), Transition::Hitless);
            bench.expect(near, 0x1000, Ok(0x5000_0000));
            bench.expect(near, 0x2000, Ok(0x5000_1000));
            bench.expect(near, 0x3000, Err(FaultCode::F_TRANSLATION));
            // The VMID is in a word of its own, and tags what stage 1 translates, too.
            assert_eq!(bench.attach(near, &*second), Transition::ThroughBlocked);
            bench.expect(near, 0x1000, Err(FaultCode::F_TRANSLATION));
            bench.expect(near, 0x2000, Ok(0x6000_0000));
            bench.expect(near, 0x3000, Ok(0x6000_1000));
            assert_eq!(bench.unit.attach(stream(near), Target::Identity), Ok(Transition::Hitless));
            bench.expect(near, 0x2000, Ok(0x2000));
            bench.expect(beside, 0x2000, Ok(0x6000_0000));
        }
        bench.check();
    }
}

#[test]
fn identity_reaches_all_of_memory_until_it_is_taken_away() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let [near, _, far] = case.streams();
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        warm(&bench, &[near]);
        let identity = |sid| bench.unit.attach(stream(sid), Target::Identity);
        assert_eq!(identity(near), Ok(Transition::Hitless));
        let bits = case.config.output_bits();
        for iova in [0, 0x1000, 0x5000_0000, (1u64 << bits) - 0x1000] {
            bench.expect(near, iova, Ok(iova));
        }
        bench.expect(near, 1 << bits, Err(FaultCode::F_ADDR_SIZE));
        bench.expect(far, 0x1000, Err(case.untouched()));
        assert_eq!(identity(near), Ok(Transition::Hitless));
        assert_eq!(identity(far), Ok(Transition::Hitless));
        assert_eq!(bench.attach(near, &*domain), Transition::Hitless);
        bench.expect(near, 0x5000_0000, Err(case.beyond(0x5000_0000)));
        bench.expect(near, 0x1000, Ok(0x5000_0000));
        bench.expect(far, 0x1000, Ok(0x1000));
        assert_eq!(identity(near), Ok(Transition::Hitless));
        bench.expect(near, 0x1000, Ok(0x1000));
        bench.detach(near);
        bench.expect_blocked(near, 0x1000);
        bench.expect(far, 0x1000, Ok(0x1000));
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
        let [near, beside, far] = case.streams();
        let streams = [0, near, far];
        for sid in streams {
            bench.attach(sid, &*red);
        }
        bench.attach(beside, &*blue);
        warm(&bench, &streams);
        drop(red);
        for sid in streams {
            for (iova, _) in layout(&case) {
                bench.expect_blocked(sid, iova);
            }
        }
        bench.expect(beside, 0x1000, Ok(0x6000_0000));
        drop(blue);
        bench.expect_blocked(beside, 0x1000);
        // Level-2 tables stay: the first and the last. All else is gone.
        let tables = if case.two_level() { 2 * LEVEL_2 } else { 0 };
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        assert_eq!(bench.memory.in_use(), kept + tables, "{}", case.name);
        bench.check();
    }
}

#[test]
fn an_id_that_comes_back_brings_nothing_along() {
    // The next domain is given the ASID or VMID of the last, as all others had their turn, which is asserted, and other memory.
    let wide = Config::ASID16 | Config::VMID16;
    for case in Case::all().into_iter().filter(|case| case.config.idr0 & wide == 0) {
        let bench = Bench::up(&case);
        let [near, beside, _] = case.streams();
        let mut tags = Vec::new();
        for round in 0..6u64 {
            let domain = bench.domain_with(0x1000 * (round % 2), 0x5000_0000 + round * 0x10_0000, 0x2000);
            bench.attach(near, &*domain);
            bench.attach(beside, &*domain);
            for page in 0..4u64 {
                let inside = page.checked_sub(round % 2).filter(|page| *page < 2);
                let expected = inside.map(|page| 0x5000_0000 + round * 0x10_0000 + page * 0x1000);
                bench.expect(near, page * 0x1000, expected.ok_or(case.not_mapped()));
                bench.expect(beside, page * 0x1000, expected.ok_or(case.not_mapped()));
            }
            tags.push(bench.tag(near, 0x1000).unwrap());
            (0..254).for_each(|_| drop(bench.domain()));
        }
        tags.dedup();
        assert_eq!(tags.len(), 1, "{}: an id is used again", case.name);
        bench.check();
    }
}

#[test]
fn the_table_grows_a_level_2_table_at_a_time() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        let tables = if case.two_level() { 1 << (case.table_bits() - 8) } else { 1 };
        let mut used = bench.memory.in_use();
        // From the last to the first, ten of them; each was tried before, so that its absence is cached.
        for index in (0..tables).rev().take(10) {
            let sid = index << 8 | 5;
            bench.expect(sid, 0x1000, Err(case.untouched()));
            bench.attach(sid, &*domain);
            bench.expect(sid, 0x1000, Ok(0x5000_0000));
            bench.expect_blocked(sid ^ 1, 0x1000);
            used += if case.two_level() { LEVEL_2 } else { 0 };
            assert_eq!(bench.memory.in_use(), used, "{}: {sid:#x}", case.name);
            // There already.
            bench.attach(sid ^ 1, &*domain);
            bench.expect(sid ^ 1, 0x1000, Ok(0x5000_0000));
            bench.detach(sid);
            bench.expect_blocked(sid, 0x1000);
            assert_eq!(bench.memory.in_use(), used, "{}: {sid:#x}", case.name);
        }
        bench.check();
    }
}

#[test]
fn memory_that_runs_out_leaves_a_stream_where_it_was() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        let [near, _, far] = case.streams();
        bench.memory.exhaust_after(0);
        for target in [Target::Paging(&*domain), Target::Identity] {
            let found = bench.unit.attach(stream(far), target);
            if case.two_level() {
                assert_eq!(found, Err(HwError::OutOfMemory), "{}", case.name);
                bench.expect(far, 0x1000, Err(case.untouched()));
            } else {
                found.unwrap();
                bench.detach(far);
            }
        }
        bench.memory.fail_never();
        bench.attach(near, &*domain);
        // Moves and detaches need none.
        bench.memory.exhaust_after(0);
        bench.unit.attach(stream(near), Target::Identity).unwrap();
        bench.attach(near, &*domain);
        bench.expect(near, 0x1000, Ok(0x5000_0000));
        bench.detach(near);
        bench.expect_blocked(near, 0x1000);
        bench.check();
    }
}

#[test]
fn a_domain_that_finds_no_memory_leaves_nothing() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let before = bench.memory.in_use();
        for n in 0.. {
            bench.memory.exhaust_after(n);
            let found = bench.unit.create_domain(&iommu_core::hw::DomainConfig::new(case.stage));
            match found {
                Ok(_) => {
                    assert_eq!(n, if case.stage == Stage::First { 2 } else { 1 }, "{}", case.name);
                    break;
                }
                Err(found) => assert_eq!(found, HwError::OutOfMemory),
            }
            assert_eq!(bench.memory.in_use(), before, "{}: allocation {n}", case.name);
        }
        bench.memory.fail_never();
        let (a, b) = (bench.domain_with(0, 0x5000_0000, 0x1000), bench.domain_with(0, 0x6000_0000, 0x1000));
        let [near, beside, _] = case.streams();
        bench.attach(near, &*a);
        bench.attach(beside, &*b);
        let ids = [near, beside].map(|sid| bench.tag(sid, 0).unwrap());
        assert_ne!(ids[0], ids[1], "{}", case.name);
        bench.check();
    }
}

#[test]
fn ids_run_out_and_come_back() {
    // ASIDs and VMIDs of 8 bits.
    for case in Case::all().into_iter().filter(|case| case.config == Config::small()) {
        let bench = Bench::up(&case);
        let config = iommu_core::hw::DomainConfig::new(case.stage);
        let mut domains: Vec<_> = (0..300).map_while(|_| bench.unit.create_domain(&config).ok()).collect();
        assert_eq!(domains.len(), 255, "{}", case.name);
        let before = bench.memory.in_use();
        assert_eq!(bench.unit.create_domain(&config).err(), Some(HwError::OutOfDomainIds));
        assert_eq!(bench.memory.in_use(), before);
        bench.attach(8, &*domains[254]);
        map(&*domains[254], 0, 0x5000_0000, 0x1000);
        bench.expect(8, 0, Ok(0x5000_0000));
        domains.remove(7);
        domains.push(bench.domain());
        drop(domains);
        bench.expect_blocked(8, 0);
        assert_eq!(bench.memory.in_use(), bench.kept());
        bench.check();
    }
}

#[test]
fn what_the_unit_cannot_attach_is_refused_and_nothing_changes() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let other = Bench::up(&case);
        let (domain, foreign) = (bench.domain_with(0x1000, 0x5000_0000, 0x1000), other.domain());
        let [near, _, far] = case.streams();
        bench.attach(near, &*domain);
        bench.model.take_log();
        let before = bench.memory.in_use();
        assert_eq!(bench.unit.attach(stream(near), Target::Paging(&*foreign)), Err(HwError::ForeignDomain));
        // Beyond the table, which is as wide as the unit or as it was asked to be.
        for sid in [1 << case.table_bits(), 1 << 31, u32::MAX] {
            let nobody = Err(HwError::NoSuchStream { stream: sid });
            assert_eq!(bench.unit.attach(stream(sid), Target::Paging(&*domain)), nobody, "{}", case.name);
            assert_eq!(bench.unit.attach(stream(sid), Target::Identity), nobody, "{}", case.name);
            assert_eq!(bench.unit.detach(stream(sid)), nobody, "{}", case.name);
            bench.expect(sid, 0x1000, Err(FaultCode::C_BAD_STREAMID));
        }
        let tagged = Stream::with_pasid(StreamId::new(far), Pasid::new(5).unwrap());
        let refused = bench.unit.attach(tagged, Target::Paging(&*domain));
        match (bench.unit.capabilities().pasid_bits, case.stage) {
            // Those that a unit has are for stage 1.
            (20, Stage::First) => bench.unit.detach(tagged).map(|_| ()).unwrap(),
            (20, Stage::Second) => assert!(matches!(refused, Err(HwError::Unsupported(_))), "{}", case.name),
            _ => assert!(matches!(refused, Err(HwError::Missing(_))), "{}", case.name),
        }
        bench.model.take_log();
        let before = before + if refused.is_ok() && case.two_level() { LEVEL_2 } else { 0 };
        assert_eq!((bench.commands(), bench.memory.in_use()), (vec![], before), "{}", case.name);
        bench.expect(near, 0x1000, Ok(0x5000_0000));
        // Substreams are refused by stage 1; where stage 2 is all there is, they meet what the function's own meet.
        let tagged = bench.model.dma(near, Some(5), Iova::new(0x1000), 1, false);
        match case.stage {
            Stage::First => assert_eq!(tagged.unwrap_err().code, FaultCode::C_BAD_SUBSTREAMID, "{}", case.name),
            Stage::Second => assert!(tagged.is_err() || tagged == Ok(vec![extent(0x5000_0000, 1)]), "{}", case.name),
        }
        bench.check();
    }
}

#[test]
fn the_narrowest_and_the_widest_units_are_served_to_the_last_page() {
    let nested = Config::nested();
    for (name, config, bits) in [("36 bits", nested.oas(1), 36), ("52 bits", nested.oas(6), 48)] {
        for stage in [Stage::First, Stage::Second] {
            let case = Case { name: format!("{name}, {stage:?}"), config, ..Case::nested(stage) };
            let bench = Bench::up(&case);
            let domain = bench.domain();
            let end = if stage == Stage::First { 1 << 48 } else { 1u64 << bits.min(48) };
            assert_eq!(domain.geometry().aperture.last().get(), end - 1, "{}", case.name);
            assert_eq!(u32::from(domain.geometry().output_bits), bits, "{}", case.name);
            bench.attach(8, &*domain);
            let top = (1 << bits) - 0x1000;
            map(&*domain, end - 0x1000, top, 0x1000);
            bench.expect(8, end - 1, Ok((1 << bits) - 1));
            assert!(bench.read(8, end).is_err() && bench.read(8, end - 0x1001).is_err(), "{}", case.name);
            unmap(&*domain, end - 0x1000, 0x1000);
            bench.expect(8, end - 1, Err(case.not_mapped()));
            let wide = domain.map(Iova::new(0), &[extent(1 << bits, 0x1000)], Prot::READ);
            assert!(matches!(wide, Err(HwError::OutputTooWide { .. })), "{}: {wide:?}", case.name);
            let beyond = domain.map(Iova::new(end), &[extent(0, 0x1000)], Prot::READ);
            assert!(matches!(beyond, Err(HwError::OutOfRange { .. })), "{}: {beyond:?}", case.name);
            bench.check();
        }
    }
}

#[test]
fn a_unit_of_one_stream_is_a_unit() {
    for config in [Config::nested().sid_bits(0), Config::nested().linear().sid_bits(0), Config::small().sid_bits(1)] {
        let case = Case { config, ..Case::nested(Stage::First) };
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.expect_blocked(0, 0x1000);
        bench.attach(0, &*domain);
        bench.expect(0, 0x1000, Ok(0x5000_0000));
        bench.expect(2, 0x1000, Err(FaultCode::C_BAD_STREAMID));
        let nobody = Err(HwError::NoSuchStream { stream: 2 });
        assert_eq!(bench.unit.attach(stream(2), Target::Identity), nobody);
        drop(domain);
        bench.expect_blocked(0, 0x1000);
        bench.check();
    }
}
