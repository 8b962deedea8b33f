//! The holes that other SMMUv3 drivers and small hypervisors have, each by the name that a list of peers gives it. What
//! any driver may get wrong is written once, in `iommu_tests::holes`. (Caching mode is VT-d's alone; interrupt remapping is a
//! later step.)

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Gather, HwError, Prot, Target, Unit as _};
use iommu_models::smmuv3::{Command, Config, FaultCode, Model};
use iommu_smmuv3::Unit;
use iommu_tests::house::Smmuv3;
use iommu_tests::smmuv3::bench::{Bench, config_for, extent, map, memory, range, stream, try_unmap, unmap};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::spy::Spy;
use std::sync::{Arc, Mutex};

const SID: u32 = 8;
const OTHER: u32 = 0x11;
const RED: u64 = 0x10_0000_0000;
const BLUE: u64 = 0x18_0000_0000;

iommu_tests::holes! { Smmuv3:
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

/// Where the entry of a stream stands, by STRTAB_BASE and STRTAB_BASE_CFG; `None` where no level-1 descriptor leads there.
fn entry_at(model: &Model, read: &impl Fn(u64) -> u64, sid: u32) -> Option<u64> {
    let tables = model.tables();
    let base = tables.base & 0x000f_ffff_ffff_ffc0;
    if tables.config >> 16 & 3 == 0 {
        return Some(base + u64::from(sid) * 64);
    }
    let split = tables.config >> 6 & 0x1f;
    let descriptor = read(base + u64::from(sid >> split) * 8);
    let low = u64::from(sid & ((1 << split) - 1));
    (descriptor & 0x1f != 0).then_some((descriptor & 0x000f_ffff_ffff_ffc0) + low * 64)
}

/// The words of the entry of a stream, as the unit reads them; zeros where there is none.
fn entry(bench: &Bench, sid: u32) -> [u64; 8] {
    let read = |at| bench.memory.device_read64(PhysAddr::new(at)).unwrap_or(0);
    let at = entry_at(&bench.model, &read, sid);
    core::array::from_fn(|word| at.map_or(0, |at| read(at + 8 * word as u64)))
}

/// V and Config, which decide where an entry leads: `None` where it aborts.
fn leads(word0: u64) -> Option<u64> {
    (word0 & 1 == 1 && word0 >> 3 & 1 == 1).then_some(word0 >> 1 & 7)
}

#[test]
fn an_entry_built_by_or_ing_into_the_old_one() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let (red, blue) = (bench.domain_with(0x1_0000, RED, 0x1_0000), bench.domain_with(0x1_0000, BLUE, 0x1_0000));
        bench.attach(SID, &*red);
        bench.attach(SID, &*blue);
        // Another stream that was led there at once has the same entry, word for word; so has one that was passed through
        // in between, where what that needs of the other words is no longer in use.
        bench.attach(OTHER, &*blue);
        assert_eq!(entry(&bench, SID), entry(&bench, OTHER), "{}", case.name);
        bench.unit.attach(stream(SID), Target::Identity).unwrap();
        bench.attach(SID, &*blue);
        assert_eq!(entry(&bench, SID), entry(&bench, OTHER), "{}", case.name);
        bench.expect(SID, 0x1_0000, Ok(BLUE));
        bench.check();
    }
}

#[test]
fn command_queue_errors_never_read() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1_0000, RED, 0x3_0000);
        bench.attach(SID, &*domain);
        bench.expect(SID, 0x1_0000, Ok(RED));
        bench.model.fail_command_after(0);
        // CERROR_ILL, and which command.
        let found = try_unmap(&*domain, 0x1_0000, 0x1_0000);
        let Err(HwError::Queue { code: 1, entry }) = found else { panic!("{}: {found:?}", case.name) };
        assert!([0x11, 0x12, 0x28, 0x2a].contains(&(entry & 0xff)), "{}: {entry:#x}", case.name);
        // The error was read and acknowledged: the queue goes on.
        unmap(&*domain, 0x2_0000, 0x1_0000);
        assert!(bench.read(SID, 0x2_0000).is_err());
        bench.expect(SID, 0x3_0000, Ok(RED + 0x2_0000));
        assert_eq!(bench.model.violations(), [], "{}", case.name);
    }
}

#[test]
fn an_event_queue_enabled_and_never_drained() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        bench.attach(SID, &*domain);
        let room = 1u64 << (case.config.idr1 >> 16 & 0x1f).min(10);
        for round in 0..3 {
            // More than there is room for: an overflow, which is told and acknowledged.
            for page in 0..room + 3 {
                assert_eq!(bench.read(SID, page << 16), Err(FaultCode::F_TRANSLATION));
            }
            let (mut seen, mut lost) = (0, false);
            loop {
                let report = bench.unit.report_faults(&mut |fault| {
                    assert_eq!(fault.stream, stream(SID));
                    seen += 1;
                });
                lost |= report.lost;
                if !report.more {
                    break;
                }
            }
            assert!(seen == room && lost, "{}, round {round}: {seen} of {room}", case.name);
        }
    }
}

