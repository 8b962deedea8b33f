//! The driver comes up on every kind of unit, whatever firmware left, with everything blocked.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{HwError, Pasid, Stage, Wait};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, Descriptor, FaultCode, Granularity, Model};
use iommu_tests::bench::{Bench, TestUnit, config_for, memory};
use iommu_tests::case::Case;
use iommu_tests::spy::*;
use iommu_vtd::{ModeChoice, Unit};
use std::sync::Arc;

/// The edges of buses and halves of buses, and a few between.
fn samples() -> impl Iterator<Item = u16> {
    [0, 1, 0x7f, 0x80, 0xfe, 0xff].into_iter().flat_map(|bus| [0, 8, 0x7f, 0x80, 0xff].map(|devfn| bus << 8 | devfn))
}

fn switched() -> impl Iterator<Item = Case> {
    Case::all().into_iter().flat_map(|case| {
        [false, true].into_iter().flat_map(move |rwbf| {
            let case = case.with_cap(Config::CAP_RWBF, rwbf);
            [false, true].map(|esrtps| case.with_cap(Config::CAP_ESRTPS, esrtps))
        })
    })
}

/// A unit that is not up yet.
fn off(config: Config) -> (Arc<Spy>, Arc<Model>) {
    let model = Arc::new(Model::new(config, memory(false)));
    (Arc::new(Spy::new(model.clone())), model)
}

fn bring_up(spy: &Arc<Spy>, model: &Arc<Model>) -> Result<TestUnit, HwError> {
    Unit::bring_up(model.memory().clone(), spy.clone(), config_for(model.config()))
}

fn error(config: Config) -> HwError {
    let (spy, model) = off(config);
    let found = bring_up(&spy, &model).err().expect("an error");
    assert_eq!(spy.take_writes(), [], "nothing may be touched");
    assert_eq!((model.memory().in_use(), model.violations()), (0, vec![]));
    found
}

/// What a bring-up did to the registers, one letter each: Queue, Root, Write-buffer flush, Translation, Invalidations.
fn steps(spy: &Spy) -> String {
    let mut before = 0;
    let mut steps = String::new();
    for Write { offset, value } in spy.take_writes() {
        match offset {
            GCMD => {
                let value = value as u32;
                let letters = [(QIE, 'Q'), (TE, 'T')].into_iter().filter(|(bit, _)| (value ^ before) & bit != 0);
                steps.extend(
                    letters.map(|(bit, letter)| if value & bit == 0 { letter.to_ascii_lowercase() } else { letter }),
                );
                steps.extend([(SRTP, 'R'), (WBF, 'W')].iter().filter(|(bit, _)| value & bit != 0).map(|(_, it)| it));
                before = value & (TE | QIE | IRE);
            }
            IQT if value != 0 => steps.push('I'),
            _ => {}
        }
    }
    steps
}

