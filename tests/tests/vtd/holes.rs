//! The holes that other VT-d drivers and small hypervisors have, each by the name that a list of peers gives it. What any
//! driver may get wrong is written once, in `iommu_tests::holes`. (Those of SMMUv3 drivers stand in their own suite; interrupt
//! remapping is a later step.)

use iommu_core::Error;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Capability, DomainConfig, HwError, Prot, Stage, Target, Unit as _};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_models::vtd::{Config, Descriptor, Granularity};
use iommu_tests::bench::{Bench, config_for, extent, map, memory, range, stream, try_unmap, unmap};
use iommu_tests::case::Case;
use iommu_tests::house::Vtd;
use iommu_tests::spy::Spy;
use iommu_vtd::Unit;
use std::sync::{Arc, Mutex};

const RID: u16 = 0x0108;
const OTHER: u16 = 0x0208;
const RED: u64 = 0x10_0000_0000;
const BLUE: u64 = 0x18_0000_0000;

iommu_tests::holes! { Vtd:
    invalidation_before_the_table_write_and_none_after,
    bus_mastering_still_on_while_translation_is_removed,
    reserved_memory_regions_ignored,
    a_completion_spun_on_for_ever_or_a_time_out_only_logged,
    no_flush_on_unmap,
    one_submission_and_wait_for_each_command,
    a_partial_failure_that_leaves_some_mappings,
    device_memory_cannot_be_mapped,
    only_one_unit_or_segment_used,
}

/// What the first words of the structures of `rid` are, as the unit reads them: context entry, PASID entry 0. In legacy mode
/// the context entry alone.
fn entries(bench: &Bench, rid: u16) -> [u64; 2] {
    let read = bench.reader();
    let word = |at: u64| read(at).unwrap_or(0);
    let root = bench.model.root();
    let (bus, devfn) = (u64::from(rid >> 8), u64::from(rid & 0xff));
    if root >> 10 & 3 == 0 {
        let table = word((root & !0xfff) + bus * 16);
        return [if table & 1 == 1 { word((table & !0xfff) + devfn * 16) } else { 0 }, 0];
    }
    let half = word((root & !0xfff) + bus * 16 + (devfn >> 7) * 8);
    let context = if half & 1 == 1 { word((half & !0xfff) + (devfn & 0x7f) * 32) } else { 0 };
    let directory = if context & 1 == 1 { word(context & !0xfff) } else { 0 };
    [context, if directory & 1 == 1 { word(directory & !0xfff) } else { 0 }]
}

#[test]
fn an_entry_built_by_or_ing_into_the_old_one() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let (red, blue) = (bench.domain_with(0x1000, RED, 0x1000), bench.domain_with(0x1000, BLUE, 0x1000));
        bench.attach(RID, &*red);
        bench.attach(RID, &*blue);
        let replaced = entries(&bench, RID);
        // Another requester that was led there at once has the same entry.
        bench.attach(OTHER, &*blue);
        let fresh = entries(&bench, OTHER);
        let compared = usize::from(bench.model.root() >> 10 & 3 != 0);
        assert_eq!(replaced[compared], fresh[compared], "{}", case.name);
        bench.expect(RID, 0x1000, Ok(BLUE));
        bench.check();
    }
}

#[test]
fn queue_errors_never_read() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, RED, 0x3000);
        bench.attach(RID, &*domain);
        bench.model.fail_descriptor_after(0);
        assert!(matches!(try_unmap(&*domain, 0x1000, 0x1000), Err(HwError::Queue { code: 3, .. })), "{}", case.name);
        // The error was read and cleared: the queue goes on.
        unmap(&*domain, 0x2000, 0x1000);
        assert!(bench.read(RID, 0x2000).is_err());
        bench.expect(RID, 0x3000, Ok(RED + 0x2000));
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn faults_recorded_and_never_drained() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        for round in 0..3 {
            // More than there are records: an overflow, which is told and forgotten.
            for page in 0..10 {
                assert!(bench.read(RID, page << 12).is_err());
            }
            let mut seen = 0;
            let report = bench.unit.report_faults(&mut |fault| {
                assert_eq!(fault.stream, stream(RID));
                seen += 1;
            });
            assert!(seen > 0 && report.lost, "{}, round {round}: {report:?}", case.name);
        }
    }
}

