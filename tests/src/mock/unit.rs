//! The mock unit: which stream leads where.

use super::domain::{Body, MockDomain};
use super::nested::{DEVICE_CACHES, DEVICE_KIND, INVALIDATE_ALL, Iotlb, MockNested, NESTED_KIND};
use super::script::{Counts, unconfirmed};
use super::{Call, Effect, Event, MOCK_SIZES, Outside, PASID_BITS, Script, World, lock, violation};
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{
    Capability, DeviceTlb, Domain, DomainConfig, Fault, FaultReport, HwError, Invalidation, Nested, NestedConfig,
    PageResponse, PageSizes, Prot, Stage, Stream, StreamId, Target, Transition, Unit, UnitCapabilities,
};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Faults that one call hands over at most.
const FAULTS: usize = 16;

/// What a unit is to be.
#[derive(Clone, Debug)]
pub struct UnitConfig {
    /// Its domains' page sizes.
    pub page_sizes: PageSizes,
    /// What its domains map.
    pub aperture: IovaRange,
    /// Width of physical addresses.
    pub output_bits: u8,
    /// What its domains never map.
    pub reserved: Vec<IovaRange>,
    /// What it can do.
    pub capabilities: UnitCapabilities,
    /// Whether its domains split leaves.
    pub splits: bool,
    /// What an attach answers.
    pub transition: Transition,
}

impl Default for UnitConfig {
    /// The mock of the reference's selftest, with everything.
    fn default() -> Self {
        Self {
            page_sizes: MOCK_SIZES,
            aperture: super::aperture(),
            output_bits: 52,
            reserved: Vec::new(),
            capabilities: UnitCapabilities {
                first_stage: true,
                second_stage: true,
                identity: true,
                pasid_bits: PASID_BITS,
                dirty_tracking: true,
                nesting: true,
                enforce_coherency: true,
                device_tlbs: true,
                stalls: true,
            },
            splits: true,
            transition: Transition::Hitless,
        }
    }
}

/// Where a stream leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leads {
    /// Nowhere.
    Blocked,
    /// To memory untranslated.
    Identity,
    /// To the domain of this number.
    Paging(u64),
    /// To the nested domain of the first number, on the domain of the second.
    Nested(u64, u64),
}

#[derive(Clone)]
struct Way {
    leads: Leads,
    body: Option<Arc<Body>>,
    iotlb: Option<Arc<Mutex<Iotlb>>>,
}

/// What a unit and its domains have in common.
pub(super) struct Shared {
    pub(super) world: World,
    pub(super) config: UnitConfig,
    pub(super) script: Script,
    streams: Mutex<BTreeMap<Stream, Way>>,
    faults: Mutex<VecDeque<Fault>>,
    responses: Mutex<Vec<PageResponse>>,
    caches: Mutex<BTreeMap<StreamId, [u64; DEVICE_CACHES as usize]>>,
    tlbs: Mutex<BTreeMap<StreamId, DeviceTlb>>,
}

impl Shared {
    /// A stream that leads to the domain or nested domain `number`.
    pub(super) fn leads_to(&self, number: u64) -> Option<Stream> {
        let streams = lock(&self.streams);
        let mut found = streams.iter().filter(|(_, way)| match way.leads {
            Leads::Paging(domain) => domain == number,
            Leads::Nested(nested, domain) => nested == number || domain == number,
            _ => false,
        });
        found.next().map(|(stream, _)| *stream)
    }

    /// Nothing leads to the domain `number` any more.
    pub(super) fn forget(&self, number: u64) {
        lock(&self.streams)
            .retain(|_, way| !matches!(way.leads, Leads::Paging(d) | Leads::Nested(_, d) if d == number));
    }
}

/// A unit without hardware.
pub struct MockUnit(Arc<Shared>);

impl MockUnit {
    /// A unit of `world` as in the reference's selftest.
    pub fn new(world: &World) -> Arc<Self> {
        Self::with(world, UnitConfig::default())
    }

    /// A unit of `world` as `config` says.
    pub fn with(world: &World, config: UnitConfig) -> Arc<Self> {
        Arc::new(Self(Arc::new(Shared {
            world: world.clone(),
            config,
            script: Script::default(),
            streams: Mutex::default(),
            faults: Mutex::default(),
            responses: Mutex::default(),
            caches: Mutex::default(),
            tlbs: Mutex::default(),
        })))
    }

    /// Which of its calls, and of its domains', fail.
    pub fn script(&self) -> &Script {
        &self.0.script
    }

    /// How often each call was made.
    pub fn counts(&self) -> Counts {
        self.0.script.counts()
    }

    /// What it is.
    pub fn config(&self) -> &UnitConfig {
        &self.0.config
    }

    /// Where `stream` leads.
    pub fn leads(&self, stream: Stream) -> Leads {
        lock(&self.0.streams).get(&stream).map_or(Leads::Blocked, |way| way.leads)
    }

    /// How many streams do not lead nowhere.
    pub fn attached(&self) -> usize {
        lock(&self.0.streams).len()
    }

