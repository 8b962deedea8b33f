//! Operations, the failures in the middle of them, and what they make of what ought to be.

use super::space::{Segment, Space, State};
use super::{Lead, REQUESTERS, World};
use crate::bench::{Bench, extent, range};
use iommu_core::addr::{Iova, PhysExtent};
use iommu_core::hw::{
    DeviceTlb, DomainConfig, Gather, HwError, Nested, NestedConfig, Prot, RequesterId, Stage, StreamId, Target,
    Unit as _,
};
use iommu_hal::mem::Frames;
use iommu_hal::{FrameRequest, WalkerMemory};
use iommu_models::vtd::Queue;
use iommu_vtd::guest::FIRST_STAGE;

const PAGE: u64 = 0x1000;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

/// Most domains at the same time.
const SPACES: usize = 5;

/// Addresses to try: inside, at the edges of and around all that is ever mapped, and those that guests lead there.
pub(super) fn places(guests: bool) -> Vec<u64> {
    let mut places: Vec<u64> = (0..9).map(|page| page * PAGE).collect();
    places.extend([8 * PAGE - 1, LARGE - 1, LARGE, LARGE + 5 * PAGE, 2 * LARGE, 3 * LARGE - 1, 3 * LARGE]);
    places.extend([HUGE - 1, HUGE, HUGE + LARGE, 2 * HUGE - 1, 2 * HUGE, 0xfee0_0000]);
    if guests {
        let theirs: Vec<u64> = places.iter().map(|at| through_guest(*at)).filter(|at| !places.contains(at)).collect();
        places.extend(theirs);
    }
    places
}

/// Where a guest's first stage leads an address: each GiB to its neighbour, so that what the host changes has other addresses
/// than those that a device of the guest knows.
pub(super) const fn through_guest(at: u64) -> u64 {
    at ^ HUGE
}

/// What goes wrong in the middle of an operation.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    Stopped,
    Mute,
    Descriptor(usize),
    Memory(usize),
    Completion(usize),
    DeviceTlb(usize),
}

impl Trouble {
    fn begin(self, bench: &Bench) {
        match self {
            Self::None => {}
            Self::Stopped => bench.model.set_queue(Queue::Stopped),
            Self::Mute => bench.model.set_queue(Queue::Mute),
            Self::Descriptor(n) => bench.model.fail_descriptor_after(n),
            Self::Memory(n) => bench.memory.fail_after(n),
            Self::Completion(n) => bench.model.drop_completion_after(n),
            Self::DeviceTlb(n) => bench.model.time_out_after(n),
        }
    }

    fn end(bench: &Bench) {
        bench.model.set_queue(Queue::Running);
        bench.model.fail_descriptor_after(usize::MAX);
        bench.memory.fail_never();
        bench.model.drop_completion_after(usize::MAX);
        bench.model.time_out_after(usize::MAX);
    }
}

/// Whether hardware did not confirm, so that nobody knows.
fn unconfirmed(error: HwError) -> bool {
    matches!(error, HwError::TimedOut(_) | HwError::Queue { .. })
}

