//! Hardware that knows where each stream leads, remembers what it was asked in order, and fails when told to.

extern crate std;

use crate::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use crate::device::{Feature, Features, Function};
use crate::hw::{
    DeviceTlb, Domain, DomainConfig, Fault, FaultReport, Gather, Geometry, HwError, Invalidation, Nested, NestedConfig,
    PageResponse, PageSizes, Prot, ResponseCode, Stream, StreamId, Target, Transition, Translation, Unit,
    UnitCapabilities, Wait,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec::Vec;

/// Where a stream leads. Domains and first stages have numbers from 1 on, in the order in which they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum At {
    Blocked,
    Paging(u32),
    Nested(u32),
}

/// What the embedder's function and the unit were asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Move(Stream, At),
    /// Of the function with this number.
    BusMaster(u32, bool),
    Switch(u32, Feature, bool),
    CreateDomain(DomainConfig),
    CreateNested,
    /// A request, by its first word, to a first stage or a device.
    Invalidate(At, u64),
    InvalidateDevice(StreamId, u64),
    Retire(u32),
    Answer(Stream, u16, ResponseCode),
    Tlb(StreamId, Option<DeviceTlb>),
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    streams: BTreeMap<Stream, At>,
    /// Where a stream may lead as well, as hardware did not confirm a move from or to there.
    unconfirmed: BTreeMap<Stream, Vec<At>>,
    /// Device TLBs that the unit counts as there.
    tlbs: BTreeMap<StreamId, DeviceTlb>,
    made: u32,
    /// Calls since it was told to fail, which of them fail, and all from which on.
    count: u32,
    bad: Vec<u32>,
    bad_from: Option<u32>,
    error: Option<HwError>,
    failed: bool,
}

/// One unit and the functions behind it.
#[derive(Default)]
pub(crate) struct Mock {
    state: Mutex<State>,
    pub(crate) capabilities: Mutex<UnitCapabilities>,
    /// Called before a stream is moved.
    pub(crate) before_move: Mutex<Option<Hook>>,
}

pub(crate) type Hook = Box<dyn Fn(Stream, At) + Send>;

pub(crate) const TIMEOUT: HwError = HwError::TimedOut(Wait::Completion);
/// Nothing was begun.
pub(crate) const REFUSED: HwError = HwError::Hardware("refused");

impl Mock {
    pub(crate) fn new() -> Arc<Self> {
        crate::test_support::platform();
        let mock = Self::default();
        *mock.capabilities.lock().unwrap() = UnitCapabilities {
            first_stage: true,
            second_stage: true,
            pasid_bits: 20,
            nesting: true,
            dirty_tracking: true,
            enforce_coherency: true,
            identity: true,
            device_tlbs: true,
            stalls: true,
        };
        Arc::new(mock)
    }

    /// The call after `good` ones fails, and all behind it if `always`.
    pub(crate) fn fail(&self, good: u32, error: HwError, always: bool) {
        self.fail_some(&[good], error);
        self.state.lock().unwrap().bad_from = always.then_some(good);
    }

    /// The calls after so many others fail.
    pub(crate) fn fail_some(&self, bad: &[u32], error: HwError) {
        let mut state = self.state.lock().unwrap();
        (state.count, state.bad, state.bad_from) = (0, bad.to_vec(), None);
        (state.error, state.failed) = (Some(error), false);
    }

    /// No call fails any more. Returns whether one did.
    pub(crate) fn mend(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        (state.bad, state.bad_from) = (Vec::new(), None);
        core::mem::take(&mut state.failed)
    }

    /// What it was asked since the last time.
    pub(crate) fn calls(&self) -> Vec<Call> {
        core::mem::take(&mut self.state.lock().unwrap().calls)
    }

    /// Where streams that are not blocked lead.
    pub(crate) fn streams(&self) -> BTreeMap<Stream, At> {
        self.state.lock().unwrap().streams.clone()
    }

    /// Whose device TLBs the unit counts as there.
    pub(crate) fn tlbs(&self) -> Vec<StreamId> {
        self.state.lock().unwrap().tlbs.keys().copied().collect()
    }

    /// Where streams may lead besides.
    pub(crate) fn unconfirmed(&self) -> BTreeMap<Stream, Vec<At>> {
        self.state.lock().unwrap().unconfirmed.clone()
    }

    /// Whether any stream leads there, or may.
    fn leads(&self, there: At) -> bool {
        let state = self.state.lock().unwrap();
        state.streams.values().chain(state.unconfirmed.values().flatten()).any(|at| *at == there)
    }

    pub(crate) fn at(&self, stream: Stream) -> At {
        self.streams().get(&stream).copied().unwrap_or(At::Blocked)
    }

    fn call(&self, call: Call) -> Result<(), HwError> {
        let mut state = self.state.lock().unwrap();
        state.calls.push(call);
        let number = state.count;
        state.count += 1;
        if !state.bad.contains(&number) && state.bad_from.is_none_or(|from| number < from) {
            return Ok(());
        }
        state.failed = true;
        let error = state.error;
        if let (Call::Move(stream, to), Some(TIMEOUT)) = (call, error) {
            // What the unit owes: blocked as far as its tables say.
            let from = state.streams.remove(&stream);
            let maybe = state.unconfirmed.entry(stream).or_default();
            maybe.extend(from.into_iter().chain([to]).filter(|at| *at != At::Blocked));
        }
        error.map_or(Ok(()), Err)
    }

    fn next(&self) -> u32 {
        let mut state = self.state.lock().unwrap();
        state.made += 1;
        state.made
    }
}

/// The unit's side. A type of its own as the domains point back.
pub(crate) struct MockUnit(pub(crate) Arc<Mock>);