#[test]
fn every_kind_of_unit_comes_up_with_everything_blocked() {
    for case in switched() {
        let memory = memory(case.non_coherent);
        let model = Arc::new(Model::new(case.config, memory.clone()));
        let spy = Arc::new(Spy::new(model.clone()));
        let unit = Unit::bring_up(memory.clone(), spy.clone(), config_for(&case.config)).expect(&case.name);
        assert_eq!(model.read32(GSTS), TE | SRTP | QIE, "{}", case.name);
        assert_eq!(model.root() & 0xfff, 1 << 10, "{}: scalable mode", case.name);
        assert_eq!(model.read64(IQA) & 0xfff, 1 << 11 | 1, "{}: 256 descriptors of 256 bits", case.name);
        assert_eq!(model.read32(FECTL) >> 31, 1, "{}: faults are polled", case.name);

        let log: Vec<Descriptor> = model.take_log().into_iter().map(|executed| executed.descriptor).collect();
        if case.config.cap & Config::CAP_ESRTPS != 0 {
            assert_eq!(log, [], "{}", case.name);
        } else {
            let [context, pasid, iotlb, wait] = log[..] else { panic!("{}: {log:?}", case.name) };
            assert_eq!(context, Descriptor::ContextCache(Granularity::Global));
            assert_eq!(pasid, Descriptor::PasidCache(Granularity::Global));
            let drain = Descriptor::Iotlb { granularity: Granularity::Global, drain_writes: true, drain_reads: true };
            assert_eq!(iotlb, drain);
            assert!(matches!(wait, Descriptor::Wait { status: Some(_), interrupt: false, .. }));
        }

        for requester in samples() {
            for write in [false, true] {
                let blocked = model.dma(requester, None, Iova::new(0x1000), 8, write).unwrap_err();
                assert_eq!(blocked.code, FaultCode::ROOT_NOT_PRESENT, "{}: {requester:#x}", case.name);
            }
        }
        assert_eq!(model.violations(), [], "{}", case.name);
        assert_eq!((model.take_messages(), memory.take_stale_reads()), (vec![], vec![]));
        assert_eq!(memory.in_use(), 4, "root table, two of the queue, and status");
        drop(unit);
        // Translation goes on, so that everything stays blocked, and nothing is freed below the hardware.
        assert_eq!((model.read32(GSTS), memory.in_use()), (TE | SRTP | QIE, 4));
    }
}

#[test]
fn each_of_all_requesters_is_blocked() {
    for config in [Config::second_stage(), Config::first_stage(), Config::server()] {
        let case = Case { name: "each".into(), config, stage: Stage::Second, non_coherent: true };
        let bench = Bench::up(&case);
        for requester in 0..=u16::MAX {
            let found = bench.model.translate(requester, None, Iova::new(0), false);
            assert_eq!(found, Err(FaultCode::ROOT_NOT_PRESENT), "{requester:#x}");
        }
    }
}

#[test]
fn commands_come_in_the_right_order() {
    for case in switched() {
        let (spy, model) = off(case.config);
        // The slower the answers, the less may be left to luck.
        model.answer_after(3);
        bring_up(&spy, &model).expect(&case.name);
        assert_eq!(model.violations(), [], "{}", case.name);
        let steps = steps(&spy);
        let (rwbf, esrtps) = (case.config.cap & Config::CAP_RWBF != 0, case.config.cap & Config::CAP_ESRTPS != 0);
        // An invalidation flushes the write buffer by itself. Without one it must be told to before anyone reads the
        // root table (reference, section 15, step 6).
        let allowed: &[&str] = match (rwbf, esrtps) {
            (false, false) => &["QRIT"],
            (false, true) => &["QRT"],
            (true, false) => &["QRIT", "QWRIT"],
            (true, true) => &["QWRT", "WQRT"],
        };
        assert!(allowed.contains(&&*steps), "{}: {steps}, not one of {allowed:?}", case.name);
    }
}

#[test]
fn a_unit_that_is_not_there_or_cannot_do_it_is_refused_untouched() {
    let (spy, model) = off(Config::second_stage());
    model.set_absent(true);
    let Err(HwError::Hardware(text)) = bring_up(&spy, &model) else { panic!("all ones") };
    assert!(text.contains("all ones"), "{text}");
    assert_eq!((spy.take_writes(), model.memory().in_use()), (vec![], 0));

    let second = Config::second_stage();
    for config in [Config { cap: u64::MAX, ..second }, Config { ecap: u64::MAX, ..second }] {
        assert!(matches!(error(config), HwError::Hardware(_)));
    }
    for window in [0, 0x40, 0xb8] {
        assert!(matches!(error(Config { window, ..second }), HwError::Hardware(_)), "{window:#x}");
    }
    // One record at 0x220: its last byte is 0x22f.
    assert!(matches!(error(Config { window: 0x228, ..second }), HwError::Hardware(_)));
    let last = Config { window: 0x230, ..second };
    let (spy, model) = off(last);
    bring_up(&spy, &model).expect("it just fits");
    // Records at the end of the window, at the end of the field, and more than fit.
    for cap in [0xffu64 << 40, 0x3ff << 24, 0x100 << 24] {
        assert!(matches!(error(second.cap_bits(cap, true)), HwError::Hardware(_)), "{cap:#x}");
    }
    let missing = |config| match error(config) {
        HwError::Missing(capability) => capability.field,
        other => panic!("{other}"),
    };
    assert_eq!(missing(second.ecap_bits(1 << 1, false)), "ECAP.QI");
    // Interrupts only: no width at all.
    let none = second.cap_bits(0x1f << 8, false);
    assert_eq!(missing(none.ecap_bits(1 << 43, false)), "CAP.SAGAW");
    assert_eq!(missing(none), "CAP.SAGAW");
    // Neither stage.
    assert_eq!(missing(second.ecap_bits(3 << 46, false)), "ECAP.SSTS");
    // Domain ids of 18 bits, addresses of 16.
    for config in [second.cap_bits(7, true), second.cap_bits(0x3f << 16, false).cap_bits(0xf << 16, true)] {
        assert!(matches!(error(config), HwError::Hardware(_)), "{:#x}", config.cap);
    }
}

