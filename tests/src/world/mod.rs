//! A unit, its driver, domains and streams, led by a source of decisions, and beside them what ought to be: after each
//! operation devices try addresses, and no access that is forbidden goes through, and none that is permitted is refused.
//!
//! The model keeps in its caches what it may keep for as long as it may. Accesses in the middle of an operation may see
//! what was before it, what is after it, or a refusal, and nothing else.

//!
//! * [`machine`]: what a world must know of an architecture; one file for each, and one for the units to choose from.
//! * `operations`: what is done, and what goes wrong meanwhile.
//! * `space`: what a domain ought to hold.
//! * `compare`: accesses, and what they may meet.
//! * `numbers`: where decisions come from; `run`: many worlds from seeds.

mod compare;
pub mod machine;
mod numbers;
mod operations;
mod run;
mod smmuv3;
mod smmuv3_units;
mod space;
mod vtd;
mod vtd_units;

pub use numbers::Numbers;
pub use run::worlds_of;
pub use smmuv3::SmmuMachine;
pub use vtd::VtdMachine;

use compare::Probe;
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Pasid, Stage, Stream};
use machine::{Kind, Machine};
use space::Space;
use std::sync::{Arc, Mutex};

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
pub struct World<'n, M: Machine> {
    machine: M,
    numbers: Numbers<'n>,
    spaces: Vec<Space>,
    travellers: Vec<Traveller>,
    /// Streams without PASID whose function has a device TLB.
    device_tlbs: Vec<Stream>,
    /// Addresses to try.
    places: Vec<u64>,
    /// What devices saw in the middle of an operation.
    during: Arc<Mutex<Vec<Probe>>>,
    /// A map that hardware did not confirm.
    doubt: Option<(usize, IovaRange)>,
    steps: usize,
    accesses: u64,
}

impl<'n, M: Machine> World<'n, M> {
    /// A unit chosen by `numbers`, brought up.
    pub fn new(mut numbers: Numbers<'n>) -> Self {
        let machine = M::choose(&mut numbers);
        let bits = u32::from(machine.unit().capabilities().pasid_bits);
        let guests = machine.unit().capabilities().nesting;
        let mut travellers = Vec::new();
        for id in machine.streams() {
            let mut add = |stream| travellers.push(Traveller { stream, leads: vec![Lead::Blocked] });
            add(Stream::function(id));
            let fits = |pasid: &u32| pasid.checked_shr(bits).is_none_or(|above| above == 0) && bits > 0;
            PASIDS.into_iter().filter(fits).filter_map(Pasid::new).for_each(|pasid| {
                add(Stream::with_pasid(id, pasid));
            });
        }
        let places = operations::places(machine.sizes(), guests);
        Self {
            machine,
            numbers,
            spaces: Vec::new(),
            travellers,
            device_tlbs: Vec::new(),
            places,
            during: Arc::default(),
            doubt: None,
            steps: 0,
            accesses: 0,
        }
    }

    /// What the unit is, in words.
    pub fn name(&self) -> &str {
        self.machine.name()
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
        self.device_tlbs.contains(&Stream::function(stream.id))
    }

    /// What kind of target this is.
    fn kind(&self, lead: Lead) -> Kind {
        match lead {
            Lead::Blocked => Kind::Blocked,
            Lead::Identity => Kind::Identity,
            Lead::Guest(_) => Kind::Nested,
            Lead::Space(at) => match self.spaces[at].stage {
                Stage::First => Kind::First,
                Stage::Second => Kind::Second,
            },
        }
    }

    /// One operation, with accesses before, in its middle, and after.
    pub fn step(&mut self) {
        self.steps += 1;
        let what = self.operate();
        if std::env::var_os("WORLD_TRACE").is_some() {
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
        self.machine.check();
    }
}
