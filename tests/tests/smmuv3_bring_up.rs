//! The driver comes up on every kind of SMMU, whatever firmware left, with everything blocked; or says what is in the
//! way, and leaves DMA aborted.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{DomainConfig, HwError, Stage, Unit as _, Wait};
use iommu_hal::regs::Registers;
use iommu_models::smmuv3::{Command, Config, FaultCode, Model, Queue};
use iommu_smmuv3::{Completion, Interrupts, Unit};
use iommu_tests::smmuv3::bench::{Bench, TestUnit, config_for, memory};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::spy::*;
use std::sync::Arc;

const RECINVSID: u32 = 1 << 1;
const SYNC: Command = Command::Sync { signal: 0, message: None };

/// A unit that is not up yet.
fn off(case: &Case) -> (Arc<Spy>, Arc<Model>) {
    let model = Arc::new(Model::new(case.config, memory(case.non_coherent)));
    (Arc::new(Spy::new(model.clone())), model)
}

fn bring_up(case: &Case, spy: &Arc<Spy>, model: &Arc<Model>) -> Result<TestUnit, HwError> {
    Unit::bring_up(model.memory().clone(), spy.clone(), config_for(case))
}

fn nested() -> Case {
    Case::nested(Stage::Second)
}

/// A unit that is refused before anything is touched.
fn error(config: Config) -> HwError {
    let case = Case { config, ..nested() };
    let (spy, model) = off(&case);
    let found = bring_up(&case, &spy, &model).err().expect("an error");
    assert_eq!(spy.take_writes(), [], "nothing may be touched");
    assert_eq!((model.memory().in_use(), model.violations()), (0, vec![]));
    found
}

/// Streams at the edges of level-2 tables and of the table.
fn samples(case: &Case) -> Vec<u32> {
    let last = (1u32 << case.table_bits()) - 1;
    [0, 1, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x1ff, last / 2, last - 1, last]
        .into_iter()
        .filter(|sid| *sid <= last)
        .collect()
}

/// No stream reaches anything, and those beyond the table do not either.
fn assert_blocked(case: &Case, model: &Model) {
    for sid in samples(case) {
        for write in [false, true] {
            for iova in [0, 0x1000, 0x1_2340_0000, !0xfff] {
                let blocked = model.dma(sid, None, Iova::new(iova), 8, write).unwrap_err();
                assert_eq!(blocked.code, case.untouched(), "{}: {sid:#x}", case.name);
            }
        }
    }
    for sid in [1 << case.table_bits(), 1 << 31, u32::MAX] {
        let blocked = model.dma(sid, None, Iova::new(0), 8, true).unwrap_err();
        assert_eq!((blocked.code, blocked.reported), (FaultCode::C_BAD_STREAMID, true), "{}: {sid:#x}", case.name);
    }
}

#[test]
fn every_kind_of_unit_comes_up_with_everything_blocked() {
    for case in Case::all() {
        let (spy, model) = off(&case);
        let unit = bring_up(&case, &spy, &model).expect(&case.name);
        let ats = if case.config.idr0 & Config::ATS != 0 { ATSCHK } else { 0 };
        let on = SMMUEN | EVENTQEN | CMDQEN | ats;
        assert_eq!((model.read32(CR0), model.read32(CR0ACK)), (on, on), "{}", case.name);
        assert_eq!(model.read32(GBPA) & ABORT, ABORT, "{}: should it ever go off", case.name);
        assert_eq!(model.read32(CR2) & RECINVSID, RECINVSID, "{}", case.name);
        assert_eq!(model.read32(IRQ_CTRL), 0, "{}: faults are polled", case.name);
        let table = model.read32(STRTAB_BASE_CFG);
        assert_eq!(table & 0x3f, case.table_bits(), "{}", case.name);
        assert_eq!(table >> 16 & 3, case.two_level().into(), "{}", case.name);

        let mut expected = vec![Command::ConfigAll, SYNC, Command::TlbiEverything, SYNC];
        if case.config.idr0 & Config::HYP != 0 {
            expected.insert(2, Command::TlbiEl2All);
        }
        // A queue of two entries takes one command and one CMD_SYNC at a time.
        let mut log: Vec<Command> = model.take_log().into_iter().map(|done| done.command).collect();
        if case.config.idr1 >> 21 & 0x1f == 1 {
            log.dedup();
        }
        assert_eq!(log, expected, "{}", case.name);

        assert_blocked(&case, &model);
        assert_eq!(model.violations(), [], "{}", case.name);
        assert_eq!((model.take_interrupts(), model.memory().take_stale_reads()), (vec![], vec![]));
        let kept = model.memory().in_use();
        drop(unit);
        // Translation goes on, so that everything stays blocked, and nothing is freed below the hardware.
        assert_eq!((model.read32(CR0ACK), model.memory().in_use()), (on, kept), "{}", case.name);
        assert_blocked(&case, &model);
    }
}

