//! Fault records, their overflow, and the event.

mod common;

use common::*;
use iommu_core::addr::Iova;
use iommu_models::vtd::{Config, FaultCode, FaultRecord, Request, Violation};

const FRCD: usize = 0x220;
const PFO: u32 = 1;
const PPF: u32 = 2;

#[test]
fn a_fault_is_recorded_and_cleared() {
    let bench = Bench::up(Config::second_stage());
    assert_eq!(bench.write_at(0x7123), Err(FaultCode::SECOND_PERMISSION));
    assert_eq!(bench.read32(FSTS), PPF);
    assert_eq!(bench.read64(FRCD), 0x7000);
    assert_eq!(bench.read64(FRCD + 8), 1 << 63 | 0x79 << 32 | u64::from(RID));
    assert_eq!(bench.read32(FRCD + 12), 0x8000_0079);
    bench.write32(FRCD + 12, 1 << 31);
    assert_eq!((bench.read32(FSTS), bench.read32(FRCD + 12)), (0, 0x79));
    // A read has T1.
    assert_eq!(bench.read_at(0x8000), Err(FaultCode::SECOND_PERMISSION));
    assert_eq!(bench.read32(FRCD + 12), 0xc000_0079);
    bench.write32(FRCD + 12, 0);
    assert_eq!(bench.read32(FSTS), PPF);
    bench.write32(FRCD, 1);
    assert_eq!(bench.model.violations(), [Violation::ReadOnly { offset: FRCD, value: 1 }]);
}

#[test]
fn a_pasid_is_recorded() {
    let bench = Bench::up(Config::server());
    assert_eq!(bench.access(RID, Some(0xabcde), 0x1000, true), Err(FaultCode::PASID_DISABLED));
    assert_eq!(bench.read64(FRCD + 8), 1 << 63 | 0xabcde << 40 | 0x45 << 32 | 1 << 31 | u64::from(RID));
    let page = Iova::new(0x1000);
    let expected = FaultRecord::of(&Request::new(RID, Some(0xabcde), page, true), FaultCode::PASID_DISABLED);
    assert_eq!(bench.model.take_faults(), [expected]);
}

#[test]
fn records_fill_in_a_ring_and_overflow() {
    let bench = Bench::up(Config::server());
    let fault = |page: u64| assert!(bench.read_at(page << 12).is_err());
    (1..=3).for_each(fault);
    assert_eq!(bench.read32(FSTS), PPF);
    for slot in 0..3 {
        bench.write32(FRCD + slot * 16 + 12, 1 << 31);
    }
    (4..=7).for_each(fault);
    // The first of these went to the last record, the others to the front.
    assert_eq!(bench.read32(FSTS), PPF | 3 << 8);
    assert_eq!([3, 0, 1, 2].map(|slot| bench.read64(FRCD + slot * 16) >> 12), [4, 5, 6, 7]);
    fault(8);
    assert_eq!(bench.read32(FSTS) & 3, PFO | PPF);
    // While PFO is set nothing is recorded, room or not.
    bench.write32(FRCD + 3 * 16 + 12, 1 << 31);
    fault(9);
    assert_eq!(bench.read32(FRCD + 3 * 16 + 12) >> 31, 0);
    bench.write32(FSTS, PFO);
    fault(10);
    assert_eq!(bench.read64(FRCD + 3 * 16) >> 12, 10);
    assert_eq!(bench.model.take_faults().len(), 10);
}

#[test]
fn the_event_comes_once_and_is_held_while_masked() {
    let bench = Bench::up(Config::server());
    bench.write32(0x3c, 0x41);
    bench.write32(0x40, 0xfee0_2000);
    assert!(bench.read_at(0x1000).is_err());
    assert_eq!((bench.read32(FECTL), bench.model.take_messages().len()), (3 << 30, 0));
    bench.write32(FECTL, 0);
    let messages = bench.model.take_messages();
    assert_eq!((messages.len(), messages[0].address, messages[0].data), (1, 0xfee0_2000, 0x41));
    assert_eq!(bench.read32(FECTL), 0);
    // Another while the first is pending raises nothing.
    assert!(bench.read_at(0x2000).is_err());
    assert_eq!(bench.model.take_messages(), []);
    bench.write32(FRCD + 12, 1 << 31);
    bench.write32(FRCD + 16 + 12, 1 << 31);
    assert!(bench.read_at(0x3000).is_err());
    assert_eq!(bench.model.take_messages().len(), 1);
}

#[test]
fn errors_of_the_queue_raise_the_event_too() {
    let mut bench = Bench::up(Config::second_stage());
    bench.write32(FECTL, 0);
    bench.submit(0xf, 0);
    assert_eq!((bench.read32(FSTS), bench.model.take_messages().len()), (1 << 4, 1));
    assert!(bench.read_at(0x1000).is_err());
    assert_eq!((bench.read32(FSTS), bench.model.take_messages()), (1 << 4 | PPF, vec![]));
}

#[test]
fn an_event_without_cause_is_forgotten() {
    let bench = Bench::up(Config::second_stage());
    assert!(bench.read_at(0x1000).is_err());
    bench.write32(FRCD + 12, 1 << 31);
    assert_eq!(bench.read32(FECTL), 1 << 31);
}

#[test]
fn fpd_silences_qualified_faults() {
    for (level, code) in [(0, FaultCode::CONTEXT_NOT_PRESENT), (1, FaultCode::DIRECTORY_NOT_PRESENT)] {
        let bench = Bench::up(Config::second_stage());
        let entry = [bench.context_entry(RID), bench.directory][level];
        bench.set(entry, 2);
        let blocked = bench.model.dma(RID, None, Iova::new(0), 1, false).unwrap_err();
        assert_eq!((blocked.code, blocked.reported, bench.read32(FSTS)), (code, false, 0));
    }
    let bench = Bench::up(Config::second_stage());
    bench.set(bench.pasids, bench.get(bench.pasids) | 2);
    assert_eq!((bench.read_at(0), bench.read32(FSTS)), (Err(FaultCode::SECOND_PERMISSION), 0));
    // One that is not qualified: the root entry.
    bench.set(bench.context_entry(RID + 1), 2);
    assert_eq!(bench.access(0x100, None, 0, false), Err(FaultCode::ROOT_NOT_PRESENT));
    assert_eq!(bench.read32(FSTS), PPF);
}

#[test]
fn interrupt_addresses_are_no_memory() {
    let bench = Bench::up(Config::second_stage());
    assert_eq!(bench.write_at(0xfee0_0000), Err(FaultCode::NONE));
    assert_eq!(bench.read32(FSTS), 0);
    bench.map(0, 0xfeef_f000);
    assert_eq!(bench.read_at(0), Err(FaultCode::INTERRUPT_OUTPUT));
}
