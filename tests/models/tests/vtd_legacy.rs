//! Legacy mode and abort-DMA mode: raw tables, every reason code from 01 to 0E.

mod walks;

use iommu_core::addr::Iova;
use iommu_hal::regs::Registers;
use iommu_models::vtd::walk::reachable;
use iommu_models::vtd::{AddressType, Answer, Config, FaultCode, Model, Operation, Request, Violation};
use walks::*;

/// Legacy mode of a unit with everything else as well.
fn full() -> Rig {
    Rig::legacy(Config::server_nested())
}

/// Word 1 of a context entry.
fn word(rig: &Rig) -> u64 {
    rig.context_entry() + 8
}

#[test]
fn a_request_reaches_memory_through_the_second_stage() {
    for config in [Config::legacy(), Config::server_nested()] {
        let rig = Rig::legacy(config);
        let found = rig.trace(&request(0x123, true));
        let translation = found.result.unwrap();
        assert_eq!((translation.phys.get(), translation.size), (PAGE + 0x123, 0x1000));
        assert_eq!(translation.domain, DOMAIN as u16);
        assert!(translation.read && translation.write);
        assert_eq!(found.entry, None, "there are no PASID entries");
        let rig = rig.on();
        assert_eq!((rig.access(0x10, false), rig.access(0x10, true)), (Ok(PAGE + 0x10), Ok(PAGE + 0x10)));
        let all = reachable(&|phys| rig.memory.device_read64(phys), rig.root, &config, RID, None).unwrap();
        assert_eq!(all.iter().map(|reach| (reach.iova.get(), reach.phys.get())).collect::<Vec<_>>(), [(0, PAGE)]);
    }
}

#[test]
fn the_source_id_selects_the_entry() {
    let rig = full();
    // Bus 0x12, device 31, function 7: the last entry of another table.
    let (root, context) = (rig.table() + 0x12 * 16, rig.first[0]);
    rig.set(root, context | 1);
    rig.set(context + 0xff * 16 + 8, 9 << 8 | 2);
    rig.set(context + 0xff * 16, rig.second[0] | 1);
    let request = Request::new(0x12ff, None, Iova::new(0), false);
    let found = rig.trace(&request).result.unwrap();
    assert_eq!((found.phys.get(), found.domain), (PAGE, 9));
    assert_eq!(rig.ask(&Request { requester: 0x12fe, ..request }), Err(FaultCode::LEGACY_CONTEXT_NOT_PRESENT));
    assert_eq!(rig.ask(&Request { requester: 0x13ff, ..request }), Err(FaultCode::LEGACY_ROOT_NOT_PRESENT));
}

#[test]
fn a_request_with_pasid_is_blocked() {
    let rig = full().on();
    for request in [tagged(0, 0, false), tagged(5, 0, true)] {
        assert_eq!(rig.ask(&request), Err(FaultCode::MODE));
        // Whatever caches hold.
        assert_eq!(rig.access(0, false), Ok(PAGE));
        let blocked = rig.live(&request).unwrap_err();
        assert_eq!((blocked.code, blocked.reported), (FaultCode::MODE, true));
    }
}

#[test]
fn memory_that_does_not_answer() {
    let rig = full();
    let gone = 0x1000;
    let root = rig.root;
    let at = |rtaddr| {
        let rig = Rig { root: rtaddr, ..full() };
        rig.read()
    };
    assert_eq!(at(gone), Err(FaultCode::LEGACY_ROOT_ACCESS));
    assert_eq!(at(1 << 50), Err(FaultCode::ROOT_ADDRESS));
    assert_eq!(rig.root, root);
    assert_eq!(rig.read_with(rig.table(), gone | 1), Err(FaultCode::LEGACY_CONTEXT_ACCESS));
    assert_eq!(rig.read_with(rig.context_entry(), gone | 1), Err(FaultCode::LEGACY_CONTEXT_INVALID));
    for depth in 0..3 {
        assert_eq!(rig.read_with(rig.second[depth], gone | 3), Err(FaultCode::LEGACY_ACCESS), "level {}", 4 - depth);
    }
}

#[test]
fn widths_are_those_of_the_unit() {
    for (sagaw, valid) in [(2, vec![1]), (6, vec![1, 2]), (0xe, vec![1, 2, 3]), (8, vec![3])] {
        let rig = Rig::legacy(Config::server().depths(sagaw));
        for width in 0..8 {
            let found = rig.read_with(word(&rig), DOMAIN << 8 | width);
            let invalid = found == Err(FaultCode::LEGACY_CONTEXT_INVALID);
            assert_eq!(invalid, !valid.contains(&width), "SAGAW {sagaw:#x}, AW {width}");
        }
        // Pass-through names the largest.
        rig.set(rig.context_entry(), 2 << 2 | 1);
        for width in 0..8 {
            let found = rig.read_with(word(&rig), DOMAIN << 8 | width);
            let expected = if Some(&width) == valid.last() { Ok(0) } else { Err(FaultCode::LEGACY_CONTEXT_INVALID) };
            assert_eq!(found, expected, "pass-through, SAGAW {sagaw:#x}, AW {width}");
        }
    }
}

