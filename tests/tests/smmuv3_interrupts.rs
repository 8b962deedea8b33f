//! The unit's own interrupts: by wire, by message, changed while on, refused where they cannot be.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{HwError, Stage, Unit as _, Wait};
use iommu_hal::regs::Registers;
use iommu_models::smmuv3::{Config, Interrupt, Message, Model, Source};
use iommu_smmuv3::{Interrupts, MsiMessage, Unit};
use iommu_tests::smmuv3::bench::{Bench, config_for, memory};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::spy::*;
use std::sync::Arc;

const IRQ_CTRLACK: usize = 0x54;
/// SMMU_GERROR_IRQ_CFG2 and SMMU_EVENTQ_IRQ_CFG2.
const ATTRIBUTES: [usize; 2] = [0x74, 0xbc];
/// Errors and events, not page requests.
const ON: u32 = 1 | 1 << 2;

const EVENTS: MsiMessage = MsiMessage { address: 0x802_0040, data: 0x1234 };
const ERRORS: MsiMessage = MsiMessage { address: 0xff_ffff_fffc, data: u32::MAX };
const MESSAGES: Interrupts = Interrupts::Message { events: EVENTS, errors: ERRORS };

fn server() -> Case {
    Case::all().into_iter().find(|case| case.name.starts_with("server,")).expect("a server")
}

fn by(message: Option<MsiMessage>) -> Option<Message> {
    message.map(|MsiMessage { address, data }| Message { address, data })
}

/// A fault and an error; what the unit has told of them.
fn told(case: &Case, model: &Model) -> Vec<Interrupt> {
    model.take_interrupts();
    model.dma(1 << case.table_bits(), None, Iova::new(0), 1, true).unwrap_err();
    // EVENTQ_ABT_ERR.
    model.raise_error(1 << 2);
    model.take_interrupts()
}

fn expected(events: Option<MsiMessage>, errors: Option<MsiMessage>) -> Vec<Interrupt> {
    vec![
        Interrupt { source: Source::Events, message: by(events) },
        Interrupt { source: Source::GlobalError, message: by(errors) },
    ]
}

/// Everything is taken, so that the next is an edge again.
fn handle(bench: &Bench) {
    while bench.unit.report_faults(&mut |_| {}).more {}
    assert_eq!(bench.unit.global_errors().bits(), 1 << 2);
    bench.model.take_events();
}

#[test]
fn they_are_on_from_the_first_event() {
    let (server, plain) = (server(), Case::nested(Stage::First));
    let cases = [
        (&server, Interrupts::Polled, vec![], 0),
        (&server, Interrupts::Wired, expected(None, None), ON),
        (&server, MESSAGES, expected(Some(EVENTS), Some(ERRORS)), ON),
        (&plain, Interrupts::Wired, expected(None, None), ON),
    ];
    for (case, interrupts, expected, on) in cases {
        for polls in [0, 2] {
            let model = Arc::new(Model::new(case.config, memory(false)));
            let spy = Arc::new(Spy::new(model.clone()));
            model.acknowledge_after(polls);
            let config = iommu_smmuv3::Config { interrupts, ..config_for(case) };
            let unit = Unit::bring_up(model.memory().clone(), spy.clone(), config).unwrap();
            let writes = spy.take_writes();
            let at = |offset, value| writes.iter().rposition(|it| (it.offset, it.value) == (offset, value));
            assert!(on == 0 || at(IRQ_CTRL, on.into()) < writes.iter().rposition(|it| it.offset == CR0), "{writes:x?}");
            assert_eq!((model.read32(IRQ_CTRL), model.read32(IRQ_CTRLACK)), (on, on), "{interrupts:?}");
            assert_eq!(told(case, &model), expected, "{}: {interrupts:?}", case.name);
            let device = if interrupts == MESSAGES { 1 } else { 0 };
            assert_eq!(ATTRIBUTES.map(|offset| model.read32(offset)), [device; 2], "Device-nGnRE");
            assert_eq!(model.violations(), []);
            drop(unit);
        }
    }
}

#[test]
fn they_change_at_any_time_and_each_is_an_edge() {
    let bench = Bench::up(&server());
    let steps = [
        (MESSAGES, expected(Some(EVENTS), Some(ERRORS))),
        (Interrupts::Message { events: ERRORS, errors: EVENTS }, expected(Some(ERRORS), Some(EVENTS))),
        // By wire alone: no message is left from before.
        (Interrupts::Wired, expected(None, None)),
        (Interrupts::Polled, vec![]),
        (MESSAGES, expected(Some(EVENTS), Some(ERRORS))),
    ];
    for (interrupts, expected) in steps {
        bench.unit.set_interrupts(&interrupts).unwrap();
        assert_eq!(told(&bench.case, &bench.model), expected, "{interrupts:?}");
        assert_eq!(told(&bench.case, &bench.model), [], "nobody has come to look since");
        handle(&bench);
        bench.check();
    }
}

