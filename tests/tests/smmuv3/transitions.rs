//! Every transition of a stream and of its substreams from every kind of target to every other, while a device makes
//! accesses that the unit is in the middle of: it has fetched some words of a structure before a store of the driver's, and
//! fetches the others after one or several.
//!
//! Whatever such an access meets is what was there before, what is there afterwards, or a refusal; where the driver says that
//! the change was hitless, never a refusal; and nothing of other substreams' is touched.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{
    Domain, DomainConfig, Nested, NestedConfig, Pasid, Prot, Stage, Stream, StreamId, Target, Transition, Unit as _,
};
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_hal::{FrameRequest, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{Config, Model, Order};
use iommu_smmuv3::Unit;
use iommu_tests::figures;
use iommu_tests::smmuv3::bench::{BASE, config_for, extent, map};
use iommu_tests::smmuv3::case::Case;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;

const SID: StreamId = StreamId::new(0x11);
/// In the first table of context descriptors.
const NEAR: u32 = 5;
/// In one that is not there yet: of two levels, or, where there are none, of several frames.
const FAR: [u32; 2] = [0x8001, 0x81];
const AT: u64 = 0x20_0000;
const RED: u64 = 0x10_0000_0000;
const GIBIBYTE: u64 = 1 << 30;

/// Where an access of the device stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Running,
    /// In the middle of a fetch.
    Paused,
    Done(Option<u64>),
}

/// Holds accesses in the middle of a fetch.
struct Gate {
    phase: Mutex<Phase>,
    changed: Condvar,
    /// Words that are still fetched before the access is held; none where it is not to be.
    words: AtomicU64,
}

impl Gate {
    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap() = phase;
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(Phase) -> bool) -> Phase {
        *self.changed.wait_while(self.phase.lock().unwrap(), |phase| !until(*phase)).unwrap()
    }

    /// The unit has fetched a word.
    fn fetched(&self) {
        if self.words.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.words.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set(Phase::Paused);
            self.wait(|phase| phase == Phase::Running);
        }
    }
}

/// A device whose accesses are made by a thread of its own.
struct Device {
    gate: Arc<Gate>,
    orders: mpsc::Sender<Stream>,
}

impl Device {
    fn of(model: Arc<Model>) -> Self {
        let gate = Arc::new(Gate { phase: Mutex::new(Phase::Idle), changed: Condvar::new(), words: AtomicU64::new(0) });
        let (orders, taken) = mpsc::channel::<Stream>();
        let (held, own) = (gate.clone(), gate.clone());
        model.on_fetch(Some(Box::new(move |_, _| held.fetched())));
        thread::spawn(move || {
            for stream in taken {
                let found = model.dma(stream.id.get(), stream.pasid.map(Pasid::get), Iova::new(AT), 1, true);
                own.words.store(0, Ordering::Relaxed);
                own.set(Phase::Done(found.ok().map(|extents| extents[0].start.get())));
            }
        });
        Self { gate, orders }
    }

    /// Begins an access of `stream`, which is held once `words` words were fetched.
    fn begin(&self, stream: Stream, words: u64) {
        self.gate.words.store(words, Ordering::Relaxed);
        self.gate.set(Phase::Running);
        self.orders.send(stream).unwrap();
        self.gate.wait(|phase| matches!(phase, Phase::Paused | Phase::Done(_)));
    }

    /// Ends the access that was begun; what it met. `None` where there is none.
    fn end(&self) -> Option<Option<u64>> {
        let held = *self.gate.phase.lock().unwrap();
        match held {
            Phase::Idle => return None,
            Phase::Paused => self.gate.set(Phase::Running),
            _ => {}
        }
        let Phase::Done(found) = self.gate.wait(|phase| matches!(phase, Phase::Done(_))) else { return None };
        self.gate.set(Phase::Idle);
        Some(found)
    }
}

/// What is looked at, and when.
struct Watch {
    device: Device,
    /// Who makes accesses, after how many words each is held, and for how many stores.
    plan: Option<(Stream, u64, usize)>,
    stores: usize,
    met: Vec<Option<u64>>,
}

impl Watch {
    fn end(&mut self) {
        if let Some(found) = self.device.end() {
            self.met.push(found);
        }
    }