#[test]
fn unknown_streams_bypass_by_default() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        for rid in (0..=u16::MAX).step_by(251) {
            assert!(bench.read(rid, 0x1000).is_err() && bench.write(rid, 0x8000_0000).is_err(), "{}", case.name);
        }
        // One that was attached, and is not any more, is like them.
        let domain = bench.domain_with(0x1000, RED, 0x1000);
        bench.attach(RID, &*domain);
        bench.detach(RID);
        assert!(bench.read(RID, 0x1000).is_err() && bench.read(RID, RED).is_err());
    }
}

#[test]
fn a_live_wide_entry_edited_bit_by_bit() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let (red, blue) = (bench.domain_with(0x1000, RED, 0x1000), bench.domain_with(0x1000, BLUE, 0x1000));
        bench.attach(RID, &*red);
        let old = entries(&bench, RID);
        // No store leaves a present entry that is neither the old one nor the new one.
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, root) = (seen.clone(), bench.model.root());
        bench.memory.set_observer(Some(Box::new(move |memory, _| {
            let at = |phys| memory.device_read64(PhysAddr::new(phys)).unwrap_or(0);
            let pointer = at((root & !0xfff) + u64::from(RID >> 8) * 16);
            let legacy = root >> 10 & 3 == 0;
            let context = (pointer & !0xfff) + u64::from(RID & 0xff) * if legacy { 16 } else { 32 };
            let entry = if legacy { context } else { at(at(context) & !0xfff) & !0xfff };
            let wide: Vec<u64> = (0..if legacy { 2 } else { 8 }).map(|word| at(entry + word * 8)).collect();
            if wide[0] & 1 == 1 {
                log.lock().unwrap().push(wide);
            }
        })));
        bench.attach(RID, &*blue);
        bench.memory.set_observer(None);
        let mut shapes = seen.lock().unwrap().clone();
        shapes.dedup();
        // The new one was seen, and the old one at most before it.
        assert!((1..=2).contains(&shapes.len()), "{}: {shapes:x?} from {old:x?}", case.name);
        bench.expect(RID, 0x1000, Ok(BLUE));
        bench.check();
    }
}

#[test]
fn a_map_without_invalidation_in_caching_mode() {
    for case in Case::all().into_iter().filter(Case::caching) {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        // Everything on the way is cached as not present.
        assert!(bench.read(RID, 0x1000).is_err());
        bench.attach(RID, &*domain);
        assert!(bench.read(RID, 0x1000).is_err());
        map(&*domain, 0x1000, RED, 0x1000);
        bench.expect(RID, 0x1000, Ok(RED));
        bench.detach(RID);
        assert!(bench.read(RID, 0x1000).is_err());
        bench.attach(RID, &*domain);
        bench.expect(RID, 0x1000, Ok(RED));
        bench.check();
    }
}

#[test]
fn a_root_pointer_set_without_the_global_invalidation_it_needs() {
    for case in Case::all() {
        for itself in [false, true] {
            let case = case.with_cap(Config::CAP_ESRTPS, itself);
            let memory = memory(case.non_coherent);
            let model = Arc::new(iommu_models::vtd::Model::new(case.config, memory.clone()));
            let spy = Arc::new(Spy::new(model.clone()));
            let unit = Unit::bring_up(memory, spy, config_for(&case.config)).unwrap();
            let log: Vec<Descriptor> = model.take_log().into_iter().map(|executed| executed.descriptor).collect();
            let global = |it: &Descriptor| {
                matches!(
                    it,
                    Descriptor::ContextCache(Granularity::Global)
                        | Descriptor::PasidCache(Granularity::Global)
                        | Descriptor::Iotlb { granularity: Granularity::Global, .. }
                )
            };
            let scalable = model.root() >> 10 & 3 == 1;
            let expected = if itself { 0 } else { 2 + usize::from(scalable) };
            assert_eq!(log.iter().filter(|it| global(it)).count(), expected, "{}", case.name);
            drop(unit);
        }
    }
}