#[test]
fn messages_that_cannot_be_are_refused_and_change_nothing() {
    let bench = Bench::up(&server());
    bench.unit.set_interrupts(&Interrupts::Wired).unwrap();
    bench.spy.take_writes();
    let bits = bench.case.config.output_bits() as u8;
    let wide = 1 << bits;
    for (address, expected) in [
        (0, HwError::Reserved { address: 0 }),
        (0x1002, HwError::Misaligned { value: 0x1002, align: 4 }),
        (wide, HwError::OutputTooWide { phys: PhysAddr::new(wide), bits }),
        (!3, HwError::OutputTooWide { phys: PhysAddr::new(!3), bits }),
    ] {
        let bad = MsiMessage { address, data: 0 };
        for refused in
            [Interrupts::Message { events: bad, errors: ERRORS }, Interrupts::Message { events: EVENTS, errors: bad }]
        {
            assert_eq!(bench.unit.set_interrupts(&refused), Err(expected), "{refused:?}");
        }
    }
    assert_eq!(bench.spy.take_writes(), []);
    let plain = Bench::up(&Case::nested(Stage::First));
    plain.spy.take_writes();
    match plain.unit.set_interrupts(&MESSAGES) {
        Err(HwError::Missing(capability)) => assert_eq!(capability.field, "SMMU_IDR0.MSI"),
        other => panic!("{other:?}"),
    }
    assert_eq!(plain.spy.take_writes(), []);
    // Neither is anything touched for a unit that is to come up with what it has not.
    let model = Arc::new(Model::new(Config::nested(), memory(false)));
    let spy = Arc::new(Spy::new(model.clone()));
    let config = iommu_smmuv3::Config { interrupts: MESSAGES, ..config_for(&plain.case) };
    assert!(matches!(Unit::bring_up(model.memory().clone(), spy.clone(), config).err(), Some(HwError::Missing(_))));
    assert_eq!((spy.take_writes(), model.memory().in_use()), (vec![], 0));
}

#[test]
fn interrupts_that_are_never_acknowledged_are_named_and_left_off() {
    let acknowledgement = Err(HwError::TimedOut(Wait::Status("SMMU_IRQ_CTRLACK")));
    let bench = Bench::up(&server());
    bench.model.never_acknowledge_irq(1);
    assert_eq!(bench.unit.set_interrupts(&MESSAGES), acknowledgement);
    // What hangs is not written again before it has come (section 6.3.14).
    assert_eq!(bench.unit.set_interrupts(&Interrupts::Polled), acknowledgement);
    bench.model.never_acknowledge_irq(0);
    bench.unit.set_interrupts(&MESSAGES).unwrap();
    assert_eq!(told(&bench.case, &bench.model), expected(Some(EVENTS), Some(ERRORS)));
    handle(&bench);
    bench.check();

    // In the middle of a bring-up: nothing is translated, and nothing told.
    let case = server();
    let model = Arc::new(Model::new(case.config, memory(false)));
    let spy = Arc::new(Spy::new(model.clone()));
    model.never_acknowledge_irq(1 << 2);
    let config = iommu_smmuv3::Config { interrupts: MESSAGES, ..config_for(&case) };
    assert_eq!(Unit::bring_up(model.memory().clone(), spy.clone(), config).map(drop), acknowledgement);
    assert_eq!((model.read32(CR0), model.read32(CR0ACK), model.read32(GBPA) & ABORT), (0, 0, ABORT));
    assert_eq!((model.memory().in_use(), model.violations()), (0, vec![]));
}

#[test]
fn an_interrupt_message_that_does_not_arrive_is_told_as_lost() {
    let bench = Bench::up(&server());
    bench.unit.set_interrupts(&MESSAGES).unwrap();
    for (bit, lost) in [(3, false), (4, false), (5, true), (6, false), (7, true)] {
        bench.model.raise_error(1 << bit);
        let errors = bench.unit.global_errors();
        assert_eq!((errors.bits(), errors.lost_interrupts()), (1 << bit, lost), "{errors}");
        assert_eq!(bench.model.read32(GERROR), bench.model.read32(GERRORN), "acknowledged");
        assert!(bench.unit.global_errors().is_empty());
    }
    // What it was about is found all the same.
    bench.model.dma(1 << bench.case.table_bits(), None, Iova::new(0), 1, true).unwrap_err();
    assert_eq!(bench.unit.report_faults(&mut |_| {}).reported, 1);
    bench.check();
}