#[test]
fn each_of_all_streams_is_blocked() {
    for case in [nested(), Case { stream_bits: 8, ..nested() }] {
        let bench = Bench::up(&case);
        for sid in 0..1 << case.table_bits() {
            let found = bench.model.translate(sid, None, Iova::new(0), false);
            assert_eq!(found, Err(case.untouched()), "{sid:#x}");
        }
    }
}

/// What a bring-up did to the registers, one letter each: Gbpa, Abort update, Irq, Table, Commands (base), Events
/// (base), 1 and 2 for CR1 and CR2; CR0 bits as they come and go; ! the doorbell.
fn steps(spy: &Spy) -> String {
    let mut before = 0;
    let mut steps = String::new();
    for Write { offset, value } in spy.take_writes() {
        match offset {
            CR0 => {
                let value = value as u32;
                for (bit, on, off) in [(SMMUEN, 'S', 's'), (EVENTQEN, 'E', 'e'), (CMDQEN, 'C', 'c'), (ATSCHK, 'A', 'a')]
                {
                    if (value ^ before) & bit != 0 {
                        steps.push(if value & bit != 0 { on } else { off });
                    }
                }
                before = value;
            }
            GBPA => steps.push('g'),
            IRQ_CTRL => steps.push('i'),
            STRTAB_BASE => steps.push('t'),
            CMDQ_PROD if value != 0 => steps.push('!'),
            _ => {}
        }
    }
    steps
}

#[test]
fn steps_come_in_the_right_order_however_slow_the_answers() {
    for case in Case::all() {
        for polls in [0, 1, 3] {
            let (spy, model) = off(&case);
            model.acknowledge_after(polls);
            model.execute_after(polls);
            bring_up(&case, &spy, &model).expect(&case.name);
            assert_eq!(model.violations(), [], "{}", case.name);
            let steps = steps(&spy);
            // One doorbell at least for the caches, before anything is translated.
            let found = steps.replace("!!", "!").replace("!!", "!");
            // ATSCHK before the invalidation of what depends on it (section 6.3.9).
            let ats = if case.config.idr0 & Config::ATS != 0 { "A" } else { "" };
            let allowed = [format!("git{ats}C!ES"), format!("gitC{ats}!ES")];
            assert!(allowed.contains(&found), "{}: {found}, not one of {allowed:?}", case.name);
        }
    }
}

