//! SMMUs that lie, hang or go: bounded time, an error, and DMA blocked.

use iommu_core::addr::Iova;
use iommu_core::hw::{
    Domain, DomainConfig, Gather, HwError, PageResponse, Prot, ResponseCode, Stage, Target, Unit as _,
};
use iommu_hal::regs::Registers;
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{Config, Model};
use iommu_smmuv3::{Interrupts, Unit};
use iommu_tests::random::Random;
use iommu_tests::smmuv3::bench::{BASE, TIMEOUT, extent, range, stream};
use iommu_tests::smmuv3::spy::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn memory() -> Arc<TestMemory> {
    Arc::new(TestMemory::new(iommu_core::addr::PhysAddr::new(BASE), 128))
}

/// What a register is said to read, given its value; of a write, whether it is swallowed (all ones).
type Lie = fn(&Model, usize, u64) -> u64;

/// Registers of a model that lie from some access on.
struct Lying {
    model: Arc<Model>,
    /// Reads and writes left that are told the truth.
    left: AtomicUsize,
    accesses: AtomicUsize,
    lie: Lie,
}

impl Lying {
    fn new(model: &Arc<Model>, after: usize, lie: Lie) -> Arc<Self> {
        Arc::new(Self { model: model.clone(), left: after.into(), accesses: AtomicUsize::new(0), lie })
    }

