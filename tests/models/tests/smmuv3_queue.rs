//! The command queue: what is executed, what is illegal, and what its errors leave behind.

mod smmuv3_common;

use iommu_models::smmuv3::{Action, Command, Config, Interrupt, Message, Queue, Scope, Source, Violation};
use smmuv3_common::*;

const CMDQ_ERR: u32 = 1;

/// CONS.ERR, once a unit has met this command; 0 where it is legal.
fn error(config: Config, low: u64, high: u64) -> u32 {
    let mut bench = Bench::up(config);
    bench.submit(low, high);
    assert_eq!(bench.read32(GERROR) & CMDQ_ERR != 0, bench.read32(CMDQ_CONS) >> 24 != 0);
    bench.read32(CMDQ_CONS) >> 24
}

fn decoded(config: Config, low: u64, high: u64) -> Command {
    let mut bench = Bench::up(config);
    bench.submit(low, high);
    assert_eq!(bench.read32(GERROR), 0, "{low:#x} {high:#x}");
    bench.executed()[0]
}

#[test]
fn commands_are_understood() {
    let server = Config::server();
    let (sid, vmid, asid) = (0x12_3456u64 << 32, 0x34u64 << 32, 0x56u64 << 48);
    let scope = |address, len, leaf_only, level, granule| Scope { address, len, leaf_only, level, granule };
    let page = scope(0x7000, None, true, 0, 0);
    for (low, high, command) in [
        (1 | sid, 0, Command::Prefetch { sid: 0x12_3456, ssid: None, address: None }),
        (3 | sid, 1, Command::ConfigSte { sid: 0x12_3456, leaf: true }),
        (3 | sid, 0, Command::ConfigSte { sid: 0x12_3456, leaf: false }),
        (4 | sid, 7, Command::ConfigRange { sid: 0x12_3456, log2: 8 }),
        (4, 31, Command::ConfigAll),
        (5 | 9 << 12 | sid, 1, Command::ConfigCd { sid: 0x12_3456, ssid: 9, leaf: true }),
        (6 | sid, 0, Command::ConfigCdAll { sid: 0x12_3456 }),
        (0x10 | vmid, 0, Command::TlbiAll { vmid: 0x34 }),
        (0x11 | vmid | asid, 0, Command::TlbiAsid { vmid: 0x34, asid: 0x56 }),
        (0x12 | vmid | asid, 0x7001, Command::TlbiVa { vmid: 0x34, asid: Some(0x56), scope: page }),
        (0x13 | vmid, 0x7001, Command::TlbiVa { vmid: 0x34, asid: None, scope: page }),
        (0x20, 0, Command::TlbiEl2All),
        (0x21 | asid, 0, Command::TlbiEl2Asid { asid: 0x56 }),
        (0x22 | asid, 0x7001, Command::TlbiEl2Va { asid: Some(0x56), scope: page }),
        (0x23, 0x7001, Command::TlbiEl2Va { asid: None, scope: page }),
        (0x28 | vmid, 0, Command::TlbiVmid { vmid: 0x34 }),
        (0x2a | vmid, 0x7000, Command::TlbiIpa { vmid: 0x34, scope: scope(0x7000, None, false, 0, 0) }),
        (0x30, 0, Command::TlbiEverything),
        (0x40 | sid, 52, Command::AtcInvalidate { sid: 0x12_3456, ssid: None, global: false, address: 52 }),
        (
            0x40 | 1 << 11 | 5 << 12 | sid,
            0x7000,
            Command::AtcInvalidate { sid: 0x12_3456, ssid: Some(5), global: false, address: 0x7000 },
        ),
        (0x41 | sid, 2 << 12 | 3, Command::PageResponse { sid: 0x12_3456, ssid: None, group: 3, code: 2 }),
        (0x44 | 1 << 12 | sid, 9, Command::Resume { sid: 0x12_3456, tag: 9, action: Action::Retry }),
        (0x45 | sid, 0, Command::StallTerminate { sid: 0x12_3456 }),
        (0x46 | 3 << 22 | 0xf << 24, 0, Command::Sync { signal: 0, message: None }),
    ] {
        assert_eq!(decoded(server, low, high), command);
    }
}

