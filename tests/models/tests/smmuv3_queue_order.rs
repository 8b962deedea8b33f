//! When commands take effect, how a CMD_SYNC reports, and what hardware may leave out.

mod smmuv3_common;

use iommu_models::smmuv3::{Command, Config, Execution, Interrupt, Message, Queue, Source, Violation};
use smmuv3_common::*;
use std::sync::{Arc, Mutex};

const CMDQ_ERR: u32 = 1;
const SYNC: Command = Command::Sync { signal: 0, message: None };

/// In which order these commands took effect, those of one round at a time.
fn effects(order: Execution, rounds: &[&[u64]]) -> Vec<Command> {
    let mut bench = Bench::up(Config::nested());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    bench.model.set_execution(order);
    bench.model.on_command(Some(Box::new(move |_, command| log.lock().unwrap().push(*command))));
    for round in rounds {
        for low in *round {
            bench.put(*low, 0);
        }
        bench.put(0x46, 0);
    }
    bench.ring();
    assert_eq!(bench.read32(CMDQ_CONS), bench.prod());
    bench.model.on_command(None);
    seen.lock().unwrap().clone()
}

fn vmids(commands: &[Command]) -> Vec<u16> {
    let of = |command: &Command| if let Command::TlbiVmid { vmid } = command { Some(*vmid) } else { None };
    commands.iter().filter_map(of).collect()
}

const ROUNDS: [&[u64]; 2] = [&[0x28 | 1 << 32, 0x28 | 2 << 32, 0x28 | 3 << 32], &[0x28 | 4 << 32, 0x28 | 5 << 32]];

#[test]
fn only_a_sync_orders_commands() {
    for (order, expected) in [
        (Execution::Queued, [1, 2, 3, 4, 5]),
        (Execution::Late, [1, 2, 3, 4, 5]),
        (Execution::Reversed, [3, 2, 1, 5, 4]),
    ] {
        let found = effects(order, &ROUNDS);
        assert_eq!(vmids(&found), expected, "{order:?}");
        assert_eq!((found[3], found[6]), (SYNC, SYNC));
    }
    let mut met = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let found = effects(Execution::Shuffled(seed), &ROUNDS);
        let (first, second) = (vmids(&found[..3]), vmids(&found[4..6]));
        let sorted = |mut all: Vec<u16>| {
            all.sort_unstable();
            all
        };
        assert_eq!((sorted(first.clone()), sorted(second)), (vec![1, 2, 3], vec![4, 5]));
        met.insert(first);
    }
    assert_eq!(met.len(), 6, "every order");
}

#[test]
fn without_a_sync_nothing_takes_effect_unless_at_once() {
    for (order, left) in [(Execution::Late, 1), (Execution::Queued, 0)] {
        let mut bench = Bench::first(Config::nested());
        bench.map_first(1, 0x8000);
        bench.read_at(0x1000).unwrap();
        bench.model.set_execution(order);
        bench.submit(0x30, 0);
        assert_eq!((bench.read32(CMDQ_CONS), bench.model.cached()[2]), (bench.prod(), left), "{order:?}");
        bench.sync();
        assert_eq!(bench.model.cached()[2], 0);
    }
}

#[test]
fn a_device_may_ask_between_two_commands() {
    let mut bench = Bench::first(Config::nested());
    bench.map_first(1, 0x8000);
    bench.read_at(0x1000).unwrap();
    bench.set(bench.first[2] + 8, 0);
    // Another walk between the invalidation and its CMD_SYNC meets the new table only.
    bench.model.on_command(Some(Box::new(|model, command| {
        if *command == SYNC {
            assert!(model.dma(SID, None, iommu_core::addr::Iova::new(0x1000), 1, false).is_err());
        }
    })));
    bench.tlbi_asid(0, ASID);
    bench.model.on_command(None);
    assert_eq!(bench.read32(EVENTQ_PROD), 1);
}

