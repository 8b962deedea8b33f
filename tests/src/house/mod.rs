//! Either driver, on a unit of its architecture in software: what the suite `both` is written against.
//!
//! [`Driver`] is all that a test may know of an architecture. Where two differ, the difference is one of its functions or a
//! field of [`Kind`], with the section of the specification that makes it; no test asks which architecture it runs on. What a
//! unit cannot do a test finds in its [capabilities](hw::UnitCapabilities), and asserts the error that is documented.

mod guest;
mod run;
mod smmuv3;
mod vtd;

pub use guest::{Guest, HOST, MEMORY, Own, TABLES, parent_config};
pub use run::{each, each_of};
pub use smmuv3::Smmuv3;
pub use vtd::Vtd;

use crate::bench::{TIMEOUT, map, memory};
use crate::hooked::Hooked;
use crate::spy::{Moment, Spy};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{self, Domain, DomainConfig, Fault, HwError, Stage, Stream, StreamId, Target, Transition, Wait};
use iommu_core::hw::{Invalidation, Pasid, UnitCapabilities};
use iommu_hal::regs::Registers;
use iommu_models::memory::TestMemory;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// What an operation gives that hardware never confirms.
pub const HUNG: HwError = HwError::TimedOut(Wait::Completion);

/// How memory is read; `None` where there is none.
pub type Read64<'a> = &'a dyn Fn(PhysAddr) -> Option<u64>;

/// What the driver's requests go through.
pub type Spied<D> = Spy<<D as Driver>::Model>;

/// What a queue of invalidations does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// Executes requests.
    Running,
    /// Executes them, and never confirms.
    Mute,
    /// Fetches none.
    Stopped,
}

/// Why an access is refused, as far as architectures have it in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The stream leads nowhere.
    Detached,
    /// It leads to a domain that has nothing at this address.
    NotMapped,
    /// What is there may not be used this way.
    NotAllowed,
    /// Anything else: no correct driver has a stream meet it in this suite.
    Other(u8),
}

/// Where tables in memory lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Where the byte asked for lies.
    pub phys: u64,
    /// Whether reads are let through.
    pub read: bool,
    /// Whether writes are let through.
    pub write: bool,
    /// What hardware tags it by, unique among the domains of a unit at any moment; 0 of what is passed through.
    pub tag: u32,
}

/// What a device was asked to forget of the translations that it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forget {
    /// Its stream.
    pub id: StreamId,
    /// Those without PASID, with one, or all of them.
    pub of: Tagged,
    /// The first address.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// Which entries of a device TLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tagged {
    /// Those of requests without PASID.
    Without,
    /// Those with one.
    With(u32),
    /// Those with any PASID.
    WithAny,
}

impl Forget {
    /// Whether what `stream` was given for `iova` is among it.
    pub fn covers(&self, stream: Stream, iova: u64) -> bool {
        let of = match (self.of, stream.pasid) {
            (Tagged::Without, pasid) => pasid.is_none(),
            (Tagged::With(one), pasid) => pasid.is_some_and(|pasid| pasid.get() == one),
            (Tagged::WithAny, pasid) => pasid.is_some(),
        };
        self.id == stream.id && of && (self.first..=self.last).contains(&iova)
    }
}

/// What hardware was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Invalidations.
    pub requests: usize,
    /// Waits for their completion.
    pub waits: usize,
    /// How often it was told that there is something to do.
    pub doorbells: usize,
}

/// What a kind of unit, with one stage of it, is to the tests.
#[derive(Clone, Debug)]
pub struct Kind {
    /// For messages.
    pub name: String,
    /// The stage that domains are of.
    pub stage: Stage,
    /// Devices see what was cleaned, and no more. Only a unit that does not snoop notices.
    pub non_coherent: bool,
    /// The first address that domains do not translate.
    pub end: u64,
    /// Width of physical addresses in bits.
    pub output_bits: u32,
    /// Hardware may keep that nothing is mapped, so that maps are followed by invalidations.
    pub keeps_absence: bool,
    /// Hardware may keep that there is no entry that leads to page tables, so that an attach is followed by an invalidation.
    pub keeps_no_entry: bool,
    /// Walks of page tables snoop the CPUs' caches.
    pub snoops_tables: bool,
    /// Reads of what leads to page tables snoop the CPUs' caches.
    pub snoops_structures: bool,
    /// Requests with PASID may lead to domains of this stage.
    pub stage_of_parts: bool,
    /// Three streams: the second shares a table of hardware's with the first, the third has its own where it can.
    pub streams: [u32; 3],
    /// Stream ids that the unit has none of.
    pub no_streams: Vec<u32>,
    /// Addresses that are no memory to devices, as input and as output.
    pub special: Option<(u64, u64)>,
}