    /// The driver has made a store.
    fn stored(&mut self) {
        let Some((stream, words, stores)) = self.plan else { return };
        self.stores += 1;
        if self.stores.is_multiple_of(stores) {
            self.end();
            self.device.begin(stream, words);
        }
    }
}

/// Registers of a unit, for which nobody is held in the middle of anything.
struct Gated {
    model: Arc<Model>,
    watch: Arc<Mutex<Watch>>,
}

impl Gated {
    fn model(&self) -> &Model {
        self.watch.lock().unwrap().end();
        &self.model
    }
}

impl Registers for Gated {
    fn len(&self) -> usize {
        self.model.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.model().read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.model().write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.model().read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.model().write64(offset, value);
    }
}

/// Where a stream may lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Blocked,
    Identity,
    First(usize),
    Second(usize),
    Nested,
}

/// What PASIDs are attached to while the function moves.
fn companies(far: u32) -> [Vec<(u32, usize)>; 3] {
    [vec![], vec![(NEAR, 1)], vec![(NEAR, 0), (far, 1)]]
}

const KINDS: [Kind; 7] =
    [Kind::Blocked, Kind::Identity, Kind::First(0), Kind::First(1), Kind::Second(0), Kind::Second(1), Kind::Nested];

/// Whether a function can lead there while some of its substreams lead somewhere.
fn beside_substreams(kind: Kind) -> bool {
    !matches!(kind, Kind::Second(_) | Kind::Nested)
}

/// A unit, and something of every kind.
struct Rig {
    memory: Arc<TestMemory>,
    model: Arc<Model>,
    watch: Arc<Mutex<Watch>>,
    nested: Option<Box<dyn Nested>>,
    firsts: Vec<Box<dyn Domain>>,
    seconds: Vec<Box<dyn Domain>>,
    unit: Unit<Arc<TestMemory>, Arc<Gated>>,
}

impl Rig {
    fn new(config: Config) -> Self {
        // Enough for a table of context descriptors in one piece.
        let memory = Arc::new(TestMemory::new(PhysAddr::new(BASE), 1 << 14));
        let model = Arc::new(Model::new(config, memory.clone()));
        let device = Device::of(model.clone());
        let watch = Arc::new(Mutex::new(Watch { device, plan: None, stores: 0, met: Vec::new() }));
        let gated = Arc::new(Gated { model: model.clone(), watch: watch.clone() });
        let case = Case {
            name: "a rig".into(),
            config,
            stage: Stage::First,
            non_coherent: false,
            coherent: None,
            stream_bits: 16,
            completion: iommu_smmuv3::Completion::Poll,
        };
        let unit = Unit::bring_up(memory.clone(), gated, config_for(&case)).unwrap();
        let mut rig = Self { memory, model, watch, nested: None, firsts: Vec::new(), seconds: Vec::new(), unit };
        for number in 0..3 {
            let stage = if number < 2 { Stage::First } else { Stage::Second };
            rig.add(stage, RED + (number << 32), false);
        }
        // The second of stage 2 is what the guest stands on.
        rig.add(Stage::Second, RED + (3 << 32), true);
        rig.nested = Some(rig.guest());
        rig
    }

    fn add(&mut self, stage: Stage, phys: u64, nest_parent: bool) {
        let domain = self.unit.create_domain(&DomainConfig { nest_parent, ..DomainConfig::new(stage) }).unwrap();
        map(&*domain, AT, phys, 0x1000);
        let to = if stage == Stage::First { &mut self.firsts } else { &mut self.seconds };
        to.push(domain);
    }

    /// A guest's stage 1 that leads each GiB to the next.
    fn guest(&self) -> Box<dyn Nested> {
        let parent = &*self.seconds[1];
        map(parent, AT + GIBIBYTE, RED + (4 << 32), 0x1000);
        let request = FrameRequest::single(40, WalkerMemory::Coherent);
        let frames = [(); 2].map(|()| Frames::alloc(self.memory.clone(), request).unwrap());
        let [context, root] = frames.each_ref().map(|frames| frames.phys().get());
        for at in [context, root] {
            parent.map(Iova::new(at), &[extent(at, 0x1000)], Prot::READ_WRITE).unwrap();
        }
        for block in 0..4u64 {
            let entry = ((block + 1) * GIBIBYTE) | 1 << 11 | 1 << 10 | 3 << 8 | 1 << 6 | 1;
            self.memory.write64(PhysAddr::new(root + block * 8), entry);
        }
        let low = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 7 << 45 | 5 << 48;
        for (at, word) in [low, root, 0, 0xff].into_iter().enumerate() {
            self.memory.write64(PhysAddr::new(context + at as u64 * 8), word);
        }
        std::mem::forget(frames);
        let words = [1 | 5 << 1 | context, 1 << 2 | 1 << 4 | 3 << 6];
        self.unit.create_nested(parent, &NestedConfig { kind: 0x534d_4d55, words: &words }).unwrap()
    }