#[test]
fn a_tail_of_n_on_a_ring_of_n() {
    let case = &Case::plain()[0];
    let bench = Bench::up(case);
    let domain = bench.domain();
    bench.attach(RID, &*domain);
    // Round the ring several times, in batches of every size up to that of a gather.
    for round in 0..300u64 {
        let pages = 1 + round % 8;
        for page in 0..pages {
            map(&*domain, page << 13, RED + (page << 13), 0x1000);
        }
        let mut gather = iommu_core::hw::Gather::new();
        (0..pages).for_each(|page| domain.unmap(range(page << 13, 0x1000), &mut gather).unwrap());
        domain.flush(&mut gather).unwrap();
    }
    // The model knows of tails beyond the ring, and of those that are equal to the head of a full one.
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn only_one_depth_of_page_tables() {
    for (sagaw, mgaw, top) in [(2u64, 39u64, 39), (4, 48, 48), (8, 57, 57), (4, 39, 39), (6, 48, 48), (0xe, 57, 57)] {
        let base = Config::server();
        let cap = base.cap & !(0x1f << 8 | 0x3f << 16) | sagaw << 8 | (mgaw - 1) << 16;
        let config = Config { cap, ..base };
        let name = format!("SAGAW {sagaw:#x}, MGAW {mgaw}");
        let bench = Bench::up(&Case { name: name.clone(), config, stage: Stage::Second, non_coherent: false });
        let domain = bench.domain();
        assert_eq!(domain.geometry().aperture.last().get(), (1 << top) - 1, "{name}");
        let last = (1u64 << top) - 0x1000;
        map(&*domain, last, RED, 0x1000);
        bench.attach(RID, &*domain);
        bench.expect(RID, last, Ok(RED));
        let beyond = domain.map(Iova::new(last), &[extent(BLUE, 0x2000)], Prot::READ);
        assert!(beyond.is_err());
        bench.check();
    }
}

#[test]
fn a_panic_on_caching_mode() {
    for case in Case::all().into_iter().filter(Case::caching) {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, RED, 0x1000);
        bench.attach(RID, &*domain);
        // Domain id 0 is what hardware tags not-present entries with.
        assert_ne!(domain_id(&bench, RID), 0);
    }
}

/// The domain id in the entry of `rid`.
fn domain_id(bench: &Bench, rid: u16) -> u16 {
    let read = bench.reader();
    let root = bench.model.root();
    let pointer = read((root & !0xfff) + u64::from(rid >> 8) * 16).unwrap() & !0xfff;
    if root >> 10 & 3 == 0 {
        return (read(pointer + u64::from(rid & 0xff) * 16 + 8).unwrap() >> 8) as u16;
    }
    let directory = read(pointer + u64::from(rid & 0x7f) * 32).unwrap() & !0xfff;
    read((read(directory).unwrap() & !0xfff) + 8).unwrap() as u16
}

#[test]
fn a_panic_where_a_capability_is_missing() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let refused = |found: Result<(), HwError>| matches!(found, Err(HwError::Missing(Capability { .. })) | Ok(()));
        for stage in [Stage::First, Stage::Second] {
            assert!(refused(bench.unit.create_domain(&DomainConfig::new(stage)).map(drop)));
        }
        assert!(refused(bench.unit.attach(stream(RID), Target::Identity).map(drop)));
        let ioas = Ioas::new(IoasConfig::default()).unwrap();
        let stage = if case.stage == Stage::First { Stage::Second } else { Stage::First };
        let found = Hwpt::new(&ioas, &bench.handle(), HwptConfig::new(stage));
        assert!(matches!(found.map(drop), Ok(()) | Err(Error::Hardware(HwError::Missing(_)))), "{}", case.name);
    }
}
