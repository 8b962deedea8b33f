//! The register file: what a program does right, and each thing that it may not do.

mod smmuv3_common;

use iommu_hal::regs::Registers;
use iommu_models::smmuv3::{Config, FaultCode, Interrupt, Message, Source, Violation};
use smmuv3_common::*;

fn all() -> [Config; 7] {
    let nested = Config::nested();
    [
        nested,
        Config::stage_1(),
        Config::stage_2(),
        nested.without_ril(),
        nested.linear(),
        nested.non_coherent(),
        Config::server(),
    ]
}

#[test]
fn a_right_program_brings_the_unit_up() {
    for config in all() {
        if config.idr0 & Config::S1P != 0 {
            let bench = Bench::first(config);
            bench.map_first(3, 0x5000);
            assert_eq!((bench.read_at(0x3010), bench.write_at(0x3020)), (Ok(0x5010), Ok(0x5020)));
            assert_eq!(bench.model.violations(), []);
        }
        if config.idr0 & Config::S2P != 0 {
            let bench = Bench::second(config);
            bench.map_second(3, 0x5000);
            assert_eq!((bench.read_at(0x3010), bench.write_at(0x3020)), (Ok(0x5010), Ok(0x5020)));
            assert_eq!(bench.model.violations(), []);
        }
    }
}

#[test]
fn identity_registers_read_as_configured() {
    for config in all() {
        let bench = Bench::new(config);
        let read = [0, 4, 8, 0xc, 0x10, 0x14, 0x18, 0x1c, GBPA].map(|offset| bench.read32(offset));
        let Config { idr0, idr1, idr3, idr5, iidr, aidr, gbpa, .. } = config;
        assert_eq!(read, [idr0, idr1, 0, idr3, 0, idr5, iidr, aidr, gbpa]);
        assert_eq!(bench.model.len(), 0x2_0000);
    }
    assert_eq!(Config::nested().idr0, 0x0d44_101b);
    assert_eq!((Config::stage_1().idr0, Config::stage_2().idr0), (0x0d44_101a, 0x0d44_1019));
    assert_eq!(Config::server().output_bits(), 48);
}

#[test]
fn accesses_that_are_wrong_are_flagged() {
    let bench = Bench::new(Config::nested());
    assert_eq!(bench.read64(4), u64::MAX);
    assert_eq!(bench.read32(0x2_0002), u32::MAX);
    assert_eq!(bench.read32(0x2_0000), u32::MAX);
    assert_eq!(bench.read64(CR0), u64::MAX);
    bench.write64(GERRORN & !7, 5);
    assert_eq!(
        bench.model.take_violations(),
        [
            Violation::Misaligned { offset: 4, width: 8 },
            Violation::Misaligned { offset: 0x2_0002, width: 4 },
            Violation::OutsideWindow { offset: 0x2_0000, width: 4 },
            Violation::WrongWidth { offset: CR0, width: 8 },
            Violation::WrongWidth { offset: GERROR, width: 8 },
        ]
    );
    bench.write32(0, 1);
    bench.write32(CR0ACK, 2);
    bench.write32(GERROR, 3);
    // The copies of page 1 in page 0 are none, nor is anything secure.
    bench.write32(0xac, 4);
    bench.write32(0x8020, 5);
    assert_eq!(
        bench.model.take_violations(),
        [
            Violation::ReadOnly { offset: 0, value: 1 },
            Violation::ReadOnly { offset: CR0ACK, value: 2 },
            Violation::ReadOnly { offset: GERROR, value: 3 },
            Violation::NoRegister { offset: 0xac, value: 4 },
            Violation::NoRegister { offset: 0x8020, value: 5 },
        ]
    );
}