#[test]
fn a_sync_may_take_its_time_by_looks_and_by_the_clock() {
    let mut bench = Bench::up(Config::server());
    let cell = frame(&bench.memory);
    bench.model.report_after(3);
    bench.put(0x30, 0);
    bench.submit(0x46 | 1 << 12 | 7 << 32, cell);
    assert_eq!([(); 3].map(|()| bench.read32(CMDQ_CONS) == bench.prod()), [false, false, true]);
    assert_eq!(bench.get(cell), 7);
    bench.submit(0x46 | 1 << 12 | 8 << 32, cell);
    for _ in 0..3 {
        assert_eq!(bench.get(cell), 7);
        let _ = iommu_hal::Hal::now(&*bench.memory);
    }
    assert_eq!(bench.get(cell), 8);
    bench.model.report_after(0);
}

#[test]
fn a_completion_may_be_lost() {
    let mut bench = Bench::up(Config::server());
    let cell = frame(&bench.memory);
    bench.model.drop_completion_after(1);
    for data in 1..4 {
        bench.submit(0x46 | 1 << 12 | data << 32, cell);
        assert_eq!(bench.read32(CMDQ_CONS), bench.prod());
    }
    let sent: Vec<_> = bench.model.take_interrupts().iter().map(|it| it.message.unwrap().data).collect();
    assert_eq!((sent, bench.get(cell)), (vec![1, 3], 3));
}