    /// Whether this access is told the truth.
    fn honest(&self) -> bool {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl Registers for Lying {
    fn len(&self) -> usize {
        self.model.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        let value = self.model.read32(offset);
        if self.honest() { value } else { (self.lie)(&self.model, offset, value.into()) as u32 }
    }
    fn write32(&self, offset: usize, value: u32) {
        if self.honest() || (self.lie)(&self.model, offset, 0) != u64::MAX {
            self.model.write32(offset, value);
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        let value = self.model.read64(offset);
        if self.honest() { value } else { (self.lie)(&self.model, offset, value) }
    }
    fn write64(&self, offset: usize, value: u64) {
        if self.honest() || (self.lie)(&self.model, offset, 0) != u64::MAX {
            self.model.write64(offset, value);
        }
    }
}

fn config() -> iommu_smmuv3::Config {
    iommu_smmuv3::Config { timeout: TIMEOUT, stream_bits: 10, ..iommu_smmuv3::Config::default() }
}

/// Everything that a unit is asked for, as far as it goes; then it is shut down.
fn use_unit<R: Registers + 'static>(unit: &Unit<Arc<TestMemory>, Arc<R>>, stage: Stage) -> Result<(), HwError> {
    let used = (|| {
        let stall = stage == Stage::First;
        let domain: Box<dyn Domain> = unit.create_domain(&DomainConfig { stall, ..DomainConfig::new(stage) })?;
        domain.map(Iova::new(0x1_0000), &[extent(0x5000_0000, 0x1_0000)], Prot::READ_WRITE)?;
        unit.attach(stream(8), Target::Paging(&*domain))?;
        unit.attach(stream(9), Target::Identity)?;
        let mut gather = Gather::new();
        domain.unmap(range(0x1_0000, 0x1_0000), &mut gather)?;
        domain.flush(&mut gather)?;
        unit.set_interrupts(&Interrupts::Wired)?;
        unit.detach(stream(8))?;
        unit.report_faults(&mut |_| {});
        unit.global_errors();
        let _ = (unit.registers().to_string(), unit.walk(stream(9), Iova::new(0x1_0000)).to_string());
        let _ = unit.respond(&PageResponse { stream: stream(8), group: 7, code: ResponseCode::Success });
        unit.sync().map(drop)
    })();
    used.and(unit.shutdown())
}

#[test]
fn registers_that_read_ones_from_any_moment_on_are_an_error() {
    for (base, stage) in
        [(Config::nested(), Stage::Second), (Config::server(), Stage::First), (Config::small(), Stage::First)]
    {
        for after in 0.. {
            let model = Arc::new(Model::new(base, memory()));
            let regs = Lying::new(&model, after, |_, _, _| u64::MAX);
            let found =
                Unit::bring_up(model.memory().clone(), regs.clone(), config()).and_then(|unit| use_unit(&unit, stage));
            // A wait of 1 ms, 10 us a look; no error but the first is waited for more than a few times.
            let accesses = regs.accesses.load(Ordering::Relaxed);
            assert!(accesses < after + 4_000, "{accesses} accesses after {after}");
            if regs.left.load(Ordering::Relaxed) > 0 {
                assert_eq!(found, Ok(()), "after {after}");
                assert!(after > 50);
                break;
            }
            if model.read32(CR0ACK) & SMMUEN != 0 && model.read32(GBPA) & ABORT != 0 {
                model.dma(0x10, None, Iova::new(0x1_0000), 8, true).expect_err("blocked, whatever happened");
            }
        }
    }
}

#[test]
fn ten_thousand_random_identities_do_no_harm() {
    let mut random = Random::new(0x5eed_cafe);
    let bases = [Config::nested(), Config::stage_1(), Config::server(), Config::small()];
    let (mut up, mut refused) = (0, 0);
    for round in 0..10_000u64 {
        let base = bases[round as usize % bases.len()];
        // All random, or a few bits off.
        let few = |random: &mut Random| (0..random.below(6)).fold(0u32, |mask, _| mask | 1 << random.below(32));
        let [idr0, idr1, idr3, idr5] = [base.idr0, base.idr1, base.idr3, base.idr5].map(|value| match round % 5 {
            0 => random.number() as u32,
            _ => value ^ few(&mut random),
        });
        let identity = Config { idr0, idr1, idr3, idr5, ..base };
        let what = format!("IDR0 {idr0:#x}, IDR1 {idr1:#x}, IDR3 {idr3:#x}, IDR5 {idr5:#x}");
        let model = Arc::new(Model::new(identity, memory()));
        let choice = iommu_smmuv3::Config {
            coherent: [None, Some(true), Some(false)][round as usize / 4 % 3],
            httu: [None, Some(0), Some(2), Some(9)][round as usize / 12 % 4],
            event_queue_log2: (round % 13) as u8,
            stream_bits: [10, 8, 4][round as usize / 8 % 3],
            ..config()
        };
        let found = catch_unwind(AssertUnwindSafe(|| {
            let unit = Unit::bring_up(model.memory().clone(), model.clone(), choice);
            unit.map(|unit| {
                for stage in [Stage::First, Stage::Second] {
                    // Of units that cannot do all of it.
                    let other = unit.clone();
                    let domain = other.create_domain(&DomainConfig::new(stage));
                    let _ = domain.map(|domain| {
                        let _ = other.attach(stream(3), Target::Paging(&*domain));
                        model.dma(3, None, Iova::new(0x1_0000), 8, true).expect_err(&what);
                        let _ = other.detach(stream(3));
                    });
                }
                let _ = unit.hardware().to_string();
                model.dma(0x10, None, Iova::new(0x1000), 8, true).expect_err(&what);
                let _ = use_unit(&unit, [Stage::First, Stage::Second][round as usize / 2 % 2]);
            })
        }));
        match found.unwrap_or_else(|_| panic!("{what}")) {
            Ok(()) => {
                up += 1;
                assert_eq!((model.read32(CR0ACK), model.read32(GBPA) & ABORT), (0, ABORT), "{what}");
                model.dma(0x10, None, Iova::new(0x1000), 8, true).expect_err(&what);
            }
            Err(_) => refused += 1,
        }
        model.memory().check_freed();
    }
    println!("{up} came up, {refused} were refused");
    assert!(up > 1_000 && refused > 1_000, "{up} came up, {refused} were refused");
}

#[test]
fn registers_that_lie_about_one_thing_end() {
    // A register that always reads one value, for ever or from bring-up on; a write that goes nowhere.
    let lies: [(&str, Lie); 12] = [
        ("GBPA never updates", |_, offset, value| if offset == GBPA { value | 1 << 31 } else { value }),
        ("GBPA never aborts", |_, offset, value| if offset == GBPA { value & !(1 << 20) } else { value }),
        ("CR0ACK is none", |_, offset, value| if offset == CR0ACK { 0 } else { value }),
        ("CR0ACK is all", |_, offset, value| if offset == CR0ACK { 0x1df } else { value }),
        ("CR0 is all", |_, offset, value| if offset == CR0 { 0x1df } else { value }),
        ("IRQ_CTRLACK is all", |_, offset, value| if offset == 0x54 { 7 } else { value }),
        ("GERROR is noise", |_, offset, value| if offset == GERROR { value ^ 0xffff_fefe } else { value }),
        ("GERRORN does not hold", |_, offset, value| if offset == GERRORN { 0x55 } else { value }),
        ("CMDQ_ERR stays", |_, offset, value| if offset == GERROR { value ^ 1 } else { value }),
        ("CMDQ_CONS stands", |_, offset, value| if offset == CMDQ_CONS { 0 } else { value }),
        ("CMDQ_CONS is anywhere", |_, offset, value| if offset == CMDQ_CONS { 0x7f0f_5555 } else { value }),
        ("EVENTQ_PROD is anywhere", |_, offset, value| if offset == EVENTQ_PROD { 0x8000_0333 } else { value }),
    ];
    for (name, lie) in lies {
        for after in [0, 200] {
            let model = Arc::new(Model::new(Config::server(), memory()));
            let regs = Lying::new(&model, after, lie);
            let found = catch_unwind(AssertUnwindSafe(|| {
                Unit::bring_up(model.memory().clone(), regs.clone(), config()).map(|unit| use_unit(&unit, Stage::First))
            }));
            let _ = found.unwrap_or_else(|_| panic!("{name}"));
            assert!(regs.accesses.load(Ordering::Relaxed) < 10_000, "{name}");
            if model.read32(GBPA) & ABORT != 0 {
                model.dma(8, None, Iova::new(0x1_0000), 8, true).expect_err(name);
            }
        }
    }
}

#[test]
fn several_units_do_not_know_of_each_other() {
    let memory = memory();
    let models = [(); 3].map(|()| Arc::new(Model::new(Config::nested(), memory.clone())));
    let units = models.clone().map(|model| Unit::bring_up(memory.clone(), model, config()).unwrap());
    let domains = [0, 1, 2].map(|at: usize| {
        let domain = units[at].create_domain(&DomainConfig::new(Stage::First)).unwrap();
        domain.map(Iova::new(0x1000), &[extent(0x5000_0000 + at as u64 * 0x1000, 0x1000)], Prot::READ).unwrap();
        units[at].attach(stream(8), Target::Paging(&*domain)).unwrap();
        domain
    });
    for (at, unit) in units.iter().enumerate() {
        let other = &domains[(at + 1) % 3];
        assert_eq!(unit.attach(stream(9), Target::Paging(&**other)), Err(HwError::ForeignDomain));
    }
    // One hangs, one is shut down; the third goes on.
    models[0].set_queue(iommu_models::smmuv3::Queue::Stopped);
    assert!(units[0].detach(stream(8)).is_err());
    units[1].shutdown().unwrap();
    models[1].dma(8, None, Iova::new(0x1000), 1, false).unwrap_err();
    models[2].dma(8, None, Iova::new(0x1000), 1, false).unwrap();
    units[2].detach(stream(8)).unwrap();
    models[2].dma(8, None, Iova::new(0x1000), 1, false).unwrap_err();
    for model in &models {
        assert_eq!(model.violations(), []);
    }
}