#[test]
fn ranges_are_understood() {
    // NUM 2, SCALE 3, TG 1, TTL 2: three times eight pages.
    let command = decoded(Config::nested(), 0x2a | 2 << 12 | 3 << 20, 0x40_0000 | 1 << 10 | 2 << 8 | 1);
    let scope = Scope { address: 0x40_0000, len: Some(0x1_8000), leaf_only: true, level: 2, granule: 12 };
    assert_eq!(command, Command::TlbiIpa { vmid: 0, scope });
    // The most: saturated.
    let command = decoded(Config::nested(), 0x12 | 31 << 12 | 31 << 20, 3 << 10);
    let Command::TlbiVa { scope, .. } = command else { panic!("{command:?}") };
    assert_eq!((scope.len, scope.granule), (Some(32 << 47), 16));
}

#[test]
fn what_is_reserved_or_absent_is_illegal() {
    let (nested, server) = (Config::nested(), Config::server());
    for (config, low, high) in [
        // Opcodes that there are not, or not here.
        (nested, 0, 0),
        (nested, 0x47, 0),
        (nested, 0x50, 0),
        (nested, 0x18, 0),
        (nested, 0x20, 0),
        (nested, 0x22, 0x1000),
        (nested, 0x40, 0),
        (nested, 0x41, 0),
        (nested, 0x44, 0),
        (nested, 0x45, 0),
        (Config::stage_1(), 0x28, 0),
        (Config::stage_1(), 0x2a, 0x1000),
        (Config::stage_2(), 0x10, 0),
        (Config::stage_2(), 0x11, 0),
        (Config::stage_2(), 0x12, 0x1000),
        (Config::stage_2(), 0x05, 1),
        (server.idr0_bits(3 << 24, false).idr0_bits(1 << 24, true), 0x45, 0),
        // SSec, and other bits that are none.
        (nested, 3 | 1 << 10, 1),
        (nested, 3 | 1 << 11, 1),
        (nested, 3, 2),
        (nested, 4, 32),
        (nested, 0x30 | 1 << 32, 0),
        (nested, 0x28, 1),
        (nested, 0x11 | 1 << 12, 0),
        (nested, 0x12, 1 << 1),
        (nested, 0x2a, 1 << 52),
        (nested, 0x46 | 3 << 12, 0),
        (nested, 0x46 | 1 << 14, 0),
        // Ranges: TG without range, range without TG, and anything where there are none.
        (nested, 0x12, 0x1000 | 1 << 10),
        (nested, 0x12 | 1 << 12, 0x1000),
        (nested, 0x12 | 1 << 20, 0x1000),
        (nested, 0x12, 0x1000 | 1 << 8),
        (nested.without_ril(), 0x12 | 1 << 12, 0x1000 | 1 << 10),
        (nested.without_ril(), 0x12, 0x1000 | 1 << 10),
        // Ids wider than the unit's.
        (Config::small(), 0x11 | 0x100 << 48, 0),
        (Config::small(), 0x28 | 0x100 << 32, 0),
        (server, 0x40, 53),
        (server, 0x41, 3 << 12),
    ] {
        assert_eq!(error_of(config, low, high), 1, "{low:#x} {high:#x}");
    }
    assert_eq!(error(nested, 0x12, 0x1000 | 1 << 10 | 3 << 8), 0);
    assert_eq!(error(nested.without_ril(), 0x12, 0x1001), 0);
}

/// As [`error`], on a unit whose queues may be as small as two entries.
fn error_of(config: Config, low: u64, high: u64) -> u32 {
    if config != Config::small() {
        return error(config, low, high);
    }
    let mut bench = Bench::new(config);
    bench.write64(CMDQ_BASE, bench.commands | 1);
    bench.enable(CMDQEN);
    bench.submit(low, high);
    bench.read32(CMDQ_CONS) >> 24
}

