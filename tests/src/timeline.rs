//! Memory as hardware saw it after every store of an operation, the invalidations in between, and what a unit could
//! have reached meanwhile: by a walk at that moment, and by a walk that begins in a cache filled at any earlier one.

mod caches;

pub use caches::{Access, Reached};

use crate::bench::Bench;
use crate::pieces::{self, Found};
use crate::spy::{IQT, Moment};
use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::memory::Snapshot;
use iommu_models::vtd::walk::{Reach, Translation, reachable, translate};
use iommu_models::vtd::{Config, Descriptor, FaultCode};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// One operation.
pub struct Timeline {
    name: String,
    config: Config,
    rtaddr: u64,
    /// Memory as devices saw it; each differs from the one before.
    states: Vec<Snapshot>,
    /// What the queue executed, with the number of the newest state by then.
    executed: Vec<(usize, Descriptor)>,
    /// How many of `executed` came before each doorbell.
    doorbells: Vec<usize>,
}

#[derive(Default)]
struct Recording {
    states: Vec<Snapshot>,
    executed: Vec<(usize, Descriptor)>,
    doorbells: Vec<usize>,
}

impl Recording {
    fn add(&mut self, state: Snapshot) {
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
    }
}

impl Timeline {
    /// Runs `operation` and records it.
    pub fn record(bench: &Bench, name: &str, operation: impl FnOnce()) -> Self {
        let recording = Arc::new(Mutex::new(Recording::default()));
        recording.lock().unwrap().add(bench.memory.snapshot());
        bench.model.take_log();

        let seen = recording.clone();
        bench.memory.set_observer(Some(Box::new(move |memory, _| seen.lock().unwrap().add(memory.snapshot()))));
        let (seen, model, memory) = (recording.clone(), bench.model.clone(), bench.memory.clone());
        bench.spy.set_hook(Some(Box::new(move |write, moment| {
            let mut recording = seen.lock().unwrap();
            // What was cleaned last shows only now.
            recording.add(memory.snapshot());
            if write.offset == IQT && moment == Moment::Before {
                let count = recording.executed.len();
                recording.doorbells.push(count);
            } else {
                let newest = recording.states.len() - 1;
                recording.executed.extend(model.take_log().into_iter().map(|done| (newest, done.descriptor)));
            }
        })));
        operation();
        bench.memory.set_observer(None);
        bench.spy.set_hook(None);

        let mut recording = recording.lock().unwrap();
        recording.add(bench.memory.snapshot());
        let Recording { states, executed, doorbells } = std::mem::take(&mut *recording);
        let name = format!("{}: {name}", bench.case.name);
        Self { name, config: bench.case.config, rtaddr: bench.model.root(), states, executed, doorbells }
    }

    /// How many different states memory was in.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Never: there is always the state before the operation.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What the queue executed, in order.
    pub fn executed(&self) -> impl Iterator<Item = &Descriptor> {
        self.executed.iter().map(|(_, descriptor)| descriptor)
    }

    fn at(&self, state: usize, requester: u16, iova: u64, write: bool) -> Result<Translation, FaultCode> {
        let read = |phys: PhysAddr| self.states[state].read64(phys);
        translate(&read, self.rtaddr, &self.config, requester, None, Iova::new(iova), write)
    }

    fn reach(&self, state: usize, requester: u16) -> Result<Vec<Reach>, FaultCode> {
        let read = |phys: PhysAddr| self.states[state].read64(phys);
        reachable(&read, self.rtaddr, &self.config, requester, None)
    }

    /// At every moment a request of `requester` to each of `probes` met what it would have met before the operation,
    /// or what it meets after it, or one of the faults in `between`; whether it was walked anew or from any cache.
    /// Everything else that it reaches was reachable before or is after.
    #[track_caller]
    pub fn check(&self, requester: u16, probes: &[u64], between: &[FaultCode]) {
        self.check_walks(requester, probes, between);
        self.check_reach(requester, between);
        self.check_caches(requester, probes);
    }

    #[track_caller]
    fn check_walks(&self, requester: u16, probes: &[u64], between: &[FaultCode]) {
        let last = self.states.len() - 1;
        // The size of the leaf is nobody's business.
        let plain = |found: Result<Translation, FaultCode>| {
            found.map(|found| (found.phys, found.read, found.write, found.domain))
        };
        for iova in probes {
            for write in [false, true] {
                let at = |state| plain(self.at(state, requester, *iova, write));
                let (before, after) = (at(0), at(last));
                for state in 0..=last {
                    let now = at(state);
                    let fine = now == before || now == after || now.is_err_and(|code| between.contains(&code));
                    assert!(
                        fine,
                        "{}: {requester:#x} at {iova:#x}, write {write}, after store {state} of {last}: {now:x?}, \
                         before the operation {before:x?}, after it {after:x?}",
                        self.name
                    );
                }
            }
        }
    }