#[test]
fn what_firmware_left_on_goes_off_with_dma_aborted() {
    for left in [SMMUEN, SMMUEN | CMDQEN, CMDQEN | EVENTQEN, SMMUEN | EVENTQEN | CMDQEN] {
        for interrupts in [0, 5] {
            let case = nested();
            let (spy, model) = off(&case);
            // Firmware: a linear table in which stream 0 passes through; queues with something in them.
            let memory = model.memory().clone();
            let frame =
                iommu_hal::FrameRequest { order: 0, address_bits: 40, memory: iommu_hal::WalkerMemory::Coherent };
            let [table, commands, events] =
                [(); 3].map(|()| iommu_hal::mem::Frames::alloc(memory.clone(), frame).unwrap());
            memory.write64(table.phys(), 4 << 1 | 1);
            model.write64(STRTAB_BASE, table.phys().get());
            model.write32(STRTAB_BASE_CFG, 6);
            model.write64(CMDQ_BASE, commands.phys().get() | 4);
            model.write64(EVENTQ_BASE, events.phys().get() | 4);
            model.write32(CR0, left);
            if left & CMDQEN != 0 {
                // Refused, and nobody looked.
                model.write32(CMDQ_PROD, 3);
                assert_eq!(model.read32(GERROR), 1);
            }
            model.write32(IRQ_CTRL, interrupts);
            if left & SMMUEN != 0 {
                model.dma(0, None, Iova::new(0x1000), 8, true).expect("firmware's table lets it through");
                model.dma(1, None, Iova::new(0x1000), 8, true).unwrap_err();
            }
            model.take_violations();
            let _unit = bring_up(&case, &spy, &model).unwrap_or_else(|error| panic!("{left:#x}: {error}"));
            let steps = steps(&spy);
            assert!(steps.starts_with('g'), "{left:#x}: {steps}, abort comes first");
            assert_eq!(model.violations(), [], "{left:#x}: {steps}");
            assert_eq!(model.read32(GERROR), model.read32(GERRORN), "{left:#x}: old errors are acknowledged");
            assert_eq!(model.read32(IRQ_CTRL), 0);
            // What firmware's table let through is cached no more, and firmware's memory is read no more.
            drop((table, commands, events));
            assert_blocked(&case, &model);
            assert_eq!(memory.take_stale_reads(), [], "{left:#x}");
        }
    }
}

#[test]
fn a_unit_that_is_not_there_or_cannot_do_it_is_refused_untouched() {
    let case = nested();
    let (spy, model) = off(&case);
    model.set_absent(true);
    let Err(HwError::Hardware(text)) = bring_up(&case, &spy, &model) else { panic!("all ones") };
    assert!(text.contains("all ones"), "{text}");
    assert_eq!((spy.take_writes(), model.memory().in_use()), (vec![], 0));

    let nested = Config::nested();
    for config in [Config { idr0: u32::MAX, ..nested }, Config { idr1: u32::MAX, ..nested }] {
        let found = error(config);
        assert!(matches!(found, HwError::Hardware(_) | HwError::Missing(_)), "{found}");
    }
    // Only the first page, and less.
    for window in [0, 0x100, 0x1_0000, 0x1_00a8, 0x1_00ac] {
        assert!(matches!(error(Config { window, ..nested }), HwError::Hardware(_)), "{window:#x}");
    }
    let missing = |config| match error(config) {
        HwError::Missing(capability) => capability.field,
        other => panic!("{other}"),
    };
    assert_eq!(missing(Config { idr1: nested.idr1 | 1 << 30, ..nested }), "SMMU_IDR1.TABLES_PRESET");
    assert_eq!(missing(Config { idr1: nested.idr1 | 1 << 29, ..nested }), "SMMU_IDR1.QUEUES_PRESET");
    assert_eq!(missing(nested.queues(0)), "SMMU_IDR1.CMDQS");
}

#[test]
fn a_stage_that_the_unit_lacks_is_named_and_dma_stays_blocked() {
    let nested = Config::nested();
    let rows = [
        (Config::stage_2(), Stage::First, "SMMU_IDR0.S1P"),
        (Config::stage_1(), Stage::Second, "SMMU_IDR0.S2P"),
        // TTF: AArch32 only, or nothing; TTENDIAN: big only; STALL_MODEL: stalls only; no granule.
        (nested.idr0_bits(3 << 2, false).idr0_bits(1 << 2, true), Stage::First, "SMMU_IDR0.TTF"),
        (nested.idr0_bits(3 << 2, false), Stage::Second, "SMMU_IDR0.TTF"),
        (nested.idr0_bits(3 << 21, true), Stage::Second, "SMMU_IDR0.TTENDIAN"),
        (nested.idr0_bits(3 << 24, false).idr0_bits(2 << 24, true), Stage::First, "SMMU_IDR0.STALL_MODEL"),
        (Config { idr5: nested.idr5 & !(7 << 4), ..nested }, Stage::Second, "SMMU_IDR5.GRAN4K"),
    ];
    for (config, stage, field) in rows {
        let case = Case { name: field.into(), config, stage, ..self::nested() };
        let bench = Bench::up(&case);
        let before = bench.memory.in_use();
        match bench.unit.create_domain(&DomainConfig::new(stage)).err() {
            Some(HwError::Missing(capability)) => assert_eq!(capability.field, field),
            other => panic!("{field}: {other:?}"),
        }
        let told = bench.unit.capabilities();
        assert!(!(if stage == Stage::First { told.first_stage } else { told.second_stage }), "{field}");
        assert_eq!(bench.memory.in_use(), before);
        assert_blocked(&case, &bench.model);
        bench.check();
    }
    // Neither stage: blocked and passed through is all that it can do.
    let config = nested.idr0_bits(3, false);
    let bench = Bench::up(&Case { config, ..self::nested() });
    let told = bench.unit.capabilities();
    assert!(!told.first_stage && !told.second_stage);
    assert_blocked(&bench.case, &bench.model);
}

