//! Shutdown: every stream blocked, DMA aborted, everything off; from then on an error, whatever is asked for; and a unit that
//! hangs at any step is left as blocked as it obeys.

use iommu_core::addr::Iova;
use iommu_core::hw::Unit as _;
use iommu_core::hw::{
    DomainConfig, FaultReport, Gather, HwError, PageResponse, Prot, ResponseCode, Stage, Target, Wait,
};
use iommu_hal::regs::Registers;
use iommu_models::smmuv3::{Model, Queue};
use iommu_smmuv3::{Interrupts, Unit};
use iommu_tests::smmuv3::bench::{Bench, config_for, extent, map, range, stream};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::spy::*;

const RED: u32 = 8;
const BLUE: u32 = 0x11;
const COMPLETION: HwError = HwError::TimedOut(Wait::Completion);

/// Nothing gets through, of anybody.
#[track_caller]
fn assert_aborted(case: &Case, model: &Model, what: &str) {
    for sid in case.streams().into_iter().chain([1 << case.table_bits(), u32::MAX]) {
        for write in [false, true] {
            model.dma(sid, None, Iova::new(0x1000), 8, write).expect_err(what);
        }
    }
}

#[track_caller]
fn assert_off(bench: &Bench) {
    let model = &bench.model;
    assert_eq!((model.read32(CR0), model.read32(CR0ACK)), (0, 0), "{}", bench.case.name);
    assert_eq!((model.read32(IRQ_CTRL), model.read32(0x54)), (0, 0), "{}", bench.case.name);
    assert_eq!(model.read32(GBPA) & (ABORT | UPDATE), ABORT, "{}", bench.case.name);
}

/// A stream in a domain, one that is passed through, and what they have cached.
fn busy(case: &Case) -> (Bench, Box<dyn iommu_core::hw::Domain>) {
    let bench = Bench::up(case);
    let domain = bench.domain_with(0x1000, 0x5000_0000, 0x3000);
    bench.attach(RED, &*domain);
    bench.unit.attach(stream(BLUE), Target::Identity).unwrap();
    bench.expect(RED, 0x1000, Ok(0x5000_0000));
    bench.expect(BLUE, 0x1000, Ok(0x1000));
    (bench, domain)
}

#[test]
fn everything_is_off_and_nothing_is_reached() {
    for case in Case::all() {
        let (bench, domain) = busy(&case);
        bench.unit.set_interrupts(&Interrupts::Wired).unwrap();
        let before = bench.memory.in_use();
        bench.spy.take_writes();
        bench.unit.shutdown().unwrap();
        assert_off(&bench);
        assert_aborted(&case, &bench.model, &case.name);
        // Aborted before translation goes off, and that alone.
        let writes = bench.spy.take_writes();
        let first = |offset| writes.iter().position(|it| it.offset == offset).unwrap();
        assert!(first(GBPA) < first(CR0), "{}: {writes:x?}", case.name);
        assert_eq!(writes[first(CR0)].value as u32 & (SMMUEN | EVENTQEN | CMDQEN), EVENTQEN | CMDQEN, "{}", case.name);

        // Whatever is asked for from now on.
        assert!(matches!(bench.unit.create_domain(&DomainConfig::new(case.stage)), Err(HwError::Hardware(_))));
        for target in [Target::Paging(&*domain), Target::Identity, Target::Blocked] {
            assert!(matches!(bench.unit.attach(stream(RED), target), Err(HwError::Hardware(_))), "{}", case.name);
        }
        assert_eq!(bench.unit.sync(), Err(COMPLETION));
        assert!(matches!(bench.unit.set_interrupts(&Interrupts::Wired), Err(HwError::Hardware(_))));
        let response = PageResponse { stream: stream(RED), group: 1, code: ResponseCode::Success };
        assert!(bench.unit.respond(&response).is_err());
        let mut gather = Gather::new();
        domain.unmap(range(0x1000, 0x1000), &mut gather).unwrap();
        assert_eq!(domain.flush(&mut gather), Err(COMPLETION), "{}", case.name);
        assert_eq!(domain.retire(), Err(COMPLETION), "{}", case.name);
        assert_eq!(bench.unit.report_faults(&mut |_| panic!("a fault")), FaultReport::default());
        assert!(bench.unit.global_errors().is_empty());
        // And no register was touched by any of it.
        assert_eq!(bench.spy.take_writes(), [], "{}", case.name);
        bench.unit.shutdown().unwrap();
        drop(domain);
        drop(gather);
        assert!(bench.memory.in_use() >= before, "{}: nothing that hardware was told of is freed", case.name);
        assert_eq!(bench.model.violations(), [], "{}", case.name);
        assert_eq!(bench.memory.take_stale_reads(), []);
    }
}

