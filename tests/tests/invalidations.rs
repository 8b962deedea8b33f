//! What each change makes the driver ask of the unit, row by row (reference, section 10): the right invalidations, in
//! the right order, no fewer and no more.

use iommu_core::hw::{Gather, Stage, Target, Unit as _};
use iommu_models::vtd::{Descriptor, Granularity};
use iommu_tests::bench::{Bench, map, range, stream, unmap};
use iommu_tests::case::Case;

const RED: u16 = 0x0108;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

fn context_of(rid: u16) -> Descriptor {
    Descriptor::ContextCache(Granularity::Device { domain: 0, source: rid, mask: 0 })
}

fn pasid_of(domain: u16) -> Descriptor {
    Descriptor::PasidCache(Granularity::Pasid { domain, pasid: 0 })
}

fn iotlb(granularity: Granularity) -> Descriptor {
    Descriptor::Iotlb { granularity, drain_writes: true, drain_reads: true }
}

/// All that the PASID of requests without one has in a domain.
fn by_pasid(domain: u16) -> Descriptor {
    Descriptor::PasidIotlb(Granularity::Pasid { domain, pasid: 0 })
}

/// All that is cached of a domain.
fn all_of(case: &Case, domain: u16) -> Descriptor {
    match case.stage {
        Stage::First => Descriptor::PasidIotlb(Granularity::Pasid { domain, pasid: 0 }),
        Stage::Second => iotlb(Granularity::Domain(domain)),
    }
}

fn pages(case: &Case, domain: u16, address: u64, mask: u8, leaf_only: bool) -> Descriptor {
    match case.stage {
        Stage::First => Descriptor::PasidIotlb(Granularity::Pages { domain, pasid: Some(0), address, mask, leaf_only }),
        Stage::Second => iotlb(Granularity::Pages { domain, pasid: None, address, mask, leaf_only }),
    }
}

#[test]
fn an_attach_and_its_end_are_announced_row_by_row() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let (domain, other) = (bench.domain_with(0x1000, 0x5000_0000, 0x1000), bench.domain());
        bench.invalidations();

        bench.attach(RED, &*domain);
        let id = bench.domain_id(RED);
        let set = bench.invalidations();
        if case.caching() {
            // What was refused has domain id 0: CC of the device, PC and IOTLB of domain 0. PASID entry: its cache and its
            // translations, of domain 0 and of the new one.
            let context = [context_of(RED), Descriptor::PasidCache(Granularity::Domain(0)), pasid_of(0), pasid_of(id)];
            let expected = [&context[..], &[iotlb(Granularity::Domain(0)), by_pasid(0), by_pasid(id)]].concat();
            assert_eq!(set, expected, "{}", case.name);
        } else {
            assert_eq!(set, [], "{}", case.name);
        }

        bench.attach(RED, &*other);
        let new = bench.domain_id(RED);
        let replaced = bench.invalidations();
        assert_eq!(replaced[..2], [pasid_of(id), all_of(&case, id)], "{}", case.name);
        let set: &[_] = if case.caching() { &[pasid_of(0), pasid_of(new), by_pasid(0), by_pasid(new)] } else { &[] };
        assert_eq!(replaced[2..], *set, "{}", case.name);

        bench.detach(RED);
        assert_eq!(bench.invalidations(), [context_of(RED), pasid_of(new), all_of(&case, new)], "{}", case.name);

        bench.unit.attach(stream(RED), Target::Identity).unwrap();
        let id = bench.domain_id(RED);
        bench.invalidations();
        bench.detach(RED);
        // Pass-through is tagged by domain and PASID, whatever stage others have.
        assert_eq!(bench.invalidations(), [context_of(RED), pasid_of(id), by_pasid(id)], "{}", case.name);
        bench.check();
    }
}

#[test]
fn maps_are_announced_only_where_their_absence_may_be_cached() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        bench.attach(RED, &*domain);
        let id = bench.domain_id(RED);
        bench.invalidations();
        for (iova, len, address, mask) in
            [(0x5000, 0x1000, 0x5000, 0), (0x7000, 0x2000, 0, 4), (LARGE, LARGE, LARGE, 9), (HUGE, HUGE, HUGE, 18)]
        {
            map(&*domain, iova, 6 * HUGE + iova, len);
            // Absent entries of every level may have been cached, so IH is clear.
            let caches = case.caching() && case.stage == Stage::Second;
            let expected = caches.then(|| pages(&case, id, address, mask, false));
            assert_eq!(bench.invalidations(), Vec::from_iter(expected), "{}: {iova:#x}", case.name);
        }
        bench.check();
    }
}

