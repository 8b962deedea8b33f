//! The steps of a walk as values, and walks that begin in the middle as a paging-structure cache lets them.

mod walks;

use iommu_core::addr::PhysAddr;
use iommu_models::memory::TestMemory;
use iommu_models::vtd::walk::{Cursor, Stage, Step};
use iommu_models::vtd::{Config, FaultCode};
use walks::*;

#[test]
fn a_trace_tells_each_entry() {
    let rig = Rig::scalable(Config::server(), FIRST);
    rig.set(rig.first[2] + 8, rig.first[3] | TABLE);
    rig.set(rig.first[3] + 16, 0x8000 | LEAF);
    let found = rig.trace(&request(0x20_2123, false));
    assert_eq!(found.result.map(|found| found.phys.get()), Ok(0x8123));
    assert_eq!(found.context.unwrap().words[0], rig.directory | 1);
    assert_eq!(found.entry.unwrap().words[2], rig.first[0]);
    let steps: Vec<_> = found.steps.iter().map(|step| (step.level, step.phys.get(), step.index, step.entry)).collect();
    let [top, third, second, first] = rig.first[..] else { unreachable!() };
    let expected = [
        (4, top, 0, third | TABLE),
        (3, third, 0, second | TABLE),
        (2, second + 8, 1, first | TABLE),
        (1, first + 16, 2, 0x8000 | LEAF),
    ];
    assert_eq!(steps, expected);
    assert!(found.steps.iter().all(|step| step.stage == Stage::First && step.input == 0x20_2123));
    let tables: Vec<_> = found.steps.iter().map(|step| step.next.map(|next| (next.level, next.table))).collect();
    assert_eq!(tables, [Some((3, third)), Some((2, second)), Some((1, first)), None]);
    // As far as it came.
    rig.set(first + 16, 0);
    let found = rig.trace(&request(0x20_2123, false));
    assert_eq!((found.result, found.steps.len()), (Err(FaultCode::FIRST_NOT_PRESENT), 3));
    rig.set(rig.pasids, 0);
    let found = rig.trace(&request(0, false));
    assert_eq!((found.context.is_some(), found.entry, found.steps.len()), (true, None, 0));
    rig.set(rig.context_entry(), 0);
    assert_eq!(rig.trace(&request(0, false)).context, None);
}

#[test]
fn rights_gather_on_the_way() {
    let rig = Rig::scalable(Config::server(), SECOND);
    rig.remove(rig.second[1], 2);
    let found = rig.trace(&request(0, false));
    let rights: Vec<_> =
        found.steps.iter().filter_map(|step| step.next).map(|next| (next.rights.read, next.rights.write)).collect();
    assert_eq!(rights, [(true, true), (true, false), (true, false)]);
}

#[test]
fn entries_below_tables_that_were_not_accessed_are_not_kept() {
    // Nobody may keep an entry whose accessed bit is clear, so a walk that faults further down says nothing of it.
    let rig = Rig::scalable(Config::server_nested(), FIRST);
    rig.add(rig.pasids + 8, 1 << 23);
    rig.remove(rig.first[1], 1 << 5);
    rig.set(rig.first[3], 0);
    let found = rig.trace(&request(0, false));
    let levels: Vec<u32> = found.steps.iter().map(|step| step.level).collect();
    assert_eq!((found.result, levels), (Err(FaultCode::FIRST_NOT_PRESENT), vec![4, 2]));
}

#[test]
fn nor_are_those_of_a_second_stage_that_tracks() {
    let rig = Rig::scalable(Config::server_nested(), SECOND);
    rig.second.iter().for_each(|at| rig.add(*at, 1 << 8));
    rig.remove(rig.second[1], 1 << 8);
    rig.set(rig.second[3], 0);
    let levels = || rig.trace(&request(0, false)).steps.iter().map(|step| step.level).collect::<Vec<_>>();
    // Without SSADE the bit means nothing.
    assert_eq!(levels(), [4, 3, 2]);
    rig.add(rig.pasids + 8, 1 << 23);
    rig.add(rig.pasids, 1 << 9);
    assert_eq!(levels(), [4, 2]);
}

