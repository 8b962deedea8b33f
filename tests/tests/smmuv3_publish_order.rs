//! After every store of an attach, a detach, a replacement, a map, an unmap and a remap, the tables are decoded by a
//! walker that knows no driver: nothing is reachable that neither the state before nor the state after allows, and no
//! entry is ever seen half-made. The same holds for a walk that begins with what hardware may have cached before, each
//! word of it fetched at another moment.

use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, Gather, Prot, Target, Transition, Unit as _};
use iommu_models::smmuv3::FaultCode;
use iommu_tests::smmuv3::bench::{Bench, extent, map, range, stream, unmap};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::timeline::Timeline;

const RED: u64 = 0x1_0000_0000;
const BLUE: u64 = 0x8_0000_0000;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

/// Maps 4 KiB (scattered), 2 MiB and 1 GiB pages from `phys` on.
fn fill(domain: &dyn Domain, phys: u64) {
    let scattered = [extent(phys + 0x5000, 0x1000), extent(phys + 0x3000, 0x1000), extent(phys + 0x8000, 0x2000)];
    domain.map(Iova::new(0x1000), &scattered, Prot::READ_WRITE).unwrap();
    domain.map(Iova::new(LARGE), &[extent(phys + LARGE, 2 * LARGE)], Prot::READ_WRITE).unwrap();
    domain.map(Iova::new(HUGE), &[extent(phys + HUGE, HUGE)], Prot::READ).unwrap();
}

/// Inside of, at the edges of and around what [`fill`] maps, and what the tests map besides.
const PROBES: [u64; 18] = [
    0,
    0x1000,
    0x1fff,
    0x2000,
    0x3000,
    0x4000,
    0x5000,
    LARGE - 0x1000,
    LARGE,
    2 * LARGE,
    3 * LARGE - 1,
    3 * LARGE,
    4 * LARGE,
    HUGE - 0x1000,
    HUGE,
    HUGE + LARGE,
    2 * HUGE - 1,
    2 * HUGE,
];

struct Scene {
    bench: Bench,
    red: Box<dyn Domain>,
    blue: Box<dyn Domain>,
    /// The stream that is moved, one of the same level-2 table that is attached to blue, and one that is attached to
    /// nothing.
    near: u32,
    beside: u32,
    nobody: u32,
}

/// Red and blue with the same addresses and other memory, blue attached to a stream.
fn scene(case: &Case) -> Scene {
    let bench = Bench::up(case);
    let (red, blue) = (bench.domain(), bench.domain());
    fill(&*red, RED);
    fill(&*blue, BLUE);
    let [near, beside, nobody] = case.streams();
    bench.attach(beside, &*blue);
    Scene { bench, red, blue, near, beside, nobody }
}

impl Scene {
    fn go_to(&self, domain: &dyn Domain) {
        self.bench.attach(self.near, domain);
    }

    /// Records an operation on the stream and looks at it from every stream's side.
    #[track_caller]
    fn check(&self, name: &str, between: &[FaultCode], operation: impl FnOnce(&Self)) -> Timeline {
        let timeline = Timeline::record(&self.bench, name, || operation(self));
        timeline.check(self.near, &PROBES, between);
        timeline.check(self.beside, &PROBES, &[]);
        timeline.check(self.nobody, &PROBES[..3], &[]);
        self.bench.check();
        timeline
    }
}

#[test]
fn attach_shows_nothing_half_made() {
    for case in Case::all() {
        let scene = scene(&case);
        // The level-2 table is there already.
        let timeline = scene.check("attach", &[], |it| it.go_to(&*it.red));
        assert!(timeline.len() >= 3, "{}: {} states", case.name, timeline.len());
        scene.bench.expect(scene.near, 0x1000, Ok(RED + 0x5000));
    }
}