#[test]
fn unmaps_are_announced_exactly_and_say_whether_tables_went_too() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x5000, 6 * HUGE + 0x5000, 0x6000);
        // Keeps the tables, so that the unmaps below take leaves only.
        map(&*domain, 0x20_0000 - 0x1000, 0x5000_0000, 0x1000);
        map(&*domain, LARGE, 6 * HUGE + LARGE, 2 * LARGE);
        map(&*domain, HUGE, 6 * HUGE, 2 * HUGE);
        map(&*domain, 0x40 * HUGE, 0x5000_1000, LARGE);
        bench.attach(RED, &*domain);
        let id = bench.domain_id(RED);
        bench.invalidations();
        let frames = bench.memory.in_use();
        let one = |address, mask, leaf_only| vec![pages(&case, id, address, mask, leaf_only)];
        let rows = [
            (0x5000, 0x1000, one(0x5000, 0, true)),
            // 7000 to a000 lie in one aligned block of sixteen pages only.
            (0x7000, 0x4000, one(0, 4, true)),
            (LARGE, LARGE, one(LARGE, 9, true)),
            (HUGE, HUGE, one(HUGE, 18, true)),
        ];
        for (iova, len, expected) in rows {
            unmap(&*domain, iova, len);
            assert_eq!(bench.invalidations(), expected, "{}: {iova:#x}", case.name);
        }
        assert_eq!(bench.memory.in_use(), frames);
        // A whole table: what is cached of the entries above it must go.
        unmap(&*domain, 0x40 * HUGE, LARGE);
        assert_eq!(bench.memory.in_use(), frames - 1);
        assert_eq!(bench.invalidations(), one(0x40 * HUGE, 9, false), "{}", case.name);
        // Several ranges in one flush; nothing to flush.
        let mut gather = Gather::new();
        domain.unmap(range(0x6000, 0x1000), &mut gather).unwrap();
        domain.unmap(range(2 * LARGE, LARGE), &mut gather).unwrap();
        domain.unmap(range(0x1f_f000, 0x1000), &mut gather).unwrap();
        domain.flush(&mut gather).unwrap();
        let several = bench.invalidations();
        let expected = [pages(&case, id, 0x6000, 0, true), pages(&case, id, 2 * LARGE, 9, true)];
        assert_eq!(several[..2], expected, "{}", case.name);
        assert_eq!(several[2..], [pages(&case, id, 0x1f_f000, 0, true)], "{}", case.name);
        domain.flush(&mut gather).unwrap();
        assert_eq!(bench.invalidations(), []);
        bench.check();
    }
}

#[test]
fn a_range_beyond_the_largest_mask_takes_the_whole_domain() {
    // MAMV 9: 2 MiB at most.
    for (mamv, psi) in [(9, true), (18, false)] {
        let plain = Case::plain()[0].with_cap(0x3f << 48, false).with_cap(mamv << 48, true);
        let case = plain.with_cap(1 << 39, psi);
        let bench = Bench::up(&case);
        let domain = bench.domain_with(HUGE, 6 * HUGE, HUGE);
        map(&*domain, LARGE, 6 * HUGE + LARGE, LARGE);
        bench.attach(RED, &*domain);
        let id = bench.domain_id(RED);
        bench.invalidations();
        unmap(&*domain, HUGE, HUGE);
        assert_eq!(bench.invalidations(), [all_of(&case, id)]);
        unmap(&*domain, LARGE, LARGE);
        assert_eq!(bench.invalidations(), [if psi { pages(&case, id, LARGE, 9, true) } else { all_of(&case, id) }]);
        bench.check();
    }
}

#[test]
fn many_ranges_in_one_gather_are_all_covered() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        let places: Vec<u64> = (0..24).map(|n| n * 0x123_4000).collect();
        places.iter().for_each(|iova| map(&*domain, *iova, 0x5000_0000 + iova, 0x1000));
        bench.attach(RED, &*domain);
        places.iter().for_each(|iova| bench.expect(RED, *iova, Ok(0x5000_0000 + iova)));
        let mut gather = Gather::new();
        places.iter().for_each(|iova| domain.unmap(range(*iova, 0x1000), &mut gather).unwrap());
        bench.model.take_log();
        domain.flush(&mut gather).unwrap();
        let waits = bench.model.take_log().iter().filter(|it| matches!(it.descriptor, Descriptor::Wait { .. })).count();
        assert_eq!(waits, 1, "one wait for all");
        places.iter().for_each(|iova| bench.expect(RED, *iova, Err(case.not_mapped())));
        bench.check();
    }
}

#[test]
fn draining_is_asked_for_exactly_where_the_unit_has_it() {
    for (writes, reads) in [(false, false), (true, false), (false, true), (true, true)] {
        let case = Case::plain()[0].with_cap(1 << 54, writes).with_cap(1 << 55, reads);
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.attach(RED, &*domain);
        bench.invalidations();
        unmap(&*domain, 0x1000, 0x1000);
        bench.detach(RED);
        let mut seen = 0;
        for descriptor in bench.invalidations() {
            if let Descriptor::Iotlb { drain_writes, drain_reads, .. } = descriptor {
                assert_eq!((drain_writes, drain_reads), (writes, reads));
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
    }
}
