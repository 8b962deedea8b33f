//! A unit that the driver has brought up on a model.

use crate::case::Case;
use crate::pieces::{self, Found, PasidEntry};
use crate::spy::Spy;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{
    self, Domain, DomainConfig, Gather, HwError, Prot, RequesterId, Stream, Target, Transition, Unit as _,
};
use iommu_models::memory::TestMemory;
use iommu_models::vtd::{Config as ModelConfig, Descriptor, FaultCode, Model};
use iommu_vtd::{Config, Structure, Unit};
use std::sync::Arc;
use std::time::Duration;

/// The driver on a model.
pub type TestUnit = Unit<Arc<TestMemory>, Arc<Spy>>;

/// Physical address of the first frame of [`memory`].
pub const BASE: u64 = 0x1_2340_0000;

/// How long the driver waits for an answer: a hundred looks at the clock.
pub const TIMEOUT: Duration = Duration::from_millis(1);

/// Memory for tables; what devices reach lies elsewhere.
pub fn memory(non_coherent: bool) -> Arc<TestMemory> {
    let base = PhysAddr::new(BASE);
    Arc::new(if non_coherent { TestMemory::non_coherent(base, 1024) } else { TestMemory::new(base, 1024) })
}

/// What the driver is told of a unit.
pub fn config_for(config: &ModelConfig) -> Config {
    Config { host_bits: config.haw, timeout: TIMEOUT, ..Config::default() }
}

/// The range of `len` bytes from `start`.
pub fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).expect("a range")
}

/// The `len` bytes of memory from `start`.
pub const fn extent(start: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(start), len)
}

/// Requests without PASID of `rid`.
pub fn stream(rid: u16) -> Stream {
    Stream::function(RequesterId::new(rid))
}

/// A unit, its memory and its driver.
pub struct Bench {
    /// Memory of tables and queue.
    pub memory: Arc<TestMemory>,
    /// The hardware.
    pub model: Arc<Model>,
    /// Its registers, as the driver sees them.
    pub spy: Arc<Spy>,
    /// The driver.
    pub unit: TestUnit,
    /// What the unit is.
    pub case: Case,
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
        let unit = Unit::bring_up(memory.clone(), spy.clone(), config_for(&case.config))
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        model.take_log();
        spy.take_writes();
        Self { memory, model, spy, unit, case: case.clone() }
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

    /// Attaches `rid` to `domain`.
    pub fn attach(&self, rid: u16, domain: &dyn Domain) -> Transition {
        let done = self.unit.attach(stream(rid), Target::Paging(domain));
        done.unwrap_or_else(|error| panic!("{}: attach of {rid:#x}: {error}", self.case.name))
    }

    /// Detaches `rid`.
    pub fn detach(&self, rid: u16) {
        self.unit.detach(stream(rid)).unwrap_or_else(|error| panic!("{}: detach: {error}", self.case.name));
    }

    /// Where a read of one byte goes.
    pub fn read(&self, rid: u16, iova: u64) -> Result<u64, FaultCode> {
        self.access(rid, iova, false)
    }

    /// Where a write of one byte goes.
    pub fn write(&self, rid: u16, iova: u64) -> Result<u64, FaultCode> {
        self.access(rid, iova, true)
    }

    fn access(&self, rid: u16, iova: u64, write: bool) -> Result<u64, FaultCode> {
        let done = self.model.dma(rid, None, Iova::new(iova), 1, write);
        done.map(|extents| extents[0].start.get()).map_err(|blocked| blocked.code)
    }

    /// A read and a write, which must give the same.
    #[track_caller]
    pub fn expect(&self, rid: u16, iova: u64, expected: Result<u64, FaultCode>) {
        let seen = (self.read(rid, iova), self.write(rid, iova));
        assert_eq!(seen, (expected, expected), "{}: {rid:#x} at {iova:#x}", self.case.name);
    }

    /// Descriptors executed since the last look, but for waits.
    pub fn invalidations(&self) -> Vec<Descriptor> {
        let log = self.model.take_log().into_iter().map(|executed| executed.descriptor);
        log.filter(|descriptor| !matches!(descriptor, Descriptor::Wait { .. })).collect()
    }

    /// What must hold after everything the driver did so far: no rule broken, nothing freed that was still in use.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(self.model.violations(), [], "{}", self.case.name);
        assert_eq!(self.memory.take_stale_reads(), [], "{}", self.case.name);
        self.memory.check_freed();
    }

    /// Reads memory as the unit does, where it is allocated.
    pub fn reader(&self) -> impl Fn(u64) -> Option<u64> + '_ {
        // Anything else would be noted as a stale read.
        |at| self.memory.is_allocated(PhysAddr::new(at)).then(|| self.memory.device_read64(PhysAddr::new(at)))?
    }

    /// The PASID entry that `rid` is led to.
    ///
    /// # Panics
    ///
    /// Where it is led nowhere.
    #[track_caller]
    pub fn entry(&self, rid: u16) -> PasidEntry {
        let context = pieces::context(&self.reader(), self.model.root(), rid);
        let Found::Present(context) = context else { panic!("context entry of {rid:#x}: {context:x?}") };
        let entry = pieces::pasid_entry(&self.reader(), &context);
        let Found::Present(entry) = entry else { panic!("PASID entry of {rid:#x}: {entry:x?}") };
        entry
    }

    /// The domain id that `rid` has.
    #[track_caller]
    pub fn domain_id(&self, rid: u16) -> u16 {
        pieces::domain_id(&self.entry(rid))
    }

    /// Frames of root, context and PASID structures, and of the queue: what a unit keeps without domains.
    pub fn kept(&self) -> usize {
        let mut frames = 0;
        // Page tables are the domains'.
        self.unit.for_each_structure(|structure, _| frames += usize::from(structure != Structure::PageTable));
        frames
    }
}

/// Maps, readable and writable.
#[track_caller]
pub fn map(domain: &dyn Domain, iova: u64, phys: u64, len: u64) {
    domain.map(Iova::new(iova), &[extent(phys, len)], Prot::READ_WRITE).expect("a map");
}

/// Unmaps and flushes.
#[track_caller]
pub fn unmap(domain: &dyn Domain, iova: u64, len: u64) {
    try_unmap(domain, iova, len).expect("an unmap");
}

/// Unmaps and flushes.
///
/// # Errors
///
/// As the domain's.
pub fn try_unmap(domain: &dyn Domain, iova: u64, len: u64) -> Result<(), HwError> {
    let mut gather = Gather::new();
    domain.unmap(range(iova, len), &mut gather)?;
    domain.flush(&mut gather)
}