/// Frames that hardware was pointed at, and what still uses them.
fn held_by_hardware(model: &Model) -> Vec<u64> {
    let on = model.read32(CR0) | model.read32(CR0ACK);
    let of = [(SMMUEN, STRTAB_BASE), (CMDQEN, CMDQ_BASE), (EVENTQEN, EVENTQ_BASE)];
    let held = of.into_iter().filter(|(bit, _)| on & bit != 0);
    held.map(|(_, base)| model.read64(base) & 0x000f_ffff_ffff_f000).collect()
}

/// The unit, broken, lets nothing through; mended, it still does not, and comes up.
fn assert_harmless(case: &Case, spy: &Arc<Spy>, model: &Arc<Model>, what: &str) {
    // A wait of 1 ms, 10 us a look; a handful of them.
    assert!(spy.take_reads() < 1200, "{what}");
    assert_eq!(model.violations(), [], "{what}");
    for frame in held_by_hardware(model) {
        assert!(model.memory().is_allocated(PhysAddr::new(frame)), "{what}: {frame:#x} is hardware's");
    }
    let nothing = || model.dma(8, None, Iova::new(0x1000), 8, true).unwrap_err();
    nothing();
    model.never_acknowledge(0);
    model.never_acknowledge_irq(0);
    model.never_update_gbpa(false);
    model.set_queue(Queue::Running);
    let _ = [CR0ACK, GBPA, 0x54].map(|offset| model.read32(offset));
    nothing();
    assert_eq!(model.memory().take_stale_reads(), [], "{what}");
    let unit = bring_up(case, spy, model).unwrap_or_else(|error| panic!("after {what}: {error}"));
    assert_eq!(model.violations(), [], "after {what}");
    assert_blocked(case, model);
    drop(unit);
}

#[test]
fn a_step_that_is_never_acknowledged_is_named_and_leaves_dma_blocked() {
    for (bit, name) in [
        (CMDQEN, "SMMU_CR0ACK.CMDQEN"),
        (EVENTQEN, "SMMU_CR0ACK.EVENTQEN"),
        (ATSCHK, "SMMU_CR0ACK.ATSCHK"),
        (SMMUEN, "SMMU_CR0ACK.SMMUEN"),
    ] {
        let case = Case { config: Config::server(), ..nested() };
        let (spy, model) = off(&case);
        model.never_acknowledge(bit);
        assert_eq!(bring_up(&case, &spy, &model).err(), Some(HwError::TimedOut(Wait::Status(name))));
        assert_eq!(model.read32(GBPA) & ABORT, ABORT, "{name}");
        assert_harmless(&case, &spy, &model, name);
    }
}

