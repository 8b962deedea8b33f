//! What a unit could reach with caches as stale as the specification allows: each structure may have been read at any
//! moment since the last invalidation that covers it, independently of the others.

use crate::pieces::{self, Context, Found, PasidEntry};
use iommu_core::addr::PhysAddr;
use iommu_models::memory::Snapshot;
use iommu_models::vtd::walk::Translation;
use iommu_models::vtd::{Descriptor, FaultCode, Granularity};

/// What a request is given at one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Where it leads.
    pub phys: u64,
    /// Reads are let through.
    pub read: bool,
    /// Writes are let through.
    pub write: bool,
    /// Domain id under which it is cached.
    pub domain: u16,
}

impl Access {
    /// From the walks of a read and a write.
    pub fn of(read: Result<Translation, FaultCode>, write: Result<Translation, FaultCode>) -> Option<Self> {
        let either = read.or(write).ok()?;
        Some(Self { phys: either.phys.get(), read: read.is_ok(), write: write.is_ok(), domain: either.domain })
    }
}

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// In memory.
    Memory(Access),
    /// In a frame that is not allocated, where a structure was.
    Freed(PhysAddr),
}

/// A unit's caches at one moment: the newest of `states`, after `executed`.
pub(super) struct Caches<'a> {
    pub(super) states: &'a [Snapshot],
    pub(super) executed: &'a [(usize, Descriptor)],
    pub(super) rtaddr: u64,
    pub(super) requester: u16,
}

/// The page walk of one address.
struct Walk {
    iova: u64,
    kind: u64,
    domain: u16,
}

