//! What each change makes the driver ask of the unit, row by row (IHI0070, sections 3.21 and 4.3): the right commands, in
//! the right order, no fewer and no more.

use iommu_core::addr::Iova;
use iommu_core::hw::{Gather, Stage, Target, Unit as _};
use iommu_models::smmuv3::{Command, Scope};
use iommu_tests::smmuv3::bench::{Bench, map, range, stream, unmap};
use iommu_tests::smmuv3::case::Case;

const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
const SYNC: Command = Command::Sync { signal: 0, message: None };

/// Those whose queue takes a batch whole, so that each has one CMD_SYNC at its end.
fn cases() -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(|case| case.config.idr1 >> 21 & 0x1f > 1)
}

/// What drops the configuration of a stream.
fn configuration(case: &Case, sid: u32) -> Vec<Command> {
    let mut all = vec![Command::ConfigSte { sid, leaf: true }];
    if case.stage == Stage::First {
        all.push(Command::ConfigCdAll { sid });
    }
    all
}

/// What drops all that is cached under a tag.
fn all_of(case: &Case, tag: u16) -> Command {
    match case.stage {
        Stage::First => Command::TlbiAsid { vmid: 0, asid: tag },
        Stage::Second => Command::TlbiVmid { vmid: tag },
    }
}

fn scoped(case: &Case, tag: u16, scope: Scope) -> Command {
    match case.stage {
        Stage::First => Command::TlbiVa { vmid: 0, asid: Some(tag), scope },
        Stage::Second => Command::TlbiIpa { vmid: tag, scope },
    }
}

/// One address, without range.
fn single(address: u64, leaf_only: bool) -> Scope {
    Scope { address, len: None, leaf_only, level: 0, granule: 0 }
}

/// Pages in range form.
fn pages(address: u64, pages: u64, leaf_only: bool, level: u8) -> Scope {
    Scope { address, len: Some(pages << 12), leaf_only, level, granule: 12 }
}

#[test]
fn an_attach_and_its_end_are_announced_row_by_row() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (domain, other) = (bench.domain_with(0x1000, 0x5000_0000, 0x1000), bench.domain_with(0x1000, 0, 0x1000));
        let [near, ..] = case.streams();
        let prepared = [Command::ConfigSte { sid: near, leaf: false }, SYNC];
        let entry = Command::ConfigSte { sid: near, leaf: true };
        let attached = [&prepared[..], &[entry, SYNC]].concat();
        let detached = |tag| [&configuration(&case, near)[..], &[SYNC, all_of(&case, tag), SYNC]].concat();
        bench.commands();

        bench.attach(near, &*domain);
        let tag = bench.tag(near, 0x1000).unwrap();
        assert_eq!(bench.commands(), attached, "{}", case.name);

        bench.attach(near, &*other);
        let new = bench.tag(near, 0x1000).unwrap();
        assert_ne!(new, tag);
        // From one stage 1 to another in one step.
        let replaced = match case.stage {
            Stage::First => detached(tag),
            Stage::Second => [detached(tag), attached.clone()].concat(),
        };
        assert_eq!(bench.commands(), replaced, "{}", case.name);

        bench.detach(near);
        assert_eq!(bench.commands(), detached(new), "{}", case.name);

        // What passes through is not translated, so nothing of it is in the TLB.
        bench.unit.attach(stream(near), Target::Identity).unwrap();
        assert_eq!(bench.commands(), [&prepared[..], &[entry, SYNC]].concat(), "{}", case.name);
        bench.detach(near);
        assert_eq!(bench.commands(), [entry, SYNC], "{}", case.name);
        bench.detach(near);
        assert_eq!(bench.commands(), [], "{}: it is", case.name);
        bench.check();
    }
}

#[test]
fn a_dropped_domain_takes_its_streams_and_its_tag() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        let [near, beside, _] = case.streams();
        bench.attach(near, &*domain);
        bench.attach(beside, &*domain);
        let tag = bench.tag(near, 0x1000).unwrap();
        bench.commands();
        drop(domain);
        let log = bench.commands();
        let entry = |sid| log.iter().position(|it| *it == Command::ConfigSte { sid, leaf: true });
        let last = log.iter().rposition(|it| *it == all_of(&case, tag)).expect("the tag is dropped");
        assert!(entry(near).is_some_and(|at| at < last) && entry(beside).is_some_and(|at| at < last), "{log:?}");
        // Configuration and translations never between the same two CMD_SYNCs.
        for batch in log.split(|it| *it == SYNC) {
            let translations = batch.iter().filter(|it| **it == all_of(&case, tag)).count();
            assert!(translations == 0 || translations == batch.len(), "{}: {batch:?}", case.name);
        }
        assert_eq!(log.last(), Some(&SYNC));
        bench.check();
    }
}