/// One architecture: its units, its driver, its model.
pub trait Driver: Sized + 'static {
    /// For messages.
    const NAME: &'static str;
    /// The register that hardware is told by that there are requests.
    const DOORBELL: usize;

    /// What a guest's entry has that leads to a table, beside its address.
    const GUEST_TABLE: u64;
    /// What a guest's entry has of a page that may be read and written.
    const GUEST_PAGE: u64;

    /// A kind of unit with one stage of it.
    type Case: Clone + Send + Sync + 'static;
    /// The hardware.
    type Model: Registers + 'static;
    /// The driver.
    type Unit: hw::Unit + Clone + 'static;

    /// The kinds of unit that tests run on.
    fn cases() -> Vec<Self::Case>;

    /// Those, and each with everything that makes its driver take more steps.
    fn every_case() -> Vec<Self::Case> {
        Self::cases()
    }

    /// Those with the fewest ids for domains, and how many domains can be there at once.
    fn few_ids() -> Vec<(Self::Case, usize)>;

    /// Those on which guests have a stage 1 of their own.
    fn nesting() -> Vec<Self::Case>;

    /// Those that record what is written through domains, with each stage that does.
    fn recording() -> Vec<Self::Case>;

    /// What a case is.
    fn kind(case: &Self::Case) -> Kind;

    /// A unit after reset.
    fn model(case: &Self::Case, memory: Arc<TestMemory>) -> Self::Model;

    /// Has the driver bring it up.
    ///
    /// # Errors
    ///
    /// The driver's.
    fn bring_up(
        case: &Self::Case,
        hal: Hooked,
        regs: Arc<Spied<Self>>,
        timeout: Duration,
    ) -> Result<Self::Unit, HwError>;

    /// A request for one byte, through caches, as recorded by hardware.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    fn access(model: &Self::Model, stream: Stream, iova: u64, write: bool) -> Result<u64, Refusal>;

    /// Where tables lead as `read` finds them: no cache, nothing recorded.
    ///
    /// # Errors
    ///
    /// Why an access would be refused.
    fn walk(model: &Self::Model, read: Read64<'_>, stream: Stream, iova: u64, write: bool) -> Result<Walk, Refusal>;

    /// What a driver is told of a guest's stage 1: kind and words. Of the pages the first is its first table, the second is for
    /// whatever else that takes, which goes there by `put`; addresses are the guest's.
    fn stage_of_guest(
        case: &Self::Case,
        pages: [u64; 2],
        number: u16,
        put: &mut dyn FnMut(u64, u64),
    ) -> (u32, Vec<u64>);

    /// What the guest says once it has changed the entry of the page at `iova`.
    fn said_by_guest(case: &Self::Case, number: u16, iova: u64) -> Vec<Invalidation>;

    /// How the queue treats requests from now on.
    fn set_queue(model: &Self::Model, queue: Queue);

    /// `n` more requests are executed, then it stops until [`Driver::set_queue`].
    fn stop_queue_after(model: &Self::Model, n: usize);

    /// `n` more requests are taken, the next is refused, once; never with `usize::MAX`.
    fn refuse_request_after(model: &Self::Model, n: usize);

    /// Whether nobody answers on the bus.
    fn set_absent(model: &Self::Model, absent: bool);

    /// Invalidations and waits executed since the last call.
    fn take_log(model: &Self::Model) -> (usize, usize);

    /// How many accesses were refused since the last call, with a record that hardware made of it.
    fn take_faults(model: &Self::Model) -> usize;

    /// What devices were asked to forget since the last call of this or of [`Driver::take_log`].
    fn take_forgotten(model: &Self::Model) -> Vec<Forget>;

    /// Whether a device is given a translation for writes to `iova` that it asks for, and where that leads.
    fn ask(model: &Self::Model, stream: Stream, iova: u64) -> Option<u64>;

    /// Where a write of a device goes that uses what its device TLB holds, and keeps what it is given. Nowhere, where it is
    /// given nothing, or refused.
    fn through_tlb(model: &Self::Model, stream: Stream, iova: u64) -> Option<u64>;

    /// How many translations the device TLB of function `id` holds.
    fn held(model: &Self::Model, id: u32) -> usize;

    /// Whether function `id` never answers what it is asked to forget.
    fn set_unanswering(model: &Self::Model, id: u32, never: bool);

    /// Function `id` is reset: its device TLB holds nothing.
    fn reset_function(model: &Self::Model, id: u32);

    /// Whether a request of function `id` that says of itself that `phys` is translated gets there.
    fn translated(model: &Self::Model, id: u32, phys: u64) -> bool;

    /// Rules that were broken so far.
    fn violations(model: &Self::Model) -> Vec<String>;

    /// Frames of tables that grow with the streams that were ever attached, and that stay.
    fn grown(unit: &Self::Unit) -> usize;

    /// Every frame that hardware reads on its way to page tables.
    fn structures(model: &Self::Model, unit: &Self::Unit) -> Vec<u64>;

    /// First frames of queues.
    fn queues(unit: &Self::Unit) -> Vec<u64>;
}

