//! Operations, the failures in the middle of them, and what they make of what ought to be.

use super::machine::{Kind, Machine, Sizes, Trouble};
use super::space::{Segment, Space, State};
use super::{Lead, World};
use crate::bench::{extent, range};
use iommu_core::addr::{Iova, PhysExtent};
use iommu_core::hw::{DeviceTlb, DomainConfig, Gather, HwError, Prot, Stage, Stream, Target};

/// Most domains at the same time.
const SPACES: usize = 5;

/// Addresses to try: inside, at the edges of and around all that is ever mapped, and those that guests lead there.
pub(super) fn places(sizes: Sizes, guests: bool) -> Vec<u64> {
    let Sizes { page, large, huge } = sizes;
    let mut places: Vec<u64> = (0..9).map(|n| n * page).collect();
    places.extend([8 * page - 1, large - 1, large, large + 5 * page, 2 * large, 3 * large - 1, 3 * large]);
    places.extend([huge - 1, huge, huge + large, 2 * huge - 1, 2 * huge, 0xfee0_0000]);
    if guests {
        let theirs = places.iter().map(|at| through_guest(sizes, *at));
        let theirs: Vec<u64> = theirs.filter(|at| !places.contains(at)).collect();
        places.extend(theirs);
    }
    places
}

/// Where a guest's first stage leads an address: each block of the huge size to its neighbour, so that what the host changes
/// has other addresses than those that a device of the guest knows.
pub(super) const fn through_guest(sizes: Sizes, at: u64) -> u64 {
    at ^ sizes.huge
}

/// Whether the architecture excludes what is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Refused {
    Never,
    /// As far as is known where other streams lead.
    Perhaps,
    Always,
}

/// Whether hardware did not confirm, so that nobody knows.
fn unconfirmed(error: HwError) -> bool {
    matches!(error, HwError::TimedOut(_) | HwError::Queue { .. })
}