impl Caches<'_> {
    fn newest(&self) -> usize {
        self.states.len() - 1
    }

    /// Whether something read in `state` may still be cached: nothing that `covers` it came since the next one.
    fn alive(&self, state: usize, covers: impl Fn(&Descriptor) -> bool) -> bool {
        !self.executed.iter().any(|(newest, descriptor)| *newest > state && covers(descriptor))
    }

    /// Everything that a request to `iova` may reach.
    pub(super) fn reach(&self, iova: u64) -> Vec<Reached> {
        let mut reached = Vec::new();
        for context in self.contexts(&mut reached) {
            for entry in self.pasid_entries(&context, 0, &mut reached) {
                self.walk(&entry, iova, 0, &mut reached);
            }
        }
        reached.dedup();
        reached
    }

    /// The same, where nothing is stale but the context entry, and that is.
    pub(super) fn reach_by_stale_context(&self, iova: u64) -> Vec<Reached> {
        let mut reached = Vec::new();
        for context in self.contexts(&mut reached) {
            for entry in self.pasid_entries(&context, self.newest(), &mut reached) {
                self.walk(&entry, iova, self.newest(), &mut reached);
            }
        }
        reached
    }

    fn read(&self, state: usize) -> impl Fn(u64) -> Option<u64> + '_ {
        move |at| self.states[state].read64(PhysAddr::new(at))
    }

    /// Adds `found` in `state` to what is possible. Memory that is gone counts only now: it may have come later.
    fn take<T: PartialEq>(&self, state: usize, found: Found<T>, all: &mut Vec<T>, reached: &mut Vec<Reached>) {
        match found {
            Found::Present(entry) if !all.contains(&entry) => all.push(entry),
            Found::Nothing(at) if state == self.newest() => reached.push(Reached::Freed(at)),
            _ => {}
        }
    }

    /// Whether `descriptor` takes away what is cached of the requester's context entry.
    pub(super) fn covers_context(&self, descriptor: &Descriptor) -> bool {
        match *descriptor {
            Descriptor::ContextCache(Granularity::Global) => true,
            Descriptor::ContextCache(Granularity::Device { source, mask, .. }) => {
                source & !mask == self.requester & !mask
            }
            _ => false,
        }
    }

    fn contexts(&self, reached: &mut Vec<Reached>) -> Vec<Context> {
        let mut all = Vec::new();
        let covers = |descriptor: &Descriptor| self.covers_context(descriptor);
        for state in (0..self.states.len()).filter(|state| self.alive(*state, covers)) {
            self.take(state, pieces::context(&self.read(state), self.rtaddr, self.requester), &mut all, reached);
        }
        all
    }

    fn pasid_entries(&self, context: &Context, from: usize, reached: &mut Vec<Reached>) -> Vec<PasidEntry> {
        let mut all = Vec::new();
        for state in from..self.states.len() {
            let found = pieces::pasid_entry(&self.read(state), context);
            let Found::Present(entry) = found else {
                self.take(state, found, &mut all, reached);
                continue;
            };
            let covers = |descriptor: &Descriptor| match *descriptor {
                Descriptor::PasidCache(Granularity::Global) => true,
                Descriptor::PasidCache(Granularity::Domain(domain)) => domain == pieces::domain_id(&entry),
                Descriptor::PasidCache(Granularity::Pasid { domain, pasid }) => {
                    (domain, pasid) == (pieces::domain_id(&entry), 0)
                }
                _ => false,
            };
            if self.alive(state, covers) {
                self.take(state, found, &mut all, reached);
            }
        }
        all
    }

    fn walk(&self, entry: &PasidEntry, iova: u64, from: usize, reached: &mut Vec<Reached>) {
        let (kind, domain) = (pieces::kind(entry), pieces::domain_id(entry));
        match pieces::top(entry) {
            None => reached.push(Reached::Memory(Access { phys: iova, read: true, write: true, domain })),
            Some((table, level)) => {
                self.descend(&Walk { iova, kind, domain }, table, level, (true, true), from, reached);
            }
        }
    }

    fn descend(
        &self,
        walk: &Walk,
        table: u64,
        level: u32,
        rights: (bool, bool),
        from: usize,
        reached: &mut Vec<Reached>,
    ) {
        let slot = pieces::slot(table, walk.iova, level);
        let mut all = Vec::new();
        for state in from..self.states.len() {
            let found = match self.states[state].read64(PhysAddr::new(slot)) {
                Some(word) if pieces::is_present(walk.kind, word) => Found::Present(word),
                Some(_) => Found::Absent,
                None => Found::Nothing(PhysAddr::new(slot)),
            };
            let Found::Present(word) = found else {
                self.take(state, found, &mut all, reached);
                continue;
            };
            if self.alive(state, |descriptor| walk.is_covered(descriptor, pieces::is_leaf(word, level))) {
                self.take(state, found, &mut all, reached);
            }
        }
        for word in all {
            let own = pieces::rights(walk.kind, word);
            let rights = (rights.0 && own.0, rights.1 && own.1);
            if pieces::is_leaf(word, level) {
                let phys = pieces::address(word, level) + (walk.iova & ((1 << (3 + 9 * level)) - 1));
                let (read, write) = rights;
                reached.push(Reached::Memory(Access { phys, read, write, domain: walk.domain }));
            } else {
                self.descend(walk, pieces::address(word, level), level - 1, rights, from, reached);
            }
        }
    }
}

impl Walk {
    /// Whether an invalidation takes away what is cached of an entry on the way to this address.
    fn is_covered(&self, descriptor: &Descriptor, leaf: bool) -> bool {
        let granularity = match *descriptor {
            Descriptor::Iotlb { granularity: Granularity::Global, .. } => return true,
            Descriptor::Iotlb { granularity, .. } if self.kind == 2 => granularity,
            Descriptor::PasidIotlb(granularity) if self.kind != 2 => granularity,
            _ => return false,
        };
        match granularity {
            Granularity::Domain(domain) => domain == self.domain,
            Granularity::Pasid { domain, pasid } => (domain, pasid) == (self.domain, 0),
            Granularity::Pages { domain, pasid, address, mask, leaf_only } => {
                let same = domain == self.domain && pasid.is_none_or(|pasid| pasid == 0);
                same && (leaf || !leaf_only) && self.iova >> (12 + mask) == address >> (12 + mask)
            }
            Granularity::Global | Granularity::Device { .. } => false,
        }
    }
}