/// A unit that its driver has brought up.
pub struct House<D: Driver> {
    /// Memory of tables and queues.
    pub memory: Arc<TestMemory>,
    /// The hardware.
    pub model: Arc<D::Model>,
    /// Its registers, as the driver sees them.
    pub spy: Arc<Spied<D>>,
    /// The driver.
    pub unit: D::Unit,
    /// What it was made of.
    pub case: D::Case,
    /// What it is.
    pub kind: Kind,
    /// Frames in use after bring-up.
    at_start: usize,
}

/// Requests without PASID of `id`.
pub const fn function(id: u32) -> Stream {
    Stream { id: StreamId::new(id), pasid: None }
}

/// Requests of `id` with `pasid`.
///
/// # Panics
///
/// Where it is wider than 20 bits.
pub fn part(id: u32, pasid: u32) -> Stream {
    Stream { id: StreamId::new(id), pasid: Some(Pasid::new(pasid).expect("20 bits")) }
}

/// As [`House::frames`], for hooks.
pub fn frames<D: Driver>(model: &D::Model, memory: &TestMemory, stream: Stream, iova: u64) -> Vec<u64> {
    let found = RefCell::new(Vec::new());
    let read = |phys: PhysAddr| {
        let frame = phys.get() & !0xfff;
        let mut found = found.borrow_mut();
        if !found.contains(&frame) {
            found.push(frame);
        }
        memory.device_read64(phys)
    };
    let _ = D::walk(model, &read, stream, iova, false);
    found.into_inner()
}

impl<D: Driver> House<D> {
    /// Brings a unit up.
    pub fn up(case: &D::Case) -> Self {
        Self::up_on(case, memory(D::kind(case).non_coherent))
    }

    /// Brings a unit up on `memory`.
    pub fn up_on(case: &D::Case, memory: Arc<TestMemory>) -> Self {
        let kind = D::kind(case);
        let model = Arc::new(D::model(case, memory.clone()));
        let spy = Arc::new(Spy::new(model.clone()));
        let before = memory.in_use();
        let unit = D::bring_up(case, Hooked(memory.clone()), spy.clone(), TIMEOUT)
            .unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        D::take_log(&model);
        spy.take_writes();
        let at_start = memory.in_use() - before;
        Self { memory, model, spy, unit, case: case.clone(), kind, at_start }
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.kind.name
    }

    /// What the unit can do.
    pub fn capabilities(&self) -> UnitCapabilities {
        hw::Unit::capabilities(&self.unit)
    }

    /// The driver, as address spaces take it.
    pub fn handle(&self) -> Arc<dyn hw::Unit> {
        Arc::new(self.unit.clone())
    }

    /// What domains are made of.
    pub const fn config(&self) -> DomainConfig {
        DomainConfig::new(self.kind.stage)
    }