#[test]
fn maps_are_announced_to_nobody() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        let [near, ..] = case.streams();
        bench.attach(near, &*domain);
        bench.commands();
        for (iova, len) in [(0x5000, 0x1000), (0x7000, 0x2000), (LARGE, LARGE), (HUGE, HUGE)] {
            map(&*domain, iova, 6 * HUGE + iova, len);
            assert_eq!(bench.commands(), [], "{}: {iova:#x}", case.name);
            bench.expect(near, iova, Ok(6 * HUGE + iova));
        }
        bench.check();
    }
}

#[test]
fn unmaps_are_announced_exactly_and_say_whether_tables_went_too() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x5000, 6 * HUGE + 0x5000, 0x6000);
        // Keeps the tables, so that the unmaps below take leaves only.
        map(&*domain, LARGE - 0x1000, 0x5000_0000, 0x1000);
        map(&*domain, LARGE, 6 * HUGE + LARGE, 2 * LARGE);
        map(&*domain, HUGE, 6 * HUGE, 2 * HUGE);
        map(&*domain, 0x40 * HUGE, 0x5000_1000, LARGE);
        let [near, ..] = case.streams();
        bench.attach(near, &*domain);
        let tag = bench.tag(near, 0x5000).unwrap();
        bench.commands();
        let frames = bench.memory.in_use();
        let one = |scope| vec![scoped(&case, tag, scope), SYNC];
        let plain = |addresses: &[u64]| {
            let mut all: Vec<_> = addresses.iter().map(|at| scoped(&case, tag, single(*at, true))).collect();
            all.push(SYNC);
            all
        };
        let ranges = case.ranges();
        let rows = [
            // A single page: with its level, or without range form.
            (0x5000, 0x1000, if ranges { one(pages(0x5000, 1, true, 3)) } else { plain(&[0x5000]) }),
            (0x7000, 0x3000, if ranges { one(pages(0x7000, 3, true, 3)) } else { plain(&[0x7000, 0x8000, 0x9000]) }),
            (LARGE, LARGE, if ranges { one(pages(LARGE, 512, true, 2)) } else { plain(&[LARGE]) }),
            (HUGE, HUGE, if ranges { one(pages(HUGE, 1 << 18, true, 1)) } else { plain(&[HUGE]) }),
        ];
        for (iova, len, expected) in rows {
            unmap(&*domain, iova, len);
            assert_eq!(bench.commands(), expected, "{}: {iova:#x}", case.name);
        }
        assert_eq!(bench.memory.in_use(), frames);
        // A whole table: what is cached of the entries above it must go, and there is no level to name.
        unmap(&*domain, 0x40 * HUGE, LARGE);
        assert_eq!(bench.memory.in_use(), frames - 1);
        let expected = match ranges {
            true => one(pages(0x40 * HUGE, 512, false, 0)),
            // More than it is worth.
            false => vec![all_of(&case, tag), SYNC],
        };
        assert_eq!(bench.commands(), expected, "{}", case.name);
        // Several ranges in one flush; nothing to flush.
        let mut gather = Gather::new();
        domain.unmap(range(0x6000, 0x1000), &mut gather).unwrap();
        domain.unmap(range(0xa000, 0x1000), &mut gather).unwrap();
        domain.flush(&mut gather).unwrap();
        let expected = match ranges {
            true => [0x6000, 0xa000].map(|at| scoped(&case, tag, pages(at, 1, true, 3))),
            false => [0x6000, 0xa000].map(|at| scoped(&case, tag, single(at, true))),
        };
        assert_eq!(bench.commands(), [&expected[..], &[SYNC]].concat(), "{}", case.name);
        domain.flush(&mut gather).unwrap();
        assert_eq!(bench.commands(), []);
        bench.check();
    }
}

#[test]
fn every_length_of_range_is_covered() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        let [near, ..] = case.streams();
        bench.attach(near, &*domain);
        // Holds the tables.
        map(&*domain, 0, 0x7000_0000, 0x1000);
        for count in (1..=70).chain([127, 128, 129, 255, 511, 512, 513, 767, 1023, 1025, 2047]) {
            let (iova, len) = (0x1000 + (count % 5) * 0x3000, count << 12);
            map(&*domain, iova, 0x1_0000_1000, len);
            for page in 0..count {
                bench.expect(near, iova + (page << 12), Ok(0x1_0000_1000 + (page << 12)));
            }
            bench.commands();
            unmap(&*domain, iova, len);
            let commands = bench.commands().len();
            assert!(commands <= if case.ranges() { 12 } else { 130 }, "{}: {commands} for {count}", case.name);
            for page in 0..count {
                bench.expect(near, iova + (page << 12), Err(case.not_mapped()));
            }
        }
        bench.expect(near, 0, Ok(0x7000_0000));
        bench.check();
    }
}