#[test]
fn tables_have_three_to_five_levels() {
    for levels in 3..=5u64 {
        let rig = Rig::legacy(Config::server());
        let tables: Vec<u64> = [rig.first[0]].iter().chain(&rig.second).take(levels as usize).copied().collect();
        // The highest page but one.
        let iova = (1 << (12 + 9 * levels)) - 0x2000u64;
        for (depth, table) in tables.iter().enumerate() {
            let level = levels - depth as u64;
            let next = tables.get(depth + 1).copied().unwrap_or(0x7000);
            rig.set(table + (iova >> (3 + 9 * level) & 0x1ff) * 8, next | 3);
        }
        rig.set(rig.context_entry(), tables[0] | 1);
        rig.set(word(&rig), DOMAIN << 8 | (levels - 2));
        assert_eq!(rig.walk(iova + 5, true), Ok(0x7005), "{levels} levels");
        assert_eq!(rig.walk(iova + 0x1000, false), Err(FaultCode::LEGACY_READ));
        assert_eq!(rig.walk(iova + 0x1000, true), Err(FaultCode::LEGACY_WRITE));
        assert_eq!(rig.walk(1 << (12 + 9 * levels), true), Err(FaultCode::LEGACY_BEYOND_WIDTH));
    }
    // MGAW bounds a deeper table.
    let rig = Rig::legacy(Config::legacy().guest_bits(39));
    assert_eq!(rig.walk((1 << 39) - 1, false), Err(FaultCode::LEGACY_READ));
    assert_eq!(rig.walk(1 << 39, false), Err(FaultCode::LEGACY_BEYOND_WIDTH));
}

#[test]
fn rights_are_those_of_every_level() {
    let rig = full();
    let atomic = request(0, false).operation(Operation::Atomic);
    for at in rig.second.clone() {
        let entry = rig.get(at);
        rig.set(at, entry & !2);
        assert_eq!((rig.read(), rig.write()), (Ok(PAGE), Err(FaultCode::LEGACY_WRITE)));
        assert_eq!(rig.ask(&atomic), Err(FaultCode::LEGACY_WRITE));
        rig.set(at, entry & !3 | 2);
        assert_eq!((rig.read(), rig.write()), (Err(FaultCode::LEGACY_READ), Ok(PAGE)));
        assert_eq!(rig.ask(&atomic), Err(FaultCode::LEGACY_READ));
        rig.set(at, entry);
    }
    assert_eq!(rig.ask(&atomic), Ok(PAGE));
    // What one level allows of each is nothing.
    rig.remove(rig.second[0], 2);
    rig.remove(rig.second[3], 1);
    assert_eq!((rig.read(), rig.write()), (Err(FaultCode::LEGACY_READ), Err(FaultCode::LEGACY_WRITE)));
}

#[test]
fn pass_through_keeps_to_the_host() {
    let rig = full();
    rig.set(rig.context_entry(), 2 << 2 | 1);
    rig.set(word(&rig), DOMAIN << 8 | 3);
    assert_eq!(rig.walk(0x12_3456, true), Ok(0x12_3456));
    assert_eq!(rig.walk(1 << 46, true), Err(FaultCode::LEGACY_BEYOND_WIDTH));
    // It needs ECAP.PT; TT 3 is nobody's.
    assert_eq!(rig.read_with(rig.context_entry(), 3 << 2 | 1), Err(FaultCode::LEGACY_CONTEXT_INVALID));
    let rig = Rig::legacy(Config::legacy().ecap_bits(Config::ECAP_PT, false));
    rig.set(rig.context_entry(), 2 << 2 | 1);
    assert_eq!(rig.read(), Err(FaultCode::LEGACY_CONTEXT_INVALID));
}

#[test]
fn nothing_leads_to_where_interrupts_go() {
    let rig = full();
    rig.set(rig.second[3], 0xfee0_0000 | 3);
    assert_eq!(rig.write(), Err(FaultCode::LEGACY_INTERRUPT_OUTPUT));
    rig.set(rig.second[3], 0xfeef_f000 | 3);
    assert_eq!(rig.write(), Err(FaultCode::LEGACY_INTERRUPT_OUTPUT));
    rig.set(rig.second[3], 0xfef0_0000 | 3);
    assert_eq!(rig.write(), Ok(0xfef0_0000));
}