    /// A domain.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn try_domain(&self) -> Result<Box<dyn Domain>, HwError> {
        hw::Unit::create_domain(&self.unit, &self.config())
    }

    /// An empty domain.
    #[track_caller]
    pub fn domain(&self) -> Box<dyn Domain> {
        self.try_domain().unwrap_or_else(|error| panic!("{}: a domain: {error}", self.name()))
    }

    /// A domain with one mapping, readable and writable.
    #[track_caller]
    pub fn domain_with(&self, iova: u64, phys: u64, len: u64) -> Box<dyn Domain> {
        let domain = self.domain();
        map(&*domain, iova, phys, len);
        domain
    }

    /// Leads `stream` to `target`.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn lead(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        hw::Unit::attach(&self.unit, stream, target)
    }

    /// Attaches function `id` to `domain`.
    #[track_caller]
    pub fn attach(&self, id: u32, domain: &dyn Domain) -> Transition {
        let done = self.lead(function(id), Target::Paging(domain));
        done.unwrap_or_else(|error| panic!("{}: attach of {id:#x}: {error}", self.name()))
    }

    /// Detaches function `id`.
    #[track_caller]
    pub fn detach(&self, id: u32) {
        let done = hw::Unit::detach(&self.unit, function(id));
        done.unwrap_or_else(|error| panic!("{}: detach of {id:#x}: {error}", self.name()));
    }

    /// Where a request of `stream` for one byte goes.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn access(&self, stream: Stream, iova: u64, write: bool) -> Result<u64, Refusal> {
        D::access(&self.model, stream, iova, write)
    }

    /// Where a read of function `id` goes.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn read(&self, id: u32, iova: u64) -> Result<u64, Refusal> {
        self.access(function(id), iova, false)
    }

    /// Where a write of function `id` goes.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn write(&self, id: u32, iova: u64) -> Result<u64, Refusal> {
        self.access(function(id), iova, true)
    }

    /// A read and a write of `stream`, which must give the same.
    #[track_caller]
    pub fn expect_of(&self, stream: Stream, iova: u64, expected: Result<u64, Refusal>) {
        let seen = [false, true].map(|write| self.access(stream, iova, write));
        assert_eq!(seen, [expected; 2], "{}: {stream} at {iova:#x}", self.name());
    }

    /// A read and a write of function `id`, which must give the same.
    #[track_caller]
    pub fn expect(&self, id: u32, iova: u64, expected: Result<u64, Refusal>) {
        self.expect_of(function(id), iova, expected);
    }

    /// Where tables lead `stream` now, whatever is cached.
    ///
    /// # Errors
    ///
    /// Why a write would be refused.
    pub fn walk(&self, stream: Stream, iova: u64) -> Result<Walk, Refusal> {
        D::walk(&self.model, &|phys| self.memory.device_read64(phys), stream, iova, true)
    }

    /// What hardware tags function `id` by at `iova`.
    #[track_caller]
    pub fn tag(&self, id: u32, iova: u64) -> u32 {
        let found = self.walk(function(id), iova);
        found.unwrap_or_else(|refusal| panic!("{}: {id:#x} at {iova:#x}: {refusal:?}", self.name())).tag
    }

    /// The frames that hardware reads on the way of `stream` to `iova`, the first one first.
    pub fn frames(&self, stream: Stream, iova: u64) -> Vec<u64> {
        frames::<D>(&self.model, &self.memory, stream, iova)
    }

    /// How the queue treats requests from now on.
    pub fn set_queue(&self, queue: Queue) {
        D::set_queue(&self.model, queue);
    }

    /// What hardware was asked to do since the last call.
    pub fn take_work(&self) -> Work {
        let (requests, waits) = D::take_log(&self.model);
        let writes = self.spy.take_writes();
        Work { requests, waits, doorbells: writes.iter().filter(|write| write.offset == D::DOORBELL).count() }
    }

    /// Does this each time before hardware is told that there are requests.
    pub fn at_doorbell(&self, mut does: impl FnMut() + Send + 'static) {
        self.spy.set_hook(Some(Box::new(move |write, moment| {
            if (write.offset, moment) == (D::DOORBELL, Moment::Before) {
                does();
            }
        })));
    }

    /// Has the driver know that function `id` has a device TLB, or has none any more.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn tell_tlb(&self, id: u32, there: bool) -> Result<(), HwError> {
        let id = StreamId::new(id);
        let tlb = hw::DeviceTlb { queue_depth: 4, physical: id, global_invalidate: false };
        hw::Unit::set_device_tlb(&self.unit, id, there.then_some(tlb))
    }

    /// Faults that the driver reports, oldest first.
    pub fn faults(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        hw::Unit::report_faults(&self.unit, &mut |fault| found.push(*fault));
        found
    }

    /// Frames that a unit without domains keeps.
    pub fn kept(&self) -> usize {
        self.at_start + D::grown(&self.unit)
    }

    /// What must hold after everything the driver did so far: no rule broken, nothing freed that was still in use.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(D::violations(&self.model), Vec::<String>::new(), "{}", self.name());
        assert_eq!(self.memory.take_stale_reads(), [], "{}", self.name());
        self.memory.check_freed();
    }

    /// [`House::check`], and that nothing is in use that the unit does not keep: all domains are gone.
    #[track_caller]
    pub fn check_empty(&self) {
        self.check();
        assert_eq!(self.memory.in_use(), self.kept(), "{}: frames", self.name());
    }
}