#[test]
fn a_register_of_eight_bytes_has_two_halves() {
    let bench = Bench::new(Config::nested());
    bench.write32(STRTAB_BASE, 0x4567_8000);
    bench.write32(STRTAB_BASE + 4, 0x4000_0123);
    assert_eq!(bench.read64(STRTAB_BASE), 0x4000_0123_4567_8000);
    assert_eq!((bench.read32(STRTAB_BASE), bench.read32(STRTAB_BASE + 4)), (0x4567_8000, 0x4000_0123));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn reserved_bits_are_flagged_and_not_taken() {
    let bench = Bench::new(Config::nested());
    // Beyond 44 bits, below 64 bytes; PRI and ATS are absent.
    bench.write64(STRTAB_BASE, 0x1000_0000_0020 | 0x1000);
    bench.write32(STRTAB_BASE_CFG, 1 << 18 | 6);
    bench.write32(CR0, 1 << 5 | 1 << 1 | 1 << 4);
    bench.write32(CR1, 1 << 12);
    bench.write32(CR2, 1 | RECINVSID | 1 << 3);
    bench.write32(IRQ_CTRL, 1 << 1);
    bench.write32(GBPA, UPDATE | 1 << 5);
    assert_eq!(
        bench.model.take_violations(),
        [
            Violation::ReservedBits { offset: STRTAB_BASE, bits: 0x1000_0000_0020 },
            Violation::ReservedBits { offset: STRTAB_BASE_CFG, bits: 1 << 18 },
            Violation::ReservedBits { offset: CR0, bits: 1 << 5 | 1 << 1 | 1 << 4 },
            Violation::ReservedBits { offset: CR1, bits: 1 << 12 },
            Violation::ReservedBits { offset: CR2, bits: 1 | 1 << 3 },
            Violation::ReservedBits { offset: IRQ_CTRL, bits: 1 << 1 },
            Violation::ReservedBits { offset: GBPA, bits: 1 << 5 },
        ]
    );
    assert_eq!((bench.read64(STRTAB_BASE), bench.read32(STRTAB_BASE_CFG), bench.read32(CR2)), (0x1000, 6, RECINVSID));
    let bench = Bench::new(Config::server());
    bench.write32(CR0, 1 << 1 | 1 << 4);
    bench.write32(CR2, 7);
    bench.write32(IRQ_CTRL, 7);
    assert!(bench.model.violations().iter().all(|violation| matches!(violation, Violation::BaseMisaligned { .. })));
}

#[test]
fn a_field_waits_for_its_acknowledgement() {
    let mut bench = Bench::new(Config::nested());
    bench.model.acknowledge_after(3);
    bench.write64(CMDQ_BASE, bench.commands | u64::from(LOG2));
    bench.write32(CR0, CMDQEN);
    assert_eq!([(); 4].map(|()| bench.read32(CR0ACK)), [0, 0, 0, CMDQEN]);
    bench.put(0x46, 0);
    bench.ring();
    assert_eq!(bench.read32(CMDQ_CONS), 1);
    // Another field may follow at once; the same one may not.
    bench.write32(CR0, CMDQEN | EVENTQEN);
    bench.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    assert_eq!(bench.model.violations(), []);
    bench.write32(CR0, CMDQEN);
    assert_eq!(bench.model.take_violations(), [Violation::BeforeAcknowledged { offset: CR0, value: CMDQEN }]);
}

#[test]
fn an_acknowledgement_may_never_come() {
    let bench = Bench::up(Config::nested());
    bench.model.never_acknowledge(SMMUEN);
    bench.write32(CR0, CMDQEN | EVENTQEN);
    assert!((0..100).all(|_| bench.read32(CR0ACK) == SMMUEN | CMDQEN | EVENTQEN));
    // Still on, so what it guards is still guarded.
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    bench.write32(STRTAB_BASE_CFG, 5);
    assert_eq!(bench.model.take_violations(), [Violation::WhileEnabled { offset: STRTAB_BASE_CFG, value: 5 }]);
    bench.model.never_acknowledge(0);
    assert_eq!(bench.read32(CR0ACK), CMDQEN | EVENTQEN);
    bench.model.never_acknowledge_irq(4);
    bench.write32(IRQ_CTRL, 5);
    assert_eq!([(); 2].map(|()| bench.read32(IRQ_CTRLACK)), [1, 1]);
}

#[test]
fn what_is_in_use_is_not_moved() {
    let bench = Bench::up(Config::nested());
    let (commands, events) = (bench.commands | u64::from(LOG2), bench.events | u64::from(LOG2));
    bench.write64(STRTAB_BASE, bench.streams);
    bench.write64(CMDQ_BASE, commands);
    bench.write32(CMDQ_CONS, 0);
    bench.write64(EVENTQ_BASE, events);
    bench.write32(EVENTQ_PROD, 0);
    bench.write32(CR1, 0xd75);
    bench.write32(CR2, 0);
    let enabled = |offset, value| Violation::WhileEnabled { offset, value };
    assert_eq!(
        bench.model.take_violations(),
        [
            enabled(STRTAB_BASE, bench.streams),
            enabled(CMDQ_BASE, commands),
            enabled(CMDQ_CONS, 0),
            enabled(EVENTQ_BASE, events),
            enabled(EVENTQ_PROD, 0),
            enabled(CR1, 0xd75),
            enabled(CR2, 0),
        ]
    );
    assert_eq!(bench.read32(CR2), RECINVSID);
    bench.disable(SMMUEN);
    bench.write32(CR2, 0);
    // The queues still run: only the attributes of tables may change.
    bench.write32(CR1, 0xd40);
    assert_eq!(bench.model.violations(), []);
    bench.write32(CR1, 0xd45);
    assert_eq!(bench.model.take_violations(), [enabled(CR1, 0xd45)]);
}

#[test]
fn bases_are_aligned_to_what_they_hold() {
    let bench = Bench::new(Config::nested());
    bench.write64(CMDQ_BASE, (bench.commands + 0x20) | 4);
    bench.enable(CMDQEN);
    bench.write64(EVENTQ_BASE, (bench.events + 0x20) | 20);
    bench.enable(EVENTQEN);
    bench.write64(STRTAB_BASE, bench.streams + 0x40);
    bench.write32(STRTAB_BASE_CFG, 6);
    bench.enable(SMMUEN);
    let unknown = Violation::CachesUnknown { configuration: true, translations: true, el2: false };
    let misaligned = |offset, base| Violation::BaseMisaligned { offset, base };
    assert_eq!(
        bench.model.take_violations(),
        [
            misaligned(CMDQ_BASE, (bench.commands + 0x20) | 4),
            Violation::QueueSize { offset: EVENTQ_BASE, log2: 20 },
            misaligned(EVENTQ_BASE, (bench.events + 0x20) | 20),
            misaligned(STRTAB_BASE, bench.streams + 0x40),
            unknown,
        ]
    );
}

#[test]
fn a_stream_table_has_a_format_that_the_unit_has() {
    for (config, value, fine) in [
        (Config::nested(), 1 << 16 | 8 << 6 | 16, true),
        (Config::nested(), 1 << 16 | 6 << 6 | 16, true),
        (Config::nested(), 1 << 16 | 7 << 6 | 16, false),
        (Config::nested(), 2 << 16 | 8 << 6 | 16, false),
        (Config::nested().linear(), 1 << 16 | 8 << 6 | 16, false),
    ] {
        let mut bench = Bench::new(config);
        bench.start_commands();
        bench.invalidate_all();
        bench.write64(STRTAB_BASE, frames(&bench.memory, 2));
        bench.write32(STRTAB_BASE_CFG, value);
        bench.enable(SMMUEN);
        let expected: &[_] = if fine { &[] } else { &[Violation::Format { value }] };
        assert_eq!(bench.model.violations(), expected);
    }
}

#[test]
fn caches_are_unknown_until_all_of_them_were_invalidated() {
    let run = |config, commands: &[(u64, u64)]| {
        let mut bench = Bench::new(config);
        bench.start_commands();
        for (low, high) in commands {
            bench.submit(*low, *high);
        }
        bench.set_tables();
        bench.enable(SMMUEN);
        bench.model.take_violations()
    };
    let (nested, server) = (Config::nested(), Config::server());
    let unknown = |configuration, translations, el2| [Violation::CachesUnknown { configuration, translations, el2 }];
    assert_eq!(run(nested, &[(4, 31), (0x30, 0), (0x46, 0)]), []);
    assert_eq!(run(server, &[(4, 31), (0x30, 0), (0x20, 0), (0x46, 0)]), []);
    assert_eq!(run(server, &[(4, 31), (0x30, 0), (0x46, 0)]), unknown(false, false, true));
    assert_eq!(run(nested, &[(0x30, 0), (0x46, 0)]), unknown(true, false, false));
    assert_eq!(run(nested, &[(4, 31), (0x46, 0)]), unknown(false, true, false));
    // No CMD_SYNC behind.
    assert_eq!(run(nested, &[(4, 31), (0x30, 0)]), unknown(true, true, false));
}

#[test]
fn gbpa_changes_by_update_only() {
    let bench = Bench::new(Config::nested());
    assert_eq!(bench.write_at(0x1234_5678), Ok(0x1234_5678));
    bench.write32(GBPA, ABORT);
    assert_eq!(bench.model.take_violations(), [Violation::WithoutUpdate { value: ABORT }]);
    assert_eq!(bench.read32(GBPA), 0x1000);
    bench.model.acknowledge_after(2);
    bench.write32(GBPA, UPDATE | ABORT);
    bench.write32(GBPA, UPDATE);
    assert_eq!(
        bench.model.take_violations(),
        [Violation::BeforeAcknowledged { offset: GBPA, value: UPDATE }],
        "the last update was under way"
    );
    assert_eq!([(); 3].map(|()| bench.read32(GBPA)), [UPDATE | 0x1000, UPDATE | 0x1000, ABORT]);
    assert_eq!(bench.write_at(0x1234_5678), Err(FaultCode::NONE));
    bench.model.never_update_gbpa(true);
    bench.write32(GBPA, UPDATE);
    assert!((0..100).all(|_| bench.read32(GBPA) == UPDATE | ABORT));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn gbpa_counts_only_while_the_unit_is_off() {
    let bench = Bench::up(Config::nested());
    bench.write32(GBPA, UPDATE);
    assert_eq!(bench.write_at(0), Err(FaultCode::C_BAD_STE));
    bench.disable(SMMUEN);
    assert_eq!(bench.write_at(0x1000), Ok(0x1000));
    assert_eq!(bench.write_at(1 << 44), Err(FaultCode::NONE));
    assert_eq!(bench.model.cached(), [1, 0, 0]);
}

#[test]
fn messages_are_set_up_while_their_interrupt_is_off() {
    let bench = Bench::up(Config::server());
    bench.write64(0xb0, 0xfee0_0040);
    bench.write32(0xb8, 77);
    bench.write32(0xbc, 1);
    bench.write32(IRQ_CTRL, 4);
    assert_eq!(bench.model.violations(), []);
    bench.write32(0xb8, 78);
    // Each has an enable of its own.
    bench.write32(0x70, 79);
    assert_eq!(bench.model.take_violations(), [Violation::WhileEnabled { offset: 0xb8, value: 78 }]);
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    let message = Some(Message { address: 0xfee0_0040, data: 77 });
    assert_eq!(bench.model.take_interrupts(), [Interrupt { source: Source::Events, message }]);
    // A unit without messages has no such registers.
    let bench = Bench::up(Config::nested());
    bench.write64(0xb0, 0);
    bench.write64(0xb0, 0x1000);
    assert_eq!(bench.model.take_violations(), [Violation::ReservedBits { offset: 0xb0, bits: 0x1000 }]);
}

#[test]
fn a_unit_that_is_gone_reads_all_ones() {
    let bench = Bench::up(Config::nested());
    bench.model.set_absent(true);
    assert_eq!((bench.read32(CR0), bench.read64(CMDQ_BASE)), (u32::MAX, u64::MAX));
    bench.write32(CR0, 0);
    bench.model.set_absent(false);
    assert_eq!(bench.read32(CR0), SMMUEN | CMDQEN | EVENTQEN);
}