#[test]
fn an_aborted_message_is_a_global_error_and_the_sync_is_consumed() {
    let mut bench = Bench::up(Config::server());
    let cell = frame(&bench.memory);
    bench.model.abort_messages(Source::Sync, true);
    bench.submit(0x46 | 1 << 12 | 7 << 32, cell);
    assert_eq!((bench.read32(CMDQ_CONS), bench.read32(GERROR), bench.get(cell)), (bench.prod(), 1 << 4, 0));
    // Commands go on while it is active.
    bench.run(0x30, 0);
    bench.model.abort_messages(Source::Sync, false);
    bench.write32(GERRORN, 1 << 4);
    bench.submit(0x46 | 1 << 12 | 7 << 32, cell);
    assert_eq!(bench.get(cell), 7);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_unit_without_messages_ignores_them() {
    let mut bench = Bench::up(Config::nested());
    let cell = frame(&bench.memory);
    bench.submit(0x46 | 1 << 12 | 7 << 32, cell);
    assert_eq!(bench.get(cell), 0);
    assert_eq!(bench.model.take_interrupts(), [Interrupt { source: Source::Sync, message: None }]);
    assert_eq!((bench.read32(GERROR), bench.model.take_wake_ups()), (0, 0));
}

#[test]
fn those_who_wait_are_woken() {
    let mut bench = Bench::up(Config::server());
    bench.model.take_wake_ups();
    bench.submit(0x46 | 2 << 12, 0);
    assert_eq!(bench.model.take_wake_ups(), 1);
    // Room in a queue that was full.
    bench.model.set_queue(Queue::Stopped);
    for _ in 0..1 << LOG2 {
        bench.put(0x30, 0);
    }
    bench.ring();
    bench.model.stop_queue_after(2);
    bench.model.set_queue(Queue::Running);
    assert_eq!(bench.model.take_wake_ups(), 1);
    // Not in a unit that cannot.
    let mut bench = Bench::up(Config::nested());
    bench.submit(0x46 | 2 << 12, 0);
    assert_eq!(bench.model.take_wake_ups(), 0);
}

#[test]
fn with_an_error_active_the_producer_may_go_back_to_the_consumer() {
    let mut bench = Bench::up(Config::nested());
    let good = bench.prod();
    bench.put(0x47, 0);
    bench.put(0x30, 0);
    bench.sync();
    assert_eq!(bench.read32(CMDQ_CONS), 1 << 24 | good);
    bench.write32(CMDQ_PROD, good);
    bench.write32(GERRORN, CMDQ_ERR);
    assert_eq!((bench.read32(GERROR), bench.read32(CMDQ_CONS) & 0xf_ffff), (CMDQ_ERR, good));
    // What is written there now is what counts.
    bench.set(bench.commands + u64::from(good & 15) * 16, 0x46);
    bench.write32(CMDQ_PROD, good + 1);
    assert_eq!(bench.read32(CMDQ_CONS) & 0xf_ffff, good + 1);
    assert_eq!(bench.executed(), [SYNC]);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_command_belongs_to_the_unit_until_it_is_consumed() {
    let mut bench = Bench::up(Config::nested());
    bench.model.set_queue(Queue::Stopped);
    let slot = (bench.prod() & 15) as usize;
    bench.submit(0x30, 0);
    bench.replace(1, 0x46, 0);
    bench.model.set_queue(Queue::Running);
    assert_eq!(bench.model.take_violations(), [Violation::CommandChanged { slot }]);
    // Not while an error is active, and not while the queue is off.
    bench.submit(0x47, 0);
    bench.submit(0x30, 0);
    bench.replace(2, 0x46, 0);
    bench.replace(1, 0x46, 0);
    bench.write32(GERRORN, CMDQ_ERR);
    bench.disable(CMDQEN);
    bench.submit(0x30, 0);
    bench.replace(1, 0x46, 0);
    bench.enable(CMDQEN);
    assert_eq!((bench.read32(CMDQ_CONS) & 0xf_ffff, bench.model.violations()), (bench.prod(), vec![]));
}

#[test]
fn what_is_out_of_range_does_nothing_and_is_seen() {
    let server = Config::server();
    for (config, low, high) in [
        (Config::nested(), 3 | 0x1_0000 << 32, 1),
        (server, 5 | 0x100_0000 << 32, 1),
        (Config::nested(), 5 | 1 << 12, 1),
        (server, 0x40 | 0x100_0000 << 32, 52),
        (server, 0x12, 1 << 48),
        (server, 0x12, (1 << 63) | 0x1000),
        (server, 0x2a, 1 << 48),
        (Config::stage_1(), 0x10 | 1 << 32, 0),
    ] {
        let mut bench = Bench::up(config);
        bench.run(low, high);
        assert_eq!(
            bench.model.take_violations(),
            [Violation::OutOfRange { command: [low, high] }],
            "{low:#x} {high:#x}"
        );
        assert_eq!(bench.read32(GERROR), 0);
    }
    let mut bench = Bench::up(server);
    bench.run(0x12, 0xffff_8000_0000_0000);
    bench.run(0x04 | 0xffff_ffff << 32, 31);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn failure_mode_ends_everything() {
    let mut bench = Bench::first(Config::nested());
    bench.map_first(1, 0x8000);
    bench.read_at(0x1000).unwrap();
    bench.write32(IRQ_CTRL, 1);
    bench.model.enter_failure_mode();
    let by_wire = Interrupt { source: Source::GlobalError, message: None };
    assert_eq!((bench.read32(GERROR), bench.model.take_interrupts()), (1 << 8, vec![by_wire]));
    assert!(bench.read_at(0x1000).is_err());
    bench.sync();
    assert_eq!((bench.read32(CMDQ_CONS), bench.read32(EVENTQ_PROD)), (bench.prod() - 1, 0));
}

#[test]
fn interrupts_are_written_or_say_why_not() {
    let bench = Bench::up(Config::server());
    let cell = frame(&bench.memory);
    for (base, data) in [(0x68, 1), (0xb0, 3)] {
        bench.write64(base, cell + 8 * data);
        bench.write32(base + 8, data as u32);
    }
    bench.write32(IRQ_CTRL, 1 | 1 << 2);
    assert!(bench.model.put_event([0xe0, 0, 0, 0]));
    bench.model.raise_error(1 << 3);
    assert_eq!((bench.get(cell + 24), bench.get(cell + 8)), (3, 1));
    let sent = |source, data: u64| Interrupt {
        source,
        message: Some(Message { address: cell + 8 * data, data: data as u32 }),
    };
    assert_eq!(bench.model.take_interrupts(), [sent(Source::Events, 3), sent(Source::GlobalError, 1)]);
    // That of the event queue is lost: another global error tells. That of a global error: nothing but its bit.
    bench.model.abort_messages(Source::Events, true);
    bench.write32(EVENTQ_CONS, 1);
    assert!(bench.model.put_event([0xe0, 0, 0, 0]));
    assert_eq!(bench.model.take_interrupts(), [sent(Source::GlobalError, 1)]);
    bench.model.abort_messages(Source::GlobalError, true);
    bench.model.raise_error(1 << 6);
    assert_eq!((bench.read32(GERROR), bench.model.take_interrupts()), (1 << 3 | 1 << 5 | 1 << 6 | 1 << 7, vec![]));
}