    /// Where an access of a stream that leads there goes.
    fn leads(kind: Kind) -> Option<u64> {
        match kind {
            Kind::Blocked => None,
            Kind::Identity => Some(AT),
            Kind::First(number) => Some(RED + ((number as u64) << 32)),
            Kind::Second(number) => Some(RED + ((number as u64 + 2) << 32)),
            Kind::Nested => Some(RED + (4 << 32)),
        }
    }

    fn attach(&self, stream: Stream, kind: Kind) -> Transition {
        let target = match kind {
            Kind::Blocked => Target::Blocked,
            Kind::Identity => Target::Identity,
            Kind::First(number) => Target::Paging(&*self.firsts[number]),
            Kind::Second(number) => Target::Paging(&*self.seconds[number]),
            Kind::Nested => Target::Nested(&**self.nested.as_ref().expect("it was made")),
        };
        self.unit.attach(stream, target).unwrap_or_else(|error| panic!("{stream} to {kind:?}: {error}"))
    }

    fn access(&self, stream: Stream) -> Option<u64> {
        let found = self.model.dma(stream.id.get(), stream.pasid.map(Pasid::get), Iova::new(AT), 1, true);
        found.ok().map(|extents| extents[0].start.get())
    }

    /// Moves `moved` from one kind to another, while `watched` makes accesses, held after so many words for so many stores
    /// each: what those met, and what the driver said.
    fn watched(
        &self,
        moved: Stream,
        kind: Kind,
        watched: Stream,
        words: u64,
        stores: usize,
    ) -> (Vec<Option<u64>>, Transition) {
        // Caches forget all the time, so that structures are fetched all the time, in one order or another.
        self.model.evict(words, 1);
        self.model.set_order(ORDERS[(words as usize + stores) % ORDERS.len()]);
        {
            let mut watch = self.watch.lock().unwrap();
            (watch.plan, watch.stores) = (Some((watched, words, stores)), 0);
        }
        let watch = self.watch.clone();
        self.memory.set_observer(Some(Box::new(move |_, _| watch.lock().unwrap().stored())));
        let said = self.attach(moved, kind);
        self.memory.set_observer(None);
        let mut watch = self.watch.lock().unwrap();
        watch.end();
        watch.plan = None;
        self.model.evict(0, 0);
        (std::mem::take(&mut watch.met), said)
    }
}

fn function() -> Stream {
    Stream::function(SID)
}

fn substream(pasid: u32) -> Stream {
    Stream::with_pasid(SID, Pasid::new(pasid).unwrap())
}