#[test]
fn many_ranges_in_one_gather_are_all_covered() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        let places: Vec<u64> = (0..24).map(|n| n * 0x123_4000).collect();
        places.iter().for_each(|iova| map(&*domain, *iova, 0x5000_0000 + iova, 0x1000));
        let [near, ..] = case.streams();
        bench.attach(near, &*domain);
        places.iter().for_each(|iova| bench.expect(near, *iova, Ok(0x5000_0000 + iova)));
        let mut gather = Gather::new();
        places.iter().for_each(|iova| domain.unmap(range(*iova, 0x1000), &mut gather).unwrap());
        bench.commands();
        domain.flush(&mut gather).unwrap();
        places.iter().for_each(|iova| bench.expect(near, *iova, Err(case.not_mapped())));
        bench.check();
    }
}

#[test]
fn leaves_of_mixed_sizes_are_all_covered() {
    for case in Case::all() {
        for order in 0..6u64 {
            let bench = Bench::up(&case);
            let domain = bench.domain();
            let [near, ..] = case.streams();
            bench.attach(near, &*domain);
            let all = [(0x4000, 0x2000), (2 * LARGE, 2 * LARGE), (HUGE, HUGE)];
            all.iter().for_each(|(iova, len)| map(&*domain, *iova, 6 * HUGE + iova, *len));
            let probes: Vec<u64> = all.iter().flat_map(|(iova, len)| [*iova, iova + len / 2, iova + len - 1]).collect();
            probes.iter().for_each(|iova| bench.expect(near, *iova, Ok(6 * HUGE + iova)));
            let mut gather = Gather::new();
            let mut left = all.to_vec();
            for pick in [order / 2, order % 2, 0] {
                let (iova, len) = left.remove(pick as usize);
                domain.unmap(range(iova, len), &mut gather).unwrap();
            }
            domain.flush(&mut gather).unwrap();
            probes.iter().for_each(|iova| bench.expect(near, *iova, Err(case.not_mapped())));
            bench.check();
        }
    }
}

#[test]
fn translations_stay_until_the_flush_and_no_longer() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        // A table full of pages, which goes with them.
        let domain = bench.domain_with(LARGE, 0x5000_1000, LARGE);
        let [near, ..] = case.streams();
        bench.attach(near, &*domain);
        bench.expect(near, LARGE + 0x2000, Ok(0x5000_3000));
        let before = bench.memory.in_use();
        let mut gather = Gather::new();
        domain.unmap(range(LARGE, LARGE), &mut gather).unwrap();
        // Cached, as the model keeps what it may. What was not cached leads nowhere.
        bench.expect(near, LARGE + 0x2000, Ok(0x5000_3000));
        assert_eq!(bench.model.translate(near, None, Iova::new(LARGE), false), Err(case.not_mapped()));
        assert_eq!(bench.memory.in_use(), before, "{}: no table is freed", case.name);
        domain.flush(&mut gather).unwrap();
        bench.expect(near, LARGE + 0x2000, Err(case.not_mapped()));
        assert_eq!(bench.memory.in_use(), before - 1, "{}: the table is freed", case.name);
        bench.check();
    }
}

#[test]
fn a_slow_unit_is_waited_for() {
    for case in Case::all() {
        for lag in [1, 2, 7] {
            let bench = Bench::up(&case);
            bench.model.execute_after(lag);
            let (red, blue) =
                (bench.domain_with(0x1000, 0x5000_0000, 0x2000), bench.domain_with(0x2000, 0x6000_0000, 0x2000));
            let [near, ..] = case.streams();
            let _ = bench.read(near, 0x1000);
            bench.attach(near, &*red);
            bench.expect(near, 0x1000, Ok(0x5000_0000));
            unmap(&*red, 0x1000, 0x2000);
            bench.expect(near, 0x1000, Err(case.not_mapped()));
            map(&*red, 0x1000, 0x7000_0000, 0x1000);
            bench.expect(near, 0x1000, Ok(0x7000_0000));
            bench.attach(near, &*blue);
            bench.expect(near, 0x1000, Err(case.not_mapped()));
            bench.expect(near, 0x2000, Ok(0x6000_0000));
            drop(red);
            bench.detach(near);
            bench.expect_blocked(near, 0x2000);
            drop(blue);
            assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
            bench.check();
        }
    }
}
