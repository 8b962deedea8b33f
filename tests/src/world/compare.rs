//! Accesses, and what they may meet.

use super::machine::Machine;
use super::operations::through_guest;
use super::{Lead, World};
use iommu_core::hw::Stream;

/// One access and where it went: `None` where it was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    pub(super) traveller: usize,
    pub(super) at: u64,
    pub(super) write: bool,
    pub(super) seen: Option<u64>,
}

/// Where an access may go, and whether it may be refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes {
    pub(super) hits: Vec<u64>,
    pub(super) refused: bool,
}

impl<M: Machine> World<'_, M> {
    /// What an access of `traveller` may meet now.
    pub(super) fn outcomes(&self, traveller: usize, at: u64, write: bool) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for lead in &self.travellers[traveller].leads {
            outcomes.refused |= match lead {
                Lead::Identity if self.machine.is_no_memory(at) => true,
                Lead::Identity => {
                    outcomes.hits.push(at);
                    false
                }
                Lead::Blocked => true,
                Lead::Space(space) => self.spaces[*space].outcomes(at, write, &mut outcomes.hits),
                Lead::Guest(space) => {
                    self.spaces[*space].outcomes(through_guest(self.machine.sizes(), at), write, &mut outcomes.hits)
                }
            };
        }
        outcomes
    }

    /// Tries addresses, few of them after most operations, all of them after some.
    pub(super) fn compare(&mut self, after: &str) {
        self.check_in_flight(after);
        let all = self.steps.is_multiple_of(16) || after.starts_with("the end") || after.starts_with("every");
        let chosen: Vec<usize> = if all {
            (0..self.travellers.len()).collect()
        } else {
            let count = self.travellers.len() as u64;
            (0..2).map(|_| self.numbers_for_probes(count)).collect()
        };
        for traveller in chosen {
            for place in 0..self.places.len() {
                for write in [false, true] {
                    self.try_one(traveller, self.places[place], write, after);
                }
            }
        }
        let during = std::mem::take(&mut *self.during.lock().expect("no access panics"));
        assert!(during.is_empty(), "accesses in the middle were looked at by the operation");
        self.machine.check_and_forget(after);
    }

    /// Requests from before that are still on their way to memory must be such as could be made now: whoever took memory
    /// away has seen to it that none is left.
    fn check_in_flight(&self, after: &str) {
        for request in self.machine.in_flight() {
            let traveller = self.travellers.iter().position(|traveller| traveller.stream == request.stream);
            let allowed = self.outcomes(traveller.expect("one of them"), request.iova, request.write);
            let fine = allowed.hits.contains(&request.phys);
            assert!(fine, "{} after {after}: still on its way: {request:x?}, {allowed:x?}", self.name());
        }
    }

    /// Which travellers try now, without using up the decisions of a fuzzer.
    fn numbers_for_probes(&mut self, count: u64) -> usize {
        self.accesses = self.accesses.wrapping_add(1);
        (self.accesses.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % count as usize
    }

    fn try_one(&mut self, traveller: usize, at: u64, write: bool, after: &str) {
        let stream = self.travellers[traveller].stream;
        let allowed = self.outcomes(traveller, at, write);
        // Twice where it has a device TLB: what that holds must be as good as what the unit says.
        for translated in [false, true] {
            if translated && !self.has_device_tlb(stream) {
                continue;
            }
            self.accesses += 1;
            let seen = M::access(&self.machine.eye(), stream, at, write, translated);
            let untranslatable = translated
                && !self.machine.translates_identity()
                && self.travellers[traveller].leads.contains(&Lead::Identity);
            let fine = match seen {
                Some(phys) => allowed.hits.contains(&phys),
                None => allowed.refused || untranslatable,
            };
            let name = self.name();
            let how = format!("{stream} at {at:#x}, write {write}, device TLB {translated}");
            let how = if fine { how } else { format!("{how}, {}", self.machine.last_fault()) };
            assert!(fine, "{name} after {after}: {how}: {seen:x?}, {allowed:x?}");
        }
    }

    /// What devices saw in the middle of an operation must be what was before it, what is after it, or a refusal.
    pub(super) fn check_during(&mut self, before: &[Vec<Outcomes>], what: &str) {
        let during = std::mem::take(&mut *self.during.lock().expect("no access panics"));
        for probe in during {
            let Some(phys) = probe.seen else { continue };
            let place = self.places.iter().position(|place| *place == probe.at).expect("one of the places");
            let old = &before[probe.traveller][place * 2 + usize::from(probe.write)];
            let new = self.outcomes(probe.traveller, probe.at, probe.write);
            assert!(
                old.hits.contains(&phys) || new.hits.contains(&phys),
                "{} in the middle of {what}: {} went to {phys:#x}: {probe:x?}, before {old:x?}, after {new:x?}",
                self.name(),
                self.travellers[probe.traveller].stream,
            );
        }
    }

    /// Everything that may be met now, by traveller and place, reads before writes.
    pub(super) fn snapshot(&self) -> Vec<Vec<Outcomes>> {
        let of_place = |traveller: usize, at: u64| [false, true].map(|write| self.outcomes(traveller, at, write));
        let of = |traveller| self.places.iter().flat_map(|at| of_place(traveller, *at)).collect();
        (0..self.travellers.len()).map(of).collect()
    }

    /// Has some travellers try some places around each write to a register, until [`World::quiet`].
    pub(super) fn watch(&mut self) {
        let (eye, seen) = (self.machine.eye(), self.during.clone());
        let streams: Vec<Stream> = self.travellers.iter().map(|traveller| traveller.stream).collect();
        let places = self.places.clone();
        let translated: Vec<bool> = streams.iter().map(|stream| self.has_device_tlb(*stream)).collect();
        let mut turn = self.accesses as usize;
        self.machine.set_hook(Some(Box::new(move || {
            for _ in 0..6 {
                turn = turn.wrapping_mul(25_214_903_917).wrapping_add(11);
                let mixed = turn >> 16;
                let (traveller, place, write) =
                    (mixed % streams.len(), (mixed >> 8) % places.len(), mixed >> 20 & 1 == 1);
                let at = places[place];
                let ats = translated[traveller] && mixed >> 21 & 1 == 1;
                let found = M::access(&eye, streams[traveller], at, write, ats);
                seen.lock().expect("no access panics").push(Probe { traveller, at, write, seen: found });
            }
        })));
    }

    /// Ends [`World::watch`].
    pub(super) fn quiet(&self) {
        self.machine.set_hook(None);
    }
}
