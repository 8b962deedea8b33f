//! The register file and GCMD: what a program does right, and each thing that it may not do.

mod common;

use common::*;
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, FaultCode, Violation};

#[test]
fn a_right_program_brings_the_unit_up() {
    for config in
        [Config::second_stage(), Config::first_stage(), Config::server(), Config::second_stage().caching_mode()]
    {
        let mut bench = Bench::up(config);
        bench.map(3, 0x5000);
        assert_eq!(bench.read_at(0x3010), Ok(0x5010));
        assert!(bench.wait(7));
        assert_eq!(bench.read32(GSTS), TE | SRTP | QIE);
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn identity_registers_read_as_configured() {
    let bench = Bench::new(Config::server());
    let config = bench.model.config();
    assert_eq!((bench.read32(0), bench.read64(8), bench.read64(16)), (config.version, config.cap, config.ecap));
    assert_eq!((bench.read32(FECTL), bench.read32(0xa0)), (1 << 31, 1 << 31));
    assert_eq!(bench.read32(GCMD), 0);
    assert_eq!(bench.model.len(), 0x1000);
}

#[test]
fn accesses_that_are_wrong_are_flagged() {
    let bench = Bench::new(Config::second_stage());
    assert_eq!(bench.read64(4), u64::MAX);
    assert_eq!(bench.read32(0x1002), u32::MAX);
    assert_eq!(bench.read32(0x1000), u32::MAX);
    assert_eq!(bench.read32(8), u32::MAX);
    assert_eq!(bench.read64(0x18), u64::MAX);
    bench.write32(RTADDR, 5);
    assert_eq!(bench.read64(RTADDR), 0);
    assert_eq!(
        bench.model.take_violations(),
        [
            Violation::Misaligned { offset: 4, width: 8 },
            Violation::Misaligned { offset: 0x1002, width: 4 },
            Violation::OutsideWindow { offset: 0x1000, width: 4 },
            Violation::WrongWidth { offset: 8, width: 4 },
            Violation::WrongWidth { offset: 0x18, width: 8 },
            Violation::WrongWidth { offset: RTADDR, width: 4 },
        ]
    );
    bench.write64(8, 1);
    bench.write32(GSTS, 2);
    bench.write64(IQH, 3);
    bench.write64(0x58, 4);
    bench.write32(0xf00, 5);
    bench.write64(RTADDR, 0x1_0000_0000_0001);
    bench.write32(GCMD, 1);
    assert_eq!(
        bench.model.take_violations(),
        [
            Violation::ReadOnly { offset: 8, value: 1 },
            Violation::ReadOnly { offset: GSTS, value: 2 },
            Violation::ReadOnly { offset: IQH, value: 3 },
            Violation::NoRegister { offset: 0x58, value: 4 },
            Violation::NoRegister { offset: 0xf00, value: 5 },
            Violation::ReservedBits { offset: RTADDR, bits: 0x1_0000_0000_0001 },
            Violation::ReservedBits { offset: GCMD, bits: 1 },
        ]
    );
}

#[test]
fn one_command_a_write() {
    let mut bench = Bench::new(Config::second_stage());
    bench.start_queue();
    bench.write64(RTADDR, bench.root | SCALABLE);
    bench.write32(GCMD, QIE | SRTP | TE);
    assert_eq!(bench.model.take_violations(), [Violation::ManyCommands { bits: SRTP | TE }]);
    // A write without QIE turns the queue off.
    bench.write32(GCMD, TE);
    assert_eq!(bench.read32(GSTS), TE | SRTP);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn the_next_command_waits_for_the_answer_to_the_last() {
    let bench = Bench::new(Config::second_stage());
    bench.model.answer_after(3);
    bench.write64(RTADDR, bench.root | SCALABLE);
    bench.write32(GCMD, SRTP);
    assert_eq!([(); 4].map(|()| bench.read32(GSTS)), [0, 0, 0, SRTP]);
    assert_eq!(bench.model.root(), bench.root | SCALABLE);
    // Set again: the status falls until the new pointer is in place.
    bench.write32(GCMD, SRTP);
    assert_eq!(bench.read32(GSTS), 0);
    bench.write32(GCMD, TE);
    assert_eq!(bench.model.take_violations(), [Violation::CommandWhilePending { pending: SRTP, value: TE }]);
}

#[test]
fn a_command_can_stay_without_an_answer() {
    let bench = Bench::new(Config::second_stage());
    bench.set_root();
    bench.model.never_answer(TE);
    bench.write32(GCMD, TE);
    assert!((0..100).all(|_| bench.read32(GSTS) == SRTP));
    assert_eq!(bench.read_at(0x1234), Ok(0x1234));
    bench.model.never_answer(0);
    assert_eq!(bench.read32(GSTS), SRTP | TE);
    assert_eq!(bench.read_at(0x1234), Err(FaultCode::ROOT_NOT_PRESENT));
}

#[test]
fn the_root_is_latched_by_srtp_only() {
    let bench = Bench::up(Config::second_stage());
    bench.map(0, 0x9000);
    bench.write64(RTADDR, 0x7000 | SCALABLE);
    assert_eq!(bench.read_at(0), Ok(0x9000));
    assert_eq!(bench.model.root(), bench.root | SCALABLE);
    assert_eq!(bench.read64(RTADDR), 0x7000 | SCALABLE);
}

#[test]
fn the_mode_stays_while_translation_is_on() {
    let bench = Bench::up(Config::second_stage());
    bench.write64(RTADDR, bench.root);
    bench.command(SRTP);
    assert_eq!(bench.model.take_violations(), [Violation::ModeWhileTranslating { rtaddr: bench.root }]);
    bench.write64(RTADDR, bench.root | 2 << 10);
    bench.write32(GCMD, QIE);
    bench.command(SRTP);
    assert_eq!(bench.model.take_violations(), [Violation::NoMode { rtaddr: bench.root | 2 << 10 }]);
}

#[test]
fn translation_needs_a_root() {
    let bench = Bench::new(Config::second_stage());
    bench.command(TE);
    assert_eq!(bench.model.violations(), [Violation::NoRoot]);
}

#[test]
fn a_command_that_the_unit_lacks_is_flagged() {
    let bench = Bench::new(Config::second_stage());
    bench.write32(GCMD, 1 << 27);
    assert_eq!(bench.model.take_violations(), [Violation::NoCommand { bits: 1 << 27 }]);
    let bench = Bench::new(Config::second_stage().cap_bits(Config::CAP_RWBF, true));
    bench.model.answer_after(1);
    bench.write32(GCMD, 1 << 27);
    assert_eq!([bench.read32(GSTS), bench.read32(GSTS)], [1 << 27, 0]);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_queue_is_enabled_in_order() {
    let bench = Bench::new(Config::second_stage());
    let pair = frames(&bench.memory, 1);
    // Two pages, so the second page cannot be its start.
    bench.write64(IQA, (pair + 0x1000) | 1 << 11 | 1);
    bench.write64(IQT, 32);
    bench.model.set_queue(iommu_models::vtd::Queue::Stopped);
    bench.command(QIE);
    let iqa = (pair + 0x1000) | 1 << 11 | 1;
    assert_eq!(bench.model.take_violations(), [Violation::QueueMisaligned { iqa }, Violation::TailNotZero { iqt: 32 }]);
    bench.write64(IQA, pair | 1 << 11);
    bench.write32(GCMD, 0);
    assert_eq!(
        bench.model.take_violations(),
        [Violation::QueueMoved { iqa: pair | 1 << 11 }, Violation::QueueNotEmpty { iqh: 0, iqt: 32 }]
    );
    bench.write64(IQA, pair | 1 << 3);
    assert_eq!(bench.model.take_violations(), [Violation::ReservedBits { offset: IQA, bits: 1 << 3 }]);
}

#[test]
fn a_unit_that_is_gone_reads_all_ones() {
    let bench = Bench::up(Config::second_stage());
    bench.model.set_absent(true);
    assert_eq!((bench.read32(GSTS), bench.read64(8)), (u32::MAX, u64::MAX));
    bench.write32(GCMD, 0);
    bench.model.set_absent(false);
    assert_eq!(bench.read32(GSTS), TE | SRTP | QIE);
}

#[test]
fn without_translation_requests_pass_untranslated() {
    let bench = Bench::new(Config::second_stage());
    assert_eq!(bench.write_at(0x1234_5678), Ok(0x1234_5678));
    assert_eq!(bench.model.cached(), [0; 3]);
}

#[test]
fn with_esrtps_the_mode_may_change_at_any_time() {
    let bench = Bench::up(Config::second_stage().cap_bits(Config::CAP_ESRTPS, true));
    bench.write64(RTADDR, bench.root);
    bench.command(SRTP);
    assert_eq!(bench.model.violations(), []);
    assert_eq!(bench.model.root(), bench.root);
}

#[test]
fn abort_dma_mode_needs_adms() {
    for (has, config) in [(false, Config::second_stage()), (true, Config::second_stage().ecap_bits(1 << 52, true))] {
        let bench = Bench::new(config);
        let rtaddr = 3 << 10;
        bench.write64(RTADDR, rtaddr);
        bench.command(SRTP);
        let expected = if has { vec![] } else { vec![Violation::NoMode { rtaddr }] };
        assert_eq!(bench.model.violations(), expected);
        bench.command(TE);
        assert!(bench.write_at(0x1234).is_err());
    }
}

#[test]
fn advanced_fault_logs_are_gone() {
    let bench = Bench::new(Config::server());
    for bit in [1 << 28, 1 << 29] {
        bench.write32(GCMD, bit);
        assert_eq!(bench.model.take_violations(), [Violation::NoCommand { bits: bit }]);
        assert_eq!(bench.read32(GSTS), 0);
    }
    bench.write64(0x58, 0);
    assert_eq!(bench.model.violations(), [Violation::NoRegister { offset: 0x58, value: 0 }]);
}

#[test]
fn the_completion_event_goes_by_mask_and_status() {
    let mut bench = Bench::up(Config::second_stage());
    let (control, data, address) = (0xa0, 0xa4, 0xa8);
    bench.write32(data, 0x44);
    bench.write32(address, 0xfee0_2000);
    // Masked: held back, and forgotten once the status is cleared.
    bench.submit(0x15, 0);
    assert_eq!((bench.read32(ICS), bench.read32(control)), (1, 3 << 30));
    bench.write32(ICS, 1);
    assert_eq!((bench.read32(ICS), bench.read32(control)), (0, 1 << 31));
    bench.write32(control, 0);
    assert_eq!(bench.model.take_messages(), []);
    bench.submit(0x15, 0);
    assert_eq!((bench.read32(control), bench.model.take_messages().len()), (0, 1));
}

#[test]
fn the_page_request_event_is_there_only_with_page_requests() {
    let bench = Bench::new(Config::server().ecap_bits(Config::ECAP_PRS, true));
    assert_eq!(bench.read32(0xe0), 1 << 31);
    bench.model.write32(0xe0, 0);
    assert_eq!((bench.read32(0xe0), bench.model.violations()), (0, vec![]));
    let bench = Bench::new(Config::server());
    assert_eq!(bench.read32(0xe0), 0);
    bench.model.write32(0xe0, 1 << 31);
    assert_eq!(bench.model.violations(), [Violation::NoRegister { offset: 0xe0, value: 1 << 31 }]);
}