#[test]
fn a_unit_that_was_shut_down_comes_up_again_and_the_old_handle_stays_out() {
    for case in Case::all() {
        let (bench, _domain) = busy(&case);
        bench.unit.shutdown().unwrap();
        let again = Unit::bring_up(bench.memory.clone(), bench.spy.clone(), config_for(&case)).expect(&case.name);
        assert_aborted(&case, &bench.model, &case.name);
        let domain = again.create_domain(&DomainConfig::new(case.stage)).unwrap();
        domain.map(Iova::new(0x7000), &[extent(0x6000_0000, 0x1000)], Prot::READ_WRITE).unwrap();
        again.attach(stream(RED), Target::Paging(&*domain)).unwrap();
        bench.expect(RED, 0x7000, Ok(0x6000_0000));
        bench.spy.take_writes();
        assert!(bench.unit.detach(stream(RED)).is_err());
        assert_eq!(bench.unit.report_faults(&mut |_| panic!("another's")), FaultReport::default());
        assert_eq!(bench.spy.take_writes(), [], "{}", case.name);
        bench.expect(RED, 0x7000, Ok(0x6000_0000));
        assert_eq!(bench.model.violations(), [], "{}", case.name);
    }
}

#[test]
fn a_step_that_never_follows_is_named_and_a_later_call_goes_on() {
    let status = |name| HwError::TimedOut(Wait::Status(name));
    type Break = fn(&Model);
    let steps: [(&str, Break, HwError); 5] = [
        ("GBPA", |model| model.never_update_gbpa(true), status("SMMU_GBPA.Update")),
        ("SMMUEN", |model| model.never_acknowledge(SMMUEN), status("SMMU_CR0ACK.SMMUEN")),
        ("interrupts", |model| model.never_acknowledge_irq(1), status("SMMU_IRQ_CTRLACK")),
        ("CMDQEN", |model| model.never_acknowledge(CMDQEN), status("SMMU_CR0ACK")),
        ("EVENTQEN", |model| model.never_acknowledge(EVENTQEN), status("SMMU_CR0ACK")),
    ];
    for (name, breaks, expected) in steps {
        let case = Case::nested(Stage::Second);
        let (bench, _domain) = busy(&case);
        bench.unit.set_interrupts(&Interrupts::Wired).unwrap();
        breaks(&bench.model);
        for _ in 0..2 {
            // A unit whose CR0 hangs is not written to again.
            let found = bench.unit.shutdown().unwrap_err();
            assert!(found == expected || found == status("SMMU_CR0ACK"), "{name}: {found}");
            assert_aborted(&case, &bench.model, name);
        }
        assert!(matches!(bench.unit.attach(stream(BLUE), Target::Identity), Err(HwError::Hardware(_))));
        bench.model.never_update_gbpa(false);
        bench.model.never_acknowledge(0);
        bench.model.never_acknowledge_irq(0);
        let _ = bench.model.read32(GBPA);
        bench.unit.shutdown().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_off(&bench);
        assert_aborted(&case, &bench.model, name);
        assert_eq!(bench.model.violations(), [], "{name}");
    }
}

#[test]
fn a_queue_that_hangs_keeps_nothing_from_being_aborted() {
    for queue in [Queue::Stopped, Queue::NoSync] {
        let case = Case::nested(Stage::First);
        let (bench, _domain) = busy(&case);
        bench.model.set_queue(queue);
        bench.unit.shutdown().unwrap();
        assert_off(&bench);
        assert_aborted(&case, &bench.model, "hanging");
    }
    // One that has gone from the bus is an error.
    let (bench, domain) = busy(&Case::nested(Stage::First));
    bench.model.set_absent(true);
    assert!(bench.unit.shutdown().is_err());
    assert!(bench.unit.attach(stream(RED), Target::Paging(&*domain)).is_err());
    map(&*domain, 0x9000, 0x5000_9000, 0x1000);
}

#[test]
fn a_unit_in_service_failure_mode_confirms_nothing_and_costs_no_wait() {
    let (bench, domain) = busy(&Case::nested(Stage::Second));
    // It stops, and says so (section 12.3).
    bench.model.set_queue(Queue::Stopped);
    bench.model.raise_error(1 << 8);
    let mut gather = Gather::new();
    domain.unmap(range(0x1000, 0x1000), &mut gather).unwrap();
    // The first one finds out.
    assert_eq!(domain.flush(&mut gather), Err(COMPLETION));
    bench.spy.take_reads();
    for _ in 0..10 {
        assert_eq!(domain.flush(&mut gather), Err(COMPLETION));
        assert!(matches!(bench.unit.attach(stream(RED), Target::Identity), Err(HwError::Hardware(_))));
        assert!(matches!(bench.unit.create_domain(&DomainConfig::new(Stage::Second)), Err(HwError::Hardware(_))));
    }
    assert!(bench.spy.take_reads() < 10, "nobody waits for it any more");
    assert!(bench.unit.global_errors().service_failure(), "and whoever asks is told");
    // It can be tried to shut it down, and to bring it up: that is refused as long as it says so.
    bench.model.raise_error(1 << 8);
    let found = Unit::bring_up(bench.memory.clone(), bench.spy.clone(), config_for(&bench.case)).map(drop);
    assert!(matches!(found, Err(HwError::Hardware(text)) if text.contains("service failure")), "{found:?}");
}