    #[track_caller]
    fn check_reach(&self, requester: u16, between: &[FaultCode]) {
        let last = self.states.len() - 1;
        let key = |reach: &Reach| (reach.iova, reach.phys, reach.len, reach.read, reach.write);
        let (before, after) = (self.reach(0, requester), self.reach(last, requester));
        let allowed: BTreeSet<_> = [&before, &after].into_iter().flatten().flatten().map(key).collect();
        for state in 0..=last {
            match self.reach(state, requester) {
                Ok(all) => {
                    let extra = all.iter().find(|reach| !allowed.contains(&key(reach)));
                    assert_eq!(extra, None, "{}: {requester:#x} reaches it after store {state} of {last}", self.name);
                }
                Err(code) => {
                    let known = [&before, &after].into_iter().any(|known| *known == Err(code));
                    let name = &self.name;
                    assert!(known || between.contains(&code), "{name}: {requester:#x}, {code:?} after store {state}");
                }
            }
        }
    }

    #[track_caller]
    fn check_caches(&self, requester: u16, probes: &[u64]) {
        let last = self.states.len() - 1;
        for iova in probes {
            let access =
                |state| Access::of(self.at(state, requester, *iova, false), self.at(state, requester, *iova, true));
            let allowed: Vec<Access> = [access(0), access(last)].into_iter().flatten().collect();
            // Caches hold the most right before an invalidation.
            let doorbells = self.doorbells.iter().map(|count| {
                let newest = self.executed.get(*count).map_or(last, |(newest, _)| *newest);
                (newest, *count, false)
            });
            for (newest, count, end) in doorbells.chain([(last, self.executed.len(), true)]) {
                let (states, executed) = (&self.states[..=newest], &self.executed[..count]);
                let caches = caches::Caches { states, executed, rtaddr: self.rtaddr, requester };
                for reached in caches.reach(*iova) {
                    // After the operation only the new state may be left.
                    let fine = match reached {
                        Reached::Memory(found) if end => access(last) == Some(found),
                        Reached::Memory(found) => allowed.contains(&found),
                        Reached::Freed(_) => false,
                    };
                    assert!(
                        fine,
                        "{}: {requester:#x} at {iova:#x} may reach {reached:x?} by what caches hold {}; allowed {allowed:x?}",
                        self.name,
                        if end { "at the end".into() } else { format!("before invalidation {count}") },
                    );
                }
            }
        }
    }

    /// Whenever the context entry of `requester` is invalidated, a stale copy of it leads nowhere any more: the PASID
    /// entry was taken away as well, and first (reference, section 10: "all its PASID entries already not-present").
    #[track_caller]
    pub fn check_stale_context_leads_nowhere(&self, requester: u16, probes: &[u64]) {
        let mut seen = 0;
        for (at, (newest, descriptor)) in self.executed.iter().enumerate() {
            let (states, executed) = (&self.states[..=*newest], &self.executed[..at]);
            let caches = caches::Caches { states, executed, rtaddr: self.rtaddr, requester };
            if caches.covers_context(descriptor) {
                seen += 1;
                for iova in probes {
                    let reached = caches.reach_by_stale_context(*iova);
                    assert_eq!(reached, [], "{}: {requester:#x} at {iova:#x}", self.name);
                }
            }
        }
        assert_ne!(seen, 0, "{}: no context entry was invalidated", self.name);
    }

    /// Wherever the context entry of `requester` is gone, the PASID entry that it led to is as well: the order in which
    /// the specification's table of invalidations (reference, section 10) takes them away.
    #[track_caller]
    pub fn check_pasid_entry_goes_first(&self, requester: u16) {
        let context = |state: usize| {
            let read = |at| self.states[state].read64(PhysAddr::new(at));
            match pieces::context(&read, self.rtaddr, requester) {
                Found::Present(context) => Some(context),
                Found::Absent | Found::Nothing(_) => None,
            }
        };
        let before = context(0).expect("a context entry before the operation");
        let gone = (0..self.states.len()).filter(|state| context(*state).is_none());
        for state in gone {
            let read = |at| self.states[state].read64(PhysAddr::new(at));
            let entry = pieces::pasid_entry(&read, &before);
            assert!(!matches!(entry, Found::Present(_)), "{}: after store {state}: {entry:x?}", self.name);
        }
    }
}