impl World<'_> {
    fn trouble(&mut self) -> Trouble {
        match self.numbers.below(24) {
            0 => Trouble::Stopped,
            1 => Trouble::Mute,
            2 => Trouble::Descriptor(self.numbers.below(4) as usize),
            3 => Trouble::Memory(self.numbers.below(6) as usize),
            4 => Trouble::Completion(self.numbers.below(2) as usize),
            5 => Trouble::DeviceTlb(self.numbers.below(3) as usize),
            _ => Trouble::None,
        }
    }

    /// A map that hardware did not confirm counts as reachable until an unmap of it is confirmed, or finds nothing and
    /// everything was invalidated.
    fn settle_map(&mut self) {
        let Some((at, range)) = self.doubt.take() else { return };
        let space = &mut self.spaces[at];
        let domain = space.domain.as_ref().expect("it is there");
        let unmapped = domain.unmap(range, &mut space.gather);
        assert!(matches!(unmapped, Ok(()) | Err(HwError::NotMapped { .. })), "{unmapped:?}");
        space.gather.add_everything();
        domain.flush(&mut space.gather).expect("the queue runs");
        space.segments.retain(|segment| segment.state == State::Mapped);
    }

    /// One operation; what it was, for messages.
    pub(super) fn operate(&mut self) -> String {
        self.settle_map();
        let before = self.snapshot();
        let trouble = self.trouble();
        let kind = self.numbers.below(16);
        if self.numbers.once_in(4) {
            self.watch();
        }
        trouble.begin(&self.bench);
        let what = match kind {
            0 => self.new_space(),
            1 => self.drop_space(),
            2..6 => self.map(),
            6 | 7 => self.unmap(true),
            8 => self.unmap(false),
            9 => self.flush(),
            10 => self.detach(),
            11 => self.attach_identity(),
            12 => self.switch_device_tlb(),
            _ => self.attach(),
        };
        Trouble::end(&self.bench);
        Self::quiet(&self.bench);
        let what = format!("step {}: {what} with {trouble:?}", self.steps);
        self.check_during(&before, &what);
        what
    }

    /// A domain that is there.
    fn some_space(&mut self) -> Option<usize> {
        let there: Vec<usize> = (0..self.spaces.len()).filter(|at| self.spaces[*at].domain.is_some()).collect();
        if there.is_empty() { None } else { Some(*self.numbers.choose(&there)) }
    }

    fn new_space(&mut self) -> String {
        let there = self.spaces.iter().filter(|space| space.domain.is_some()).count();
        if there >= SPACES {
            return "enough domains".into();
        }
        let stages = self.bench.unit.capabilities();
        let stage = match (stages.first_stage, stages.second_stage) {
            (true, true) => *self.numbers.choose(&[Stage::First, Stage::Second]),
            (true, false) => Stage::First,
            _ => Stage::Second,
        };
        let nest_parent = stages.nesting && stage == Stage::Second && self.numbers.once_in(2);
        match self.bench.unit.create_domain(&DomainConfig { nest_parent, ..DomainConfig::new(stage) }) {
            Ok(domain) => {
                let mut space = Space::new(domain);
                if nest_parent {
                    space.guest = self.guest(&space);
                }
                self.spaces.push(space);
            }
            Err(HwError::OutOfMemory | HwError::OutOfDomainIds) => {}
            Err(other) => panic!("{}: a domain: {other}", self.name()),
        }
        format!("a domain of {stage:?}")
    }

    /// A first stage on top of a space that leads addresses [elsewhere](through_guest); `None` where something is in the way
    /// of it.
    fn guest(&self, space: &Space) -> Option<Box<dyn Nested>> {
        let parent = &**space.domain.as_ref()?;
        // Its tables are memory of the parent, at their own addresses: those of the unit's memory, which nobody tries.
        let request = FrameRequest::single(46, WalkerMemory::Coherent);
        let [root, gibibytes] = [(); 2].map(|()| Frames::alloc(self.bench.memory.clone(), request));
        let (root, gibibytes) = (root?, gibibytes?);
        for frames in [&root, &gibibytes] {
            let at = frames.phys().get();
            parent.map(Iova::new(at), &[extent(at, PAGE)], Prot::READ_WRITE).ok()?;
        }
        // Present, writable, user, accessed; the leaves dirty, and of 1 GiB.
        root.frame(0)?.publish(0, gibibytes.phys().get() | 0x27);
        (0..4).for_each(|leaf| {
            gibibytes.frame(0).expect("a frame").publish(leaf, through_guest((leaf as u64) << 30) | 0xe7)
        });
        let at = root.phys().get();
        // The guest keeps them for ever.
        std::mem::forget((root, gibibytes));
        let words = [0, at, 48];
        self.bench.unit.create_nested(parent, &NestedConfig { kind: FIRST_STAGE, words: &words }).ok()
    }

    /// Has every stream leave the guests' first stages, as their drop asks for.
    pub(super) fn part_from_guests(&mut self) {
        for who in 0..self.travellers.len() {
            if self.travellers[who].leads.iter().any(|lead| matches!(lead, Lead::Guest(_))) {
                self.bench.unit.detach(self.travellers[who].stream).expect("the queue runs");
                self.went(who, Lead::Blocked, Ok(()));
            }
        }
    }

    fn drop_space(&mut self) -> String {
        if !self.numbers.once_in(3) {
            return "nothing".into();
        }
        let Some(at) = self.some_space() else { return "no domain to drop".into() };
        if self.spaces[at].guest.is_some() {
            if self.travellers.iter().any(|traveller| traveller.leads.contains(&Lead::Guest(at))) {
                return "a domain under a guest".into();
            }
            drop(self.spaces[at].guest.take());
        }
        let retire = self.numbers.once_in(2);
        let domain = self.spaces[at].domain.take().expect("it is there");
        let certain = retire && domain.retire().is_ok();
        drop(domain);
        // A gather of a domain that is gone has nothing left to flush.
        self.spaces[at].gather = Gather::new();
        for traveller in self.travellers.iter_mut().filter(|traveller| traveller.leads.contains(&Lead::Space(at))) {
            if certain {
                traveller.leads.retain(|lead| *lead != Lead::Space(at));
            }
            if !traveller.leads.contains(&Lead::Blocked) {
                traveller.leads.push(Lead::Blocked);
            }
        }
        if certain {
            self.spaces[at].segments.clear();
        }
        format!("drop of domain {at}, retired {certain}")
    }

    /// Some addresses and the memory that they are to lead to.
    fn choose_range(&mut self) -> (u64, Vec<PhysExtent>) {
        let (start, len) = match self.numbers.below(8) {
            0 => (LARGE, LARGE),
            1 => (2 * LARGE, LARGE),
            2 => (LARGE, 2 * LARGE),
            3 => (HUGE, HUGE),
            _ => {
                let first = self.numbers.below(8);
                (first * PAGE, (1 + self.numbers.below(8 - first)) * PAGE)
            }
        };
        // Nobody else's; below 2^43.
        let base = (1 + self.numbers.below(60)) << 37 | start;
        let scattered = len <= 8 * PAGE && self.numbers.once_in(2);
        let extents = if scattered {
            (0..len / PAGE).map(|page| extent(base + (page * 5 % 8) * 2 * PAGE, PAGE)).collect()
        } else {
            vec![extent(base, len)]
        };
        (start, extents)
    }

    fn map(&mut self) -> String {
        let Some(at) = self.some_space() else { return "no domain to map in".into() };
        let (start, extents) = self.choose_range();
        let len = extents.iter().map(|extent| extent.len).sum();
        let prot = *self.numbers.choose(&[Prot::READ_WRITE, Prot::READ, Prot::READ_WRITE, Prot::WRITE]);
        let space = &mut self.spaces[at];
        if space.segments.iter().any(|segment| segment.state == State::Unsure && segment.overlaps(start, len)) {
            // The seam asks for the flush first.
            return "a map that would be too early".into();
        }
        let found = space.domain.as_ref().expect("it is there").map(Iova::new(start), &extents, prot);
        let taken = space.is_taken(start, len);
        let name = &self.bench.case.name;
        match found {
            Ok(()) => assert!(!taken, "{name}: a map over what is mapped"),
            Err(error) if unconfirmed(error) => {}
            Err(HwError::OutOfMemory | HwError::Protection(_)) => return format!("no map: {found:?}"),
            Err(HwError::AlreadyMapped { .. }) if taken => return "a map over what is there".into(),
            Err(other) => panic!("{name}: map of {len:#x} at {start:#x}: {other}"),
        }
        let state = if found.is_ok() { State::Mapped } else { State::Unsure };
        let mut iova = start;
        for extent in &extents {
            space.segments.push(Segment { start: iova, len: extent.len, phys: extent.start.get(), prot, state });
            iova += extent.len;
        }
        if found.is_err() {
            self.doubt = Some((at, range(start, len)));
        }
        format!("map of {len:#x} at {start:#x} in domain {at}: {found:?}")
    }

    fn unmap(&mut self, flush: bool) -> String {
        let Some(at) = self.some_space() else { return "no domain to unmap in".into() };
        let mapped: Vec<usize> = (0..self.spaces[at].segments.len())
            .filter(|n| self.spaces[at].segments[*n].state == State::Mapped)
            .collect();
        if mapped.is_empty() {
            return "nothing to unmap".into();
        }
        let mut chosen = vec![*self.numbers.choose(&mapped)];
        if self.numbers.once_in(3) {
            chosen = mapped;
        }
        let space = &mut self.spaces[at];
        let domain = space.domain.as_ref().expect("it is there");
        for segment in &chosen {
            let segment = &mut space.segments[*segment];
            domain.unmap(range(segment.start, segment.len), &mut space.gather).expect("it is mapped");
            segment.state = State::Unsure;
        }
        let mut what = format!("unmap of {} ranges in domain {at}", chosen.len());
        if flush {
            what += &self.flush_space(at);
        }
        what
    }

    fn flush(&mut self) -> String {
        let Some(at) = self.some_space() else { return "no domain to flush".into() };
        format!("flush of domain {at}{}", self.flush_space(at))
    }

    fn flush_space(&mut self, at: usize) -> String {
        let space = &mut self.spaces[at];
        let found = space.domain.as_ref().expect("it is there").flush(&mut space.gather);
        match found {
            Ok(()) => space.segments.retain(|segment| segment.state == State::Mapped),
            Err(error) => assert!(unconfirmed(error), "{error}"),
        }
        format!(", flushed: {found:?}")
    }

    fn attach(&mut self) -> String {
        let Some(at) = self.some_space() else { return "no domain to attach to".into() };
        let who = self.numbers.below(self.travellers.len() as u64) as usize;
        let stream = self.travellers[who].stream;
        if let Some(guest) = &self.spaces[at].guest
            && !self.numbers.once_in(4)
        {
            let found = self.bench.unit.attach(stream, Target::Nested(&**guest));
            self.went(who, Lead::Guest(at), found.map(drop));
            return format!("attach of {stream} to the guest of domain {at}: {found:?}");
        }
        let domain = self.spaces[at].domain.as_ref().expect("it is there");
        let found = self.bench.unit.attach(stream, Target::Paging(&**domain));
        self.went(who, Lead::Space(at), found.map(drop));
        format!("attach of {stream} to domain {at}: {found:?}")
    }

    fn attach_identity(&mut self) -> String {
        let who = self.numbers.below(self.travellers.len() as u64) as usize;
        let found = self.bench.unit.attach(self.travellers[who].stream, Target::Identity);
        self.went(who, Lead::Identity, found.map(drop));
        format!("identity of {}: {found:?}", self.travellers[who].stream)
    }

    fn detach(&mut self) -> String {
        let who = self.numbers.below(self.travellers.len() as u64) as usize;
        let found = self.bench.unit.detach(self.travellers[who].stream);
        self.went(who, Lead::Blocked, found.map(drop));
        format!("detach of {}: {found:?}", self.travellers[who].stream)
    }

    /// ATS of a function goes on or off, in the order that the seam asks for.
    fn switch_device_tlb(&mut self) -> String {
        let at = self.numbers.below(REQUESTERS.len() as u64) as usize;
        let stream = StreamId::from(RequesterId::new(REQUESTERS[at]));
        let endpoint = self.bench.model.endpoint(REQUESTERS[at]);
        let on = !self.device_tlbs[at];
        let tlb = DeviceTlb { queue_depth: 4, physical: stream, global_invalidate: false };
        if !on {
            // In the function first.
            self.device_tlbs[at] = false;
        }
        let found = self.bench.unit.set_device_tlb(stream, on.then_some(tlb));
        match found {
            // ATS goes on in a function that holds nothing, whatever it was told while it went off.
            Ok(()) => {
                endpoint.forget();
                self.device_tlbs[at] = on;
            }
            Err(HwError::Missing(_) | HwError::Unsupported(_) | HwError::OutOfMemory) => {}
            // It may count as there; the function does not use it.
            Err(error) => assert!(unconfirmed(error), "{error}"),
        }
        format!("device TLB of {stream:?}, on {on}: {found:?}")
    }

    /// `who` was to go to `lead`.
    fn went(&mut self, who: usize, lead: Lead, found: Result<(), HwError>) {
        let leads = &mut self.travellers[who].leads;
        match found {
            Ok(()) => *leads = vec![lead],
            Err(error) if unconfirmed(error) => leads.extend([lead, Lead::Blocked]),
            Err(HwError::OutOfMemory) => leads.push(Lead::Blocked),
            // Nothing has changed.
            Err(HwError::Missing(_)) => {}
            Err(other) => panic!("{}: {}: {other}", self.bench.case.name, self.travellers[who].stream),
        }
        self.travellers[who].leads.dedup();
    }

    /// Everything flushed, nothing in doubt any more.
    pub(super) fn settle(&mut self) {
        self.settle_map();
        for at in 0..self.spaces.len() {
            if self.spaces[at].domain.is_some() {
                self.flush_space(at);
            }
        }
        for who in 0..self.travellers.len() {
            if self.travellers[who].leads.len() > 1 {
                let found = self.bench.unit.detach(self.travellers[who].stream);
                self.went(who, Lead::Blocked, found.map(drop));
            }
        }
    }
}
