//! Units that lie, hang or go: bounded time, an error, and DMA blocked.

use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, DomainConfig, Gather, HwError, Prot, Stage, Target, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::memory::TestMemory;
use iommu_models::vtd::{Config, Model};
use iommu_tests::bench::{BASE, TIMEOUT, config_for, extent, range, stream};
use iommu_tests::random::Random;
use iommu_tests::spy::{FSTS, GSTS, QIE, SRTP, TE};
use iommu_vtd::{ModeChoice, Unit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn memory() -> Arc<TestMemory> {
    Arc::new(TestMemory::new(iommu_core::addr::PhysAddr::new(BASE), 64))
}

/// Registers of a model that lie from some access on.
struct Lying {
    model: Arc<Model>,
    /// Reads and writes left that are told the truth.
    left: AtomicUsize,
    accesses: AtomicUsize,
    lie: fn(&Model, usize, u64) -> u64,
}

impl Lying {
    fn new(model: &Arc<Model>, after: usize, lie: fn(&Model, usize, u64) -> u64) -> Arc<Self> {
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

/// Everything that a unit is asked for, as far as it goes.
fn use_unit<R: Registers + 'static>(unit: &Unit<Arc<TestMemory>, Arc<R>>, stage: Stage) -> Result<(), HwError> {
    let domain: Box<dyn Domain> = unit.create_domain(&DomainConfig::new(stage))?;
    domain.map(Iova::new(0x1000), &[extent(0x5000_0000, 0x1000)], Prot::READ_WRITE)?;
    unit.attach(stream(8), Target::Paging(&*domain))?;
    let mut gather = Gather::new();
    domain.unmap(range(0x1000, 0x1000), &mut gather)?;
    domain.flush(&mut gather)?;
    unit.detach(stream(8))?;
    unit.report_faults(&mut |_| {});
    let _ = (unit.registers().to_string(), unit.walk(stream(8), Iova::new(0x1000)).to_string());
    unit.sync().map(drop)
}

#[test]
fn registers_that_read_ones_from_any_moment_on_are_an_error() {
    let server = Config::server().ecap_bits(1 << 52, true);
    for (config, stage) in
        [(Config::second_stage(), Stage::Second), (server, Stage::First), (Config::legacy(), Stage::Second)]
    {
        for after in 0.. {
            let model = Arc::new(Model::new(config, memory()));
            let regs = Lying::new(&model, after, |_, _, _| u64::MAX);
            let found = Unit::bring_up(model.memory().clone(), regs.clone(), config_for(&config))
                .and_then(|unit| use_unit(&unit, stage));
            // A wait of 1 ms, 10 us a look; no error but the first is waited for more than a few times.
            let accesses = regs.accesses.load(Ordering::Relaxed);
            assert!(accesses < after + 2_000, "{accesses} accesses after {after}");
            if regs.left.load(Ordering::Relaxed) > 0 {
                assert_eq!(found, Ok(()), "after {after}");
                assert!(after > 50);
                break;
            }
            if model.read32(GSTS) & TE != 0 {
                model.dma(0x10, None, Iova::new(0x1000), 8, true).expect_err("blocked, whatever happened");
            }
        }
    }
}

#[test]
fn ten_thousand_random_capabilities_do_no_harm() {
    let mut random = Random::new(0x5eed_cafe);
    let bases = [Config::second_stage(), Config::first_stage(), Config::server(), Config::legacy()];
    let (mut up, mut refused) = (0, 0);
    for round in 0..10_000u64 {
        let base = bases[round as usize % bases.len()];
        // All random, or a few bits off.
        let few = |random: &mut Random| (0..random.below(6)).fold(0u64, |mask, _| mask | 1 << random.below(64));
        let (cap, ecap) = (base.cap ^ few(&mut random), base.ecap ^ few(&mut random));
        let config = match round % 5 {
            0 => Config { cap: random.number(), ecap: random.number(), ..base },
            _ => Config { cap, ecap, ..base },
        };
        let mode = [ModeChoice::Best, ModeChoice::Legacy, ModeChoice::Scalable][round as usize / 4 % 3];
        let what = format!("CAP {:#x}, ECAP {:#x}, {mode:?}", config.cap, config.ecap);
        let model = Arc::new(Model::new(config, memory()));
        let choice = iommu_vtd::Config { mode, timeout: TIMEOUT, ..config_for(&config) };
        let found = catch_unwind(AssertUnwindSafe(|| {
            let unit = Unit::bring_up(model.memory().clone(), model.clone(), choice);
            unit.map(|unit| {
                for stage in [Stage::First, Stage::Second] {
                    let _ = use_unit(&unit, stage);
                }
                let _ = unit.hardware().to_string();
            })
        }));
        match found.unwrap_or_else(|_| panic!("{what}")) {
            Ok(()) => {
                up += 1;
                assert_eq!(model.read32(GSTS) & TE, TE, "{what}");
                model.dma(0x10, None, Iova::new(0x1000), 8, true).expect_err(&what);
            }
            Err(_) => refused += 1,
        }
        model.memory().check_freed();
    }
    println!("{up} came up, {refused} were refused");
    assert!(up > 1_000 && refused > 1_000);
}

#[test]
fn commands_that_are_never_acknowledged_end_in_every_mode() {
    for config in [Config::legacy(), Config::legacy().ecap_bits(2 | 8, false), Config::server()] {
        for bit in [QIE, SRTP, TE] {
            let model = Arc::new(Model::new(config, memory()));
            model.never_answer(bit);
            let regs = Lying::new(&model, usize::MAX, |_, _, value| value);
            let found = Unit::bring_up(model.memory().clone(), regs.clone(), config_for(&config)).err();
            let expected = bit != QIE || config.ecap & 2 != 0;
            assert_eq!(found.is_some(), expected, "{bit:#x}: {found:?}");
            assert!(!expected || matches!(found, Some(HwError::TimedOut(_))));
            assert!(regs.accesses.load(Ordering::Relaxed) < 1_000);
        }
    }
}

/// Offset of the fault records of the models here.
const RECORDS: usize = 0x220;

#[test]
fn fault_records_that_lie_end_and_blame_nobody() {
    // Records of ones that never clear; a pending bit without a record; an index beyond all records.
    let ones = |_: &Model, offset: usize, value: u64| match offset {
        FSTS => 2,
        RECORDS.. => u64::MAX,
        _ => value,
    };
    let nothing = |_: &Model, offset: usize, value: u64| if offset == FSTS { 2 } else { value };
    let index = |_: &Model, offset: usize, value: u64| if offset == FSTS { value | 0xff00 } else { value };
    for (name, lie, lost, faults) in [
        ("ones", ones as fn(&Model, usize, u64) -> u64, true, 0),
        ("nothing", nothing, false, 0),
        ("index", index, false, 2),
    ] {
        let model = Arc::new(Model::new(Config::server(), memory()));
        let regs = Lying::new(&model, usize::MAX, lie);
        let unit = Unit::bring_up(model.memory().clone(), regs.clone(), config_for(model.config())).unwrap();
        if name == "index" {
            for page in [1, 2] {
                model.dma(8, None, Iova::new(page << 12), 1, true).unwrap_err();
            }
        }
        regs.left.store(0, Ordering::Relaxed);
        let before = regs.accesses.load(Ordering::Relaxed);
        let mut seen = 0;
        let report = unit.report_faults(&mut |_| seen += 1);
        assert_eq!((seen, report.lost), (faults, lost), "{name}: {report:?}");
        assert!(regs.accesses.load(Ordering::Relaxed) - before < 100, "{name}");
        assert!(name == "ones" || !report.more, "{name}: nobody comes back for ever");
    }
}
