//! Memory as hardware saw it after every store of an operation, the invalidations in between, and what a unit could
//! have reached meanwhile: by a walk at that moment, and by a walk that begins in a cache filled at any earlier one.

mod caches;

pub use caches::{Access, Reached};

use super::bench::Bench;
use super::spy::{CMDQ_PROD, Moment};
use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::memory::Snapshot;
use iommu_models::smmuv3::walk::{Reach, Tables, Translation, reachable, translate};
use iommu_models::smmuv3::{Command, Config, FaultCode};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// An invalidation that a CMD_SYNC has completed.
#[derive(Clone, Copy, Debug)]
struct Done {
    /// The newest state when it was executed: what was read from earlier ones is gone.
    newest: usize,
    command: Command,
}

/// One operation.
pub struct Timeline {
    name: String,
    config: Config,
    tables: Tables,
    /// Memory as devices saw it; each differs from the one before.
    states: Vec<Snapshot>,
    done: Vec<Done>,
    /// How many of `done` came before each doorbell, and the newest state then.
    doorbells: Vec<(usize, usize)>,
}

#[derive(Default)]
struct Recording {
    states: Vec<Snapshot>,
    waiting: Vec<(usize, Command)>,
    done: Vec<Done>,
    doorbells: Vec<(usize, usize)>,
}

impl Recording {
    fn add(&mut self, state: Snapshot) {
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Sync { .. } => {
                let waiting = std::mem::take(&mut self.waiting);
                self.done.extend(waiting.into_iter().map(|(newest, command)| Done { newest, command }));
            }
            other => self.waiting.push((self.states.len() - 1, other)),
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
            if write.offset == CMDQ_PROD && moment == Moment::Before {
                let here = (recording.done.len(), recording.states.len() - 1);
                recording.doorbells.push(here);
            } else {
                model.take_log().into_iter().for_each(|done| recording.execute(done.command));
            }
        })));
        operation();
        bench.memory.set_observer(None);
        bench.spy.set_hook(None);

        let mut recording = recording.lock().unwrap();
        recording.add(bench.memory.snapshot());
        let Recording { states, done, doorbells, .. } = std::mem::take(&mut *recording);
        let name = format!("{}: {name}", bench.case.name);
        Self { name, config: bench.case.config, tables: bench.model.tables(), states, done, doorbells }
    }

    /// How many different states memory was in.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Never: there is always the state before the operation.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn at(&self, state: usize, sid: u32, iova: u64, write: bool) -> Result<Translation, FaultCode> {
        let read = |phys: PhysAddr| self.states[state].read64(phys);
        translate(&read, self.tables, &self.config, sid, None, Iova::new(iova), write)
    }

    fn reach(&self, state: usize, sid: u32) -> Result<Vec<Reach>, FaultCode> {
        let read = |phys: PhysAddr| self.states[state].read64(phys);
        reachable(&read, self.tables, &self.config, sid, None)
    }

    /// At every moment a request of `sid` to each of `probes` met what it would have met before the operation, or what
    /// it meets after it, or one of the faults in `between`; whether it was walked anew or from any cache, entries of
    /// which may have been fetched word by word at different moments. Everything else that it reaches was reachable
    /// before or is after.
    #[track_caller]
    pub fn check(&self, sid: u32, probes: &[u64], between: &[FaultCode]) {
        self.check_walks(sid, probes, between);
        self.check_reach(sid, between);
        self.check_caches(sid, probes);
    }

    #[track_caller]
    fn check_walks(&self, sid: u32, probes: &[u64], between: &[FaultCode]) {
        let last = self.states.len() - 1;
        // The size of the leaf is nobody's business.
        let plain = |found: Result<Translation, FaultCode>| {
            found.map(|found| (found.phys, found.read, found.write, found.asid, found.vmid))
        };
        for iova in probes {
            for write in [false, true] {
                let at = |state| plain(self.at(state, sid, *iova, write));
                let (before, after) = (at(0), at(last));
                for state in 0..=last {
                    let now = at(state);
                    let fine = now == before || now == after || now.is_err_and(|code| between.contains(&code));
                    assert!(
                        fine,
                        "{}: {sid:#x} at {iova:#x}, write {write}, after store {state} of {last}: {now:x?}, \
                         before the operation {before:x?}, after it {after:x?}",
                        self.name
                    );
                }
            }
        }
    }

    #[track_caller]
    fn check_reach(&self, sid: u32, between: &[FaultCode]) {
        let last = self.states.len() - 1;
        let key = |reach: &Reach| (reach.iova, reach.phys, reach.len, reach.read, reach.write);
        let (before, after) = (self.reach(0, sid), self.reach(last, sid));
        let allowed: BTreeSet<_> = [&before, &after].into_iter().flatten().flatten().map(key).collect();
        for state in 0..=last {
            match self.reach(state, sid) {
                Ok(all) => {
                    let extra = all.iter().find(|reach| !allowed.contains(&key(reach)));
                    assert_eq!(extra, None, "{}: {sid:#x} reaches it after store {state} of {last}", self.name);
                }
                Err(code) => {
                    let known = [&before, &after].into_iter().any(|known| *known == Err(code));
                    let name = &self.name;
                    assert!(known || between.contains(&code), "{name}: {sid:#x}, {code:?} after store {state}");
                }
            }
        }
    }

    #[track_caller]
    fn check_caches(&self, sid: u32, probes: &[u64]) {
        let last = self.states.len() - 1;
        // Caches hold the most right before an invalidation.
        let moments = self.doorbells.iter().map(|(count, newest)| (*newest, *count, false));
        for (newest, count, end) in moments.chain([(last, self.done.len(), true)]) {
            let (states, done) = (&self.states[..=newest], &self.done[..count]);
            let caches = caches::Caches { states, done, tables: self.tables, sid };
            for iova in probes {
                let access = |state| Access::of(self.at(state, sid, *iova, false), self.at(state, sid, *iova, true));
                let allowed: Vec<Access> = [access(0), access(last)].into_iter().flatten().collect();
                for reached in caches.reach(*iova) {
                    // After the operation only the new state may be left.
                    let fine = match reached {
                        Reached::Memory(found) if end => access(last) == Some(found),
                        Reached::Memory(found) => allowed.contains(&found),
                        Reached::Freed(_) => false,
                    };
                    assert!(
                        fine,
                        "{}: {sid:#x} at {iova:#x} may reach {reached:x?} by what caches hold {}; allowed {allowed:x?}",
                        self.name,
                        if end { "at the end".into() } else { format!("before invalidation {count}") },
                    );
                }
            }
        }
    }
}