#[test]
fn an_illegal_command_stops_the_queue_until_it_is_replaced_and_acknowledged() {
    let mut bench = Bench::up(Config::nested());
    let first = bench.prod();
    bench.put(4, 31);
    bench.put(0x47, 0);
    bench.put(0x30, 0);
    bench.put(0x46, 0);
    bench.ring();
    assert_eq!(bench.read32(CMDQ_CONS), (first + 1) | 1 << 24);
    assert_eq!((bench.read32(GERROR), bench.read32(GERRORN)), (CMDQ_ERR, 0));
    assert_eq!(bench.executed(), [Command::ConfigAll]);
    // Acknowledged, but still there: again, and GERROR toggles.
    bench.write32(GERRORN, CMDQ_ERR);
    assert_eq!((bench.read32(GERROR), bench.read32(GERRORN)), (0, CMDQ_ERR));
    assert_eq!(bench.executed(), []);
    bench.replace(3, 0x46, 0);
    bench.write32(GERRORN, 0);
    assert_eq!(bench.read32(CMDQ_CONS) & 0xf_ffff, bench.prod());
    // The code stays: what counts is GERROR.
    assert_eq!(bench.read32(CMDQ_CONS) >> 24, 1);
    let sync = Command::Sync { signal: 0, message: None };
    assert_eq!(bench.executed(), [sync, Command::TlbiEverything, sync]);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_command_can_be_refused_on_demand() {
    let mut bench = Bench::up(Config::nested());
    bench.model.fail_command_after(1);
    bench.put(4, 31);
    bench.put(0x30, 0);
    bench.sync();
    assert_eq!(bench.read32(CMDQ_CONS) >> 24, 1);
    // It stays refused as long as it is there.
    bench.write32(GERRORN, CMDQ_ERR);
    assert_eq!(bench.read32(GERROR), 0);
    bench.replace(2, 0x46, 0);
    bench.write32(GERRORN, 0);
    assert_eq!(bench.read32(CMDQ_CONS) & 0xf_ffff, bench.prod());
    bench.run(0x30, 0);
    // A CMD_SYNC in the place of a CMD_SYNC is another.
    bench.model.fail_command_after(0);
    bench.sync();
    assert_eq!(bench.read32(CMDQ_CONS), (bench.prod() - 1) | 1 << 24);
    bench.replace(1, 0x46, 0);
    bench.write32(GERRORN, CMDQ_ERR);
    assert_eq!(bench.read32(CMDQ_CONS) & 0xf_ffff, bench.prod());
}

#[test]
fn a_command_that_cannot_be_fetched_aborts() {
    let bench = Bench::new(Config::nested());
    bench.write64(CMDQ_BASE, 0x2000 | 4);
    bench.enable(CMDQEN);
    bench.write32(CMDQ_PROD, 1);
    assert_eq!(bench.read32(CMDQ_CONS), 2 << 24);
}

#[test]
fn indices_wrap() {
    let mut bench = Bench::up(Config::nested());
    for _ in 0..100 {
        bench.run(4, 31);
    }
    // As many as there is room for.
    bench.model.set_queue(Queue::Stopped);
    for _ in 0..1 << LOG2 {
        bench.put(0x30, 0);
    }
    bench.ring();
    assert_eq!(bench.executed().len(), 200);
    assert_eq!(bench.model.violations(), []);
    bench.put(0x30, 0);
    let (prod, cons) = (bench.prod(), bench.read32(CMDQ_CONS));
    bench.ring();
    assert_eq!(bench.model.take_violations(), [Violation::Produced { prod, cons }]);
    bench.write32(CMDQ_PROD, 2 << LOG2);
    assert_eq!(bench.model.take_violations(), [Violation::Index { offset: CMDQ_PROD, value: 2 << LOG2 }]);
}

#[test]
fn a_producer_does_not_go_back() {
    let mut bench = Bench::up(Config::nested());
    bench.model.set_queue(Queue::Stopped);
    let cons = bench.prod();
    bench.submit(4, 31);
    bench.submit(4, 31);
    bench.write32(CMDQ_PROD, cons + 1);
    assert_eq!(bench.model.take_violations(), [Violation::Produced { prod: cons + 1, cons }]);
}

#[test]
fn a_queue_can_stop_or_never_sync() {
    let mut bench = Bench::up(Config::nested());
    bench.model.stop_queue_after(1);
    bench.put(4, 31);
    bench.sync();
    assert_eq!((bench.executed().len(), bench.read32(CMDQ_CONS)), (1, bench.prod() - 1));
    bench.model.set_queue(Queue::NoSync);
    assert_eq!(bench.read32(CMDQ_CONS), bench.prod() - 1);
    bench.model.set_queue(Queue::Running);
    assert_eq!(bench.read32(CMDQ_CONS), bench.prod());
    assert_eq!(bench.executed(), [Command::Sync { signal: 0, message: None }]);
}

#[test]
fn a_queue_can_be_slow() {
    let mut bench = Bench::up(Config::nested());
    bench.model.execute_after(3);
    let before = bench.prod();
    bench.put(4, 31);
    bench.sync();
    assert_eq!([(); 3].map(|()| bench.read32(CMDQ_CONS)), [before, before, bench.prod()]);
}

#[test]
fn a_disabled_queue_keeps_its_commands() {
    let mut bench = Bench::new(Config::nested());
    bench.write64(CMDQ_BASE, bench.commands | u64::from(LOG2));
    bench.put(4, 31);
    bench.ring();
    assert_eq!((bench.executed(), bench.read32(CMDQ_CONS)), (vec![], 0));
    bench.enable(CMDQEN);
    assert_eq!((bench.executed(), bench.read32(CMDQ_CONS)), (vec![Command::ConfigAll], 1));
}

#[test]
fn a_sync_reports_as_asked() {
    let mut bench = Bench::up(Config::server());
    let cell = frame(&bench.memory);
    bench.submit(0x46 | 1 << 12 | 77 << 32, cell);
    assert_eq!(bench.get(cell), 77);
    bench.submit(0x46 | 1 << 12, 0);
    bench.submit(0x46 | 2 << 12, 0);
    let by = |message| Interrupt { source: Source::Sync, message };
    assert_eq!(bench.model.take_interrupts(), [by(Some(Message { address: cell, data: 77 })), by(None)]);
    assert_eq!(bench.model.violations(), []);
    bench.submit(0x46 | 1 << 12 | 77 << 32, 0x2000);
    assert_eq!(bench.model.take_violations(), [Violation::MessageNowhere { address: 0x2000 }]);
}

#[test]
fn a_device_tlb_that_does_not_answer_shows_at_the_sync() {
    let mut bench = Bench::up(Config::server());
    bench.model.time_out_after(1);
    bench.put(0x40, 52);
    bench.put(0x40 | 1 << 32, 52);
    bench.put(0x30, 0);
    bench.sync();
    assert_eq!(bench.read32(CMDQ_CONS), 3 << 24 | (bench.prod() - 1));
    // Acknowledged, the CMD_SYNC is tried again.
    bench.write32(GERRORN, CMDQ_ERR);
    assert_eq!(bench.read32(CMDQ_CONS) & 0xf_ffff, bench.prod());
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn errors_are_acknowledged_where_there_are_any() {
    let bench = Bench::up(Config::nested());
    bench.write32(IRQ_CTRL, 1);
    bench.model.raise_error(1 << 8);
    bench.model.raise_error(1 << 8);
    assert_eq!((bench.read32(GERROR), bench.read32(GERRORN)), (1 << 8, 0));
    bench.write32(GERRORN, 1 << 8 | 1 << 2);
    assert_eq!(bench.model.take_violations(), [Violation::NoSuchError { bits: 1 << 2 }]);
    assert_eq!((bench.read32(GERROR), bench.read32(GERRORN)), (1 << 8, 1 << 8));
    bench.model.raise_error(1 << 8);
    assert_eq!(bench.read32(GERROR), 0);
    let by_wire = Interrupt { source: Source::GlobalError, message: None };
    assert_eq!(bench.model.take_interrupts(), [by_wire, by_wire]);
}
