//! A unit, its driver, domains and streams, led by a source of decisions, and beside them what ought to be: after each
//! operation devices try addresses, and no access that is forbidden goes through, and none that is permitted is refused.
//!
//! The model keeps in its caches what it may keep for as long as it may. Accesses in the middle of an operation may see
//! what was before it, what is after it, or a refusal, and nothing else.

mod compare;
mod numbers;
mod operations;
mod setup;
mod space;

pub use numbers::Numbers;

use crate::bench::Bench;
use compare::Probe;
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Pasid, RequesterId, Stream, Unit as _};
use space::Space;
use std::sync::{Arc, Mutex};

/// Requesters: on one bus, on both halves of it, and on another.
const REQUESTERS: [u16; 3] = [0x0010, 0x0090, 0x0510];

/// PASIDs beside requests without one: of one table, of another, of another directory page, of the far end.
const PASIDS: [u32; 5] = [1, 0x3f, 0x40, 0x8001, 0xf_fffe];

/// Where a stream leads, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lead {
    Blocked,
    Identity,
    Space(usize),
    /// Through the guest's first stage on top of a space, which leads addresses to [others](operations::through_guest).
    Guest(usize),
}

/// A stream and where it may lead: one place, or several where hardware did not confirm.
struct Traveller {
    stream: Stream,
    leads: Vec<Lead>,
}

/// A unit with all that is around it.
pub struct World<'n> {
    bench: Bench,
    numbers: Numbers<'n>,
    spaces: Vec<Space>,
    travellers: Vec<Traveller>,
    /// By requester: whether its function has a device TLB.
    device_tlbs: [bool; REQUESTERS.len()],
    /// Addresses to try.
    places: Vec<u64>,
    /// What devices saw in the middle of an operation.
    during: Arc<Mutex<Vec<Probe>>>,
    /// A map that hardware did not confirm.
    doubt: Option<(usize, IovaRange)>,
    steps: usize,
    accesses: u64,
}

impl<'n> World<'n> {
    /// A unit chosen by `numbers`, brought up.
    pub fn new(mut numbers: Numbers<'n>) -> Self {
        let case = setup::choose(&mut numbers);
        let bench = Bench::up(&case);
        setup::disturb(&bench.model, &mut numbers);
        let bits = u32::from(bench.unit.hardware().pasid_bits());
        let guests = bench.unit.capabilities().nesting;
        let mut travellers = Vec::new();
        for requester in REQUESTERS.map(RequesterId::new) {
            let mut add = |stream| travellers.push(Traveller { stream, leads: vec![Lead::Blocked] });
            add(Stream::function(requester));
            let fits = |pasid: &u32| pasid.checked_shr(bits).is_none_or(|above| above == 0) && bits > 0;
            PASIDS.into_iter().filter(fits).filter_map(Pasid::new).for_each(|pasid| {
                add(Stream::with_pasid(requester, pasid));
            });
        }
        Self {
            bench,
            numbers,
            spaces: Vec::new(),
            travellers,
            device_tlbs: [false; REQUESTERS.len()],
            places: operations::places(guests),
            during: Arc::default(),
            doubt: None,
            steps: 0,
            accesses: 0,
        }
    }

    /// What the unit is, in words.
    pub fn name(&self) -> &str {
        &self.bench.case.name
    }

    /// Accesses that were compared.
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// Whether there is nothing left to decide from.
    pub fn is_spent(&self) -> bool {
        self.numbers.are_spent()
    }

    fn has_device_tlb(&self, stream: Stream) -> bool {
        let at = REQUESTERS.iter().position(|requester| u32::from(*requester) == stream.id.get());
        at.is_some_and(|at| self.device_tlbs[at])
    }

    /// One operation, with accesses before, in its middle, and after.
    pub fn step(&mut self) {
        self.steps += 1;
        let what = self.operate();
        if std::env::var_os("VTD_TRACE").is_some() {
            println!("{}: {what}", self.name());
        }
        self.compare(&what);
    }

    /// Takes everything down; nothing may be left over.
    pub fn finish(mut self) {
        self.settle();
        self.compare("the end");
        self.part_from_guests();
        for space in &mut self.spaces {
            drop(space.guest.take());
            drop(space.domain.take());
        }
        for traveller in self.travellers.iter_mut().filter(|traveller| traveller.leads != [Lead::Identity]) {
            traveller.leads = vec![Lead::Blocked];
        }
        self.compare("every domain dropped");
        self.bench.check();
    }
}