#[test]
fn what_was_chosen_and_cannot_be_is_refused_untouched() {
    let missing = |config: Config, choice: iommu_vtd::Config| {
        let (spy, model) = off(config);
        let found = Unit::bring_up(model.memory().clone(), spy.clone(), choice).err().expect("an error");
        assert_eq!((spy.take_writes(), model.memory().in_use()), (vec![], 0));
        match found {
            HwError::Missing(capability) => capability.field,
            other => panic!("{other}"),
        }
    };
    let second = Config::second_stage();
    let scalable = iommu_vtd::Config { mode: ModeChoice::Scalable, ..config_for(&second) };
    assert_eq!(missing(second.ecap_bits(1 << 43, false), scalable), "ECAP.SMTS");
    let rid_pasid = iommu_vtd::Config { rid_pasid: Pasid::new(1).unwrap(), ..config_for(&second) };
    assert_eq!(missing(second, rid_pasid), "ECAP.RPS");
    assert_eq!(missing(second.ecap_bits(1 << 43, false), rid_pasid), "ECAP.RPS");
    // One more bit than the unit has.
    let wide = iommu_vtd::Config { rid_pasid: Pasid::new(0x8_0000).unwrap(), ..config_for(&second) };
    assert_eq!(missing(Config::server().ecap_bits(1 << 35, false), wide), "ECAP.PSS");
}