/// Units with everything, and without what decides how context descriptors are laid out and what word 1 means.
fn configs() -> [(&'static str, Config, u32); 3] {
    // 44 bits of address: tables that lead everything to itself are not too long.
    let server = Config::server().oas(4);
    [
        ("server", server, FAR[0]),
        ("no CD2L", server.idr0_bits(Config::CD2L, false), FAR[1]),
        ("no ATTR_TYPES_OVR", Config { idr1: server.idr1 & !Config::ATTR_TYPES_OVR, ..server }, FAR[0]),
    ]
}

/// Words after which an access is held: within the entry, within a context descriptor behind it, and never.
const WORDS: [u64; 8] = [1, 2, 3, 5, 8, 9, 12, 17];
/// In which order words are fetched.
const ORDERS: [Order; 3] = [Order::Ascending, Order::Descending, Order::Shuffled(11)];
/// Stores for which it is held.
const STORES: [usize; 3] = [1, 2, 7];

#[test]
fn a_function_moves_between_all_kinds_and_its_substreams_stay() {
    let (mut moves, mut accesses) = (0u64, 0);
    for (name, config, far) in configs() {
        for company in companies(far) {
            let rig = Rig::new(config);
            for (pasid, number) in &company {
                rig.attach(substream(*pasid), Kind::First(*number));
            }
            let possible = |kind: &Kind| company.is_empty() || beside_substreams(*kind);
            for from in KINDS.into_iter().filter(possible) {
                for to in KINDS.into_iter().filter(possible) {
                    let watched: Vec<Option<u32>> =
                        [None].into_iter().chain(company.iter().map(|(pasid, _)| Some(*pasid))).collect();
                    for (who, words, stores) in watched.iter().flat_map(|who| {
                        WORDS.iter().flat_map(move |words| STORES.iter().map(move |stores| (*who, *words, *stores)))
                    }) {
                        rig.attach(function(), from);
                        let stream = who.map_or(function(), substream);
                        let (met, said) = rig.watched(function(), to, stream, words, stores);
                        let what = format!("{name}, {company:?}: {from:?} to {to:?}, {who:?} held after {words} words");
                        let allowed = match who {
                            None => vec![Rig::leads(from), Rig::leads(to)],
                            Some(pasid) => {
                                let number = company.iter().find(|(held, _)| *held == pasid).unwrap().1;
                                vec![Rig::leads(Kind::First(number))]
                            }
                        };
                        let refused = who.is_none() && said == Transition::ThroughBlocked;
                        for found in &met {
                            assert!(
                                allowed.contains(found) || found.is_none() && refused,
                                "{what} for {stores} stores met {found:x?}, not one of {allowed:x?} ({said:?})"
                            );
                        }
                        assert_eq!(rig.access(function()), Rig::leads(to), "{what}: afterwards");
                        (moves, accesses) = (moves + 1, accesses + met.len());
                    }
                }
            }
            assert_eq!(rig.model.violations(), [], "{name}");
        }
    }
    figures::print(&format!("smmuv3 transitions of functions: {moves} moves, {accesses} accesses in the middle"));
    assert!(accesses as u64 > moves);
}

#[test]
fn a_substream_moves_and_its_function_stays() {
    let (mut moves, mut accesses) = (0u64, 0);
    let kinds = [Kind::Blocked, Kind::Identity, Kind::First(0), Kind::First(1)];
    for (name, config, far) in configs() {
        for whole in KINDS.into_iter().filter(|kind| beside_substreams(*kind)) {
            for pasid in [NEAR, far] {
                for (from, to) in kinds.iter().flat_map(|from| kinds.iter().map(move |to| (*from, *to))) {
                    // Anew each time where the table grows.
                    let rig = Rig::new(config);
                    rig.attach(function(), whole);
                    for (who, words, stores) in [None, Some(pasid)].into_iter().flat_map(|who| {
                        WORDS.iter().map(move |words| (who, *words, STORES[*words as usize % STORES.len()]))
                    }) {
                        rig.attach(substream(pasid), from);
                        let stream = who.map_or(function(), substream);
                        let (met, said) = rig.watched(substream(pasid), to, stream, words, stores);
                        let what = format!("{name}, {whole:?}: {from:?} to {to:?}, {who:?} held after {words} words");
                        let allowed = match who {
                            None => vec![Rig::leads(whole)],
                            Some(_) => vec![Rig::leads(from), Rig::leads(to)],
                        };
                        let refused = who.is_some() && said == Transition::ThroughBlocked;
                        for found in &met {
                            assert!(
                                allowed.contains(found) || found.is_none() && refused,
                                "{what} for {stores} stores met {found:x?}, not one of {allowed:x?} ({said:?})"
                            );
                        }
                        assert_eq!(rig.access(substream(pasid)), Rig::leads(to), "{what}: afterwards");
                        assert_eq!(rig.access(function()), Rig::leads(whole), "{what}: the function afterwards");
                        (moves, accesses) = (moves + 1, accesses + met.len());
                    }
                    assert_eq!(rig.model.violations(), [], "{name}");
                }
            }
        }
    }
    figures::print(&format!("smmuv3 transitions of substreams: {moves} moves, {accesses} accesses in the middle"));
    assert!(accesses as u64 > moves);
}