/// A paging-structure cache of one entry.
struct Cached<'a> {
    memory: &'a TestMemory,
    stage: Stage,
    cursor: Cursor,
    used: Vec<Step>,
}

impl iommu_models::vtd::walk::View for Cached<'_> {
    fn read64(&mut self, phys: PhysAddr) -> Option<u64> {
        self.memory.device_read64(phys)
    }

    fn resume(&mut self, stage: Stage, _input: u64) -> Option<Cursor> {
        (stage == self.stage).then_some(self.cursor)
    }

    fn used(&mut self, step: &Step) {
        self.used.push(*step);
    }
}

/// Walks page 0 from each cursor that a walk left, with the tables above it gone.
fn from_each_cursor(kind: u64, stage: Stage) {
    let rig = Rig::scalable(Config::server_nested(), kind);
    let cursors: Vec<Cursor> = rig
        .trace(&request(0, true))
        .steps
        .iter()
        .filter(|step| step.stage == stage)
        .filter_map(|step| step.next)
        .collect();
    assert_eq!(cursors.len() % 3, 0);
    let tables = if stage == Stage::First { &rig.first } else { &rig.second };
    for cursor in cursors.into_iter().rev().take(3) {
        let above = 4 - cursor.level as usize;
        let before: Vec<u64> = tables[..above].iter().map(|at| rig.get(*at)).collect();
        if kind != NESTED || stage == Stage::First {
            tables[..above].iter().for_each(|at| rig.set(*at, 0));
        }
        let mut view = Cached { memory: &rig.memory, stage, cursor, used: Vec::new() };
        let found = iommu_models::vtd::walk::through(&mut view, rig.root, &rig.config, &request(0x10, true));
        assert_eq!(found.map(|found| found.phys.get()), Ok(PAGE + 0x10), "{stage:?}, level {}", cursor.level);
        let first = view.used.iter().find(|step| step.stage == stage).unwrap().level;
        assert_eq!(first, cursor.level);
        tables[..above].iter().zip(before).for_each(|(at, before)| rig.set(*at, before));
    }
}

#[test]
fn a_walk_begins_where_a_cache_says() {
    from_each_cursor(FIRST, Stage::First);
    from_each_cursor(SECOND, Stage::Second);
    from_each_cursor(NESTED, Stage::First);
}

#[test]
fn a_cached_table_of_a_guest_stays_where_it_was() {
    // The second stage has moved the last table meanwhile; the cache still knows its old place.
    let rig = Rig::scalable(Config::server_nested(), NESTED);
    let steps = rig.trace(&request(0, false)).steps;
    let cursor = steps.iter().rfind(|step| step.stage == Stage::First && step.level == 2).unwrap().next.unwrap();
    assert_eq!((cursor.table, cursor.host), (GUEST_TABLES[3], Some((rig.first[3], true))));
    rig.map_guest(GUEST_TABLES[3], 0);
    let mut view = Cached { memory: &rig.memory, stage: Stage::First, cursor, used: Vec::new() };
    let found = iommu_models::vtd::walk::through(&mut view, rig.root, &rig.config, &request(0, false));
    assert_eq!(found.map(|found| found.phys.get()), Ok(PAGE));
    assert_eq!(rig.read(), Err(FaultCode::SECOND_PERMISSION));
}

#[test]
fn rights_of_a_cached_table_are_those_of_then() {
    let rig = Rig::scalable(Config::server(), SECOND);
    rig.remove(rig.second[0], 2);
    let cursor = rig.trace(&request(0, false)).steps[2].next.unwrap();
    rig.add(rig.second[0], 2);
    let mut view = Cached { memory: &rig.memory, stage: Stage::Second, cursor, used: Vec::new() };
    let found = iommu_models::vtd::walk::through(&mut view, rig.root, &rig.config, &request(0, true));
    assert_eq!(found, Err(FaultCode::NO_WRITE));
    assert_eq!(rig.write(), Ok(PAGE));
}