#[test]
fn unknown_streams_bypass_by_default() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        for sid in (0..1 << 16).step_by(251).chain([u32::MAX, 1 << 20, (1 << case.table_bits()) - 1]) {
            assert!(bench.read(sid, 0x1000).is_err() && bench.write(sid, 0x8000_0000).is_err(), "{}", case.name);
        }
        // One that was attached, and is not any more, is like them.
        let domain = bench.domain_with(0x1_0000, RED, 0x1_0000);
        bench.attach(SID, &*domain);
        bench.detach(SID);
        bench.expect_blocked(SID, 0x1_0000);
        bench.expect_blocked(SID, RED);
    }
    // And while translation is off, before and between: GBPA aborts.
    let case = &Case::all()[0];
    let memory = memory(false);
    let model = Arc::new(Model::new(case.config, memory.clone()));
    assert!(model.dma(SID, None, Iova::new(0x1000), 8, false).is_ok(), "as firmware left it");
    model.never_acknowledge(1);
    assert!(Unit::bring_up(memory, Arc::new(Spy::new(model.clone())), config_for(case)).is_err());
    assert!(model.dma(SID, None, Iova::new(0x1000), 8, false).is_err(), "aborted where bring-up failed");
}

#[test]
fn a_live_wide_entry_edited_bit_by_bit() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let (red, blue) = (bench.domain_with(0x1_0000, RED, 0x1_0000), bench.domain_with(0x1_0000, BLUE, 0x1_0000));
        bench.attach(SID, &*red);
        let old = entry(&bench, SID);
        // After every store an entry that leads somewhere leads where it led before or where it is to lead.
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, model) = (seen.clone(), bench.model.clone());
        bench.memory.set_observer(Some(Box::new(move |memory, _| {
            let read = |at| memory.device_read64(PhysAddr::new(at)).unwrap_or(0);
            let at = entry_at(&model, &read, SID).expect("it was attached");
            let words: Vec<u64> = (0..4).map(|word| read(at + 8 * word)).collect();
            // Words 2 and 3 are stage 2's, but for the VMID.
            let used = match leads(words[0]) {
                None => return,
                Some(5) => vec![words[0], words[2] & 0xffff],
                Some(_) => vec![words[0], words[2], words[3]],
            };
            log.lock().unwrap().push(used);
        })));
        bench.attach(SID, &*blue);
        bench.memory.set_observer(None);
        let mut shapes = seen.lock().unwrap().clone();
        shapes.dedup();
        assert!((1..=2).contains(&shapes.len()), "{}: {shapes:x?} from {old:x?}", case.name);
        bench.expect(SID, 0x1_0000, Ok(BLUE));
        bench.check();
    }
}

#[test]
fn a_stream_table_set_without_the_invalidation_it_needs() {
    for case in Case::all() {
        let memory = memory(case.non_coherent);
        // The model's caches hold anything from before, until they are invalidated.
        let model = Arc::new(Model::new(case.config, memory.clone()));
        let unit = Unit::bring_up(memory, Arc::new(Spy::new(model.clone())), config_for(&case)).unwrap();
        let log: Vec<Command> = model.take_log().into_iter().map(|executed| executed.command).collect();
        let at = |wanted: Command| log.iter().position(|command| *command == wanted);
        let (configuration, translations) = (at(Command::ConfigAll), at(Command::TlbiEverything));
        assert!(configuration.is_some() && configuration < translations, "{}: {log:?}", case.name);
        let el2 = case.config.idr0 & Config::HYP != 0;
        assert_eq!(at(Command::TlbiEl2All).is_some(), el2, "{}", case.name);
        assert_eq!(model.violations(), [], "{}", case.name);
        drop(unit);
    }
}

#[test]
fn a_producer_index_of_n_on_a_queue_of_n() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        bench.attach(SID, &*domain);
        // Round the queue several times, in batches of every size up to that of a gather.
        for round in 0..150u64 {
            let pages = 1 + round % 8;
            for page in 0..pages {
                map(&*domain, page << 17, RED + (page << 17), 0x1_0000);
            }
            let mut gather = Gather::new();
            (0..pages).for_each(|page| domain.unmap(range(page << 17, 0x1_0000), &mut gather).unwrap());
            domain.flush(&mut gather).unwrap();
        }
        // The model knows of indices beyond the queue, and of those that overtake the consumer.
        bench.check();
    }
}

#[test]
fn only_one_depth_and_granule_of_page_tables() {
    // IDR5: each granule alone, and every width of output addresses from 40 bits on.
    for granule in 0..3u32 {
        for (oas, bits) in [(2u32, 40), (3, 42), (4, 44), (5, 48)] {
            for mut case in Case::all().into_iter().filter(|case| case.config == Config::nested()) {
                case.config.idr5 = oas | 1 << (4 + granule);
                case.name = format!("{}, granule {granule}, {bits} bits", case.name);
                let bench = Bench::up(&case);
                let domain = bench.domain();
                let page = 1u64 << (12 + 2 * granule);
                assert_eq!(domain.geometry().page_sizes.smallest(), Some(page), "{}", case.name);
                // As far as the geometry says, and no further.
                let last = domain.geometry().aperture.last().get();
                assert!(last >= (1 << 39) - 1, "{}: {last:#x}", case.name);
                map(&*domain, last + 1 - page, RED, page);
                bench.attach(SID, &*domain);
                bench.expect(SID, last, Ok(RED + page - 1));
                let beyond = domain.map(Iova::new(last + 1 - page), &[extent(BLUE, 2 * page)], Prot::READ);
                assert!(beyond.is_err(), "{}", case.name);
                bench.check();
            }
        }
    }
}