/// Section 6.3.9.3: that the queue is off says nothing of messages that its CMD_SYNCs have sent.
#[test]
fn what_messages_of_the_queue_go_to_is_kept_once_there_were_any() {
    let case = Case { config: Config::server(), ..nested() };
    let (completion, interrupts) = (Completion::Message, Interrupts::Wired);
    let config = iommu_smmuv3::Config { completion, interrupts, ..config_for(&case) };
    type Breakage<'a> = (&'a dyn Fn(&Model), bool);
    let breakages: [Breakage<'_>; 3] = [
        (&|model| model.fail_command_after(0), true),
        (&|model| model.never_acknowledge_irq(u32::MAX), true),
        (&|model| model.never_acknowledge(ATSCHK), false),
    ];
    for (n, (break_it, messages)) in breakages.into_iter().enumerate() {
        let (spy, model) = off(&case);
        break_it(&model);
        assert!(Unit::bring_up(model.memory().clone(), spy.clone(), config).is_err());
        assert_eq!(model.read32(CR0) & CMDQEN, 0, "{n}: the queue is off");
        let log = model.take_log();
        let message = |command| if let Command::Sync { message, .. } = command { message } else { None };
        let cells: Vec<_> = log.into_iter().filter_map(|executed| message(executed.command)).collect();
        assert_eq!(!cells.is_empty(), messages, "{n}");
        assert!(messages || model.memory().in_use() == 0, "{n}: nothing is kept without reason");
        for (cell, _) in cells {
            let frame = PhysAddr::new(cell & !0xfff);
            assert!(model.memory().is_allocated(frame), "{n}: a message to {frame} may be on its way");
        }
    }
}

#[test]
fn a_unit_that_cannot_be_turned_off_is_named() {
    for (left, bit, name) in [
        (SMMUEN, SMMUEN, "SMMU_CR0ACK.SMMUEN"),
        (CMDQEN, CMDQEN, "SMMU_CR0ACK"),
        (SMMUEN | EVENTQEN, EVENTQEN, "SMMU_CR0ACK"),
    ] {
        let case = nested();
        let (spy, model) = off(&case);
        let memory = model.memory().clone();
        // A table of zeros, so that nothing is valid.
        let frame = iommu_hal::FrameRequest { order: 0, address_bits: 40, memory: iommu_hal::WalkerMemory::Coherent };
        let frames = [(); 3].map(|()| iommu_hal::mem::Frames::alloc(memory.clone(), frame).unwrap());
        model.write64(STRTAB_BASE, frames[0].phys().get());
        model.write64(CMDQ_BASE, frames[1].phys().get() | 4);
        model.write64(EVENTQ_BASE, frames[2].phys().get() | 4);
        model.write32(CR0, left);
        model.take_violations();
        model.never_acknowledge(bit);
        assert_eq!(bring_up(&case, &spy, &model).err(), Some(HwError::TimedOut(Wait::Status(name))));
        assert_eq!(memory.in_use(), 3, "{name}: nothing of ours was shown to hardware");
        assert_harmless(&case, &spy, &model, name);
    }
}

#[test]
fn other_answers_that_never_come_are_named_too() {
    let case = nested();
    let (spy, model) = off(&case);
    model.never_update_gbpa(true);
    let name = "SMMU_GBPA.Update";
    assert_eq!(bring_up(&case, &spy, &model).err(), Some(HwError::TimedOut(Wait::Status(name))));
    assert_eq!((model.violations(), model.memory().in_use()), (vec![], 0));
    // An update that firmware began and that never ended: it is not written over.
    let writes = spy.take_writes();
    assert_eq!(bring_up(&case, &spy, &model).err(), Some(HwError::TimedOut(Wait::Status(name))));
    assert_eq!((writes.len(), spy.take_writes()), (1, vec![]));

    let (spy, model) = off(&case);
    model.write32(IRQ_CTRL, 5);
    model.never_acknowledge_irq(4);
    let name = "SMMU_IRQ_CTRLACK";
    assert_eq!(bring_up(&case, &spy, &model).err(), Some(HwError::TimedOut(Wait::Status(name))));
    assert_eq!(model.memory().in_use(), 0);
    assert_harmless(&case, &spy, &model, name);
}

#[test]
fn abort_that_does_not_stay_set_is_an_error() {
    struct Deaf(Arc<Model>);
    impl Registers for Deaf {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read32(&self, offset: usize) -> u32 {
            self.0.read32(offset) & if offset == GBPA { !ABORT } else { u32::MAX }
        }
        fn write32(&self, offset: usize, value: u32) {
            self.0.write32(offset, value);
        }
        fn read64(&self, offset: usize) -> u64 {
            self.0.read64(offset)
        }
        fn write64(&self, offset: usize, value: u64) {
            self.0.write64(offset, value);
        }
    }
    let case = nested();
    let (_, model) = off(&case);
    let found = Unit::bring_up(model.memory().clone(), Deaf(model.clone()), config_for(&case)).err();
    assert!(matches!(found, Some(HwError::Hardware(text)) if text.contains("ABORT")), "{found:?}");
    assert_eq!((model.memory().in_use(), model.is_enabled()), (0, false));
}