    /// Everywhere that `stream` may get to at `iova`, with what is allowed there: by the tables, or by what is stale.
    pub fn ways(&self, stream: Stream, iova: u64) -> Vec<(PhysAddr, Prot)> {
        let Some(way) = lock(&self.0.streams).get(&stream).cloned() else { return Vec::new() };
        match (way.leads, way.body) {
            (Leads::Identity, _) => vec![(PhysAddr::new(iova), Prot::READ_WRITE)],
            (_, Some(body)) => lock(&body.tables).ways(iova),
            _ => Vec::new(),
        }
    }

    /// The leaves of the domain that `stream` leads to, lowest first: range, where it leads, what it allows.
    pub fn leaves(&self, stream: Stream) -> Vec<(IovaRange, PhysAddr, Prot)> {
        let Some(body) = lock(&self.0.streams).get(&stream).and_then(|way| way.body.clone()) else { return Vec::new() };
        let tables = lock(&body.tables);
        tables.leaves.iter().map(|(&at, leaf)| (super::range(at, leaf.size), leaf.phys, leaf.prot)).collect()
    }

    /// `stream` writes a byte at `iova`. Where that leads, if it is allowed.
    pub fn device_writes(&self, stream: Stream, iova: u64) -> Option<PhysAddr> {
        let way = lock(&self.0.streams).get(&stream).cloned()?;
        if way.leads == Leads::Identity {
            return Some(PhysAddr::new(iova));
        }
        let body = way.body?;
        let (phys, prot) = *lock(&body.tables).ways(iova).first()?;
        prot.write.then(|| {
            body.write(iova);
            phys
        })
    }

    /// Hardware records a fault.
    pub fn raise(&self, fault: Fault) {
        lock(&self.0.faults).push_back(fault);
    }

    /// What the nested domain that `stream` leads to has cached.
    pub fn iotlb(&self, stream: Stream) -> Option<Iotlb> {
        let iotlb = lock(&self.0.streams).get(&stream)?.iotlb.clone()?;
        Some(*lock(&iotlb))
    }

    /// The device behind `stream` fills its caches with `value`.
    pub fn fill_caches(&self, stream: StreamId, value: u64) {
        lock(&self.0.caches).insert(stream, [value; DEVICE_CACHES as usize]);
    }

    /// What the device behind `stream` has in its caches; zero where they were invalidated.
    pub fn caches(&self, stream: StreamId) -> [u64; DEVICE_CACHES as usize] {
        lock(&self.0.caches).get(&stream).copied().unwrap_or_default()
    }

    /// The device TLB behind `stream`, as far as the unit knows.
    pub fn device_tlb(&self, stream: StreamId) -> Option<DeviceTlb> {
        lock(&self.0.tlbs).get(&stream).copied()
    }

    /// Answers to page requests since the last call.
    pub fn responses(&self) -> Vec<PageResponse> {
        std::mem::take(&mut lock(&self.0.responses))
    }

    fn body(&self, domain: &dyn Domain) -> Result<Arc<Body>, HwError> {
        let domain = MockDomain::try_of(domain).filter(|domain| Arc::ptr_eq(&domain.unit, &self.0));
        let body = domain.map(|domain| domain.body.clone());
        body.ok_or(HwError::ForeignDomain)
            .inspect_err(|_| violation(format_args!("a stream is led to a domain of another unit")))
    }

    fn way(&self, target: Target<'_>) -> Result<Option<Way>, HwError> {
        match target {
            Target::Blocked => Ok(None),
            Target::Identity if !self.0.config.capabilities.identity => Err(missing("identity")),
            Target::Identity => Ok(Some(Way { leads: Leads::Identity, body: None, iotlb: None })),
            Target::Paging(domain) => {
                let body = self.body(domain)?;
                Ok(Some(Way { leads: Leads::Paging(body.number), body: Some(body), iotlb: None }))
            }
            Target::Nested(nested) => {
                let nested: Option<&MockNested> = (nested as &dyn Any).downcast_ref();
                let nested =
                    nested.filter(|nested| Arc::ptr_eq(&nested.unit, &self.0)).ok_or(HwError::ForeignDomain)?;
                let leads = Leads::Nested(nested.number, nested.parent.number);
                Ok(Some(Way { leads, body: Some(nested.parent.clone()), iotlb: Some(nested.iotlb.clone()) }))
            }
            _ => Err(HwError::Unsupported("this target")),
        }
    }
}

fn missing(name: &'static str) -> HwError {
    HwError::Missing(Capability { name, field: "mock" })
}

impl Unit for MockUnit {
    fn capabilities(&self) -> UnitCapabilities {
        self.0.config.capabilities
    }

    fn create_domain(&self, config: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        let _outside = Outside::enter();
        self.0.script.next(Call::CreateDomain).map_err(|(error, _)| error)?;
        let can = self.0.config.capabilities;
        let needs = [
            (config.stage == Stage::First, can.first_stage, "first stage"),
            (config.stage == Stage::Second, can.second_stage, "second stage"),
            (config.nest_parent, can.nesting && config.stage == Stage::Second, "nesting"),
            (config.dirty_tracking, can.dirty_tracking, "dirty tracking"),
            (config.enforce_coherency, can.enforce_coherency, "coherency"),
            (config.stall, can.stalls, "stalls"),
        ];
        match needs.iter().find(|(needed, can, _)| *needed && !can) {
            Some((_, _, name)) => Err(missing(name)),
            None => Ok(Box::new(MockDomain::new(&self.0, config))),
        }
    }