#[test]
fn translations_need_their_type() {
    let rig = full();
    let ask = request(0, false).address(AddressType::Translation);
    let translated = request(PAGE, false).address(AddressType::Translated);
    for (kind, allowed) in [(0, false), (1, true), (2, false)] {
        rig.set(rig.context_entry(), rig.second[0] | kind << 2 | 1);
        rig.set(word(&rig), DOMAIN << 8 | 3);
        if kind != 2 {
            rig.set(word(&rig), DOMAIN << 8 | 2);
        }
        let expected = if allowed { Ok(PAGE) } else { Err(FaultCode::LEGACY_BLOCKED) };
        assert_eq!(rig.ask(&ask), expected, "TT {kind}");
        assert_eq!(rig.ask(&translated), expected, "TT {kind}");
    }
    // TT 1 needs ECAP.DT.
    let rig = Rig::legacy(Config::legacy());
    rig.set(rig.context_entry(), rig.second[0] | 1 << 2 | 1);
    assert_eq!(rig.read(), Err(FaultCode::LEGACY_CONTEXT_INVALID));
    // A translated request keeps to memory of the host.
    let rig = full();
    rig.set(rig.context_entry(), rig.second[0] | 1 << 2 | 1);
    let to = |address| rig.ask(&translated.at(Iova::new(address)));
    assert_eq!(to(1 << 46), Err(FaultCode::LEGACY_BEYOND_WIDTH));
    assert_eq!(to(0xfee0_0000), Err(FaultCode::LEGACY_INTERRUPT_OUTPUT));
    assert_eq!(to(0x7_7000), Ok(0x7_7000));
}

#[test]
fn a_silent_entry_reports_nothing_that_is_qualified() {
    for (bits, code) in [(2, FaultCode::LEGACY_CONTEXT_NOT_PRESENT), (3 | 1 << 4, FaultCode::LEGACY_CONTEXT_RESERVED)] {
        let rig = full().on();
        rig.set(rig.context_entry(), bits);
        let blocked = rig.live(&request(0, false)).unwrap_err();
        assert_eq!((blocked.code, blocked.reported, rig.model.read32(0x34)), (code, false, 0));
    }
    let rig = full().on();
    rig.set(rig.context_entry(), rig.second[0] | 3);
    rig.set(rig.second[3], 0);
    let blocked = rig.live(&request(0, false)).unwrap_err();
    assert_eq!((blocked.code, blocked.reported), (FaultCode::LEGACY_READ, false));
    // The root entry has no such bit, and no memory at the context entry is never silenced.
    for (value, code) in [(2, FaultCode::LEGACY_ROOT_NOT_PRESENT), (3, FaultCode::LEGACY_ROOT_RESERVED)] {
        let rig = full().on();
        rig.set(rig.table(), value);
        let blocked = rig.live(&request(0, false)).unwrap_err();
        assert_eq!((blocked.code, blocked.reported), (code, true));
    }
}

#[test]
fn abort_mode_aborts_everything_loudly() {
    let rig = Rig::scalable(Config::server_nested(), SECOND);
    let rig = Rig { root: rig.table() | ABORT, ..rig }.on();
    for request in [
        request(0, false),
        request(0x1000, true),
        tagged(1, 0, false),
        request(0, false).address(AddressType::Translation),
        request(0, false).address(AddressType::Translated),
    ] {
        let blocked = rig.live(&request).unwrap_err();
        assert_eq!((blocked.code, blocked.reported, blocked.answer), (FaultCode::ABORTED, true, Answer::Unsupported));
    }
    assert_eq!(rig.model.cached(), [0; 3]);
    // No table is looked at.
    let rig = Rig { root: 0x1000 | ABORT, ..rig };
    assert_eq!(rig.read(), Err(FaultCode::ABORTED));
    assert_eq!(rig.memory.take_stale_reads(), []);
}

#[test]
fn modes_that_the_unit_lacks() {
    let rig = Rig::scalable(Config::server(), SECOND);
    let with = |config: Config, mode: u64| {
        let rig = Rig::scalable(config, SECOND);
        Rig { root: rig.table() | mode, ..rig }.read()
    };
    assert_eq!(rig.read(), Ok(PAGE));
    assert_eq!(with(Config::server(), ABORT), Err(FaultCode::ROOT_ADDRESS));
    assert_eq!(with(Config::server(), 2 << 10), Err(FaultCode::ROOT_ADDRESS));
    assert_eq!(with(Config::legacy(), SCALABLE), Err(FaultCode::ROOT_ADDRESS));
    assert!(with(Config::server_nested(), ABORT) == Err(FaultCode::ABORTED));
    // The unit notes it as well.
    let model = Model::new(Config::legacy(), rig.memory.clone());
    model.write64(0x20, rig.root);
    model.write32(0x18, 1 << 30);
    assert_eq!(model.violations(), [Violation::NoMode { rtaddr: rig.root }]);
}