#[test]
fn a_queue_that_never_completes_is_an_error() {
    for queue in [Queue::NoSync, Queue::Stopped] {
        let case = nested();
        let (spy, model) = off(&case);
        model.set_queue(queue);
        assert_eq!(bring_up(&case, &spy, &model).err(), Some(HwError::TimedOut(Wait::Completion)));
        assert_harmless(&case, &spy, &model, &format!("{queue:?}"));
    }
}

#[test]
fn a_queue_that_refuses_the_first_invalidations_is_an_error() {
    // CFGI_ALL, CMD_SYNC, TLBI_NSNH_ALL, CMD_SYNC.
    for (n, opcode) in [0x04, 0x46, 0x30, 0x46].into_iter().enumerate() {
        let case = nested();
        let (spy, model) = off(&case);
        model.fail_command_after(n);
        let Some(HwError::Queue { code: 1, entry }) = bring_up(&case, &spy, &model).err() else {
            panic!("command {n}")
        };
        assert_eq!(entry & 0xff, opcode);
        assert!(!model.is_enabled(), "nobody knows what its caches hold");
        assert_harmless(&case, &spy, &model, &format!("command {n}"));
    }
}

#[test]
fn memory_that_runs_out_anywhere_is_an_error_and_nothing_is_touched() {
    for case in Case::all() {
        for n in 0.. {
            let (spy, model) = off(&case);
            model.memory().exhaust_after(n);
            match bring_up(&case, &spy, &model) {
                Ok(_) => {
                    // Command queue, stream table, event queue.
                    assert_eq!(n, 3, "{}", case.name);
                    break;
                }
                Err(found) => assert_eq!(found, HwError::OutOfMemory),
            }
            assert_eq!((spy.take_writes(), model.memory().in_use()), (vec![], 0), "{}: allocation {n}", case.name);
        }
    }
}

#[test]
fn frames_lie_below_the_units_width_and_the_hosts() {
    // Memory begins beyond 32 bits, so that nothing fits.
    let case = Case { config: Config::nested().oas(0), ..nested() };
    let (spy, model) = off(&case);
    assert_eq!(bring_up(&case, &spy, &model).err(), Some(HwError::OutOfMemory));
    assert_eq!(spy.take_writes(), []);
    let (spy, model) = off(&nested());
    let config = iommu_smmuv3::Config { host_bits: 32, ..config_for(&nested()) };
    assert_eq!(Unit::bring_up(model.memory().clone(), spy, config).err(), Some(HwError::OutOfMemory));
}

#[test]
fn the_unit_tells_what_it_can_do() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let told = bench.unit.capabilities();
        assert_eq!(told.first_stage, case.config.idr0 & Config::S1P != 0, "{}", case.name);
        assert_eq!(told.second_stage, case.config.idr0 & Config::S2P != 0, "{}", case.name);
        assert!(told.identity);
        let substreams = if told.first_stage { case.config.idr1 >> 6 & 0x1f } else { 0 };
        assert_eq!(u32::from(told.pasid_bits), substreams, "{}", case.name);
        let geometry = bench.domain().geometry();
        assert_eq!(geometry.aperture.start().get(), 0, "{}", case.name);
        assert_eq!(geometry.aperture.last().get(), case.end() - 1, "{}", case.name);
        assert_eq!(u32::from(geometry.output_bits), case.config.output_bits().min(48), "{}", case.name);
        // With the 4 KiB granule: leaves, and contiguous groups of 16.
        let sizes = 0x1000 | 0x1_0000 | 0x20_0000 | 0x200_0000 | 0x4000_0000 | 0x4_0000_0000;
        assert_eq!(geometry.page_sizes.mask(), sizes, "{}", case.name);
    }
}