#[test]
fn the_first_attach_in_a_part_of_the_table_shows_nothing_half_made() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        fill(&*domain, RED);
        let [near, beside, nobody] = case.streams();
        let timeline = Timeline::record(&bench, "first attach", || {
            bench.attach(near, &*domain);
        });
        // The level-2 table may be linked before its entry leads anywhere.
        timeline.check(near, &PROBES, &[FaultCode::NONE]);
        timeline.check(beside, &PROBES[..3], &[]);
        timeline.check(nobody, &PROBES[..3], &[]);
        assert!(timeline.len() >= 3, "{}: {} states", case.name, timeline.len());
        bench.check();
    }
}

#[test]
fn detach_shows_the_domain_or_nothing() {
    for case in Case::all() {
        let scene = scene(&case);
        scene.go_to(&*scene.red);
        scene.check("detach", &[], |it| it.bench.detach(it.near));
        scene.bench.expect_blocked(scene.near, 0x1000);
    }
}

#[test]
fn dropping_a_domain_is_a_detach_of_all_its_streams() {
    for case in Case::all() {
        let Scene { bench, red, blue, near, beside, nobody } = scene(&case);
        bench.attach(near, &*red);
        bench.attach(nobody, &*red);
        let timeline = Timeline::record(&bench, "drop", || drop(red));
        for sid in [near, nobody] {
            timeline.check(sid, &PROBES, &[]);
        }
        timeline.check(beside, &PROBES, &[]);
        bench.check();
        drop(blue);
    }
}

#[test]
fn a_replacement_shows_the_old_or_the_new_and_nothing_between_but_where_two_words_differ() {
    for case in Case::all() {
        let scene = scene(&case);
        scene.go_to(&*scene.red);
        let between: &[FaultCode] = if case.moves() == Transition::Hitless { &[] } else { &[FaultCode::NONE] };
        scene.check("red to blue", between, |it| it.go_to(&*it.blue));
        scene.bench.expect(scene.near, 0x1000, Ok(BLUE + 0x5000));
        scene.check("blue to red", between, |it| it.go_to(&*it.red));
        scene.check("red to identity", &[], |it| {
            it.bench.unit.attach(stream(it.near), Target::Identity).unwrap();
        });
        scene.bench.expect(scene.near, 0x1000, Ok(0x1000));
        scene.check("identity to blue", &[], |it| it.go_to(&*it.blue));
        scene.bench.expect(scene.near, 0x1000, Ok(BLUE + 0x5000));
        // Detached and attached again, in one: what the entry kept must not come back.
        scene.check("blue, nothing, red", &[FaultCode::NONE], |it| {
            it.bench.detach(it.near);
            it.go_to(&*it.red);
        });
    }
}

#[test]
fn maps_of_every_size_show_the_old_or_the_new() {
    for case in Case::all() {
        let scene = scene(&case);
        scene.go_to(&*scene.red);
        // New tables, existing tables, leaves of each size and all at once.
        let maps = [
            ("4 KiB", 0x5000, RED + 0x20_0000_0000, 0x3000),
            ("2 MiB in a new table", 0x40 * HUGE, RED + HUGE, LARGE),
            ("4 KiB in new tables", 0x50 * HUGE, RED, 0x2000),
            ("1 GiB", 2 * HUGE, RED + 2 * HUGE, HUGE),
            ("all sizes", 4 * HUGE - LARGE - 0x1000, RED + 4 * HUGE - LARGE - 0x1000, LARGE + HUGE + LARGE + 0x2000),
        ];
        for (name, iova, phys, len) in maps {
            let timeline = Timeline::record(&scene.bench, name, || map(&*scene.red, iova, phys, len));
            let probes = [iova.wrapping_sub(0x1000), iova, iova + len / 2, iova + len - 1, iova + len];
            timeline.check(scene.near, &probes, &[]);
            timeline.check(scene.beside, &probes, &[]);
            assert!(timeline.len() >= 2, "{}, {name}: nothing was stored", case.name);
            scene.bench.expect(scene.near, iova, Ok(phys));
            scene.bench.expect(scene.near, iova + len - 1, Ok(phys + len - 1));
        }
        scene.bench.check();
    }
}