    fn attach(&self, stream: Stream, target: Target<'_>) -> Result<Transition, HwError> {
        let _outside = Outside::enter();
        let failure = self.0.script.next(Call::Attach).err();
        if stream.pasid.is_some_and(|pasid| pasid.get() >> self.0.config.capabilities.pasid_bits != 0) {
            return Err(missing("PASIDs of this width"));
        }
        let way = self.way(target)?;
        let mut streams = lock(&self.0.streams);
        if let Some((error, effect)) = failure {
            if effect == Effect::Done && unconfirmed(error) {
                // Blocked, as far as the tables say; hardware may still go by the old way.
                streams.remove(&stream);
            }
            return Err(error);
        }
        let leads = way.as_ref().map(|way| way.leads);
        if let Some(body) = way.as_ref().and_then(|way| way.body.as_ref()) {
            lock(&body.tables).revive();
        }
        match way {
            Some(way) => streams.insert(stream, way),
            None => streams.remove(&stream),
        };
        drop(streams);
        let domain = match leads {
            Some(Leads::Paging(domain) | Leads::Nested(_, domain)) => Some(domain),
            _ => None,
        };
        self.0.world.note(Event::Attach { stream, domain });
        Ok(self.0.config.transition)
    }

    fn create_nested(&self, parent: &dyn Domain, config: &NestedConfig<'_>) -> Result<Box<dyn Nested>, HwError> {
        let _outside = Outside::enter();
        self.0.script.next(Call::CreateNested).map_err(|(error, _)| error)?;
        let body = self.body(parent)?;
        if !body.config.nest_parent {
            violation(format_args!("a nested domain on one that is no nest parent"));
            return Err(HwError::Unsupported("nesting on this domain"));
        }
        if config.kind != NESTED_KIND {
            return Err(HwError::Unsupported("this kind of nested domain"));
        }
        let [value] = config.words else { return Err(HwError::Hardware("not one word")) };
        Ok(Box::new(MockNested::new(&self.0, &body, *value)))
    }

    fn respond(&self, response: &PageResponse) -> Result<(), HwError> {
        let _outside = Outside::enter();
        self.0.script.next(Call::Respond).map_err(|(error, _)| error)?;
        lock(&self.0.responses).push(*response);
        Ok(())
    }

    fn invalidate_device(&self, stream: StreamId, request: &Invalidation) -> Result<(), HwError> {
        let _outside = Outside::enter();
        self.0.script.next(Call::InvalidateDevice).map_err(|(error, _)| error)?;
        let [id, flags] = request.words;
        if request.kind != DEVICE_KIND {
            return Err(HwError::Unsupported("this kind of request"));
        }
        if flags & !INVALIDATE_ALL != 0 {
            return Err(HwError::Unsupported("flags that are reserved"));
        }
        let mut caches = lock(&self.0.caches);
        let caches = caches.entry(stream).or_default();
        if flags & INVALIDATE_ALL != 0 {
            caches.fill(0);
            return Ok(());
        }
        *caches.get_mut(id as usize).ok_or(HwError::Hardware("no such cache"))? = 0;
        Ok(())
    }

    fn set_device_tlb(&self, stream: StreamId, tlb: Option<DeviceTlb>) -> Result<(), HwError> {
        let _outside = Outside::enter();
        let failure = self.0.script.next(Call::SetDeviceTlb).err();
        if tlb.is_some() && !self.0.config.capabilities.device_tlbs {
            violation(format_args!("a unit without device TLBs is told of one"));
            return Err(missing("device TLBs"));
        }
        // What hardware did not confirm counts as there.
        let confirmed = failure.is_none_or(|(error, _)| !unconfirmed(error));
        if failure.is_none() || !confirmed && tlb.is_some() {
            let mut tlbs = lock(&self.0.tlbs);
            match tlb {
                Some(tlb) => tlbs.insert(stream, tlb),
                None => tlbs.remove(&stream),
            };
        }
        if let Some((error, _)) = failure {
            return Err(error);
        }
        self.0.world.note(Event::DeviceTlb { stream, tlb });
        Ok(())
    }

    fn report_faults(&self, sink: &mut dyn FnMut(&Fault)) -> FaultReport {
        let (due, more) = {
            let _outside = Outside::enter();
            let mut faults = lock(&self.0.faults);
            let count = faults.len().min(FAULTS);
            let due: Vec<Fault> = faults.drain(..count).collect();
            (due, !faults.is_empty())
        };
        due.iter().for_each(sink);
        FaultReport { reported: due.len(), lost: false, more }
    }
}

impl Drop for MockUnit {
    fn drop(&mut self) {
        let attached = lock(&self.0.streams).len();
        if attached > 0 {
            violation(format_args!("a unit goes while {attached} streams lead somewhere"));
        }
    }
}
