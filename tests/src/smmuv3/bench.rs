//! A unit that the driver has brought up on a model.

pub use crate::bench::{BASE, TIMEOUT, extent, map, range, try_unmap, unmap};

use super::case::Case;
use super::spy::Spy;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{self, Domain, DomainConfig, Stream, StreamId, Target, Transition, Unit as _};
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{Command, FaultCode, Model};
use iommu_smmuv3::{Config, Structure, Unit};
use std::sync::Arc;

/// The driver on a model.
pub type TestUnit = Unit<Arc<TestMemory>, Arc<Spy>>;

/// Frames of a level-2 stream table.
pub const LEVEL_2: usize = 4;

/// Memory for tables; what devices reach lies elsewhere.
pub fn memory(non_coherent: bool) -> Arc<TestMemory> {
    let base = PhysAddr::new(BASE);
    Arc::new(if non_coherent { TestMemory::non_coherent(base, 1024) } else { TestMemory::new(base, 1024) })
}

/// What the driver is told of a unit.
pub fn config_for(case: &Case) -> Config {
    Config {
        host_bits: 48,
        timeout: TIMEOUT,
        coherent: case.coherent,
        stream_bits: case.stream_bits,
        completion: case.completion,
        ..Config::default()
    }
}

/// Requests without substream of `sid`.
pub fn stream(sid: u32) -> Stream {
    Stream::function(StreamId::new(sid))
}

/// A unit, its memory and its driver.
pub struct Bench {
    /// Memory of tables and queues.
    pub memory: Arc<TestMemory>,
    /// The hardware.
    pub model: Arc<Model>,
    /// Its registers, as the driver sees them.
    pub spy: Arc<Spy>,
    /// The driver.
    pub unit: TestUnit,
    /// What the unit is.
    pub case: Case,
    /// Frames in use after bring-up.
    at_start: usize,
}

impl Bench {
    /// Brings a unit up.
    pub fn up(case: &Case) -> Self {
        Self::up_on(case, memory(case.non_coherent))
    }

    /// Brings a unit up on `memory`.
    pub fn up_on(case: &Case, memory: Arc<TestMemory>) -> Self {
        let model = Arc::new(Model::new(case.config, memory.clone()));
        let spy = Arc::new(Spy::new(model.clone()));
        let before = memory.in_use();
        let unit = Unit::bring_up(memory.clone(), spy.clone(), config_for(case))
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        model.take_log();
        spy.take_writes();
        let at_start = memory.in_use() - before;
        Self { memory, model, spy, unit, case: case.clone(), at_start }
    }

    /// The driver, as address spaces take it.
    pub fn handle(&self) -> Arc<dyn hw::Unit> {
        Arc::new(self.unit.clone())
    }

    /// An empty domain.
    pub fn domain(&self) -> Box<dyn Domain> {
        self.unit.create_domain(&DomainConfig::new(self.case.stage)).expect("a domain")
    }

    /// A domain with one mapping, readable and writable.
    pub fn domain_with(&self, iova: u64, phys: u64, len: u64) -> Box<dyn Domain> {
        let domain = self.domain();
        map(&*domain, iova, phys, len);
        domain
    }

    /// Attaches `sid` to `domain`.
    pub fn attach(&self, sid: u32, domain: &dyn Domain) -> Transition {
        let done = self.unit.attach(stream(sid), Target::Paging(domain));
        done.unwrap_or_else(|error| panic!("{}: attach of {sid:#x}: {error}", self.case.name))
    }

    /// Detaches `sid`.
    pub fn detach(&self, sid: u32) {
        self.unit.detach(stream(sid)).unwrap_or_else(|error| panic!("{}: detach: {error}", self.case.name));
    }

    /// Where a read of one byte goes.
    pub fn read(&self, sid: u32, iova: u64) -> Result<u64, FaultCode> {
        self.access(sid, iova, false)
    }

    /// Where a write of one byte goes.
    pub fn write(&self, sid: u32, iova: u64) -> Result<u64, FaultCode> {
        self.access(sid, iova, true)
    }

    fn access(&self, sid: u32, iova: u64, write: bool) -> Result<u64, FaultCode> {
        let done = self.model.dma(sid, None, Iova::new(iova), 1, write);
        done.map(|extents| extents[0].start.get()).map_err(|blocked| blocked.code)
    }

    /// A read and a write, which must give the same.
    #[track_caller]
    pub fn expect(&self, sid: u32, iova: u64, expected: Result<u64, FaultCode>) {
        let seen = (self.read(sid, iova), self.write(sid, iova));
        assert_eq!(seen, (expected, expected), "{}: {sid:#x} at {iova:#x}", self.case.name);
    }

    /// What a detached stream of a part of the table that was needed before meets.
    #[track_caller]
    pub fn expect_blocked(&self, sid: u32, iova: u64) {
        self.expect(sid, iova, Err(FaultCode::NONE));
    }

    /// ASID of a stream that stage 1 translates, VMID of another; `None` of a stream that nothing does.
    pub fn tag(&self, sid: u32, iova: u64) -> Option<u16> {
        let found = self.model.translate(sid, None, Iova::new(iova), false).ok()?;
        found.asid.or(found.vmid)
    }

    /// Commands executed since the last look.
    pub fn commands(&self) -> Vec<Command> {
        self.model.take_log().into_iter().map(|executed| executed.command).collect()
    }

    /// What must hold after everything the driver did so far: no rule broken, nothing freed that was still in use.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(self.model.violations(), [], "{}", self.case.name);
        assert_eq!(self.memory.take_stale_reads(), [], "{}", self.case.name);
        self.memory.check_freed();
    }

    /// Frames of stream tables and queues: what a unit keeps without domains.
    pub fn kept(&self) -> usize {
        let mut frames = self.at_start;
        self.unit.for_each_structure(|structure, _| {
            if structure == Structure::Level2StreamTable {
                frames += LEVEL_2;
            }
        });
        frames
    }
}
