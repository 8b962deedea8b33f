//! What a domain ought to hold.

use iommu_core::hw::{Domain, Gather, Nested, Prot, Stage};

/// Where a range stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Mapped: what it permits goes through, the rest is refused.
    Mapped,
    /// On its way in or out, or nobody knows: what it permits may go through.
    Unsure,
}

/// A range that leads somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First I/O virtual address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// First physical address.
    pub phys: u64,
    /// What is allowed.
    pub prot: Prot,
    /// Where it stands.
    pub state: State,
}

impl Segment {
    /// Whether `at` lies in it.
    pub fn holds(&self, at: u64) -> bool {
        at.wrapping_sub(self.start) < self.len
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, start: u64, len: u64) -> bool {
        self.start < start + len && start < self.start + self.len
    }
}

/// A domain and what it ought to hold.
pub struct Space {
    /// The domain; `None` once it was dropped.
    pub domain: Option<Box<dyn Domain>>,
    /// What its tables are walked as.
    pub stage: Stage,
    /// A guest's first stage on top of it.
    pub guest: Option<Box<dyn Nested>>,
    /// What it leads to.
    pub segments: Vec<Segment>,
    /// What was taken out and not flushed.
    pub gather: Gather,
}

impl Space {
    /// An empty one.
    pub fn new(domain: Box<dyn Domain>, stage: Stage) -> Self {
        Self { domain: Some(domain), stage, guest: None, segments: Vec::new(), gather: Gather::new() }
    }

    /// Adds what an access to `at` may meet: where it may go, and whether it may be refused.
    pub fn outcomes(&self, at: u64, write: bool, hits: &mut Vec<u64>) -> bool {
        let mut refused = true;
        for segment in self.segments.iter().filter(|segment| segment.holds(at)) {
            let permitted = if write { segment.prot.write } else { segment.prot.read };
            if permitted {
                hits.push(segment.phys + (at - segment.start));
                refused &= segment.state == State::Unsure;
            }
        }
        refused
    }

    /// Whether anything is, or may be, at these addresses.
    pub fn is_taken(&self, start: u64, len: u64) -> bool {
        self.segments.iter().any(|segment| segment.overlaps(start, len))
    }
}