#[test]
fn a_stage_that_the_unit_lacks_is_named() {
    use iommu_core::hw::{DomainConfig, Unit as _};
    let create = |config, stage| {
        let bench = Bench::up(&Case { name: "lacking".into(), config, stage, non_coherent: false });
        let before = bench.memory.in_use();
        let found = bench.unit.create_domain(&DomainConfig::new(stage)).err().expect("an error");
        assert_eq!(bench.memory.in_use(), before);
        match found {
            HwError::Missing(capability) => capability.field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(create(Config::first_stage(), Stage::Second), "ECAP.SSTS");
    assert_eq!(create(Config::second_stage(), Stage::First), "ECAP.FSTS");
    // Neither 3, 4 nor 5 levels: none, or only reserved ones.
    for sagaw in [0, 0x11] {
        let config = Config { cap: Config::server().cap & !(0x1f << 8) | sagaw << 8, ..Config::server() };
        assert_eq!(create(config, Stage::Second), "CAP.SAGAW");
    }
}

/// Frames that hardware was pointed at and may still read.
fn held_by_hardware(model: &Model) -> Vec<u64> {
    let mut held = Vec::new();
    if model.read64(IQA) != 0 {
        held.push(model.read64(IQA) & !0xfff);
    }
    held.extend([model.read64(RTADDR), model.root()].map(|value| value & !0xfff).into_iter().filter(|at| *at != 0));
    held.sort_unstable();
    held.dedup();
    held
}

#[test]
fn a_command_that_is_never_acknowledged_is_named_and_the_wait_is_bounded() {
    for (bit, name) in [(QIE, "GSTS.QIES"), (SRTP, "GSTS.RTPS"), (TE, "GSTS.TES")] {
        let (spy, model) = off(Config::second_stage());
        model.never_answer(bit);
        assert_eq!(bring_up(&spy, &model).err(), Some(HwError::TimedOut(Wait::Status(name))));
        // A wait of 1 ms, 10 us a look.
        assert!(spy.take_reads() < 300);
        assert_eq!(model.violations(), []);
        for frame in held_by_hardware(&model) {
            assert!(model.memory().is_allocated(PhysAddr::new(frame)), "{name}: {frame:#x} is hardware's");
        }
        // What hardware does late leads nowhere either.
        model.never_answer(0);
        model.read32(GSTS);
        if model.read32(GSTS) & TE != 0 {
            model.dma(8, None, Iova::new(0), 8, true).unwrap_err();
        }
        assert_eq!(model.memory().take_stale_reads(), []);
        // And the next attempt works.
        bring_up(&spy, &model).unwrap_or_else(|error| panic!("after {name}: {error}"));
        assert_eq!(model.violations(), []);
    }
}

#[test]
fn what_hardware_never_saw_is_given_back_after_a_failure() {
    // The queue was not acknowledged: its three frames are lost, the root table is not.
    let (spy, model) = off(Config::second_stage());
    model.never_answer(QIE);
    bring_up(&spy, &model).err().expect("an error");
    assert_eq!(model.root(), 0);
    assert_eq!(model.memory().in_use(), 3, "hardware was never told of the root table");
}

#[test]
fn a_queue_that_never_completes_is_an_error() {
    use iommu_models::vtd::Queue;
    for queue in [Queue::Mute, Queue::Stopped] {
        let (spy, model) = off(Config::second_stage());
        model.set_queue(queue);
        assert_eq!(bring_up(&spy, &model).err(), Some(HwError::TimedOut(Wait::Completion)));
        assert!(spy.take_reads() < 1000);
        // Queue, status, root: hardware holds them all. Translating through an empty root beats not translating.
        assert_eq!(model.memory().in_use(), 4);
        model.dma(8, None, Iova::new(0x1000), 8, true).unwrap_err();
        model.set_queue(Queue::Running);
        assert_eq!(model.memory().take_stale_reads(), []);
        bring_up(&spy, &model).expect("the next attempt");
        assert_eq!(model.violations(), []);
    }
}

#[test]
fn a_queue_that_refuses_the_first_invalidation_is_an_error() {
    for n in 0..3 {
        let (spy, model) = off(Config::second_stage());
        model.fail_descriptor_after(n);
        let Some(HwError::Queue { code: 3, entry }) = bring_up(&spy, &model).err() else { panic!("descriptor {n}") };
        // Context cache, PASID cache, IOTLB.
        assert_eq!(entry & 0xf, [1, 7, 2][n]);
        model.dma(8, None, Iova::new(0x1000), 8, true).unwrap_err();
        assert_eq!(model.violations(), []);
    }
}

#[test]
fn memory_that_runs_out_anywhere_is_an_error_and_nothing_is_touched() {
    for n in 0.. {
        let (spy, model) = off(Config::second_stage());
        model.memory().exhaust_after(n);
        match bring_up(&spy, &model) {
            Ok(_) => {
                assert_eq!(n, 3);
                break;
            }
            Err(found) => assert_eq!(found, HwError::OutOfMemory),
        }
        assert_eq!((spy.take_writes(), model.memory().in_use()), (vec![], 0), "allocation {n}");
    }
}

#[test]
fn frames_lie_below_the_hosts_width() {
    // Memory begins beyond 32 bits, so that nothing fits.
    let (spy, model) = off(Config { haw: 32, ..Config::second_stage() });
    assert_eq!(bring_up(&spy, &model).err(), Some(HwError::OutOfMemory));
}