impl<M: Machine> World<'_, M> {
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
        self.machine.begin(trouble);
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
        self.machine.end_of_trouble();
        self.quiet();
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
        let stages = self.machine.unit().capabilities();
        let stage = match (stages.first_stage, stages.second_stage) {
            (true, true) => *self.numbers.choose(&[Stage::First, Stage::Second]),
            (true, false) => Stage::First,
            _ => Stage::Second,
        };
        let nest_parent = stages.nesting && stage == Stage::Second && self.numbers.once_in(2);
        let dirty_tracking = stages.dirty_tracking && self.numbers.once_in(3);
        let config = DomainConfig { nest_parent, dirty_tracking, ..DomainConfig::new(stage) };
        match self.machine.unit().create_domain(&config) {
            Ok(domain) => {
                let mut space = Space::new(domain, stage);
                if nest_parent {
                    space.guest = self.machine.guest(&**space.domain.as_ref().expect("it was just made"));
                }
                self.spaces.push(space);
            }
            Err(HwError::OutOfMemory | HwError::OutOfDomainIds) => {}
            // Some track in one stage only.
            Err(HwError::Missing(_)) if dirty_tracking => {}
            Err(other) => panic!("{}: a domain: {other}", self.name()),
        }
        format!("a domain of {stage:?}")
    }

    /// Has every stream leave the guests' first stages, as their drop asks for.
    pub(super) fn part_from_guests(&mut self) {
        for who in 0..self.travellers.len() {
            if self.travellers[who].leads.iter().any(|lead| matches!(lead, Lead::Guest(_))) {
                self.machine.unit().detach(self.travellers[who].stream).expect("the queue runs");
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
        let Sizes { page, large, huge } = self.machine.sizes();
        let (start, len) = match self.numbers.below(8) {
            0 => (large, large),
            1 => (2 * large, large),
            2 => (large, 2 * large),
            3 => (huge, huge),
            _ => {
                let first = self.numbers.below(8);
                (first * page, (1 + self.numbers.below(8 - first)) * page)
            }
        };
        // Nobody else's, and the offset of the address in it.
        let base = (1 + self.numbers.below(60)) << self.machine.memory_shift() | start;
        let scattered = len <= 8 * page && self.numbers.once_in(2);
        let extents = if scattered {
            (0..len / page).map(|n| extent(base + (n * 5 % 8) * 2 * page, page)).collect()
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
        let name = self.machine.name();
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
            let found = self.machine.unit().attach(stream, Target::Nested(&**guest));
            self.went(who, Lead::Guest(at), found.map(drop));
            return format!("attach of {stream} to the guest of domain {at}: {found:?}");
        }
        let domain = self.spaces[at].domain.as_ref().expect("it is there");
        let found = self.machine.unit().attach(stream, Target::Paging(&**domain));
        self.went(who, Lead::Space(at), found.map(drop));
        format!("attach of {stream} to domain {at}: {found:?}")
    }

    fn attach_identity(&mut self) -> String {
        let who = self.numbers.below(self.travellers.len() as u64) as usize;
        let found = self.machine.unit().attach(self.travellers[who].stream, Target::Identity);
        self.went(who, Lead::Identity, found.map(drop));
        format!("identity of {}: {found:?}", self.travellers[who].stream)
    }

    fn detach(&mut self) -> String {
        let who = self.numbers.below(self.travellers.len() as u64) as usize;
        let found = self.machine.unit().detach(self.travellers[who].stream);
        self.went(who, Lead::Blocked, found.map(drop));
        format!("detach of {}: {found:?}", self.travellers[who].stream)
    }

    /// ATS of a function goes on or off, in the order that the seam asks for.
    fn switch_device_tlb(&mut self) -> String {
        let id = *self.numbers.choose(&self.machine.streams());
        let function = Stream::function(id);
        let on = !self.device_tlbs.contains(&function);
        let tlb = DeviceTlb { queue_depth: 4, physical: id, global_invalidate: false };
        // In the function first where it goes off.
        self.device_tlbs.retain(|held| *held != function);
        let found = self.machine.unit().set_device_tlb(id, on.then_some(tlb));
        match found {
            Ok(()) if on => {
                // ATS goes on in a function that holds nothing, whatever it was told while it went off.
                self.machine.forget_device_tlb(id);
                self.device_tlbs.push(function);
            }
            Ok(()) => self.machine.forget_device_tlb(id),
            Err(HwError::Missing(_) | HwError::Unsupported(_) | HwError::OutOfMemory) => {}
            // It may count as there; the function does not use it.
            Err(error) => assert!(unconfirmed(error), "{error}"),
        }
        format!("device TLB of {id:?}, on {on}: {found:?}")
    }

    /// `who` was to go to `lead`.
    fn went(&mut self, who: usize, lead: Lead, found: Result<(), HwError>) {
        let refusal = self.refusal(who, lead);
        let leads = &mut self.travellers[who].leads;
        match found {
            Ok(()) => {
                assert!(refusal != Refused::Always, "{}: {lead:?} was let through", self.machine.name());
                *leads = vec![lead];
            }
            Err(error) if unconfirmed(error) => leads.extend([lead, Lead::Blocked]),
            Err(HwError::OutOfMemory) => leads.push(Lead::Blocked),
            // Nothing has changed.
            Err(HwError::Missing(_)) => {}
            Err(HwError::InUse | HwError::Unsupported(_)) if refusal != Refused::Never => {}
            Err(other) => panic!("{}: {} to {lead:?}: {other}", self.machine.name(), self.travellers[who].stream),
        }
        self.travellers[who].leads.dedup();
    }

    /// Whether the architecture lets `who` go to `lead` beside the other streams of its function.
    fn refusal(&self, who: usize, lead: Lead) -> Refused {
        let stream = self.travellers[who].stream;
        let others = self.travellers.iter().filter(|other| other.stream.id == stream.id && other.stream != stream);
        let mut refused = Refused::Never;
        for other in others {
            let by = |held: &Lead| self.machine.excludes(stream, self.kind(lead), other.stream, self.kind(*held));
            let found = match (other.leads.iter().any(by), other.leads.iter().all(by)) {
                (_, true) => Refused::Always,
                (true, false) => Refused::Perhaps,
                (false, false) => Refused::Never,
            };
            refused = refused.max(found);
        }
        let alone = self.machine.excludes(stream, self.kind(lead), stream, Kind::Blocked);
        if alone { Refused::Always } else { refused }
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
                let found = self.machine.unit().detach(self.travellers[who].stream);
                self.went(who, Lead::Blocked, found.map(drop));
            }
        }
    }
}