#[test]
fn unmaps_of_every_size_show_the_old_or_the_new_and_free_nothing_early() {
    for case in Case::all() {
        let scene = scene(&case);
        scene.go_to(&*scene.red);
        let before = scene.bench.memory.in_use();
        // One page of several; leaves of each size; the tables that held them.
        for (name, iova, len) in
            [("4 KiB", 0x2000, 0x1000), ("the rest", 0x3000, 0x2000), ("2 MiB", LARGE, LARGE), ("1 GiB", HUGE, HUGE)]
        {
            scene.check(name, &[], |it| unmap(&*it.red, iova, len));
            scene.bench.expect(scene.near, iova, Err(case.not_mapped()));
        }
        // A table full of leaves, and a table full of those, which go with all that is below.
        let far = 0x40 * HUGE;
        let pieces: Vec<_> = (0..512).map(|page| extent(RED + (page ^ 1) * 0x1000, 0x1000)).collect();
        scene.red.map(Iova::new(far), &pieces, Prot::READ_WRITE).unwrap();
        scene.red.map(Iova::new(far + LARGE), &[extent(RED + LARGE, HUGE - LARGE)], Prot::READ_WRITE).unwrap();
        let full = scene.bench.memory.in_use();
        for (name, iova, len) in [("a table", far, LARGE), ("the rest of it", far + LARGE, HUGE - LARGE)] {
            let timeline = Timeline::record(&scene.bench, name, || unmap(&*scene.red, iova, len));
            let probes = [far - 1, far, far + 0x3000, far + LARGE - 1, far + LARGE, far + HUGE - 1, far + HUGE];
            timeline.check(scene.near, &probes, &[]);
            timeline.check(scene.beside, &probes, &[]);
        }
        assert!(scene.bench.memory.in_use() < full, "{}: no table was freed", case.name);
        assert!(scene.bench.memory.in_use() >= before);
        scene.bench.check();
    }
}

#[test]
fn an_unmap_of_many_levels_frees_its_tables_only_after_the_flush() {
    for case in Case::all() {
        let scene = scene(&case);
        scene.go_to(&*scene.red);
        // Two tables of 4 KiB leaves and what hangs them up, taken away by one unmap.
        let far = 0x40 * HUGE;
        let pieces: Vec<_> = (0..16).map(|page| extent(RED + (page ^ 1) * 0x1000, 0x1000)).collect();
        scene.red.map(Iova::new(far), &pieces, Prot::READ_WRITE).unwrap();
        let whole = [extent(RED + 0x1_0000, LARGE - 0x1_0000), extent(RED + LARGE, HUGE - LARGE)];
        scene.red.map(Iova::new(far + 0x1_0000), &whole, Prot::READ_WRITE).unwrap();
        let full = scene.bench.memory.in_use();
        let timeline = Timeline::record(&scene.bench, "1 GiB of tables", || unmap(&*scene.red, far, HUGE));
        timeline.check(scene.near, &[far - 1, far, far + 0x1_0000, far + LARGE, far + HUGE - 1, far + HUGE], &[]);
        assert_eq!(full - scene.bench.memory.in_use(), 2, "{}", case.name);
        scene.bench.check();
    }
}

#[test]
fn a_remap_shows_old_nothing_and_new_in_this_order() {
    for case in Case::all() {
        let scene = scene(&case);
        scene.go_to(&*scene.red);
        for (iova, len, phys) in [
            (0x2000, 0x1000, RED + 0x20_0000_0000),
            (LARGE, LARGE, RED + 0x20_0000_0000 + LARGE),
            (HUGE, HUGE, RED + 0x40 * HUGE),
        ] {
            let timeline = Timeline::record(&scene.bench, "remap", || {
                let mut gather = Gather::new();
                scene.red.unmap(range(iova, len), &mut gather).unwrap();
                scene.red.flush(&mut gather).unwrap();
                map(&*scene.red, iova, phys, len);
            });
            let probes = [iova.wrapping_sub(1), iova, iova + len - 1, iova + len];
            timeline.check(scene.near, &probes, &[case.not_mapped()]);
            timeline.check(scene.beside, &probes, &[]);
            scene.bench.expect(scene.near, iova, Ok(phys));
        }
        scene.bench.check();
    }
}