struct MockDomain(Arc<Mock>, u32);
struct MockNested(Arc<Mock>, u32);

impl Unit for MockUnit {
    fn capabilities(&self) -> UnitCapabilities {
        *self.0.capabilities.lock().unwrap()
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        self.0.call(Call::CreateDomain(*config))?;
        Ok(Box::new(MockDomain(self.0.clone(), self.0.next())))
    }

    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        let to = match target {
            Target::Blocked => At::Blocked,
            Target::Paging(domain) => At::Paging((domain as &dyn Any).downcast_ref::<MockDomain>().unwrap().1),
            Target::Nested(nested) => At::Nested((nested as &dyn Any).downcast_ref::<MockNested>().unwrap().1),
            Target::Identity => panic!("nobody asks for that"),
        };
        if let Some(hook) = &*self.0.before_move.lock().unwrap() {
            hook(stream, to);
        }
        self.0.call(Call::Move(stream, to))?;
        let mut state = self.0.state.lock().unwrap();
        state.unconfirmed.remove(&stream);
        let before = match to {
            At::Blocked => state.streams.remove(&stream),
            _ => state.streams.insert(stream, to),
        };
        // Odd streams are swapped in one word.
        let hitless = before.is_none() || to == At::Blocked || stream.id.get() % 2 == 1;
        Ok(if hitless { Transition::Hitless } else { Transition::ThroughBlocked })
    }

    fn create_nested(&self, parent: &dyn Domain, _: &NestedConfig<'_>) -> Result<Box<dyn Nested>, HwError> {
        assert!((parent as &dyn Any).is::<MockDomain>());
        self.0.call(Call::CreateNested)?;
        Ok(Box::new(MockNested(self.0.clone(), self.0.next())))
    }

    fn invalidate_device(&self, stream: StreamId, request: &Invalidation) -> Result<(), HwError> {
        self.0.call(Call::InvalidateDevice(stream, request.words[0]))
    }

    fn respond(&self, response: &PageResponse) -> Result<(), HwError> {
        self.0.call(Call::Answer(response.stream, response.group, response.code))
    }

    fn set_device_tlb(&self, stream: StreamId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        let result = self.0.call(Call::Tlb(stream, tlb));
        let mut state = self.0.state.lock().unwrap();
        match (result, tlb) {
            (Ok(()) | Err(TIMEOUT), Some(tlb)) => _ = state.tlbs.insert(stream, tlb),
            (Ok(()), None) => _ = state.tlbs.remove(&stream),
            _ => {}
        }
        result
    }

    fn report_faults(&self, _: &mut dyn FnMut(&Fault)) -> FaultReport {
        FaultReport::default()
    }
}

impl Domain for MockDomain {
    fn geometry(&self) -> Geometry {
        let aperture = IovaRange::new(Iova::new(0), Iova::new((1 << 39) - 1)).unwrap();
        Geometry { aperture, page_sizes: PageSizes::new(1 << 12 | 1 << 21), output_bits: 48 }
    }

    fn map(&self, _: Iova, _: &[PhysExtent], _: Prot) -> Result<(), HwError> {
        Ok(())
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        gather.add_leaves(range, 0);
        Ok(())
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        self.0.call(Call::Retire(self.1))?;
        let mut state = self.0.state.lock().unwrap();
        state.streams.retain(|_, at| *at != At::Paging(self.1));
        state.unconfirmed.values_mut().for_each(|maybe| maybe.retain(|at| *at != At::Paging(self.1)));
        Ok(())
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        Some(Translation { phys: PhysAddr::new(iova.get()), prot: Prot::READ, page_size: 4096 })
    }
}

impl Drop for MockDomain {
    fn drop(&mut self) {
        let leads = self.0.leads(At::Paging(self.1));
        assert!(!leads || std::thread::panicking(), "a stream leads to the domain {} that goes", self.1);
    }
}

impl Nested for MockNested {
    fn invalidate(&self, request: &Invalidation) -> Result<(), HwError> {
        self.0.call(Call::Invalidate(At::Nested(self.1), request.words[0]))
    }
}

impl Drop for MockNested {
    fn drop(&mut self) {
        let leads = self.0.leads(At::Nested(self.1));
        assert!(!leads || std::thread::panicking(), "a stream leads through the first stage {} that goes", self.1);
    }
}

/// A function's configuration space.
pub(crate) struct MockFunction {
    pub(crate) mock: Arc<Mock>,
    pub(crate) number: u32,
    pub(crate) features: Mutex<Features>,
    pub(crate) mastering: Mutex<bool>,
    /// What is on.
    pub(crate) on: Mutex<Vec<Feature>>,
    /// Called while a feature is switched.
    pub(crate) during: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Function for MockFunction {
    fn features(&self) -> Features {
        *self.features.lock().unwrap()
    }

    fn set_feature(&self, feature: Feature, on: bool) -> Result<(), HwError> {
        crate::sync::assert_none_held();
        self.mock.call(Call::Switch(self.number, feature, on))?;
        let mut features = self.on.lock().unwrap();
        features.retain(|other| *other != feature);
        if on {
            features.push(feature);
        }
        drop(features);
        if let Some(during) = &*self.during.lock().unwrap() {
            during();
        }
        Ok(())
    }

    fn set_bus_master(&self, on: bool) -> Result<(), HwError> {
        crate::sync::assert_none_held();
        self.mock.call(Call::BusMaster(self.number, on))?;
        *self.mastering.lock().unwrap() = on;
        if let Some(during) = &*self.during.lock().unwrap() {
            during();
        }
        Ok(())
    }
}
